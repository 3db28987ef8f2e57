// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/konsil-health/konsil/internal/health/brainpool"
)

// Agreement is a private key that agrees on a secret with a public one: *brainpool.PrivateKey, or [P256Agreement].
type Agreement interface {
	ECDH(peer *ecdsa.PublicKey) ([]byte, error)
}

// P256Agreement agrees with an ordinary key.
type P256Agreement struct{ Key *ecdsa.PrivateKey }

// ECDH returns the x coordinate of the shared point.
func (a P256Agreement) ECDH(peer *ecdsa.PublicKey) ([]byte, error) {
	private, err := a.Key.ECDH()
	if err != nil {
		return nil, err
	}
	public, err := peer.ECDH()
	if err != nil {
		return nil, err
	}
	return private.ECDH(public)
}

// Encrypt makes a JWE for the owner of a key: ECDH-ES with a fresh key pair on the recipient's curve, A256GCM. rand is a cryptographic source.
func Encrypt(rand io.Reader, to *ecdsa.PublicKey, h Header, plaintext []byte) (string, error) {
	ephemeral, secret, err := agree(rand, to)
	if err != nil {
		return "", err
	}
	h.Alg, h.Enc = ECDHES, A256GCM
	if h.Epk, err = NewKey(ephemeral); err != nil {
		return "", err
	}
	return seal(rand, h, derive(secret), plaintext)
}

// Decrypt opens a JWE made for a key.
func Decrypt(token string, key Agreement) (Header, []byte, error) {
	parts, h, err := split(token, 5, MaxToken)
	if err != nil {
		return Header{}, nil, err
	}
	if h.Alg != ECDHES || h.Enc != A256GCM {
		return Header{}, nil, fmt.Errorf("%w: encryption %.20q with %.20q", ErrFormat, h.Alg, h.Enc)
	}
	epk, err := h.Epk.Public()
	if err != nil {
		return Header{}, nil, err
	}
	secret, err := key.ECDH(epk)
	if err != nil {
		return Header{}, nil, fmt.Errorf("%w: %w", ErrDecrypt, err)
	}
	plaintext, err := open(parts, derive(secret))
	return h, plaintext, err
}

// EncryptDirect makes a JWE under a shared key of 32 bytes.
func EncryptDirect(rand io.Reader, key []byte, h Header, plaintext []byte) (string, error) {
	h.Alg, h.Enc, h.Epk = Direct, A256GCM, nil
	return seal(rand, h, key, plaintext)
}

// DecryptDirect opens a JWE under a shared key of 32 bytes.
func DecryptDirect(token string, key []byte) (Header, []byte, error) {
	parts, h, err := split(token, 5, MaxToken)
	if err != nil {
		return Header{}, nil, err
	}
	if h.Alg != Direct || h.Enc != A256GCM {
		return Header{}, nil, fmt.Errorf("%w: encryption %.20q with %.20q", ErrFormat, h.Alg, h.Enc)
	}
	plaintext, err := open(parts, key)
	return h, plaintext, err
}

// agree draws a key pair on the recipient's curve and returns its public half and the shared secret.
func agree(rand io.Reader, to *ecdsa.PublicKey) (*ecdsa.PublicKey, []byte, error) {
	alg, err := algorithm(to)
	if err != nil {
		return nil, nil, err
	}
	if alg == ES256 {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand)
		if err != nil {
			return nil, nil, fmt.Errorf("jose: ephemeral key: %w", err)
		}
		secret, err := P256Agreement{key}.ECDH(to)
		return &key.PublicKey, secret, err
	}
	key, err := brainpool.GenerateKey(rand)
	if err != nil {
		return nil, nil, err
	}
	secret, err := key.ECDH(to)
	return key.PublicKey(), secret, err
}

// derive is the Concat KDF of RFC 7518, 4.6.2 for A256GCM without party information.
func derive(secret []byte) []byte {
	h := sha256.New()
	field := func(b string) {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
		h.Write([]byte(b))
	}
	h.Write(binary.BigEndian.AppendUint32(nil, 1))
	h.Write(secret)
	field(A256GCM)
	field("")
	field("")
	h.Write(binary.BigEndian.AppendUint32(nil, 256))
	return h.Sum(nil)
}

func gcm(key []byte) (cipher.AEAD, error) {
	if len(key) != 32 {
		return nil, fmt.Errorf("%w: A256GCM needs a key of 32 bytes", ErrDecrypt)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func seal(rand io.Reader, h Header, key, plaintext []byte) (string, error) {
	aead, err := gcm(key)
	if err != nil {
		return "", err
	}
	head, err := encodeHeader(h)
	if err != nil {
		return "", err
	}
	iv := make([]byte, aead.NonceSize())
	if _, err := io.ReadFull(rand, iv); err != nil {
		return "", fmt.Errorf("jose: nonce: %w", err)
	}
	sealed := aead.Seal(nil, iv, plaintext, []byte(head))
	text, tag := sealed[:len(plaintext)], sealed[len(plaintext):]
	return head + ".." + encode64(iv) + "." + encode64(text) + "." + encode64(tag), nil
}

func open(parts []string, key []byte) ([]byte, error) {
	if parts[1] != "" {
		return nil, fmt.Errorf("%w: an encrypted key where none is used", ErrFormat)
	}
	var fields [3][]byte
	for i := range fields {
		b, err := unbase64(parts[2+i])
		if err != nil {
			return nil, err
		}
		fields[i] = b
	}
	aead, err := gcm(key)
	if err != nil {
		return nil, err
	}
	if len(fields[0]) != aead.NonceSize() || len(fields[2]) != aead.Overhead() {
		return nil, fmt.Errorf("%w: nonce or tag of a wrong length", ErrFormat)
	}
	plaintext, err := aead.Open(nil, fields[0], append(fields[1], fields[2]...), []byte(parts[0]))
	if err != nil {
		return nil, ErrDecrypt
	}
	return plaintext, nil
}

var _ Agreement = (*brainpool.PrivateKey)(nil)

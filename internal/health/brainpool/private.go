// SPDX-License-Identifier: Apache-2.0

package brainpool

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"filippo.io/bigmod"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// ErrScalar is answered for a private key outside 1..n-1.
var ErrScalar = errors.New("not a private key of brainpoolP256r1")

// PrivateKey signs and agrees on keys in constant time. It is a crypto.Signer and safe for concurrent use.
type PrivateKey struct {
	d      *bigmod.Nat
	public *ecdsa.PublicKey
}

// GenerateKey draws a key from a source of cryptographic randomness.
func GenerateKey(rand io.Reader) (*PrivateKey, error) {
	for {
		b := make([]byte, Size)
		if _, err := io.ReadFull(rand, b); err != nil {
			return nil, fmt.Errorf("brainpool: drawing a key: %w", err)
		}
		if key, err := NewPrivateKey(b); err == nil {
			return key, nil
		}
	}
}

// NewPrivateKey reads a big-endian scalar of [Size] bytes.
func NewPrivateKey(scalar []byte) (*PrivateKey, error) {
	if len(scalar) != Size {
		return nil, ErrScalar
	}
	d, err := bigmod.NewNat().SetBytes(scalar, order)
	if err != nil || d.IsZero() == 1 {
		return nil, ErrScalar
	}
	x, y, ok := multiply(scalar, generator()).affine()
	if !ok {
		return nil, ErrScalar
	}
	public, err := NewPublicKey(x, y)
	if err != nil {
		return nil, err
	}
	return &PrivateKey{d: d, public: public}, nil
}

// Bytes returns the scalar, for whoever seals the key at rest.
func (k *PrivateKey) Bytes() []byte { return k.d.Bytes(order) }

// PublicKey returns the key's public half.
func (k *PrivateKey) PublicKey() *ecdsa.PublicKey { return k.public }

// Public returns the key's public half, as crypto.Signer wants it.
func (k *PrivateKey) Public() crypto.PublicKey { return k.public }

// Sign signs a digest and returns the signature in DER; randomness is not used (RFC 6979).
func (k *PrivateKey) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	raw, err := k.SignRaw(digest)
	if err != nil {
		return nil, err
	}
	return RawToDER(raw)
}

// SignRaw signs a digest and returns r‖s. The nonce is derived from key and digest (RFC 6979 with SHA-256), so that a weak random source
// cannot give the key away. digest is the output of a hash function; of a longer one the leftmost 256 bits count.
func (k *PrivateKey) SignRaw(digest []byte) ([]byte, error) {
	if len(digest) == 0 {
		return nil, errors.New("brainpool: empty digest")
	}
	padded := make([]byte, Size)
	copy(padded[Size-min(len(digest), Size):], digest)
	e, err := bigmod.NewNat().SetOverflowingBytes(padded, order)
	if err != nil {
		return nil, fmt.Errorf("brainpool: digest: %w", err)
	}
	next := nonces(k.d.Bytes(order), e.Bytes(order))
	for {
		nonce := next()
		kn, err := bigmod.NewNat().SetBytes(nonce, order)
		if err != nil || kn.IsZero() == 1 { // a third of the candidates lies above n
			continue
		}
		x, _, ok := multiply(nonce, generator()).affine()
		if !ok {
			continue
		}
		r, err := bigmod.NewNat().SetOverflowingBytes(x, order)
		if err != nil {
			return nil, fmt.Errorf("brainpool: reducing x: %w", err)
		}
		if r.IsZero() == 1 {
			continue
		}
		s := clone(r, order).Mul(k.d, order)
		s.Add(e, order)
		s.Mul(bigmod.NewNat().Exp(kn, orderMinusTwo, order), order) // k⁻¹ by Fermat
		if s.IsZero() == 1 {
			continue
		}
		return append(r.Bytes(order), s.Bytes(order)...), nil
	}
}

// ECDH returns the x coordinate of the shared point (RFC 7518, 4.6; RFC 7027).
func (k *PrivateKey) ECDH(peer *ecdsa.PublicKey) ([]byte, error) {
	if !IsKey(peer) {
		return nil, ErrPoint
	}
	if _, err := ParsePublicKey(Point(peer)); err != nil { // invalid points would leak the key
		return nil, err
	}
	px, py := Coordinates(peer)
	p, err := newPoint(px, py)
	if err != nil {
		return nil, err
	}
	x, _, ok := multiply(k.d.Bytes(order), p).affine()
	if !ok {
		return nil, ErrPoint
	}
	return x, nil
}

// nonces yields the candidates of RFC 6979, 3.2 for a private key and a reduced digest.
func nonces(key, digest []byte) func() []byte {
	v, k := bytes.Repeat([]byte{1}, Size), make([]byte, Size)
	mac := func(parts ...[]byte) []byte {
		h := hmac.New(sha256.New, k)
		for _, p := range parts {
			h.Write(p)
		}
		return h.Sum(nil)
	}
	for _, sep := range []byte{0, 1} {
		k = mac(v, []byte{sep}, key, digest)
		v = mac(v)
	}
	first := true
	return func() []byte {
		if !first {
			k = mac(v, []byte{0})
			v = mac(v)
		}
		first = false
		v = mac(v)
		return bytes.Clone(v)
	}
}

// RawToDER turns r‖s into the DER form that certificates use.
func RawToDER(raw []byte) ([]byte, error) {
	if len(raw) != SignatureSize {
		return nil, errors.New("brainpool: a raw signature has 64 bytes")
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addInteger(b, raw[:Size])
		addInteger(b, raw[Size:])
	})
	return b.Bytes()
}

func addInteger(b *cryptobyte.Builder, value []byte) {
	value = bytes.TrimLeft(value, "\x00")
	b.AddASN1(asn1.INTEGER, func(b *cryptobyte.Builder) {
		if len(value) == 0 || value[0]&0x80 != 0 {
			b.AddUint8(0)
		}
		b.AddBytes(value)
	})
}

// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"fmt"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/health/brainpool"
)

// Signer makes raw signatures r‖s over SHA-256 digests: a card, a file's key, a connector.
type Signer interface {
	// Algorithm is BP256R1 or ES256.
	Algorithm() string
	SignDigest(digest []byte) ([]byte, error)
}

// Signed is a JWS that was parsed; nothing in it may be believed before [Signed.Verify].
type Signed struct {
	Header    Header
	Payload   []byte
	input     string
	signature []byte
}

// Sign makes a compact JWS. The header's alg is the signer's.
func Sign(h Header, payload []byte, s Signer) (string, error) {
	h.Alg = s.Algorithm()
	head, err := encodeHeader(h)
	if err != nil {
		return "", err
	}
	input := head + "." + encode64(payload)
	digest := sha256.Sum256([]byte(input))
	signature, err := s.SignDigest(digest[:])
	if err != nil {
		return "", fmt.Errorf("jose: signing: %w", err)
	}
	if len(signature) != brainpool.SignatureSize {
		return "", fmt.Errorf("jose: signer made %d bytes", len(signature))
	}
	return input + "." + encode64(signature), nil
}

// SignClaims is Sign of a JSON value.
func SignClaims(h Header, claims any, s Signer) (string, error) {
	payload, err := json.Marshal(claims, json.Deterministic(true))
	if err != nil {
		return "", fmt.Errorf("jose: claims: %w", err)
	}
	return Sign(h, payload, s)
}

// Parse reads a compact JWS of at most [MaxToken] bytes without verifying it.
func Parse(token string) (*Signed, error) { return ParseLimited(token, MaxToken) }

// ParseLimited is Parse with another bound in bytes.
func ParseLimited(token string, limit int) (*Signed, error) {
	parts, h, err := split(token, 3, limit)
	if err != nil {
		return nil, err
	}
	if h.Alg != BP256R1 && h.Alg != ES256 {
		return nil, fmt.Errorf("%w: signature algorithm %.20q", ErrFormat, h.Alg)
	}
	payload, err := unbase64(parts[1])
	if err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	signature, err := unbase64(parts[2])
	if err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	if len(signature) != brainpool.SignatureSize {
		return nil, fmt.Errorf("%w: signature of %d bytes", ErrFormat, len(signature))
	}
	return &Signed{Header: h, Payload: payload, input: parts[0] + "." + parts[1], signature: signature}, nil
}

// Verify checks the signature with a key whose curve must be that of the header's algorithm.
func (s *Signed) Verify(key *ecdsa.PublicKey) error {
	if alg, err := algorithm(key); err != nil || alg != s.Header.Alg {
		return fmt.Errorf("%w: key does not fit %s", ErrSignature, s.Header.Alg)
	}
	digest := sha256.Sum256([]byte(s.input))
	if !brainpool.VerifyRaw(key, digest[:], s.signature) {
		return ErrSignature
	}
	return nil
}

// Claims decodes the payload as JSON.
func (s *Signed) Claims(v any) error { return Decode(s.Payload, v) }

// algorithm is the signature algorithm of a key's curve.
func algorithm(key *ecdsa.PublicKey) (string, error) {
	switch {
	case brainpool.IsKey(key):
		return BP256R1, nil
	case key != nil && key.Curve == elliptic.P256():
		return ES256, nil
	}
	return "", fmt.Errorf("%w: curve is neither brainpoolP256r1 nor P-256", ErrFormat)
}

// BrainpoolSigner signs with a key held in memory.
type BrainpoolSigner struct{ Key *brainpool.PrivateKey }

// Algorithm is BP256R1.
func (BrainpoolSigner) Algorithm() string { return BP256R1 }

// SignDigest signs in constant time, with a derived nonce.
func (s BrainpoolSigner) SignDigest(digest []byte) ([]byte, error) { return s.Key.SignRaw(digest) }

// P256Signer signs with an ordinary key held in memory.
type P256Signer struct{ Key *ecdsa.PrivateKey }

// Algorithm is ES256.
func (P256Signer) Algorithm() string { return ES256 }

// SignDigest signs with the standard library; the nonce is derived (RFC 6979).
func (s P256Signer) SignDigest(digest []byte) ([]byte, error) {
	der, err := s.Key.Sign(nil, digest, sha256Opts{})
	if err != nil {
		return nil, err
	}
	return brainpool.DERToRaw(der)
}

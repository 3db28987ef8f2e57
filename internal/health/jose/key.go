// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"fmt"

	"github.com/konsil-health/konsil/internal/health/brainpool"
)

// Key is a public key as a JSON Web Key.
type Key struct {
	Kty string `json:"kty"`
	Crv string `json:"crv"` // "BP-256" or "P-256"
	X   string `json:"x"`
	Y   string `json:"y"`
	Kid string `json:"kid,omitempty"`
	Use string `json:"use,omitempty"`
	// X5c is the certificate of a signer's key, in DER.
	X5c [][]byte `json:"x5c,omitempty"`
}

// NewKey turns a public key into a JSON Web Key.
func NewKey(key *ecdsa.PublicKey) (*Key, error) {
	alg, err := algorithm(key)
	if err != nil {
		return nil, err
	}
	crv := brainpool.Name
	if alg == ES256 {
		crv = "P-256"
	}
	x, y := brainpool.Coordinates(key)
	return &Key{Kty: "EC", Crv: crv, X: encode64(x), Y: encode64(y)}, nil
}

// Public reads the key and checks that it is a point of its curve.
func (k *Key) Public() (*ecdsa.PublicKey, error) {
	if k == nil || k.Kty != "EC" {
		return nil, fmt.Errorf("%w: not an elliptic curve key", ErrFormat)
	}
	x, err := unbase64(k.X)
	if err != nil {
		return nil, err
	}
	y, err := unbase64(k.Y)
	if err != nil {
		return nil, err
	}
	if len(x) != brainpool.Size || len(y) != brainpool.Size {
		return nil, fmt.Errorf("%w: coordinates of %d and %d bytes", ErrFormat, len(x), len(y))
	}
	var key *ecdsa.PublicKey
	switch k.Crv {
	case brainpool.Name:
		key, err = brainpool.NewPublicKey(x, y)
	case "P-256":
		key, err = ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...))
	default:
		return nil, fmt.Errorf("%w: curve %.20q", ErrFormat, k.Crv)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return key, nil
}

// sha256Opts tells the standard library's signer which hash made the digest; with a nil random source it then derives the nonce.
type sha256Opts struct{}

// HashFunc is SHA-256.
func (sha256Opts) HashFunc() crypto.Hash { return crypto.SHA256 }

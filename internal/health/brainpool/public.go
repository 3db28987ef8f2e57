// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 crypto/ecdsa carries the points of curves it does not know only in the deprecated fields X and Y; this package is the one place that does so

package brainpool

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"math/big"

	proton "github.com/ProtonMail/go-crypto/brainpool"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

const (
	// Size is the length in bytes of a coordinate, a scalar and each half of a raw signature.
	Size = 32
	// PointSize is the length of an uncompressed point: 0x04, x, y.
	PointSize = 1 + 2*Size
	// SignatureSize is the length of a raw signature r‖s, as JWS has it.
	SignatureSize = 2 * Size
	// Name is the curve's name in JSON Web Keys of the telematics infrastructure.
	Name = "BP-256"
)

// ErrPoint is answered for bytes that are no point of the curve, or the point at infinity.
var ErrPoint = errors.New("not a point of brainpoolP256r1")

// Curve returns brainpoolP256r1 for public data only: its arithmetic is not constant-time.
func Curve() elliptic.Curve { return proton.P256r1() }

// IsKey says whether a public key lies on this curve.
func IsKey(key *ecdsa.PublicKey) bool {
	return key != nil && key.Curve != nil && key.Curve.Params().Name == Curve().Params().Name
}

// ParsePublicKey reads an uncompressed point and checks that it lies on the curve.
func ParsePublicKey(point []byte) (*ecdsa.PublicKey, error) {
	if len(point) != PointSize || point[0] != 4 {
		return nil, ErrPoint
	}
	return NewPublicKey(point[1:1+Size], point[1+Size:])
}

// NewPublicKey makes a key of big-endian coordinates of exactly [Size] bytes and checks that they are a point of the curve.
func NewPublicKey(x, y []byte) (*ecdsa.PublicKey, error) {
	if len(x) != Size || len(y) != Size {
		return nil, ErrPoint
	}
	key := &ecdsa.PublicKey{Curve: Curve(), X: new(big.Int).SetBytes(x), Y: new(big.Int).SetBytes(y)}
	if p := key.Curve.Params().P; key.X.Cmp(p) >= 0 || key.Y.Cmp(p) >= 0 || !key.Curve.IsOnCurve(key.X, key.Y) {
		return nil, ErrPoint
	}
	return key, nil
}

// Coordinates returns the point of a key of any 256-bit curve, big-endian, [Size] bytes each.
func Coordinates(key *ecdsa.PublicKey) (x, y []byte) {
	return key.X.FillBytes(make([]byte, Size)), key.Y.FillBytes(make([]byte, Size))
}

// Point returns the uncompressed point of a key.
func Point(key *ecdsa.PublicKey) []byte {
	x, y := Coordinates(key)
	return append(append([]byte{4}, x...), y...)
}

// VerifyRaw checks a raw signature r‖s (RFC 7518, 3.4) over a digest; it serves every 256-bit curve.
func VerifyRaw(key *ecdsa.PublicKey, digest, signature []byte) bool {
	if len(signature) != SignatureSize {
		return false
	}
	r, s := new(big.Int).SetBytes(signature[:Size]), new(big.Int).SetBytes(signature[Size:])
	return ecdsa.Verify(key, digest, r, s)
}

// DERToRaw turns a signature as certificates have it into r‖s; it serves every 256-bit curve.
func DERToRaw(der []byte) ([]byte, error) {
	var inner cryptobyte.String
	r, s := new(big.Int), new(big.Int)
	input := cryptobyte.String(der)
	if !input.ReadASN1(&inner, asn1.SEQUENCE) || !input.Empty() || !inner.ReadASN1Integer(r) || !inner.ReadASN1Integer(s) || !inner.Empty() ||
		r.Sign() <= 0 || s.Sign() <= 0 || r.BitLen() > 8*Size || s.BitLen() > 8*Size {
		return nil, errors.New("brainpool: not a signature of a 256-bit curve")
	}
	return append(r.FillBytes(make([]byte, Size)), s.FillBytes(make([]byte, Size))...), nil
}

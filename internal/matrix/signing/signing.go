// SPDX-License-Identifier: Apache-2.0

package signing

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

var (
	// ErrMissing: the object has no signature by that name and key.
	ErrMissing = errors.New("no such signature")
	// ErrInvalid: there is one and it does not fit.
	ErrInvalid = errors.New("invalid signature")
	// ErrNotObject: what should be signed or checked is not a JSON object.
	ErrNotObject = errors.New("not a JSON object")
)

// Encode is unpadded standard base64, the form of all binary values in Matrix JSON.
func Encode(b []byte) string { return base64.RawStdEncoding.EncodeToString(b) }

// EncodeURL is unpadded URL-safe base64, the form of hashes in event ids.
func EncodeURL(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// Decode reads base64 in either alphabet, with or without padding.
func Decode(s string) ([]byte, error) {
	s = strings.TrimRight(s, "=")
	enc := base64.RawStdEncoding
	if strings.ContainsAny(s, "-_") {
		enc = base64.RawURLEncoding
	}
	if strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("base64: line break")
	}
	return enc.DecodeString(s)
}

// DecodePublicKey reads an ed25519 public key from base64.
func DecodePublicKey(s string) (ed25519.PublicKey, error) {
	b, err := Decode(s)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	if len(b) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("public key of %d bytes", len(b))
	}
	return b, nil
}

// SignJSON returns the canonical form of obj with one more signature. Signatures and unsigned that it had stay;
// they are not covered.
func SignJSON(obj []byte, name string, key id.KeyID, priv ed25519.PrivateKey) ([]byte, error) {
	c, err := canonicaljson.CanonicalLax(obj)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	if len(c) == 0 || c[0] != '{' {
		return nil, fmt.Errorf("sign: %w", ErrNotObject)
	}
	sig := ed25519.Sign(priv, Payload(c))
	sigs, err := Insert(canonicaljson.Get(c, "signatures"), name, key, sig)
	if err != nil {
		return nil, err
	}
	return Replace(c, "signatures", sigs), nil
}

// VerifyJSON checks the signature that obj carries by name and key. The error is ErrMissing, ErrInvalid or about
// the form of obj.
func VerifyJSON(obj []byte, name string, key id.KeyID, pub ed25519.PublicKey) error {
	c, err := canonicaljson.CanonicalLax(obj)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if len(c) == 0 || c[0] != '{' {
		return fmt.Errorf("verify: %w", ErrNotObject)
	}
	return Check(canonicaljson.Get(c, "signatures"), name, key, pub, Payload(c))
}

// Check verifies one entry of a signatures object over a payload.
func Check(signatures jsontext.Value, name string, key id.KeyID, pub ed25519.PublicKey, payload []byte) error {
	s, ok := canonicaljson.String(canonicaljson.Get(signatures, name, string(key)))
	if !ok {
		return fmt.Errorf("%w: %s %s", ErrMissing, name, key)
	}
	sig, err := Decode(s)
	if err != nil || len(sig) != ed25519.SignatureSize || len(pub) != ed25519.PublicKeySize {
		return fmt.Errorf("%w: %s %s: malformed", ErrInvalid, name, key)
	}
	if !ed25519.Verify(pub, payload, sig) {
		return fmt.Errorf("%w: %s %s", ErrInvalid, name, key)
	}
	return nil
}

// Payload is what a signature of a canonical object covers: all but signatures and unsigned.
func Payload(canonical []byte) []byte {
	out := make([]byte, 0, len(canonical))
	out = append(out, '{')
	for name, value := range canonicaljson.Members(canonical) {
		if n := string(name); n != "signatures" && n != "unsigned" {
			out = appendMember(out, n, value)
		}
	}
	return append(out, '}')
}

// Insert returns a canonical signatures object with one entry added or replaced; signatures may be nil.
func Insert(signatures jsontext.Value, name string, key id.KeyID, sig []byte) (jsontext.Value, error) {
	if signatures != nil && !canonicaljson.IsObject(signatures) {
		return nil, fmt.Errorf("signatures: %w", ErrNotObject)
	}
	of := canonicaljson.Get(signatures, name)
	if of != nil && !canonicaljson.IsObject(of) {
		return nil, fmt.Errorf("signatures of %s: %w", name, ErrNotObject)
	}
	of = Replace(of, string(key), canonicaljson.AppendString(nil, Encode(sig)))
	return Replace(signatures, name, of), nil
}

// Replace returns a canonical object with the member set to value, at its place in the order; a nil value removes
// the member. The object must be canonical, or nil for an empty one.
func Replace(canonical []byte, member string, value []byte) []byte {
	out := make([]byte, 0, len(canonical)+len(member)+len(value)+5)
	out = append(out, '{')
	done := value == nil
	for name, v := range canonicaljson.Members(canonical) {
		n := string(name)
		if !done && n >= member {
			out = appendMember(out, member, value)
			done = true
		}
		if n != member {
			out = appendMember(out, n, v)
		}
	}
	if !done {
		out = appendMember(out, member, value)
	}
	return append(out, '}')
}

func appendMember(dst []byte, name string, value []byte) []byte {
	if len(dst) > 1 {
		dst = append(dst, ',')
	}
	dst = canonicaljson.AppendString(dst, name)
	dst = append(dst, ':')
	return append(dst, value...)
}

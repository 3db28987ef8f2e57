// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// The algorithms of the telematics infrastructure.
const (
	BP256R1 = "BP256R1" // ECDSA on brainpoolP256r1 with SHA-256, r‖s
	ES256   = "ES256"   // ECDSA on P-256 with SHA-256, r‖s (RFC 7518, 3.4)
	ECDHES  = "ECDH-ES" // direct key agreement (RFC 7518, 4.6) on brainpoolP256r1 or P-256
	Direct  = "dir"     // a shared key used directly (RFC 7518, 4.5)
	A256GCM = "A256GCM"
)

// MaxToken bounds a token in bytes; the federation list is the only large one and has a bound of its own.
const MaxToken = 256 << 10

// ErrFormat is wrapped by every error about a token's form.
var ErrFormat = errors.New("malformed token")

// ErrSignature is answered when a signature does not verify with the key given.
var ErrSignature = errors.New("wrong signature")

// ErrDecrypt is answered when a token cannot be decrypted with the key given.
var ErrDecrypt = errors.New("token cannot be decrypted")

// Header is the protected header. Members that the profile does not use are left out when writing and ignored when reading.
type Header struct {
	Alg  string   `json:"alg"`
	Enc  string   `json:"enc,omitempty"`
	Typ  string   `json:"typ,omitempty"`
	Cty  string   `json:"cty,omitempty"`
	Kid  string   `json:"kid,omitempty"`
	X5c  [][]byte `json:"x5c,omitempty"` // DER, the signer's own certificate first (RFC 7515, 4.1.6: base64, not base64url)
	Epk  *Key     `json:"epk,omitempty"`
	Exp  Seconds  `json:"exp,omitzero"` // the identity provider repeats the expiry of an encrypted token outside
	Crit []string `json:"crit,omitempty"`
}

// Seconds is a point in time in seconds since the epoch. Some issuers write it as a string; both are read, a number is written.
type Seconds int64

// UnmarshalJSON reads a number, whole or with a fraction, or the same in a string.
func (s *Seconds) UnmarshalJSON(b []byte) error {
	text := strings.Trim(string(b), `"`)
	whole, fraction, _ := strings.Cut(text, ".")
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || strings.Trim(fraction, "0123456789") != "" || bytes.Count(b, []byte{'"'})%2 != 0 {
		return fmt.Errorf("%w: time %.40q", ErrFormat, b)
	}
	*s = Seconds(n)
	return nil
}

// Decode reads the JSON payload of a token into v: duplicate members are refused.
func Decode(payload []byte, v any) error {
	if err := json.Unmarshal(payload, v); err != nil {
		return fmt.Errorf("%w: payload: %w", ErrFormat, err)
	}
	return nil
}

// split cuts a compact token into its n parts and decodes the header. limit bounds the token in bytes.
func split(token string, n, limit int) ([]string, Header, error) {
	if len(token) > limit {
		return nil, Header{}, fmt.Errorf("%w: more than %d bytes", ErrFormat, limit)
	}
	parts := strings.Split(token, ".")
	if len(parts) != n {
		return nil, Header{}, fmt.Errorf("%w: %d parts instead of %d", ErrFormat, len(parts), n)
	}
	raw, err := unbase64(parts[0])
	if err != nil {
		return nil, Header{}, fmt.Errorf("header: %w", err)
	}
	var h Header
	if err := json.Unmarshal(raw, &h); err != nil {
		return nil, Header{}, fmt.Errorf("%w: header: %w", ErrFormat, err)
	}
	if h.Crit != nil {
		return nil, Header{}, fmt.Errorf("%w: critical extensions %q are not understood", ErrFormat, h.Crit)
	}
	var zip struct {
		Zip jsontext.Value `json:"zip"`
	}
	if err := json.Unmarshal(raw, &zip); err != nil || zip.Zip != nil {
		return nil, Header{}, fmt.Errorf("%w: compression is not used", ErrFormat)
	}
	return parts, h, nil
}

func encodeHeader(h Header) (string, error) {
	raw, err := json.Marshal(h, json.Deterministic(true))
	if err != nil {
		return "", fmt.Errorf("jose: header: %w", err)
	}
	return encode64(raw), nil
}

func encode64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// unbase64 decodes strictly: no padding, no line breaks, no stray bits, so that a token has one spelling.
func unbase64(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, fmt.Errorf("%w: line break", ErrFormat)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return b, nil
}

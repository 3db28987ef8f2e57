// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"errors"
	"fmt"
	"strings"

	"github.com/konsil-health/konsil/internal/matrix/id"
)

// maxAuthorization bounds an Authorization header; the longest valid one is far below.
const maxAuthorization = 4096

// credentials are the parameters of an X-Matrix Authorization header (server-server API, "Request Authentication").
type credentials struct {
	origin, destination id.Server // destination may be empty: servers before v1.3
	key                 id.KeyID
	signature           string // base64
}

var errNotXMatrix = errors.New("authorization is not X-Matrix")

// parseXMatrix reads one Authorization header by the grammar of RFC 9110, 11.4: names in any case, each at most once, values as tokens
// (colons allowed, for older servers) or quoted strings with escapes. Unknown parameters are skipped.
func parseXMatrix(header string) (credentials, error) {
	if len(header) > maxAuthorization {
		return credentials{}, fmt.Errorf("authorization has more than %d bytes", maxAuthorization)
	}
	scheme, rest, ok := strings.Cut(header, " ")
	if !ok || !strings.EqualFold(scheme, "X-Matrix") {
		return credentials{}, errNotXMatrix
	}
	params, err := parseParameters(strings.TrimLeft(rest, " "))
	if err != nil {
		return credentials{}, fmt.Errorf("X-Matrix: %w", err)
	}
	for _, name := range []string{"origin", "key", "sig"} {
		if params[name] == "" {
			return credentials{}, fmt.Errorf("X-Matrix: %s is missing", name)
		}
	}
	c := credentials{key: id.KeyID(params["key"]), signature: params["sig"]}
	if !validKeyID(c.key) {
		return credentials{}, errors.New("X-Matrix: key is not an ed25519 key id")
	}
	if c.origin, err = id.ParseServer(params["origin"]); err != nil {
		return credentials{}, fmt.Errorf("X-Matrix: origin: %w", err)
	}
	if to, given := params["destination"]; given {
		if c.destination, err = id.ParseServer(to); err != nil {
			return credentials{}, fmt.Errorf("X-Matrix: destination: %w", err)
		}
	}
	return c, nil
}

// String is the header that older servers understand too: one space, lower-case names, no spaces around commas, no backslashes.
func (c credentials) String() string {
	return fmt.Sprintf(`X-Matrix origin="%s",destination="%s",key="%s",sig="%s"`, c.origin, c.destination, c.key, c.signature)
}

// parseParameters reads a comma-separated list of name=value with optional blanks around the commas.
func parseParameters(s string) (map[string]string, error) {
	params := make(map[string]string, 4)
	for {
		s = strings.TrimLeft(s, " \t,") // empty list elements are allowed (RFC 9110, 5.6.1.2)
		if s == "" {
			return params, nil
		}
		end := 0
		for end < len(s) && tokenByte(s[end]) {
			end++
		}
		name := strings.ToLower(s[:end])
		if name == "" || end == len(s) || s[end] != '=' {
			return nil, errors.New("expected name=value")
		}
		if _, twice := params[name]; twice {
			return nil, fmt.Errorf("parameter %s is given twice", name)
		}
		value, rest, err := parseValue(s[end+1:])
		if err != nil {
			return nil, fmt.Errorf("parameter %s: %w", name, err)
		}
		params[name] = value
		s = strings.TrimLeft(rest, " \t")
		if s != "" && s[0] != ',' {
			return nil, errors.New("expected a comma between parameters")
		}
	}
}

// parseValue reads a token or a quoted string and returns what follows it.
func parseValue(s string) (value, rest string, err error) {
	if s == "" || s[0] != '"' {
		end := 0
		for end < len(s) && (tokenByte(s[end]) || s[end] == ':') {
			end++
		}
		if end == 0 {
			return "", "", errors.New("has no value")
		}
		return s[:end], s[end:], nil
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:], nil
		case c == '\\':
			i++
			if i == len(s) {
				return "", "", errors.New("ends inside a quoted string")
			}
			if !quotedByte(s[i]) {
				return "", "", errors.New("holds a control character")
			}
			b.WriteByte(s[i])
		case !quotedByte(c):
			return "", "", errors.New("holds a control character")
		default:
			b.WriteByte(c)
		}
	}
	return "", "", errors.New("ends inside a quoted string")
}

func quotedByte(c byte) bool { return c == '\t' || c >= 0x20 && c != 0x7f }

func tokenByte(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	}
	return c < 0x80 && c > 0x20 && strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// validKeyID accepts the ids of signing keys: ed25519 and a version of letters, digits and underscores. Versions in the field also hold other
// token characters, which do no harm.
func validKeyID(k id.KeyID) bool {
	version, ok := strings.CutPrefix(string(k), "ed25519:")
	if !ok || version == "" || len(k) > 255 {
		return false
	}
	for i := range len(version) {
		if !tokenByte(version[i]) && version[i] != '/' {
			return false
		}
	}
	return true
}

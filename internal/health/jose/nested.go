// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"fmt"

	"github.com/go-json-experiment/json"
)

// nested is how the identity provider wraps one token in another.
type nested struct {
	Token string `json:"njwt"`
}

// Nest returns the payload {"njwt": token}; the token around it carries cty "NJWT".
func Nest(token string) ([]byte, error) {
	b, err := json.Marshal(nested{token})
	if err != nil {
		return nil, fmt.Errorf("jose: nesting: %w", err)
	}
	return b, nil
}

// Unnest returns the token of a payload {"njwt": token}.
func Unnest(payload []byte) (string, error) {
	var n nested
	if err := Decode(payload, &n); err != nil {
		return "", err
	}
	if n.Token == "" {
		return "", fmt.Errorf("%w: no njwt", ErrFormat)
	}
	return n.Token, nil
}

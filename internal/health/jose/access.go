// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"time"
)

// ErrAccess is wrapped by every refusal of an access token.
var ErrAccess = errors.New("access token refused")

// Access is the content of an access token of the directory's services.
type Access struct {
	Issuer   string  `json:"iss"`
	Subject  string  `json:"sub"`
	Audience string  `json:"aud"`
	Issued   Seconds `json:"iat"`
	Expires  Seconds `json:"exp"`
	// ClientID is the provider's account, in tokens of providers.
	ClientID string `json:"clientId,omitempty"`
	// Insured marks the token of an insured person's server, in search tokens.
	Insured bool `json:"insured,omitempty"`
	// Profession is the owner's profession OID, in owner tokens.
	Profession string `json:"professionOID,omitempty"`
}

// IssueAccess signs a token that is valid from now for a time.
func IssueAccess(s Signer, a Access, now time.Time, life time.Duration) (string, error) {
	a.Issued, a.Expires = Seconds(now.Unix()), Seconds(now.Add(life).Unix())
	return SignClaims(Header{Typ: "JWT"}, a, s)
}

// CheckAccess verifies a token of one issuer's key for one audience at a time.
func CheckAccess(token string, key *ecdsa.PublicKey, audience string, now time.Time) (Access, error) {
	signed, err := Parse(token)
	if err != nil {
		return Access{}, fmt.Errorf("%w: %w", ErrAccess, err)
	}
	if err := signed.Verify(key); err != nil {
		return Access{}, fmt.Errorf("%w: %w", ErrAccess, err)
	}
	var a Access
	if err := signed.Claims(&a); err != nil {
		return Access{}, fmt.Errorf("%w: %w", ErrAccess, err)
	}
	switch {
	case a.Audience != audience:
		return Access{}, fmt.Errorf("%w: it is for %.100q", ErrAccess, a.Audience)
	case int64(a.Expires) <= now.Unix():
		return Access{}, fmt.Errorf("%w: it has expired", ErrAccess)
	case a.Subject == "":
		return Access{}, fmt.Errorf("%w: it speaks for nobody", ErrAccess)
	}
	return a, nil
}

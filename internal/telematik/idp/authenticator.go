// SPDX-License-Identifier: Apache-2.0

package idp

import (
	"crypto/ecdsa"
	"crypto/rand"
	"fmt"

	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/jose"
	"github.com/konsil-health/konsil/internal/telematik/card"
)

// Answer is what an authenticator does: it checks that the challenge was signed by the identity provider, signs it with the card and encrypts
// the result for the provider (dossier §5.3). provider holds the issuer's signature certificate, already checked; key is its encryption key.
func Answer(challengeToken string, c card.Signer, provider *certificate.Certificate, key *ecdsa.PublicKey) (string, error) {
	signed, err := jose.Parse(challengeToken)
	if err != nil {
		return "", fmt.Errorf("authenticator: challenge: %w", err)
	}
	if err := signed.Verify(provider.PublicKey()); err != nil {
		return "", fmt.Errorf("authenticator: challenge: %w", err)
	}
	var claims challenge
	if err := signed.Claims(&claims); err != nil {
		return "", fmt.Errorf("authenticator: challenge: %w", err)
	}
	payload, err := jose.Nest(challengeToken)
	if err != nil {
		return "", err
	}
	inner, err := jose.Sign(jose.Header{Typ: "JWT", Cty: "NJWT", X5c: [][]byte{c.Certificate().DER()}}, payload, c)
	if err != nil {
		return "", fmt.Errorf("authenticator: card: %w", err)
	}
	if payload, err = jose.Nest(inner); err != nil {
		return "", err
	}
	return jose.Encrypt(rand.Reader, key, jose.Header{Cty: "NJWT", Exp: claims.Expires}, payload)
}

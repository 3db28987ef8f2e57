// SPDX-License-Identifier: Apache-2.0

package idp

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/go-json-experiment/json"

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

// ErrAddress is answered for an address that is not the identity provider's: nothing is fetched from it and nothing signed for it.
var ErrAddress = errors.New("the address is not one of the identity provider")

// Ask fetches the challenge of a relying party's request, which is an address of the provider's authorization endpoint, and checks that the provider
// made it and that it is of now. ErrAddress, an *Error of the provider, or an error that wraps [ErrProvider].
func (p *Party) Ask(ctx context.Context, address string) (*Asked, error) {
	known, err := p.discover(ctx)
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(address, known.Authorization+"?") {
		return nil, ErrAddress
	}
	body, err := p.call(ctx, address, nil)
	if err != nil {
		return nil, err
	}
	var a Asked
	if err := json.Unmarshal(body, &a); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProvider, err)
	}
	signed, err := jose.Parse(a.Challenge)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProvider, err)
	}
	var claims challenge
	if err := errors.Join(signed.Verify(known.sign), signed.Claims(&claims)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProvider, err)
	}
	if now := p.now(); int64(claims.Expires) <= now.Add(-skew).Unix() || int64(claims.Issued) > now.Add(skew).Unix() {
		return nil, ErrClock
	}
	a.Authorization = claims.Authorization
	return &a, nil
}

// Asked is a challenge with what its signer is asked to agree to.
type Asked struct {
	Challenge string `json:"challenge"`
	Consent   struct {
		Scopes map[string]string `json:"requested_scopes"`
		Claims map[string]string `json:"requested_claims"`
	} `json:"user_consent"`
	// Authorization is the relying party's request, as the provider signed it.
	Authorization Authorization `json:"-"`
}

// Sign lets a card answer a challenge and returns where the provider sends the browser: back to the relying party with a code.
func (p *Party) Sign(ctx context.Context, a *Asked, c card.Signer) (*url.URL, error) {
	known, err := p.discover(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := Answer(a.Challenge, c, known.signer, known.encrypt)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, partyTime)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, known.Authorization, strings.NewReader(url.Values{"signed_challenge": {answer}}.Encode()))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if p.Client != nil {
		client.Transport = p.Client.Transport
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("identity provider: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusFound {
		return resp.Location()
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("identity provider: %w", err)
	}
	return nil, readRefusal(resp.StatusCode, body)
}

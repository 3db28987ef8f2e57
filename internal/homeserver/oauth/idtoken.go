// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// signatureAlgorithms are those by which an id token may be signed: none with a shared secret, none without a signature.
var signatureAlgorithms = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA}

// clockSkew is by how many seconds a provider's clock may be wrong; maxTokenAge is how old an id token may be that has come just now.
const (
	clockSkew   = 60
	maxTokenAge = 600
)

// parseKeys reads a key set. Keys of kinds that are not known are left out: a provider may have them for others.
func parseKeys(body []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []jsontext.Value `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, fmt.Errorf("keys of the identity provider: %w", err)
	}
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		if key.UnmarshalJSON(raw) == nil && key.Valid() {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// claims are those of an id token (OpenID Connect Core, section 2).
type claims struct {
	Issuer   string         `json:"iss"`
	Subject  string         `json:"sub"`
	Audience jsontext.Value `json:"aud"`
	Party    string         `json:"azp"`
	Expires  float64        `json:"exp"`
	Issued   float64        `json:"iat"`
	Nonce    string         `json:"nonce"`
	ACR      string         `json:"acr"`
	AMR      []string       `json:"amr"`

	Others map[string]jsontext.Value `json:"-"`
}

// text is a claim that is a text; empty for others.
func (c *claims) text(name string) string {
	var text string
	_ = json.Unmarshal(c.Others[name], &text) // a claim of another type is none
	return text
}

// checkIDToken verifies an id token's signature and says whom it is about.
func (s *Service) checkIDToken(ctx context.Context, p *Provider, d *discovered, token, nonce string) (*claims, error) {
	signed, err := jose.ParseSignedCompact(token, signatureAlgorithms)
	if err != nil {
		return nil, fmt.Errorf("id token: %w", err)
	}
	payload, err := s.verified(ctx, p, d, signed)
	if err != nil {
		return nil, err
	}
	var c claims
	if err := errors.Join(json.Unmarshal(payload, &c), json.Unmarshal(payload, &c.Others)); err != nil {
		return nil, fmt.Errorf("id token: %w", err)
	}
	now := float64(s.o.Now().Unix())
	switch {
	case c.Issuer != p.Issuer:
		return nil, errors.New("id token: of another issuer")
	case c.Subject == "" || len(c.Subject) > 255:
		return nil, errors.New("id token: no subject")
	case !c.isFor(p.ClientID):
		return nil, errors.New("id token: for another client")
	case c.Expires+clockSkew < now:
		return nil, errors.New("id token: expired")
	case c.Issued > now+clockSkew || c.Issued < now-maxTokenAge:
		return nil, errors.New("id token: issued at another time")
	case c.Nonce != nonce:
		return nil, errors.New("id token: for another sign-in")
	case len(p.ACR) > 0 && !slices.Contains(p.ACR, c.ACR):
		return nil, errWeakProof
	case len(p.AMR) > 0 && !slices.ContainsFunc(c.AMR, func(method string) bool { return slices.Contains(p.AMR, method) }):
		return nil, errWeakProof
	}
	return &c, nil
}

// errWeakProof tells that somebody proved who they are, but not by what the tenant asks for.
var errWeakProof = errors.New("id token: acr or amr is not what the configuration asks for")

func (c *claims) isFor(client string) bool {
	var one string
	var many []string
	if json.Unmarshal(c.Audience, &one) == nil {
		many = []string{one}
	} else if json.Unmarshal(c.Audience, &many) != nil {
		return false
	}
	return slices.Contains(many, client) && (len(many) == 1 && c.Party == "" || c.Party == client)
}

// verified returns the payload if one of the provider's keys signed it, asking for the keys once more when none did.
func (s *Service) verified(ctx context.Context, p *Provider, d *discovered, signed *jose.JSONWebSignature) ([]byte, error) {
	for _, again := range []bool{false, true} {
		keys, err := s.keySet(ctx, p, d, again)
		if err != nil {
			return nil, err
		}
		for _, key := range keys {
			if key.Use == "enc" || !key.IsPublic() || signed.Signatures[0].Header.KeyID != "" && key.KeyID != "" && key.KeyID != signed.Signatures[0].Header.KeyID {
				continue
			}
			if payload, err := signed.Verify(key); err == nil {
				return payload, nil
			}
		}
	}
	return nil, errors.New("id token: signed by none of the provider's keys")
}

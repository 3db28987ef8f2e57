// SPDX-License-Identifier: Apache-2.0

package idp

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/health/jose"
)

const (
	tokenLife = 5 * time.Minute
	ssoLife   = 12 * time.Hour

	// ACR and AMR are how sure the provider is of whoever signed in by card and PIN.
	ACR = "gematik-ehealth-loa-high"
)

// AMR are the ways by which a card's holder proved who they are.
var AMR = []string{"mfa", "sc", "pin"}

// keyVerifier is what a relying party encrypts for the token endpoint.
type keyVerifier struct {
	Key      string `json:"token_key"` // 256 bits, base64url: the tokens come encrypted under it
	Verifier string `json:"code_verifier"`
}

// Tokens is the token endpoint's answer. Both tokens are JWEs under the caller's token_key around JWTs signed by the provider.
type Tokens struct {
	ExpiresIn int    `json:"expires_in"`
	Type      string `json:"token_type"`
	ID        string `json:"id_token"`
	Access    string `json:"access_token"`
}

// Token redeems a code (dossier §5.4). The refusals are of type *Error.
func (i *Issuer) Token(ctx context.Context, form url.Values) (Tokens, error) {
	switch grant := form.Get("grant_type"); {
	case grant == "":
		return Tokens{}, ErrNoGrant
	case grant != "authorization_code":
		return Tokens{}, ErrGrant
	case form.Get("client_id") == "":
		return Tokens{}, ErrNoClient
	case i.o.Clients[form.Get("client_id")] == nil:
		return Tokens{}, ErrTokenClient
	case form.Get("redirect_uri") == "":
		return Tokens{}, ErrNoRedirect
	case form.Get("code") == "":
		return Tokens{}, ErrCode
	case form.Get("key_verifier") == "":
		return Tokens{}, ErrNoKey
	}
	_, plain, err := jose.Decrypt(form.Get("key_verifier"), i.o.Key)
	if err != nil {
		return Tokens{}, ErrNoKey.because(err)
	}
	var k keyVerifier
	if err := jose.Decode(plain, &k); err != nil {
		return Tokens{}, ErrNoKey.because(err)
	}
	key, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(k.Key, "="))
	if err != nil || len(key) != 32 {
		return Tokens{}, ErrNoKey
	}
	proof, err := i.Redeem(ctx, form.Get("client_id"), form.Get("redirect_uri"), form.Get("code"), k.Verifier)
	if err != nil {
		return Tokens{}, err
	}
	return i.tokens(proof, key)
}

// tokens signs and encrypts both tokens for a proof.
func (i *Issuer) tokens(p *Proof, key []byte) (Tokens, error) {
	now := i.o.Now()
	common := i.about(p.Scope, p.Identity)
	for name, v := range map[string]any{"iss": i.o.URL, "azp": p.ClientID, "acr": ACR, "amr": AMR, "auth_time": p.AuthTime.Unix(), "iat": now.Unix(), "exp": now.Add(tokenLife).Unix()} {
		common[name] = v
	}
	access := map[string]any{"client_id": p.ClientID, "scope": p.Scope, "aud": i.audience(p)}
	identity := map[string]any{"aud": p.ClientID, "nonce": p.Nonce}
	signed := func(typ string, own map[string]any, audience string) (string, error) {
		for name, v := range common {
			own[name] = v
		}
		own["sub"], own["jti"] = i.pairwise(audience, p.Identity.Number), rand.Text()
		return jose.SignClaims(jose.Header{Typ: typ, Kid: kidSign}, own, i.o.Signer)
	}
	accessToken, err := signed("at+JWT", access, i.audience(p))
	if err != nil {
		return Tokens{}, err
	}
	sum := sha256.Sum256([]byte(accessToken))
	identity["at_hash"] = base64.RawURLEncoding.EncodeToString(sum[:16])
	idToken, err := signed("JWT", identity, p.ClientID)
	if err != nil {
		return Tokens{}, err
	}
	out := Tokens{ExpiresIn: int(tokenLife.Seconds()), Type: "Bearer"}
	for token, into := range map[string]*string{accessToken: &out.Access, idToken: &out.ID} {
		payload, err := jose.Nest(token)
		if err != nil {
			return Tokens{}, err
		}
		if *into, err = jose.EncryptDirect(rand.Reader, key, jose.Header{Cty: "NJWT", Exp: jose.Seconds(now.Add(tokenLife).Unix())}, payload); err != nil {
			return Tokens{}, err
		}
	}
	return out, nil
}

// audience is whom the access token is for.
func (i *Issuer) audience(p *Proof) string {
	for _, r := range i.rules(p.Scope) {
		if r.Audience != "" {
			return r.Audience
		}
	}
	return p.ClientID
}

// pairwise is a holder's subject for one audience: two of them cannot compare their people by it.
func (i *Issuer) pairwise(audience, number string) string {
	sum := sha256.Sum256([]byte(audience + number + string(i.o.Seal)))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// sso is the content of an SSO token: who proved themselves when, for further relying parties of the same user agent.
type sso struct {
	Certificate []byte       `json:"cnf"` // the card's, in DER: it is checked again each time
	AuthTime    jose.Seconds `json:"auth_time"`
	Expires     jose.Seconds `json:"exp"`
	Type        string       `json:"token_type"`
}

// SSO makes the token with which the holder need not show the card again for half a day.
func (i *Issuer) SSO(p *Proof) (string, error) {
	expires := jose.Seconds(p.AuthTime.Add(ssoLife).Unix())
	plain, err := json.Marshal(sso{Certificate: p.Certificate.DER(), AuthTime: jose.Seconds(p.AuthTime.Unix()), Expires: expires, Type: "sso"})
	if err != nil {
		return "", err
	}
	return jose.EncryptDirect(rand.Reader, i.o.Seal, jose.Header{Cty: "NJWT", Exp: expires}, plain)
}

// VerifySSO takes an SSO token in a card's place for a challenge. The card's certificate is checked anew: of a revoked card the token is worth nothing.
func (i *Issuer) VerifySSO(ctx context.Context, token, challengeToken string) (*Proof, error) {
	_, plain, err := jose.DecryptDirect(token, i.o.Seal)
	if err != nil {
		return nil, ErrSSO.because(err)
	}
	var s sso
	if err := jose.Decode(plain, &s); err != nil {
		return nil, ErrSSO.because(err)
	}
	now := i.o.Now()
	if s.Type != "sso" || int64(s.Expires) <= now.Unix() {
		return nil, ErrSSO
	}
	c, who, err := i.holder(s.Certificate, now)
	if err != nil {
		return nil, ErrSSO.because(err)
	}
	claims, err := i.signed(challengeToken)
	if err != nil {
		return nil, err
	}
	if int64(claims.Expires) <= now.Unix() {
		return nil, ErrExpired
	}
	if err := i.permits(claims.Scope, who); err != nil {
		return nil, err
	}
	if err := i.once(ctx, claims.ID, claims.Expires, ErrChallenge); err != nil {
		return nil, err
	}
	return &Proof{Authorization: claims.Authorization, Identity: who, Certificate: c, AuthTime: time.Unix(int64(s.AuthTime), 0)}, nil
}

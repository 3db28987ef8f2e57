// SPDX-License-Identifier: Apache-2.0

package idp

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/health/brainpool"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/jose"
	"github.com/konsil-health/konsil/internal/telematik/card"
)

const (
	challengeLife = 3 * time.Minute
	codeLife      = time.Minute

	// The provider's keys, by the names that the network knows them by.
	kidSign, kidEncrypt, kidDiscovery = "puk_idp_sig", "puk_idp_enc", "puk_disc_sig"

	// Scope is what TI-Messenger relying parties ask for.
	Scope = "openid ti-messenger"
)

// Options is what an issuer stands on.
type Options struct {
	URL    string      // the issuer, as it stands in iss
	Signer card.Signer // C.FD.SIG with the role oid_idpd
	// Key decrypts the answers (puk_idp_enc).
	Key     *brainpool.PrivateKey
	Trust   *certificate.Trust
	Revoked func(*certificate.Certificate) error // nil skips it
	// Clients are the relying parties: client_id and the redirect URIs it may name.
	Clients map[string][]string
	// ReturnSSO are the clients that get an SSO token with the code: authenticators, which keep it to themselves. Whoever holds it is its card's holder.
	ReturnSSO []string
	// Scopes are what may be asked for beside openid, by name; nil: ti-messenger alone, see [Scopes].
	Scopes map[string]ScopeRule
	// Used makes challenges and codes count once. nil remembers in this process alone: enough for a demonstration, as [UsedIn] is for a cell.
	Used Used
	// Seal is the key of authorization codes, 32 bytes that all nodes of a cell share; nil: drawn for this process.
	Seal []byte
	Now  func() time.Time // nil: time.Now
}

// Issuer is the identity provider. It is safe for concurrent use.
type Issuer struct{ o Options }

// New returns an issuer.
func New(o Options) *Issuer {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Used == nil {
		o.Used = usedHere()
	}
	if o.Scopes == nil {
		o.Scopes = Scopes
	}
	if o.Seal == nil {
		o.Seal = make([]byte, 32)
		rand.Read(o.Seal)
	}
	return &Issuer{o}
}

// Authorization is what a relying party asks for (dossier §5.2).
type Authorization struct {
	ClientID            string `json:"client_id"`
	ResponseType        string `json:"response_type"`
	RedirectURI         string `json:"redirect_uri"`
	State               string `json:"state"`
	Nonce               string `json:"nonce,omitempty"`
	Scope               string `json:"scope"`
	CodeChallenge       string `json:"code_challenge"`
	CodeChallengeMethod string `json:"code_challenge_method"`
}

// challenge is the content of the challenge token.
type challenge struct {
	Authorization `json:",inline"`
	Issuer        string       `json:"iss"`
	Issued        jose.Seconds `json:"iat"`
	Expires       jose.Seconds `json:"exp"`
	Type          string       `json:"token_type"`
	ID            string       `json:"jti"`
	Server        string       `json:"snc"`
}

// Proof is a relying party's request together with whom the card speaks for.
type Proof struct {
	Authorization
	Identity certificate.Identity
	// Certificate is the card's.
	Certificate *certificate.Certificate
	AuthTime    time.Time
}

// Key is the public key that answers are encrypted for.
func (i *Issuer) Key() *ecdsa.PublicKey { return i.o.Key.PublicKey() }

// Certificate is the one that challenges are signed with.
func (i *Issuer) Certificate() *certificate.Certificate { return i.o.Signer.Certificate() }

var pkceForm = regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)

// check looks at a request before anything is signed.
func (i *Issuer) check(a Authorization) error {
	redirects, known := i.o.Clients[a.ClientID]
	for _, rule := range []struct {
		broken bool
		err    *Error
	}{
		{a.ClientID == "", ErrNoClient}, {!known, ErrClient},
		{a.RedirectURI == "", ErrNoRedirect}, {!slices.Contains(redirects, a.RedirectURI), ErrRedirect},
		{a.ResponseType == "", ErrNoType}, {a.ResponseType != "code", ErrResponseType},
		{a.State == "", ErrNoState}, {len(a.State) > 512, ErrState}, {len(a.Nonce) > 512, ErrNonce},
		{a.Scope == "", ErrNoScope}, {!i.knownScopes(a.Scope), ErrScope},
		{a.CodeChallengeMethod != "S256", ErrMethod},
		{a.CodeChallenge == "", ErrNoPKCE}, {!pkceForm.MatchString(a.CodeChallenge), ErrPKCE},
	} {
		if rule.broken {
			return rule.err
		}
	}
	return nil
}

// Challenge signs a challenge for a relying party's request.
func (i *Issuer) Challenge(a Authorization) (string, error) {
	if err := i.check(a); err != nil {
		return "", err
	}
	now := i.o.Now()
	return jose.SignClaims(jose.Header{Typ: "JWT", Kid: kidSign}, challenge{
		Authorization: a, Issuer: i.o.URL, Issued: jose.Seconds(now.Unix()), Expires: jose.Seconds(now.Add(challengeLife).Unix()), Type: "challenge", ID: rand.Text(), Server: rand.Text(),
	}, i.o.Signer)
}

// Verify checks an answer: encryption, the card's certificate and signature, and the challenge, which counts once. Every refusal is an *Error;
// another error means that it could not be checked now.
func (i *Issuer) Verify(ctx context.Context, answer string) (*Proof, error) {
	header, plain, err := jose.Decrypt(answer, i.o.Key)
	if err != nil {
		return nil, ErrChallenge.because(err)
	}
	now := i.o.Now()
	if header.Exp != 0 && int64(header.Exp) <= now.Unix() {
		return nil, ErrExpired
	}
	inner, err := jose.Unnest(plain)
	if err != nil {
		return nil, ErrChallenge.because(err)
	}
	signed, err := jose.Parse(inner)
	if err != nil {
		return nil, ErrChallenge.because(err)
	}
	if len(signed.Header.X5c) == 0 {
		return nil, ErrCertificate.because(fmt.Errorf("x5c is missing"))
	}
	c, who, err := i.holder(signed.Header.X5c[0], now)
	if err != nil {
		return nil, ErrCertificate.because(err)
	}
	if err := signed.Verify(c.PublicKey()); err != nil {
		return nil, ErrSignature.because(err)
	}
	claims, err := i.own(signed.Payload)
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
	return &Proof{Authorization: claims.Authorization, Identity: who, Certificate: c, AuthTime: now}, nil
}

// holder reads a card's certificate and checks it.
func (i *Issuer) holder(der []byte, now time.Time) (*certificate.Certificate, certificate.Identity, error) {
	c, err := certificate.Parse(der)
	if err != nil {
		return nil, certificate.Identity{}, err
	}
	err = i.o.Trust.Check(c, certificate.Expect{
		Types: []certificate.Type{certificate.ProfessionalAUT, certificate.InstitutionAUT, certificate.CardHolderAUT}, At: now, Revoked: i.o.Revoked,
	})
	if err != nil {
		return nil, certificate.Identity{}, err
	}
	who, err := c.Identity()
	return c, who, err
}

// own reads the challenge that the card signed and checks that it is ours.
func (i *Issuer) own(payload []byte) (challenge, error) {
	token, err := jose.Unnest(payload)
	if err != nil {
		return challenge{}, ErrChallenge.because(err)
	}
	return i.signed(token)
}

// signed reads a challenge and checks that this issuer made it.
func (i *Issuer) signed(token string) (challenge, error) {
	signed, err := jose.Parse(token)
	if err != nil {
		return challenge{}, ErrChallenge.because(err)
	}
	if err := signed.Verify(i.o.Signer.Certificate().PublicKey()); err != nil {
		return challenge{}, ErrChallenge.because(err)
	}
	var c challenge
	if err := signed.Claims(&c); err != nil {
		return challenge{}, ErrChallenge.because(err)
	}
	if c.Type != "challenge" || c.Issuer != i.o.URL || c.ID == "" {
		return challenge{}, ErrChallenge.because(fmt.Errorf("it is another kind of token"))
	}
	return c, nil
}

// once refuses a token that was used before.
func (i *Issuer) once(ctx context.Context, id string, until jose.Seconds, refused *Error) error {
	first, err := i.o.Used(ctx, id, time.Unix(int64(until), 0), i.o.Now())
	if err == nil && !first {
		err = refused.because(errors.New("it was used before"))
	}
	return err
}

// code is the content of an authorization code.
type code struct {
	Authorization `json:",inline"`
	Identity      certificate.Identity `json:"identity"`
	AuthTime      jose.Seconds         `json:"auth_time"`
	Expires       jose.Seconds         `json:"exp"`
	ID            string               `json:"jti"`
}

// Code turns a proof into an authorization code, sealed for this issuer (JWE, dir, A256GCM).
func (i *Issuer) Code(p *Proof) (string, error) {
	expires := jose.Seconds(i.o.Now().Add(codeLife).Unix())
	plain, err := json.Marshal(code{Authorization: p.Authorization, Identity: p.Identity, AuthTime: jose.Seconds(p.AuthTime.Unix()), Expires: expires, ID: rand.Text()})
	if err != nil {
		return "", fmt.Errorf("identity provider: %w", err)
	}
	return jose.EncryptDirect(rand.Reader, i.o.Seal, jose.Header{Cty: "NJWT", Exp: expires}, plain)
}

// Redeem gives a relying party the claims for a code, once, against the verifier whose hash began the flow (RFC 7636).
func (i *Issuer) Redeem(ctx context.Context, clientID, redirectURI, token, verifier string) (*Proof, error) {
	_, plain, err := jose.DecryptDirect(token, i.o.Seal)
	if err != nil {
		return nil, ErrCode.because(err)
	}
	var c code
	if err := jose.Decode(plain, &c); err != nil {
		return nil, ErrCode.because(err)
	}
	switch {
	case int64(c.Expires) <= i.o.Now().Unix():
		return nil, ErrCode.because(fmt.Errorf("it has expired"))
	case c.ClientID != clientID:
		return nil, ErrClient
	case c.RedirectURI != redirectURI:
		return nil, ErrRedirect
	case subtle.ConstantTimeCompare([]byte(c.CodeChallenge), []byte(PKCE(verifier))) != 1:
		return nil, ErrVerifier
	}
	if err := i.once(ctx, c.ID, c.Expires, ErrCode); err != nil {
		return nil, err
	}
	return &Proof{Authorization: c.Authorization, Identity: c.Identity, AuthTime: time.Unix(int64(c.AuthTime), 0)}, nil
}

// PKCE is the code_challenge of a verifier.
func PKCE(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

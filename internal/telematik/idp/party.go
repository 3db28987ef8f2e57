// SPDX-License-Identifier: Apache-2.0

package idp

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/jose"
)

const (
	partyTime = 10 * time.Second
	// skew is how far the provider's clock may be from ours.
	skew = 30 * time.Second
)

var (
	// ErrProvider is wrapped where the provider's own documents do not hold: certificate, signature, name, time.
	ErrProvider = errors.New("the identity provider's answer does not hold")
	// ErrAudience is answered for a token that is for somebody else.
	ErrAudience = fmt.Errorf("%w: the token is for somebody else", ErrProvider)
	// ErrClock is answered for a token of the future or the past: one of the two clocks is wrong.
	ErrClock = fmt.Errorf("%w: the times do not fit; check the clock", ErrProvider)
	// ErrNonceReply is answered for a token that answers another request.
	ErrNonceReply = fmt.Errorf("%w: the token answers another request", ErrProvider)
)

// Party is a relying party of an identity provider, ours or the network's: registration, directory, an organisation's messenger. It is safe for
// concurrent use.
type Party struct {
	// Discovery is the address of the provider's discovery document; Issuer is what it must call itself.
	Discovery, Issuer     string
	ClientID, RedirectURI string
	Scope                 string // empty: [Scope]
	Trust                 *certificate.Trust
	Revoked               func(*certificate.Certificate) error // about the provider's certificate; nil skips it
	Client                *http.Client                         // nil: the standard client
	Now                   func() time.Time                     // nil: time.Now

	mu    sync.Mutex
	known *provider
}

// provider is a discovery document that was checked, with the provider's keys.
type provider struct {
	Discovery
	encrypt *ecdsa.PublicKey
	sign    *ecdsa.PublicKey
	signer  *certificate.Certificate // of the signature key
}

// Holder is whom a card speaks for, as an identity provider tells it.
type Holder struct {
	Subject      string       `json:"sub"`
	Number       string       `json:"idNummer"`
	Profession   string       `json:"professionOID"`
	Organization string       `json:"organizationName"`
	GivenName    string       `json:"given_name"`
	FamilyName   string       `json:"family_name"`
	AMR          []string     `json:"amr"`
	ACR          string       `json:"acr"`
	AuthTime     jose.Seconds `json:"auth_time"`
}

// idClaims is an id token.
type idClaims struct {
	Holder   `json:",inline"`
	Issuer   string       `json:"iss"`
	Audience string       `json:"aud"`
	Nonce    string       `json:"nonce"`
	Issued   jose.Seconds `json:"iat"`
	Expires  jose.Seconds `json:"exp"`
}

func (p *Party) now() time.Time {
	if p.Now == nil {
		return time.Now()
	}
	return p.Now()
}

// Begin is the address to which a browser goes, or which an authenticator is given as the challenge's path.
func (p *Party) Begin(ctx context.Context, state, nonce, verifier string) (string, error) {
	known, err := p.discover(ctx)
	if err != nil {
		return "", err
	}
	scope := p.Scope
	if scope == "" {
		scope = Scope
	}
	return known.Authorization + "?" + url.Values{"client_id": {p.ClientID}, "response_type": {"code"}, "redirect_uri": {p.RedirectURI}, "state": {state}, "nonce": {nonce},
		"scope": {scope}, "code_challenge": {PKCE(verifier)}, "code_challenge_method": {"S256"}}.Encode(), nil
}

// Redeem exchanges a code for whom the card speaks for. It answers *Error where the provider refuses, and an error that wraps [ErrProvider] where its
// answer does not hold.
func (p *Party) Redeem(ctx context.Context, code, verifier, nonce string) (*Holder, error) {
	known, err := p.discover(ctx)
	if err != nil {
		return nil, err
	}
	key := make([]byte, 32)
	rand.Read(key)
	plain, err := json.Marshal(keyVerifier{Key: base64.RawURLEncoding.EncodeToString(key), Verifier: verifier})
	if err != nil {
		return nil, err
	}
	sealed, err := jose.Encrypt(rand.Reader, known.encrypt, jose.Header{Cty: "JSON"}, plain)
	if err != nil {
		return nil, err
	}
	body, err := p.call(ctx, known.Token, url.Values{"grant_type": {"authorization_code"}, "client_id": {p.ClientID}, "redirect_uri": {p.RedirectURI}, "code": {code}, "key_verifier": {sealed}})
	if err != nil {
		return nil, err
	}
	var t Tokens
	if err := json.Unmarshal(body, &t); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProvider, err)
	}
	return p.read(known, t.ID, key, nonce)
}

// read decrypts and checks an id token.
func (p *Party) read(known *provider, token string, key []byte, nonce string) (*Holder, error) {
	_, plain, err := jose.DecryptDirect(token, key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProvider, err)
	}
	inner, err := jose.Unnest(plain)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProvider, err)
	}
	signed, err := jose.Parse(inner)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProvider, err)
	}
	if err := signed.Verify(known.sign); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProvider, err)
	}
	var c idClaims
	if err := signed.Claims(&c); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProvider, err)
	}
	now := p.now()
	switch {
	case c.Issuer != known.Issuer:
		return nil, fmt.Errorf("%w: issued by %.100q", ErrProvider, c.Issuer)
	case c.Audience != p.ClientID:
		return nil, ErrAudience
	case c.Nonce != nonce:
		return nil, ErrNonceReply
	case int64(c.Expires) <= now.Add(-skew).Unix() || int64(c.Issued) > now.Add(skew).Unix():
		return nil, ErrClock
	case c.Number == "" || c.Profession == "":
		return nil, fmt.Errorf("%w: it speaks for nobody", ErrProvider)
	}
	return &c.Holder, nil
}

// discover returns what the provider says about itself, asked anew when that has expired.
func (p *Party) discover(ctx context.Context) (*provider, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known != nil && int64(p.known.Expires) > p.now().Unix() {
		return p.known, nil
	}
	body, err := p.call(ctx, p.Discovery, nil)
	if err != nil {
		return nil, err
	}
	known, err := p.checkDiscovery(string(body))
	if err != nil {
		return nil, err
	}
	if body, err = p.call(ctx, known.Encryption, nil); err != nil {
		return nil, err
	}
	if known.encrypt, _, err = readKey(body); err != nil {
		return nil, err
	}
	if body, err = p.call(ctx, known.Signature, nil); err != nil {
		return nil, err
	}
	var chain [][]byte
	if known.sign, chain, err = readKey(body); err != nil {
		return nil, err
	}
	if known.signer, err = p.signerOf(known.sign, chain); err != nil {
		return nil, err
	}
	p.known = known
	return known, nil
}

// Check reads the provider's documents and keys and verifies them, as the first sign-in would. It returns the certificate of the key that signs tokens.
func (p *Party) Check(ctx context.Context) (*certificate.Certificate, error) {
	known, err := p.discover(ctx)
	if err != nil {
		return nil, err
	}
	return known.signer, nil
}

// checkDiscovery verifies the document's signature and that an identity provider made it.
func (p *Party) checkDiscovery(token string) (*provider, error) {
	signed, err := jose.Parse(strings.TrimSpace(token))
	if err != nil {
		return nil, fmt.Errorf("%w: discovery: %w", ErrProvider, err)
	}
	if len(signed.Header.X5c) == 0 {
		return nil, fmt.Errorf("%w: discovery without certificate", ErrProvider)
	}
	c, err := p.component(signed.Header.X5c[0])
	if err != nil {
		return nil, err
	}
	if err := signed.Verify(c.PublicKey()); err != nil {
		return nil, fmt.Errorf("%w: discovery: %w", ErrProvider, err)
	}
	known := &provider{}
	if err := signed.Claims(&known.Discovery); err != nil {
		return nil, fmt.Errorf("%w: discovery: %w", ErrProvider, err)
	}
	if known.Issuer != p.Issuer {
		return nil, fmt.Errorf("%w: it calls itself %.100q", ErrProvider, known.Issuer)
	}
	if int64(known.Expires) <= p.now().Unix() || int64(known.Issued) > p.now().Add(skew).Unix() {
		return nil, ErrClock
	}
	return known, nil
}

// readKey reads one of the provider's keys, with its certificate where there is one.
func readKey(body []byte) (*ecdsa.PublicKey, [][]byte, error) {
	var k jose.Key
	if err := json.Unmarshal(body, &k); err != nil {
		return nil, nil, fmt.Errorf("%w: key: %w", ErrProvider, err)
	}
	key, err := k.Public()
	if err != nil {
		return nil, nil, fmt.Errorf("%w: key: %w", ErrProvider, err)
	}
	return key, k.X5c, nil
}

// signerOf checks the certificate of the signature key.
func (p *Party) signerOf(key *ecdsa.PublicKey, chain [][]byte) (*certificate.Certificate, error) {
	if len(chain) == 0 {
		return nil, fmt.Errorf("%w: signature key without certificate", ErrProvider)
	}
	c, err := p.component(chain[0])
	if err != nil {
		return nil, err
	}
	if !c.PublicKey().Equal(key) {
		return nil, fmt.Errorf("%w: signature key and certificate differ", ErrProvider)
	}
	return c, nil
}

// component checks a certificate of the provider.
func (p *Party) component(der []byte) (*certificate.Certificate, error) {
	c, err := certificate.Parse(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProvider, err)
	}
	err = p.Trust.Check(c, certificate.Expect{Types: []certificate.Type{certificate.ServiceSIG}, Professions: []string{certificate.RoleIDP}, At: p.now(), Revoked: p.Revoked})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProvider, err)
	}
	return c, nil
}

// call fetches an address, or posts a form to it. A refusal of the provider is an *Error.
func (p *Party) call(ctx context.Context, address string, form url.Values) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, partyTime)
	defer cancel()
	method, content := http.MethodGet, io.Reader(nil)
	if form != nil {
		method, content = http.MethodPost, strings.NewReader(form.Encode())
	}
	r, err := http.NewRequestWithContext(ctx, method, address, content)
	if err != nil {
		return nil, err
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	client := p.Client
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("identity provider: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("identity provider: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return body, nil
	}
	return nil, readRefusal(resp.StatusCode, body)
}

// readRefusal turns a provider's error object into an *Error; errors.Is knows it by its code.
func readRefusal(status int, body []byte) error {
	var published Published
	if err := json.Unmarshal(body, &published); err != nil || published.Code == 0 {
		return fmt.Errorf("%w: status %d", ErrProvider, status)
	}
	return &Error{Status: status, OAuth: published.OAuth, Code: published.Code, Text: published.Text}
}

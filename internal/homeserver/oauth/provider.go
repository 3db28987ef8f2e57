// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
)

// Provider is a tenant's own identity provider (OpenID Connect), by which its people sign in beside the server's passwords.
type Provider struct {
	// Issuer is its address, from which everything else is discovered. Name is what its button says.
	Issuer, Name           string
	ClientID, ClientSecret string
	// Scopes are asked for beside openid.
	Scopes []string
	// Localpart and DisplayName are the claims that a new account is called by.
	Localpart, DisplayName string
	// ACR and AMR, where not empty, must hold what the provider says about how somebody proved who they are.
	ACR, AMR []string
}

// discovered is the part of a provider's metadata (OpenID Connect Discovery) that we need.
type discovered struct {
	Issuer        string   `json:"issuer"`
	Authorization string   `json:"authorization_endpoint"`
	Token         string   `json:"token_endpoint"`
	Keys          string   `json:"jwks_uri"`
	AuthMethods   []string `json:"token_endpoint_auth_methods_supported"`
}

// How long what a provider says about itself is believed, and how much of an answer is read.
const (
	discoveryLife     = time.Hour
	keysRefetch       = time.Minute
	failureLife       = 30 * time.Second
	maxProviderAnswer = 1 << 20
	providerTimeout   = 10 * time.Second
)

// remote is what is known of one provider. It can be dropped at any instant.
type remote struct {
	mu         sync.Mutex
	metadata   *discovered
	keys       []jose.JSONWebKey
	discovered time.Time
	fetched    time.Time
	failure    error // of the last discovery, so that a provider that does not answer holds up nobody else
	failed     time.Time
	http       *http.Client
}

// remotes finds them by issuer.
type remotes struct {
	mu    sync.Mutex
	known map[string]*remote
}

func (s *Service) remote(p *Provider) *remote {
	s.remotes.mu.Lock()
	defer s.remotes.mu.Unlock()
	if s.remotes.known == nil {
		s.remotes.known = map[string]*remote{}
	}
	r, ok := s.remotes.known[p.Issuer]
	if !ok {
		r = &remote{http: providerClient(p.Issuer, s.o.Config.Roots, s.o.Config.PrivateAddresses)}
		s.remotes.known[p.Issuer] = r
	}
	return r
}

var errPrivateAddress = errors.New("the identity provider names an address in a private range, which only its own host may have")

// providerClient makes requests to a provider. Its metadata may name other hosts; those are never reached in private networks, unless the operator
// allows that for everything.
func providerClient(issuer string, roots *x509.CertPool, private bool) *http.Client {
	home := ""
	if u, err := url.Parse(issuer); err == nil {
		home = u.Hostname()
	}
	plain := &net.Dialer{Timeout: providerTimeout}
	guarded := &net.Dialer{Timeout: providerTimeout, Control: func(_, address string, _ syscall.RawConn) error {
		if ap, err := netip.ParseAddrPort(address); err != nil || !public(ap.Addr().Unmap()) {
			return errPrivateAddress
		}
		return nil
	}}
	return &http.Client{
		Timeout:       providerTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, MaxIdleConns: 2, IdleConnTimeout: time.Minute,
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				if host, _, err := net.SplitHostPort(address); private || err == nil && host == home {
					return plain.DialContext(ctx, network, address)
				}
				return guarded.DialContext(ctx, network, address)
			},
		},
	}
}

// public says whether an address lies in the open network.
func public(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.IsPrivate() && !netip.MustParsePrefix("100.64.0.0/10").Contains(a)
}

// discover returns a provider's metadata.
func (s *Service) discover(ctx context.Context, p *Provider) (*discovered, error) {
	r := s.remote(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	now := s.o.Now()
	if r.metadata != nil && now.Sub(r.discovered) < discoveryLife {
		return r.metadata, nil
	}
	if r.failure != nil && now.Sub(r.failed) < failureLife {
		return nil, r.failure
	}
	d, err := r.ask(ctx, p)
	if err != nil {
		if ctx.Err() == nil {
			r.failure, r.failed = err, now
		}
		return nil, err
	}
	r.metadata, r.discovered, r.failure = d, now, nil
	return d, nil
}

// ask fetches and checks a provider's metadata.
func (r *remote) ask(ctx context.Context, p *Provider) (*discovered, error) {
	var d discovered
	if err := r.get(ctx, strings.TrimRight(p.Issuer, "/")+"/.well-known/openid-configuration", &d); err != nil {
		return nil, err
	}
	if d.Issuer != p.Issuer {
		return nil, fmt.Errorf("identity provider %s calls itself %s", p.Issuer, d.Issuer)
	}
	for _, address := range []string{d.Authorization, d.Token, d.Keys} {
		u, err := url.Parse(address)
		if err != nil || u.Scheme != "https" && !(u.Scheme == "http" && strings.HasPrefix(p.Issuer, "http:")) || !hostName(u.Hostname()) {
			return nil, fmt.Errorf("identity provider %s names %q, which is no https address", p.Issuer, address)
		}
	}
	return &d, nil
}

// keySet returns the provider's keys; again asks for them anew, at most once a minute, because a key may have been added.
func (s *Service) keySet(ctx context.Context, p *Provider, d *discovered, again bool) ([]jose.JSONWebKey, error) {
	r := s.remote(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	now := s.o.Now()
	age := now.Sub(r.fetched)
	if r.keys != nil && (age < keysRefetch || !again && age < discoveryLife) {
		return r.keys, nil
	}
	body, err := r.read(ctx, d.Keys)
	if err != nil {
		return nil, err
	}
	keys, err := parseKeys(body)
	if err != nil {
		return nil, err
	}
	r.keys, r.fetched = keys, now
	return r.keys, nil
}

func (r *remote) get(ctx context.Context, address string, v any) error {
	body, err := r.read(ctx, address)
	if err == nil {
		err = json.Unmarshal(body, v)
	}
	return err
}

func (r *remote) read(ctx context.Context, address string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	return r.do(req)
}

func (r *remote) do(req *http.Request) ([]byte, error) {
	resp, err := r.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("identity provider: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxProviderAnswer))
	if err != nil {
		return nil, fmt.Errorf("identity provider: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("identity provider: %s %s answered %d", req.Method, req.URL.Path, resp.StatusCode)
	}
	return body, nil
}

// exchange gives the provider's code for an id token.
func (s *Service) exchangeAtProvider(ctx context.Context, p *Provider, d *discovered, code, verifier, callback string) (string, error) {
	form := url.Values{"grant_type": {grantCode}, "code": {code}, "redirect_uri": {callback}, "code_verifier": {verifier}, "client_id": {p.ClientID}}
	inBody := slices.Contains(d.AuthMethods, "client_secret_post") && !slices.Contains(d.AuthMethods, "client_secret_basic")
	if inBody && p.ClientSecret != "" {
		form.Set("client_secret", p.ClientSecret)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.Token, strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	if !inBody && p.ClientSecret != "" {
		req.SetBasicAuth(url.QueryEscape(p.ClientID), url.QueryEscape(p.ClientSecret))
	}
	body, err := s.remote(p).do(req)
	if err != nil {
		return "", err
	}
	var answer struct {
		IDToken string `json:"id_token"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.IDToken == "" {
		return "", errors.New("identity provider: the answer holds no id_token")
	}
	return answer.IDToken, nil
}

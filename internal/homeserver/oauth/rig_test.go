// SPDX-License-Identifier: Apache-2.0

package oauth_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"html"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/account/accounttest"
	"github.com/konsil-health/konsil/internal/homeserver/oauth"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

type m = map[string]any

const (
	v3        = "/_matrix/client/v3"
	authorize = "/_matrix/oauth2/authorize"
	token     = "/_matrix/oauth2/token"
	revoke    = "/_matrix/oauth2/revoke"
	register  = "/_matrix/oauth2/register"
	deviceEnd = "/_matrix/oauth2/device"
	link      = "/_matrix/link"
	manage    = "/_matrix/account"

	shared = "127.0.0.1" // the client host of all tenants

	verifier = "a-verifier-that-is-long-enough-0123456789_.~AB"
	redirect = "https://app.example.com/callback"
	scope    = "urn:matrix:client:api:* urn:matrix:client:device:WEB0123456"
)

// rig is a node with two tenants that are OAuth 2.0 issuers, and a clock.
type rig struct {
	*accounttest.Rig
	t     testing.TB
	oauth *oauth.Service

	mu     sync.Mutex
	now    time.Time
	erased []id.User // whose messages newcomers no longer see
}

func (g *rig) clock() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now
}

func (g *rig) pass(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now = g.now.Add(d)
}

func each(t *testing.T, f func(t *testing.T, g *rig)) {
	t.Helper()
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) { f(t, newRig(t, db, nil)) })
}

func newRig(t testing.TB, db *database.DB, change func(*oauth.Options)) *rig {
	t.Helper()
	g := &rig{t: t, now: time.Now()}
	g.Rig = accounttest.New(t, db, func(_ *accounttest.Rig, o *account.Options) {
		o.Now = g.clock
		o.Issuer = func(r *httpapi.Request) (issuer, page string) { return g.oauth.Issuer(r) }
		o.IdentityProviders = func(t *tenant.Tenant) []account.IdentityProvider { return g.oauth.IdentityProviders(t) }
		o.AccountPage = func(r *httpapi.Request, q url.Values) string { return g.oauth.AccountPage(r, q) }
		o.Erase = func(_ context.Context, _ *tenant.Tenant, user id.User) error {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.erased = append(g.erased, user)
			return nil
		}
		o.SignedOut = func(ctx context.Context, t *tenant.Tenant, user id.User) error {
			return g.oauth.EndBrowsers(ctx, t, user)
		}
	}, func(a *accounttest.Rig) []httpapi.Route {
		o := oauth.Options{DB: db, Tenants: a.Tenants, Accounts: a.Accounts, Policy: policy.Open{}, Now: g.clock, Limiter: limit.New(limit.Options{Now: g.clock}),
			Config: oauth.Config{Registration: true}}
		if change != nil {
			change(&o)
		}
		g.oauth = oauth.New(o)
		return g.oauth.Routes()
	})
	return g
}

// page is an answer to a browser or an OAuth 2.0 client.
type page struct {
	t      testing.TB
	status int
	header http.Header
	body   string
}

// is fails the test unless the status is the given one.
func (p *page) is(status int) *page {
	p.t.Helper()
	if p.status != status {
		p.t.Fatalf("status %d, want %d: %s", p.status, status, p.body)
	}
	return p
}

// has fails the test unless the page holds the texts.
func (p *page) has(texts ...string) *page {
	p.t.Helper()
	for _, text := range texts {
		if !strings.Contains(html.UnescapeString(p.body), text) {
			p.t.Fatalf("no %q in %s", text, p.body)
		}
	}
	return p
}

// fails fails the test unless the answer is this error of OAuth 2.0.
func (p *page) fails(status int, code string) *page {
	p.t.Helper()
	if p.status != status || p.field("error") != code {
		p.t.Fatalf("%d %s, want %d %s", p.status, p.body, status, code)
	}
	return p
}

// field is a text or number of a JSON answer.
func (p *page) field(name string) string {
	var v map[string]any
	if json.Unmarshal([]byte(p.body), &v) != nil {
		return ""
	}
	switch x := v[name].(type) {
	case string:
		return x
	case nil:
		return ""
	default:
		b, _ := json.Marshal(x, json.Deterministic(true))
		return string(b)
	}
}

// location is where the answer sends the browser.
func (p *page) location() *url.URL {
	p.t.Helper()
	p.is(303)
	u, err := url.Parse(p.header.Get("Location"))
	if err != nil {
		p.t.Fatal(err)
	}
	return u
}

// answer is the parameters that a client gets at its redirect URI.
func (p *page) answer() url.Values {
	p.t.Helper()
	u := p.location()
	if u.Fragment == "" {
		return u.Query()
	}
	q, err := url.ParseQuery(u.Fragment)
	if err != nil {
		p.t.Fatal(err)
	}
	return q
}

// tab is a browser at one host.
type tab struct {
	g       *rig
	host    string
	cookie  string
	key     string
	headers map[string]string
}

func (g *rig) tab(host string) *tab { return &tab{g: g, host: host, headers: map[string]string{}} }

var keyField = regexp.MustCompile(`name="key" value="([0-9a-f]+)"`)

func (b *tab) do(method, path, contentType, body string) *page {
	b.g.t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, b.g.URL()+path, strings.NewReader(body))
	if err != nil {
		b.g.t.Fatal(err)
	}
	r.Host = b.host
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	for k, v := range b.headers {
		r.Header.Set(k, v)
	}
	if b.cookie != "" {
		r.Header.Set("Cookie", b.cookie)
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		b.g.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		b.g.t.Fatal(err)
	}
	for _, c := range resp.Cookies() {
		b.cookie = c.Name + "=" + c.Value
	}
	if found := keyField.FindSubmatch(raw); found != nil {
		b.key = string(found[1])
	}
	return &page{b.g.t, resp.StatusCode, resp.Header, string(raw)}
}

func (b *tab) get(path string) *page { b.g.t.Helper(); return b.do("GET", path, "", "") }

// send sends a form of OAuth 2.0, without what a page's form has.
func (b *tab) send(path string, form url.Values) *page {
	b.g.t.Helper()
	return b.do("POST", path, "application/x-www-form-urlencoded", form.Encode())
}

// submit sends the form of the page that was shown last, by one of its buttons.
func (b *tab) submit(path, button string, fields ...string) *page {
	b.g.t.Helper()
	form := url.Values{"key": {b.key}, "do": {button}}
	for i := 0; i+1 < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
	}
	return b.send(path, form)
}

// signIn signs in on a page and follows to what comes then.
func (b *tab) signIn(path, name string) *page {
	b.g.t.Helper()
	b.get(path).is(200)
	b.submit(path, "sign-in", "username", name, "password", accounttest.Password).is(303)
	return b.get(path)
}

// client registers a client and returns its id.
func (b *tab) client(change m) string {
	b.g.t.Helper()
	body := m{"client_name": "Test App", "client_uri": "https://example.com/", "redirect_uris": []string{redirect}, "token_endpoint_auth_method": "none",
		"grant_types":    []string{"authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"},
		"response_types": []string{"code"}}
	for k, v := range change {
		body[k] = v
	}
	raw, err := json.Marshal(body)
	if err != nil {
		b.g.t.Fatal(err)
	}
	return b.do("POST", register, "application/json", string(raw)).is(201).field("client_id")
}

// request is the address of the authorisation endpoint for a client.
func request(client string, change ...string) string {
	sum := sha256.Sum256([]byte(verifier))
	q := url.Values{"response_type": {"code"}, "client_id": {client}, "redirect_uri": {redirect}, "scope": {scope}, "state": {"a state"},
		"response_mode": {"fragment"}, "code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"}}
	for i := 0; i+1 < len(change); i += 2 {
		q.Set(change[i], change[i+1])
		if change[i+1] == "" {
			q.Del(change[i])
		}
	}
	return authorize + "?" + q.Encode()
}

// exchange is the form by which a client exchanges a code.
func exchange(client, code string, change ...string) url.Values {
	form := url.Values{"grant_type": {"authorization_code"}, "client_id": {client}, "code": {code}, "redirect_uri": {redirect}, "code_verifier": {verifier}}
	for i := 0; i+1 < len(change); i += 2 {
		form.Set(change[i], change[i+1])
		if change[i+1] == "" {
			form.Del(change[i])
		}
	}
	return form
}

// user is a person with the access token of an answer.
func (g *rig) with(t *tenant.Tenant, accessToken string) *accounttest.User {
	return &accounttest.User{Rig: g.Rig, Tenant: t, Token: accessToken}
}

// code signs a person in and lets the client in.
func (b *tab) code(client, name string, change ...string) string {
	b.g.t.Helper()
	path := request(client, change...)
	b.signIn(path, name).is(200)
	code := b.submit(path, "approve").answer().Get("code")
	if code == "" {
		b.g.t.Fatal("no code")
	}
	return code
}

// SPDX-License-Identifier: Apache-2.0

// Package accounttest gives tests of the homeserver's slices a node with two tenants, real accounts and a real listener. Only tests import it.
package accounttest

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/httpapi/spectest"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Rig is a node with the tenants a.test and b.test.
type Rig struct {
	TB        testing.TB
	DB        *database.DB
	Tenants   *tenant.Store
	Committer *stream.Committer
	Feed      *stream.Feed
	Accounts  *account.Service
	Router    *httpapi.Router
	A, B      *tenant.Tenant
	url       string
}

// New starts a node; change may set options before the account service is made, add returns further routes.
func New(t testing.TB, db *database.DB, change func(*Rig, *account.Options), add func(*Rig) []httpapi.Route) *Rig {
	t.Helper()
	ctx := context.Background()
	g := &Rig{TB: t, DB: db, Tenants: tenant.NewStore(db), Feed: stream.NewFeed(db)}
	log := slog.New(slog.NewTextHandler(logWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	var err error
	if g.Committer, err = stream.NewCommitter(ctx, db, g.Feed, log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Committer.Close)
	g.A, g.B = g.tenant("a.test"), g.tenant("b.test")
	o := account.Options{DB: db, Committer: g.Committer, Feed: g.Feed, Policy: policy.Open{}, Log: log, Config: account.Config{
		Registration: account.RegistrationOpen, SharedSecret: "rig secret", Guests: true,
		Password: account.PasswordConfig{Time: 1, Memory: 64, Parallel: 4},
		BaseURL:  func(*tenant.Tenant) string { return "https://client.test" },
	}}
	if change != nil {
		change(g, &o)
	}
	g.Accounts = account.New(o)
	g.Router = httpapi.NewRouter(httpapi.Options{Tenants: g.Tenants, SharedHosts: []string{"127.0.0.1"}, Log: log, QuietAccess: true})
	g.Router.Authenticate(g.Accounts, servers{})
	g.Router.Add(g.Accounts.Routes()...)
	if add != nil {
		g.Router.Add(add(g)...)
	}
	server := httptest.NewServer(spectest.Handler(t, g.Router))
	t.Cleanup(server.Close)
	g.url = server.URL
	return g
}

// URL is the address of the listener, for requests that are more than [User.Do].
func (g *Rig) URL() string { return g.url }

func (g *Rig) tenant(name id.Server) *tenant.Tenant {
	g.TB.Helper()
	t, err := g.Tenants.Create(context.Background(), tenant.Spec{Name: name})
	if err != nil {
		g.TB.Fatal(err)
	}
	return t
}

// servers believes the name in an X-Matrix header.
type servers struct{}

func (servers) AuthenticateServer(_ context.Context, _ *tenant.Tenant, r *http.Request, _ []byte) (id.Server, error) {
	return id.ParseServer(strings.TrimPrefix(r.Header.Get("Authorization"), "X-Matrix "))
}

type logWriter struct{ t testing.TB }

func (w logWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// User is a signed-in person.
type User struct {
	*Rig
	Tenant *tenant.Tenant
	ID     id.User
	Device id.Device
	Token  string
	// Host overrides the Host header; empty is the tenant's name.
	Host string
	// Header is added to requests.
	Header http.Header
}

// Password is everybody's password.
const Password = "correct horse"

// User makes an account and signs in on a device called DEV1.
func (g *Rig) User(t *tenant.Tenant, name string) *User {
	g.TB.Helper()
	user, err := g.Accounts.Create(context.Background(), t, account.NewUser{LoginName: name, Password: Password})
	if err != nil {
		g.TB.Fatal(err)
	}
	return (&User{Rig: g, Tenant: t, ID: user}).On("DEV1")
}

// On signs the same person in on another device.
func (u *User) On(device id.Device) *User {
	u.TB.Helper()
	l, err := u.Accounts.StartSession(context.Background(), u.Tenant, account.SessionSpec{User: u.ID, Device: device, DisplayName: "name of " + string(device)})
	if err != nil {
		u.TB.Fatal(err)
	}
	return &User{Rig: u.Rig, Tenant: u.Tenant, ID: u.ID, Device: device, Token: l.AccessToken}
}

// Nobody calls the tenant without a token.
func (g *Rig) Nobody(t *tenant.Tenant) *User { return &User{Rig: g, Tenant: t} }

// Answer is what came back.
type Answer struct {
	t      testing.TB
	Status int
	Header http.Header
	Body   []byte
	what   string
}

// Do sends a request. body may be nil, a string (sent as it is) or anything that becomes JSON.
func (u *User) Do(method, path string, body any) *Answer {
	u.TB.Helper()
	return u.Send(method, path, "application/json", body)
}

// Send is Do with a content type.
func (u *User) Send(method, path, contentType string, body any) *Answer {
	u.TB.Helper()
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(b)
	case io.Reader:
		reader = b // without a length
	case []byte:
		reader = strings.NewReader(string(b))
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			u.TB.Fatal(err)
		}
		reader = strings.NewReader(string(raw))
	}
	r, err := http.NewRequestWithContext(context.Background(), method, u.url+path, reader)
	if err != nil {
		u.TB.Fatal(err)
	}
	r.Host = u.Host
	if r.Host == "" {
		r.Host = string(u.Tenant.Name)
	}
	maps.Copy(r.Header, u.Header)
	r.Header.Set("Content-Type", contentType)
	if u.Token != "" {
		r.Header.Set("Authorization", "Bearer "+u.Token)
	}
	return u.roundTrip(r)
}

// AsServer sends a request signed by another server.
func (g *Rig) AsServer(origin id.Server, t *tenant.Tenant, method, path string, body string) *Answer {
	g.TB.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, g.url+path, strings.NewReader(body))
	if err != nil {
		g.TB.Fatal(err)
	}
	r.Host = string(t.Name)
	r.Header.Set("Authorization", "X-Matrix "+string(origin))
	return g.roundTrip(r)
}

func (g *Rig) roundTrip(r *http.Request) *Answer {
	g.TB.Helper()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		g.TB.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		g.TB.Fatal(err)
	}
	return &Answer{t: g.TB, Status: resp.StatusCode, Header: resp.Header, Body: raw, what: r.Method + " " + r.URL.RequestURI()}
}

// OK fails the test unless the status is 200, and decodes the body into v unless that is nil.
func (a *Answer) OK(v any) *Answer {
	a.t.Helper()
	if a.Status != 200 {
		a.t.Fatalf("%s: %d %s", a.what, a.Status, a.Body)
	}
	return a.Into(v)
}

// Into decodes the body unless v is nil.
func (a *Answer) Into(v any) *Answer {
	a.t.Helper()
	if v != nil {
		if err := json.Unmarshal(a.Body, v); err != nil {
			a.t.Fatalf("%s: %v in %s", a.what, err, a.Body)
		}
	}
	return a
}

// Fails fails the test unless the answer is this error.
func (a *Answer) Fails(status int, code string) *Answer {
	a.t.Helper()
	var e struct {
		Code string `json:"errcode"`
	}
	_ = json.Unmarshal(a.Body, &e)
	if a.Status != status || e.Code != code {
		a.t.Fatalf("%s: %d %s, want %d %s", a.what, a.Status, a.Body, status, code)
	}
	return a
}

// Get returns a member of the body found by its path, as JSON text; empty when it is not there.
func (a *Answer) Get(path ...string) string {
	v := jsontext.Value(a.Body)
	for _, p := range path {
		var m map[string]jsontext.Value
		if json.Unmarshal(v, &m) != nil {
			return ""
		}
		v = m[p]
	}
	return string(v)
}

// Text is Get for a JSON string.
func (a *Answer) Text(path ...string) string {
	var s string
	_ = json.Unmarshal([]byte(a.Get(path...)), &s)
	return s
}

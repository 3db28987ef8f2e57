// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/foundation/observe"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// rig is a node's edge with two tenants and a few routes that show what they got.
type rig struct {
	*Router
	a, b *tenant.Tenant
	url  string
	stop func() // ends all connections, after which the log is complete
	log  *strings.Builder
}

// users knows one token per tenant: everything after the prefix is the localpart.
type users struct{ tenants *tenant.Store }

func (u users) Authenticate(_ context.Context, t *tenant.Tenant, tok string) (*Session, error) {
	if tok == "as" {
		return &Session{User: id.User("@bot:" + string(t.Name)), AppService: "bridge", Unlimited: true}, nil
	}
	if key, ok := TokenTenant(tok); !ok || key != t.ID {
		return nil, mxerror.UnknownToken
	}
	localpart := tok[strings.LastIndexByte(tok, '_')+1:]
	return &Session{User: id.User("@" + localpart + ":" + string(t.Name)), Guest: localpart == "guest", Admin: localpart == "admin"}, nil
}

func (u users) Masquerade(_ context.Context, _ *tenant.Tenant, s *Session, user id.User, device id.Device) (*Session, error) {
	c := *s
	c.User, c.Device = user, device
	return &c, nil
}

type servers struct{}

func (servers) AuthenticateServer(_ context.Context, _ *tenant.Tenant, r *http.Request, body []byte) (id.Server, error) {
	if r.Header.Get("Authorization") != "X-Matrix "+string(body) {
		return "", mxerror.Unauthorized
	}
	return "far", nil
}

func newRig(t *testing.T, change func(*Options)) *rig {
	t.Helper()
	db := databasetest.Open(t, databasetest.SQLite(t))
	store := tenant.NewStore(db)
	g := &rig{log: &strings.Builder{}}
	var err error
	if g.a, err = store.Create(t.Context(), tenant.Spec{Name: "a.example", ClientHosts: []string{"client.a.example"}}); err != nil {
		t.Fatal(err)
	}
	if g.b, err = store.Create(t.Context(), tenant.Spec{Name: "b"}); err != nil {
		t.Fatal(err)
	}
	o := Options{Tenants: store, SharedHosts: []string{"shared.example", "127.0.0.1"},
		Log: observe.NewLogger(observe.LogOptions{Output: g.log, Level: slog.LevelInfo})}
	if change != nil {
		change(&o)
	}
	g.Router = NewRouter(o)
	g.Authenticate(users{store}, servers{})
	show := func(_ context.Context, r *Request) (any, error) {
		out := map[string]any{"route": r.Pattern(), "vars": r.vars}
		if r.Tenant != nil {
			out["tenant"] = r.Tenant.Name
		}
		if r.Session != nil {
			out["user"] = r.Session.User
		}
		if r.Origin != "" {
			out["origin"] = r.Origin
		}
		return out, nil
	}
	g.Add(
		Route{Method: "GET", Path: "/versions", Shared: ForProvider, Handle: show},
		Route{Method: "POST", Path: "/login", Rate: limit.Login, Handle: show},
		Route{Method: "GET", Path: "/whoami", Access: User, Rate: limit.Read, Handle: show},
		Route{Method: "GET", Path: "/maybe", Access: OptionalUser, Handle: show},
		Route{Method: "GET", Path: "/guest", Access: AnyUser, Handle: show},
		Route{Method: "GET", Path: "/admin", Access: Admin, Handle: show},
		Route{Method: "GET", Path: "/profile/{userId}", Handle: show},
		Route{Method: "PUT", Path: "/rooms/{roomId}/state/{eventType}/", Access: User, Handle: show},
		Route{Method: "PUT", Path: "/rooms/{roomId}/state/{eventType}/{stateKey}", Access: User, Handle: show},
		Route{Method: "GET", Path: "/rooms/{roomId}/state/fixed", Handle: show},
		Route{Method: "POST", Path: "/rooms/{roomId}/state/{x}", Handle: show},
		Route{Method: "GET", Path: "/legacy", Shared: Hidden, Handle: show},
		Route{Method: "GET", Path: "/files/{path...}", Handle: show},
		Route{Method: "POST", Path: "/federation/{txnId}", Access: Server, Rate: limit.Transact, MaxBody: 64, Handle: show},
		Route{Method: "GET", Path: "/key", Shared: Hidden, AfterEnd: true, Handle: show},
		Route{Method: "POST", Path: "/decode", Handle: func(_ context.Context, r *Request) (any, error) {
			var v struct {
				Name  string   `json:"name"`
				Count int      `json:"count"`
				List  []string `json:"list"`
			}
			return nil, r.Decode(&v)
		}},
		Route{Method: "GET", Path: "/panic", Handle: func(context.Context, *Request) (any, error) { panic("@user:a.example broke it") }},
		Route{Method: "GET", Path: "/error", Handle: func(context.Context, *Request) (any, error) { return nil, errors.New("secret detail") }},
		Route{Method: "GET", Path: "/stream", Handle: func(context.Context, *Request) (any, error) {
			return &Reply{Status: 201, Header: http.Header{"Content-Type": {"text/plain"}}, Body: strings.NewReader("streamed")}, nil
		}},
		Route{Method: "POST", Path: "/raw", Raw: true, MaxBody: 8, Handle: func(_ context.Context, r *Request) (any, error) {
			_, err := io.ReadAll(r.HTTP.Body)
			return nil, err
		}},
	)
	srv := httptest.NewServer(g.Router)
	t.Cleanup(srv.Close)
	g.url, g.stop = srv.URL, srv.Close
	return g
}

// ask sends "METHOD path" to host and returns status and body.
func (g *rig) ask(t *testing.T, host, request, token, body string) (int, string) {
	t.Helper()
	res := g.send(t, host, request, token, body)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func (g *rig) send(t *testing.T, host, request, token, body string) *http.Response {
	t.Helper()
	method, path, _ := strings.Cut(request, " ")
	req, err := http.NewRequestWithContext(t.Context(), method, g.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	if token != "" {
		if !strings.Contains(token, " ") {
			token = "Bearer " + token
		}
		req.Header.Set("Authorization", token)
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func (g *rig) token(t *tenant.Tenant, localpart string) string {
	tok := NewToken(AccessToken, t.ID)
	return tok[:strings.IndexByte(tok[3:], '_')+4] + localpart
}

func TestRequests(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	alice, bob := g.token(g.a, "alice"), g.token(g.b, "bob")
	for _, c := range []struct {
		name, host, request, token, body string
		status                           int
		want                             string
	}{
		{"host", "a.example", "GET /versions", "", "", 200, `"tenant":"a.example"`},
		{"host with port and capitals", "A.example:8448", "GET /versions", "", "", 200, `"tenant":"a.example"`},
		{"client host", "client.a.example", "GET /versions", "", "", 200, `"tenant":"a.example"`},
		{"unknown host", "evil.example", "GET /versions", "", "", 404, ""},
		{"unknown path", "a.example", "GET /nothing", "", "", 404, "M_UNRECOGNIZED"},
		{"wrong method", "a.example", "DELETE /versions", "", "", 405, "M_UNRECOGNIZED"},
		{"trailing slash", "a.example", "GET /versions/", "", "", 200, "versions"},
		{"empty state key", "a.example", "PUT /rooms/!r:a/state/m.room.name/", alice, "{}", 200, `"vars":["!r:a","m.room.name"]`},
		{"state key", "a.example", "PUT /rooms/!r:a/state/m.room.name/a%2Fb%20c", alice, "{}", 200, `"a/b c"]`},
		{"literal beside variable", "a.example", "POST /rooms/!r/state/fixed", "", "{}", 200, `"vars":["!r","fixed"]`},
		{"literal first", "a.example", "GET /rooms/!r/state/fixed", "", "", 200, `"route":"/rooms/{roomId}/state/fixed"`},
		{"rest", "a.example", "GET /files/x/y/z.js", "", "", 200, `"vars":["x/y/z.js"]`},
		{"rest empty", "a.example", "GET /files/", "", "", 200, `"vars":[""]`},
		{"no token", "a.example", "GET /whoami", "", "", 401, "M_MISSING_TOKEN"},
		{"token", "a.example", "GET /whoami", alice, "", 200, `"user":"@alice:a.example"`},
		{"token in query", "a.example", "GET /whoami?access_token=" + alice, "", "", 200, `@alice:a.example`},
		{"token of another tenant", "a.example", "GET /whoami", bob, "", 401, "M_UNKNOWN_TOKEN"},
		{"garbage token", "a.example", "GET /whoami", "kt_zzzzzzzzzzzzzzzzzzzzzzzz_x", "", 401, "M_UNKNOWN_TOKEN"},
		{"optional without", "a.example", "GET /maybe", "", "", 200, `"tenant"`},
		{"optional wrong", "a.example", "GET /maybe", bob, "", 401, "M_UNKNOWN_TOKEN"},
		{"guest refused", "a.example", "GET /whoami", g.token(g.a, "guest"), "", 403, "M_GUEST_ACCESS_FORBIDDEN"},
		{"guest allowed", "a.example", "GET /guest", g.token(g.a, "guest"), "", 200, "@guest"},
		{"no admin", "a.example", "GET /admin", alice, "", 403, "M_FORBIDDEN"},
		{"admin", "a.example", "GET /admin", g.token(g.a, "admin"), "", 200, "@admin"},
		{"masquerade", "a.example", "GET /whoami?user_id=@ghost:a.example", "as", "", 200, "@ghost:a.example"},
		{"masquerade nonsense", "a.example", "GET /whoami?user_id=ghost", "as", "", 400, "M_INVALID_PARAM"},

		{"shared: provider answers", "shared.example", "GET /versions", "", "", 200, `{"route":"/versions","vars":[]}`},
		{"shared: token's tenant", "shared.example:8480", "GET /whoami", bob, "", 200, "@bob:b"},
		{"shared: provider's route with token", "shared.example", "GET /versions", bob, "", 200, `"tenant":"b"`},
		{"shared: strange token", "shared.example", "GET /whoami", "syt_x", "", 401, "M_UNKNOWN_TOKEN"},
		{"shared: token of no tenant", "shared.example", "GET /whoami", "kt_1_x", "", 401, "M_UNKNOWN_TOKEN"},
		{"shared: nobody", "shared.example", "GET /whoami", "", "", 400, "@user:server"},
		{"shared: full id in path", "shared.example", "GET /profile/@x:b", "", "", 200, `"tenant":"b"`},
		{"shared: stranger in path", "shared.example", "GET /profile/@x:far", "", "", 403, "M_FORBIDDEN"},
		{"shared: login", "shared.example", "POST /login", "", `{"identifier":{"type":"m.id.user","user":"@x:a.example"}}`, 200, `"tenant":"a.example"`},
		{"shared: old login", "shared.example", "POST /login", "", `{"user":"@x:b"}`, 200, `"tenant":"b"`},
		{"shared: login by localpart", "shared.example", "POST /login", "", `{"user":"x"}`, 400, "M_MISSING_PARAM"},
		{"shared: login token", "shared.example", "POST /login", "", `{"token":"` + NewToken(LoginToken, g.b.ID) + `"}`, 200, `"tenant":"b"`},
		{"shared: no JSON", "shared.example", "POST /login", "", `{`, 400, "M_MISSING_PARAM"},
		{"shared: hidden", "shared.example", "GET /legacy", "", "", 404, "M_NOT_FOUND"},
		{"shared: hidden with token", "shared.example", "GET /legacy", bob, "", 404, "M_NOT_FOUND"},
		{"shared: federation", "shared.example", "POST /federation/1", "X-Matrix {}", "{}", 404, "M_NOT_FOUND"},

		{"server", "b", "POST /federation/1", "X-Matrix {}", "{}", 200, `"origin":"far"`},
		{"server unsigned", "b", "POST /federation/1", "", "{}", 401, "M_UNAUTHORIZED"},
		{"user token for servers", "b", "POST /federation/1", bob, "{}", 401, "M_UNAUTHORIZED"},
		{"too large", "b", "POST /federation/1", "X-Matrix", strings.Repeat("x", 65), 413, "M_TOO_LARGE"},
		{"raw too large", "b", "POST /raw", "", strings.Repeat("x", 9), 413, "M_TOO_LARGE"},

		{"decode", "b", "POST /decode", "", `{"name":"x","count":3,"unknown":[]}`, 200, "{}"},
		{"decode empty", "b", "POST /decode", "", ``, 400, "M_NOT_JSON"},
		{"decode broken", "b", "POST /decode", "", `{"name":"x",`, 400, "M_NOT_JSON"},
		{"decode trailing", "b", "POST /decode", "", `{} x`, 400, "M_NOT_JSON"},
		{"decode wrong type", "b", "POST /decode", "", `{"list":["x",5]}`, 400, `"M_BAD_JSON"`},
		{"decode wrong then broken", "b", "POST /decode", "", `{"count":"x"`, 400, "M_NOT_JSON"},
		{"decode array", "b", "POST /decode", "", `[]`, 400, "M_BAD_JSON"},
		{"decode null", "b", "POST /decode", "", ` null `, 400, "M_BAD_JSON"},
		{"decode twice", "b", "POST /decode", "", `{"name":"x","name":"y"}`, 400, "M_BAD_JSON"},

		{"panic", "b", "GET /panic", "", "", 500, `{"errcode":"M_UNKNOWN","error":"Internal error"}`},
		{"unknown error", "b", "GET /error", "", "", 500, `{"errcode":"M_UNKNOWN","error":"Internal error"}`},
		{"stream", "b", "GET /stream", "", "", 201, "streamed"},
		{"head", "b", "HEAD /versions", "", "", 200, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, body := g.ask(t, c.host, c.request, c.token, c.body)
			if status != c.status || !strings.Contains(body, c.want) || c.want == "" && body != "" {
				t.Errorf("%s on %s: %d %s\nwant %d with %q", c.request, c.host, status, body, c.status, c.want)
			}
		})
	}
	g.stop()
	log := g.log.String()
	for _, line := range []string{"secret detail", "route=/panic", "route=/rooms/{roomId}/state/{eventType}/{stateKey}"} {
		if !strings.Contains(log, line) {
			t.Errorf("log lacks %q", line)
		}
	}
	for _, secret := range []string{alice, bob, "@alice", "@user:a", "a/b", "!r:a"} {
		if strings.Contains(log, secret) {
			t.Errorf("log shows %q", secret)
		}
	}
}

func TestCORS(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	for _, c := range []struct {
		request string
		status  int
	}{{"OPTIONS /whoami", 204}, {"OPTIONS /nothing", 204}, {"GET /nothing", 404}, {"GET /whoami", 401}, {"GET /panic", 500}} {
		res := g.send(t, "b", c.request, "", "")
		res.Body.Close()
		if res.StatusCode != c.status || res.Header.Get("Access-Control-Allow-Origin") != "*" ||
			!strings.Contains(res.Header.Get("Access-Control-Allow-Headers"), "Authorization") ||
			!strings.Contains(res.Header.Get("Access-Control-Allow-Headers"), "Mxid") {
			t.Errorf("%s: %d %v", c.request, res.StatusCode, res.Header)
		}
	}
}

func TestRateLimits(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	one := limit.Rate{PerSecond: 1, Burst: 1}
	g := newRig(t, func(o *Options) {
		o.Limiter = limit.New(limit.Options{Now: func() time.Time { return now },
			Rates: map[limit.Class]limit.Rate{limit.Login: one, limit.Read: one, limit.Transact: one}})
	})
	twice := func(host, request, token, body string) {
		t.Helper()
		if status, b := g.ask(t, host, request, token, body); status != 200 {
			t.Fatalf("%s: %d %s", request, status, b)
		}
		res := g.send(t, host, request, token, body)
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		if res.StatusCode != 429 || !strings.Contains(string(b), `"retry_after_ms":1000`) || res.Header.Get("Retry-After") != "1" {
			t.Errorf("%s again: %d %s %v", request, res.StatusCode, b, res.Header)
		}
	}
	twice("b", "POST /login", "", "{}")
	twice("b", "GET /whoami", g.token(g.b, "bob"), "")
	twice("b", "GET /whoami", g.token(g.b, "other"), "")
	twice("b", "POST /federation/1", "X-Matrix {}", "{}")
	for range 3 {
		if status, b := g.ask(t, "b", "GET /whoami", "as", ""); status != 200 {
			t.Errorf("an unlimited application service was limited: %d %s", status, b)
		}
	}
}

func TestSoleTenantOwnsSharedHosts(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(o *Options) { o.Sole = "b" })
	if status, body := g.ask(t, "127.0.0.1:8008", "POST /login", "", `{"user":"x"}`); status != 200 || !strings.Contains(body, `"tenant":"b"`) {
		t.Errorf("%d %s", status, body)
	}
	if status, _ := g.ask(t, "other", "GET /versions", "", ""); status != 404 {
		t.Errorf("a host that is not shared: %d", status)
	}
	all := newRig(t, func(o *Options) { o.SharedHosts = []string{"*"} })
	if status, _ := all.ask(t, "other", "GET /versions", "", ""); status != 200 {
		t.Errorf("every host is shared: %d", status)
	}
}

func TestPolicyAndAdmission(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(o *Options) {
		o.Policy = func(_ context.Context, _ *tenant.Tenant, method, pattern string, s *Session) error {
			if pattern == "/profile/{userId}" || s != nil && s.User.Localpart() == "banned" {
				return mxerror.Forbidden.With("policy")
			}
			return nil
		}
		o.Admit = func(_ context.Context, t *tenant.Tenant, origin id.Server) error {
			if t.Name == "b" {
				return mxerror.Forbidden.With("%s is not listed", origin)
			}
			return nil
		}
	})
	for _, c := range []struct {
		host, request, token, body string
		status                     int
		want                       string
	}{
		{"b", "GET /profile/@x:b", "", "", 403, "policy"},
		{"b", "GET /whoami", g.token(g.b, "banned"), "", 403, "policy"},
		{"b", "POST /federation/1", "X-Matrix {}", "{}", 403, "far is not listed"},
		{"a.example", "POST /federation/1", "X-Matrix {}", "{}", 200, "far"},
	} {
		if status, body := g.ask(t, c.host, c.request, c.token, c.body); status != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %s", c.request, status, body)
		}
	}
	if status, body, err := g.Dispatch(t.Context(), g.b, "a.example", "POST", "/federation/1", nil, []byte("{}")); err != nil || status != 403 || !strings.Contains(string(body), "a.example is not listed") {
		t.Errorf("in process: %d %s %v", status, body, err)
	}
}

func TestDispatch(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "/federation/x%2Fy", "{}", 200, `"origin":"a.example"`},
		{"POST", "/federation/x%2Fy", "{}", 200, `"vars":["x/y"]`},
		{"POST", "/federation/1", strings.Repeat("x", 65), 413, "M_TOO_LARGE"},
		{"GET", "/federation/1", "", 405, "M_UNRECOGNIZED"},
		{"GET", "/nothing", "", 404, "M_UNRECOGNIZED"},
		{"GET", "/panic", "", 500, "M_UNKNOWN"},
		{"GET", "/key", "", 200, `"tenant":"b"`},
		{"GET", "/whoami", "", 500, "M_UNKNOWN"},
	} {
		status, body, err := g.Dispatch(t.Context(), g.b, "a.example", c.method, c.path, url.Values{"q": {"1"}}, []byte(c.body))
		if err != nil || status != c.status || !strings.Contains(string(body), c.want) {
			t.Errorf("%s %s: %d %s %v, want %d %s", c.method, c.path, status, body, err, c.status, c.want)
		}
	}
	res, err := g.Call(t.Context(), g.b, "a.example", "GET", "/stream", nil, nil)
	if err != nil || res.Status != 201 || res.Header.Get("Content-Type") != "text/plain" || string(res.Body) != "streamed" {
		t.Errorf("%+v %v", res, err)
	}
}

func TestDuplicateRoutesPanic(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("two equal routes were taken")
		}
	}()
	h := func(context.Context, *Request) (any, error) { return nil, nil }
	NewRouter(Options{}).Add(Route{Method: "GET", Path: "/a/{x}", Handle: h}, Route{Method: "GET", Path: "/a/{y}/", Handle: h})
}

func TestAddressBehindProxies(t *testing.T) {
	t.Parallel()
	m := NewRouter(Options{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	for _, c := range []struct{ remote, forwarded, want string }{
		{"192.0.2.1:5", "198.51.100.1", "192.0.2.1"},
		{"10.0.0.1:5", "198.51.100.1", "198.51.100.1"},
		{"10.0.0.1:5", "203.0.113.9, 198.51.100.1, 10.0.0.2", "198.51.100.1"},
		{"10.0.0.1:5", "junk", "10.0.0.1"},
		{"10.0.0.1:5", "", "10.0.0.1"},
		{"[::ffff:192.0.2.1]:5", "", "192.0.2.1"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = c.remote
		r.Header.Set("X-Forwarded-For", c.forwarded)
		if got := m.address(r).String(); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
	if k := rateKey(netip.MustParseAddr("2001:db8:1:2:3::4")); k != "2001:db8:1:2::/64" {
		t.Errorf("IPv6 counts as %s", k)
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	a, b := NewToken(AccessToken, 12345), NewToken(AccessToken, 12345)
	if a == b || !strings.HasPrefix(a, "kt_9ix_") {
		t.Errorf("%s %s", a, b)
	}
	if got, ok := TokenTenant(a); !ok || got != 12345 {
		t.Errorf("%s: %d %v", a, got, ok)
	}
	for _, bad := range []string{"", "k", "kt_", "kt_1", "kt__x", "kt_-5_x", "kt_!_x", "xt_1_x", "kt_zzzzzzzzzzzzzzzzzz_x"} {
		if _, ok := TokenTenant(bad); ok {
			t.Errorf("%q names a tenant", bad)
		}
	}
}

func FuzzFind(f *testing.F) {
	var n node
	h := func(context.Context, *Request) (any, error) { return nil, nil }
	for _, p := range []string{"/a/{x}/b", "/a/{x}/{y}", "/a/b/c", "/{x}/b/{rest...}", "/"} {
		n.add(Route{Method: "GET", Path: p, Handle: h})
	}
	f.Add("/a/%2F/b")
	f.Add("/a//b/")
	f.Add("/%zz/b")
	f.Fuzz(func(t *testing.T, path string) {
		e, vars, _ := n.find("GET", path)
		if e != nil && len(vars) != len(e.names) {
			t.Errorf("%q: %d variables for %s", path, len(vars), e.Path)
		}
	})
}

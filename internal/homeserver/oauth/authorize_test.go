// SPDX-License-Identifier: Apache-2.0

package oauth_test

import (
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/homeserver/account/accounttest"
	"github.com/konsil-health/konsil/internal/homeserver/oauth"
)

// TestSignInByCode is the whole way of a web client: register, authorise, sign in, agree, exchange, use, refresh, revoke.
func TestSignInByCode(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		alice := g.User(g.A, "alice")
		for _, c := range []struct{ host, name string }{{"a.test", "alice"}, {shared, string(alice.ID)}} {
			b := g.tab(c.host)
			client := b.client(nil)
			path := request(client)
			b.get(path).is(200).has("example.com", "Test App")
			b.submit(path, "sign-in", "username", c.name, "password", "wrong").is(403).has("stimmt nicht")
			if to := b.submit(path, "sign-in", "username", c.name, "password", accounttest.Password).location(); to.String() != path {
				t.Fatalf("after the sign-in: %s", to)
			}
			b.get(path).is(200).has("@alice:a.test", "Erlauben", "app.example.com")
			to := b.submit(path, "approve").location()
			answer, err := url.ParseQuery(to.Fragment)
			if err != nil || !strings.HasPrefix(to.String(), redirect+"#") || answer.Get("state") != "a state" || answer.Get("iss") != "http://"+c.host+"/" {
				t.Fatalf("answer: %s %v", to, err)
			}
			p := b.send(token, exchange(client, answer.Get("code"))).is(200)
			if p.field("token_type") != "Bearer" || p.field("scope") != scope || p.field("expires_in") != "3600" || p.header.Get("Cache-Control") != "no-store" {
				t.Errorf("token: %s", p.body)
			}
			web := g.with(g.A, p.field("access_token"))
			if who := web.Do("GET", v3+"/account/whoami", nil).OK(nil); who.Text("user_id") != string(alice.ID) || who.Text("device_id") != "WEB0123456" {
				t.Errorf("whoami: %s", who.Body)
			}
			if name := web.Do("GET", v3+"/devices/WEB0123456", nil).OK(nil).Text("display_name"); name != "Test App" {
				t.Errorf("device is called %q", name)
			}
			web.Do("DELETE", v3+"/devices/DEV1", m{}).Fails(403, "M_FORBIDDEN")
			renewed := b.send(token, url.Values{"grant_type": {"refresh_token"}, "client_id": {client}, "refresh_token": {p.field("refresh_token")}}).is(200)
			web.Token = renewed.field("access_token")
			web.Do("GET", v3+"/account/whoami", nil).OK(nil)
			b.send(revoke, url.Values{"token": {renewed.field("access_token")}, "client_id": {client}}).is(200)
			web.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
			alice.Do("GET", v3+"/devices/WEB0123456", nil).Fails(404, "M_NOT_FOUND")
		}
	})
}

// TestAuthorizationRefusals: what is wrong with a request is told to the client, unless the client itself is not known.
func TestAuthorizationRefusals(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		b := g.tab("a.test")
		client := b.client(nil)
		deviceOnly := b.client(m{"redirect_uris": []string{redirect}, "grant_types": []string{"urn:ietf:params:oauth:grant-type:device_code"}})
		elsewhere := g.tab("b.test").client(m{"client_name": "registered at the neighbour"})
		for _, path := range []string{
			request("unknown"), request(""), request(elsewhere), request(client, "redirect_uri", "https://app.example.com/other"),
			request(client, "redirect_uri", ""), request(client, "redirect_uri", redirect+"?x=1"), request(client) + "&client_id=" + client, authorize,
		} {
			if p := b.get(path); p.status != 400 || p.header.Get("Location") != "" || !strings.HasPrefix(p.header.Get("Content-Type"), "text/html") {
				t.Errorf("%s: %d %s", path, p.status, p.header.Get("Location"))
			}
		}
		for _, c := range []struct {
			path, want string
		}{
			{request(client, "response_type", ""), "invalid_request"},
			{request(client, "response_type", "token"), "unsupported_response_type"},
			{request(client, "response_mode", "form_post"), "invalid_request"},
			{request(client, "code_challenge", ""), "invalid_request"},
			{request(client, "code_challenge", "short"), "invalid_request"},
			{request(client, "code_challenge_method", ""), "invalid_request"},
			{request(client, "code_challenge_method", "plain"), "invalid_request"},
			{request(client) + "&state=twice", "invalid_request"},
			{request(client, "prompt", "dance"), "invalid_request"},
			{request(client, "prompt", "none login"), "invalid_request"},
			{request(client, "prompt", "none"), "login_required"},
			{request(client, "request", "x"), "request_not_supported"},
			{request(client, "request_uri", "https://x"), "request_uri_not_supported"},
			{request(client, "scope", ""), "invalid_scope"},
			{request(client, "scope", "openid"), "invalid_scope"},
			{request(client, "scope", "urn:matrix:client:api:*"), "invalid_scope"},
			{request(client, "scope", "urn:matrix:client:device:A"), "invalid_scope"},
			{request(client, "scope", "urn:matrix:client:api:* urn:matrix:client:device:"), "invalid_scope"},
			{request(client, "scope", "urn:matrix:client:api:* urn:matrix:client:device:A urn:matrix:client:device:B"), "invalid_scope"},
			{request(client, "scope", "urn:matrix:client:api:* urn:matrix:client:device:ä"), "invalid_scope"},
			{request(client, "scope", "urn:matrix:client:api:* urn:matrix:client:device:"+strings.Repeat("A", 513)), "invalid_scope"},
			{request(deviceOnly), "unauthorized_client"},
		} {
			answer := b.get(c.path).answer()
			if answer.Get("error") != c.want || answer.Get("iss") != "http://a.test/" || answer.Get("code") != "" || answer.Get("state") == "" {
				t.Errorf("%s: %v, want %s", c.path, answer, c.want)
			}
		}
		if to := b.get(request(client, "response_mode", "", "response_type", "")).location(); to.Fragment != "" || to.Query().Get("error") != "invalid_request" {
			t.Errorf("the default mode is query: %s", to)
		}
	})
}

func TestConsent(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		g.User(g.A, "alice")
		g.User(g.A, "bob")
		b := g.tab("a.test")
		client := b.client(nil)
		path := request(client, "response_mode", "query", "scope", "openid urn:matrix:org.matrix.msc2967.client:api:* urn:matrix:org.matrix.msc2967.client:device:OLD")
		b.get(request(client, "login_hint", "mxid:@alice:a.test")).has(`value="@alice:a.test"`)
		b.signIn(path, "alice").is(200)
		denied := b.submit(path, "deny").location().Query()
		if denied.Get("error") != "access_denied" || denied.Get("state") != "a state" {
			t.Errorf("denied: %v", denied)
		}
		if got := b.get(request(client, "prompt", "none")).answer().Get("error"); got != "consent_required" {
			t.Errorf("silent: %s", got)
		}
		b.submit(path, "switch").is(303)
		b.get(path).is(200).has("Benutzername")
		b.signIn(path, "bob").has("@bob:a.test")
		code := b.submit(path, "approve").location().Query().Get("code")
		p := b.send(token, exchange(client, code)).is(200)
		if p.field("scope") != "urn:matrix:org.matrix.msc2967.client:api:* urn:matrix:org.matrix.msc2967.client:device:OLD" {
			t.Errorf("scope: %s", p.body)
		}
		// Who signed in long ago is asked again where the client wants that.
		again := request(client, "prompt", "login")
		b.get(again).is(200).has("Erlauben")
		g.pass(6 * time.Minute)
		b.get(again).is(200).has("Passwort")
		b.get(path).is(200).has("Erlauben")
		g.pass(20 * time.Minute)
		b.get(path).is(200).has("Passwort")
	})
}

// TestFormsFromElsewhere: a form counts only from a page that this very browser got from us.
func TestFormsFromElsewhere(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		g.User(g.A, "alice")
		b := g.tab("a.test")
		path := request(b.client(nil))
		b.signIn(path, "alice").is(200)
		key := b.key
		for name, change := range map[string]func(*tab){
			"without key":       func(b *tab) { b.key = "" },
			"with another key":  func(b *tab) { b.key = strings.Repeat("0", 32) },
			"from another site": func(b *tab) { b.headers["Sec-Fetch-Site"] = "cross-site" },
			"from a sibling":    func(b *tab) { b.headers["Sec-Fetch-Site"] = "same-site" },
			"of another origin": func(b *tab) { b.headers["Origin"] = "https://evil.test" },
			"without cookie":    func(b *tab) { b.cookie = "" },
		} {
			other := &tab{g: g, host: b.host, cookie: b.cookie, key: key, headers: map[string]string{}}
			change(other)
			if p := other.submit(path, "approve"); p.status != 403 || p.header.Get("Location") != "" {
				t.Errorf("%s: %d %s", name, p.status, p.header.Get("Location"))
			}
		}
		neighbour := &tab{g: g, host: "b.test", cookie: b.cookie, key: key, headers: map[string]string{}}
		neighbour.get(manage).is(200).has("Anmelden")
		b.submit(path, "approve").is(303)
	})
}

func TestPagesAreSafe(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		b := g.tab("a.test")
		p := b.get(request(b.client(m{"client_name": `<script>alert(1)</script>`})))
		if strings.Contains(p.body, "<script>") {
			t.Error("a client's name is HTML")
		}
		csp := p.header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self' https://app.example.com"} {
			if !strings.Contains(csp, want) {
				t.Errorf("policy %q lacks %q", csp, want)
			}
		}
		cookie := p.header.Get("Set-Cookie")
		if !strings.Contains(cookie, "HttpOnly") || !strings.Contains(cookie, "SameSite=Lax") || strings.Contains(cookie, "Domain") || !strings.HasPrefix(cookie, "konsil=") {
			t.Errorf("cookie %q", cookie)
		}
		if p.header.Get("Access-Control-Allow-Origin") != "" || p.header.Get("Cache-Control") != "no-store" || p.header.Get("Referrer-Policy") != "same-origin" {
			t.Errorf("header: %v", p.header)
		}
		for accept, want := range map[string]string{"": "de", "en-GB,en;q=0.9,de;q=0.5": "en", "de-AT": "de", "fr": "de", "fr,en;q=0.5": "en"} {
			b.headers["Accept-Language"] = accept
			if got := b.get(manage).header.Get("Content-Language"); got != want {
				t.Errorf("%q is answered in %s", accept, got)
			}
		}
		if got := b.get(manage + "?ui_locales=de-DE+en").header.Get("Content-Language"); got != "de" {
			t.Errorf("ui_locales do not count: %s", got)
		}
	})
}

func TestCookieBehindTLS(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		g := newRig(t, db, func(o *oauth.Options) { o.Config.PublicURL, o.Config.Registration = "https://a.test", false })
		b := g.tab("a.test")
		p := b.get(manage)
		if cookie := p.header.Get("Set-Cookie"); !strings.HasPrefix(cookie, "__Host-konsil=") || !strings.Contains(cookie, "Secure") || !strings.Contains(cookie, "Path=/;") {
			t.Errorf("cookie %q", cookie)
		}
		meta := b.get("/_matrix/client/v1/auth_metadata")
		if meta.field("issuer") != "https://a.test/" || meta.field("prompt_values_supported") != "" {
			t.Errorf("metadata: %s", meta.body)
		}
		if got := g.tab("b.test").get("/_matrix/client/v1/auth_metadata").field("issuer"); got != "https://b.test/" {
			t.Errorf("issuer of another host: %s", got)
		}
		if got := g.tab(shared).get("/_matrix/client/v1/auth_metadata").field("issuer"); got != "http://127.0.0.1/" {
			t.Errorf("issuer on loopback: %s", got)
		}
		path := request(b.client(nil), "prompt", "create")
		b.get(path).is(200)
		b.submit(path, "register", "username", "carol", "password", "a new password", "repeat", "a new password").is(403)
	})
}

func TestRegisterOnThePage(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		g.User(g.A, "alice")
		b := g.tab("a.test")
		client := b.client(nil)
		path := request(client, "prompt", "create")
		b.get(path).is(200).has("Konto anlegen", "Ich habe schon ein Konto")
		b.submit(path, "register", "username", "alice", "password", "new one", "repeat", "new one").is(403).has("vergeben")
		b.submit(path, "register", "username", "ca:rol", "password", "new one", "repeat", "new one").is(403).has("nicht möglich")
		b.submit(path, "register", "username", "carol", "password", "new one", "repeat", "other").is(403).has("nicht gleich")
		b.submit(path, "register", "username", "carol", "password", "new one", "repeat", "new one").is(303)
		b.get(path).is(200).has("@carol:a.test")
		code := b.submit(path, "approve").answer().Get("code")
		b.send(token, exchange(client, code)).is(200)
		s := g.tab(shared)
		path = request(s.client(nil), "prompt", "create")
		s.get(path).is(200)
		s.submit(path, "register", "username", "dora", "password", "new one", "repeat", "new one").is(403).has("vollständig")
		s.submit(path, "register", "username", "@dora:b.test", "password", "new one", "repeat", "new one").is(303)
		s.get(path).is(200).has("@dora:b.test")
	})
}

func TestSignInIsLimited(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		g.User(g.A, "alice")
		b := g.tab("a.test")
		path := request(b.client(nil))
		b.get(path).is(200)
		last := 0
		for range 20 {
			last = b.submit(path, "sign-in", "username", "alice", "password", "wrong").status
		}
		if last != 429 {
			t.Errorf("after twenty attempts: %d", last)
		}
	})
}

// TestTokenEndpoint goes through RFC 6749, section 5.2, and RFC 7636, section 4.6.
func TestTokenEndpoint(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		g.User(g.A, "alice")
		b := g.tab("a.test")
		client, other := b.client(nil), b.client(m{"client_name": "Other"})
		noRefresh := b.client(m{"grant_types": []string{"authorization_code"}})
		code := b.code(client, "alice")
		neighbour := g.tab("b.test")
		there := neighbour.client(nil)
		for name, c := range map[string]struct {
			at   *tab
			form url.Values
			want string
		}{
			"no grant type":       {b, exchange(client, code, "grant_type", ""), "invalid_request"},
			"other grant type":    {b, exchange(client, code, "grant_type", "password"), "unsupported_grant_type"},
			"no client":           {b, exchange(client, code, "client_id", ""), "invalid_client"},
			"unknown client":      {b, exchange(client, code, "client_id", "unknown"), "invalid_client"},
			"no code":             {b, exchange(client, code, "code", ""), "invalid_request"},
			"unknown code":        {b, exchange(client, code+"x"), "invalid_grant"},
			"another's code":      {b, exchange(other, code), "invalid_grant"},
			"at the neighbour":    {neighbour, exchange(there, code), "invalid_grant"},
			"no redirect":         {b, exchange(client, code, "redirect_uri", ""), "invalid_request"},
			"other redirect":      {b, exchange(client, code, "redirect_uri", redirect+"/"), "invalid_grant"},
			"no verifier":         {b, exchange(client, code, "code_verifier", ""), "invalid_request"},
			"wrong verifier":      {b, exchange(client, code, "code_verifier", strings.Repeat("x", 43)), "invalid_grant"},
			"short verifier":      {b, exchange(client, code, "code_verifier", "short"), "invalid_grant"},
			"verifier of letters": {b, exchange(client, code, "code_verifier", verifier+"ä"), "invalid_grant"},
			"grant not asked for": {b, url.Values{"grant_type": {"refresh_token"}, "client_id": {noRefresh}, "refresh_token": {"kr_1_x"}}, "unauthorized_client"},
			"no refresh token":    {b, url.Values{"grant_type": {"refresh_token"}, "client_id": {client}}, "invalid_request"},
			"unknown refresh":     {b, url.Values{"grant_type": {"refresh_token"}, "client_id": {client}, "refresh_token": {"kr_1_x"}}, "invalid_grant"},
			"twice the same":      {b, url.Values{"grant_type": {"authorization_code", "authorization_code"}}, "invalid_request"},
		} {
			if p := c.at.send(token, c.form); p.status != 400 || p.field("error") != c.want || p.header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: %d %s, want %s", name, p.status, p.body, c.want)
			}
		}
		b.do("POST", token, "application/json", "{}").fails(400, "invalid_request")
		b.headers["Authorization"] = "Basic YTpi"
		if p := b.send(token, exchange(client, code)); p.status != 401 || p.field("error") != "invalid_client" || p.header.Get("WWW-Authenticate") == "" {
			t.Errorf("with a secret: %d %s", p.status, p.body)
		}
		delete(b.headers, "Authorization")
		p := b.send(token, exchange(client, code)).is(200) // none of this has used it up
		web := g.with(g.A, p.field("access_token"))
		web.Do("GET", v3+"/account/whoami", nil).OK(nil)
		b.send(token, exchange(client, code)).fails(400, "invalid_grant")
		web.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN") // shown twice: the session ends
		late := b.code(client, "alice")
		g.pass(3 * time.Minute)
		b.send(token, exchange(client, late)).fails(400, "invalid_grant")
	})
}

// TestReplayedCodeSparesLaterSession: the second use of an old code does not end what its device got afterwards.
func TestReplayedCodeSparesLaterSession(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		g.User(g.A, "alice")
		b := g.tab("a.test")
		client := b.client(nil)
		old := b.code(client, "alice")
		b.send(token, exchange(client, old)).is(200)
		g.pass(time.Second)
		p := b.send(token, exchange(client, b.code(client, "alice"))).is(200)
		b.send(token, exchange(client, old)).fails(400, "invalid_grant")
		g.with(g.A, p.field("access_token")).Do("GET", v3+"/account/whoami", nil).OK(nil)
	})
}

func TestConcurrentExchange(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		g.User(g.A, "alice")
		b := g.tab("a.test")
		client := b.client(nil)
		code := b.code(client, "alice")
		var wg sync.WaitGroup
		var mu sync.Mutex
		given := 0
		for range 6 {
			wg.Go(func() {
				if g.tab("a.test").send(token, exchange(client, code)).status == 200 {
					mu.Lock()
					given++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if given != 1 {
			t.Errorf("%d sessions for one code", given)
		}
	})
}

func TestRefresh(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		alice := g.User(g.A, "alice")
		b := g.tab("a.test")
		client, other := b.client(nil), b.client(m{"client_name": "Other"})
		first := b.send(token, exchange(client, b.code(client, "alice"))).is(200)
		refresh := func(client, token_ string) *page {
			return b.send(token, url.Values{"grant_type": {"refresh_token"}, "client_id": {client}, "refresh_token": {token_}})
		}
		refresh(other, first.field("refresh_token")).fails(400, "invalid_grant")
		lost := refresh(client, first.field("refresh_token")).is(200)
		second := refresh(client, first.field("refresh_token")).is(200) // the answer was lost
		if lost.field("refresh_token") == second.field("refresh_token") || second.field("scope") != scope {
			t.Errorf("second: %s", second.body)
		}
		web := g.with(g.A, second.field("access_token"))
		web.Do("GET", v3+"/account/whoami", nil).OK(nil)
		refresh(client, first.field("refresh_token")).fails(400, "invalid_grant")
		web.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
		alice.Do("GET", v3+"/devices/WEB0123456", nil).Fails(404, "M_NOT_FOUND")
	})
}

func TestRevocation(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		g.User(g.A, "alice")
		b := g.tab("a.test")
		client := b.client(nil)
		b.send(revoke, url.Values{}).fails(400, "invalid_request")
		b.do("POST", revoke, "application/json", "{}").fails(400, "invalid_request")
		b.send(revoke, url.Values{"token": {"unknown"}, "token_type_hint": {"access_token"}}).is(200)
		for _, c := range []struct{ field, client string }{{"access_token", client}, {"refresh_token", client}, {"refresh_token", ""}, {"access_token", "another"}} {
			p := b.send(token, exchange(client, b.code(client, "alice"))).is(200)
			g.tab("b.test").send(revoke, url.Values{"token": {p.field(c.field)}}).is(200) // the neighbour does not know it
			web := g.with(g.A, p.field("access_token"))
			web.Do("GET", v3+"/account/whoami", nil).OK(nil)
			form := url.Values{"token": {p.field(c.field)}, "token_type_hint": {c.field}}
			if c.client != "" {
				form.Set("client_id", c.client)
			}
			b.send(revoke, form).is(200)
			b.send(revoke, form).is(200)
			web.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
			b.send(token, url.Values{"grant_type": {"refresh_token"}, "client_id": {client}, "refresh_token": {p.field("refresh_token")}}).fails(400, "invalid_grant")
		}
	})
}

// TestLoopbackRedirect: a native client listens on whatever port it gets.
func TestLoopbackRedirect(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		g.User(g.A, "alice")
		b := g.tab("a.test")
		client := b.client(m{"application_type": "native", "redirect_uris": []string{"http://127.0.0.1/callback", "com.example.app:/callback", "http://[::1]/"}})
		for uri, want := range map[string]int{
			"http://127.0.0.1:4711/callback": 200, "http://127.0.0.1/callback": 200, "com.example.app:/callback": 200, "http://[::1]:5/": 200,
			"http://127.0.0.1:4711/other": 400, "http://localhost:4711/callback": 400, "com.example.app:/other": 400, "http://127.0.0.1:4711/callback#x": 400,
			"http://127.0.0.1.evil.test:1/callback": 400, "http://127.0.0.1:4711@evil.test/callback": 400,
		} {
			if p := b.get(request(client, "redirect_uri", uri)); p.status != want {
				t.Errorf("%s: %d, want %d", uri, p.status, want)
			}
		}
		uri := "http://127.0.0.1:4711/callback"
		code := b.code(client, "alice", "redirect_uri", uri)
		b.send(token, exchange(client, code, "redirect_uri", "http://127.0.0.1:4712/callback")).fails(400, "invalid_grant")
		b.send(token, exchange(client, code, "redirect_uri", uri)).is(200)
	})
}

// SPDX-License-Identifier: Apache-2.0

package oauth_test

import (
	"net/url"
	"strings"
	"testing"
)

const ssoRedirect = v3 + "/login/sso/redirect"

// TestSSO is the way of a client that knows m.login.sso only.
func TestSSO(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		alice := g.User(g.A, "alice")
		for _, c := range []struct{ host, name, to, want string }{
			{"a.test", "alice", "https://app.example.com/?no=1&loginToken=evil&x=%20#/login", "https://app.example.com/?no=1&x=%20&loginToken="},
			{shared, string(alice.ID), "io.element.app://connect", "io.element.app://connect?loginToken="},
		} {
			b := g.tab(c.host)
			flows := b.get(v3 + "/login").is(200).body
			if !strings.Contains(flows, `{"oauth_aware_preferred":true,"org.matrix.msc3824.delegated_oidc_compatibility":true,"type":"m.login.sso"}`) &&
				!strings.Contains(flows, `{"type":"m.login.sso","oauth_aware_preferred":true,"org.matrix.msc3824.delegated_oidc_compatibility":true}`) {
				t.Errorf("flows: %s", flows)
			}
			for _, path := range []string{ssoRedirect, ssoRedirect + "/konsil"} {
				p := b.get(path + "?action=login&" + url.Values{"redirectUrl": {c.to}}.Encode()).is(302)
				page, err := url.Parse(p.header.Get("Location"))
				if err != nil || page.Host != c.host {
					t.Fatalf("redirect: %v %v", page, err)
				}
				at := page.RequestURI()
				b.get(at).is(200)
				b.signIn(at, c.name).is(200).has("Nachrichten")
				b.submit(at, "deny").is(200).has("nichts weitergegeben")
				to := b.submit(at, "approve").header.Get("Location")
				if !strings.HasPrefix(to, c.want) {
					t.Fatalf("goes to %s", to)
				}
				u, err := url.Parse(to)
				if err != nil {
					t.Fatal(err)
				}
				login := m{"type": "m.login.token", "token": u.Query().Get("loginToken"), "device_id": "SSO"}
				g.Nobody(g.B).Do("POST", v3+"/login", login).Fails(403, "M_FORBIDDEN")
				caller := g.Nobody(g.A)
				caller.Host = c.host
				if a := caller.Do("POST", v3+"/login", login).OK(nil); a.Text("user_id") != string(alice.ID) {
					t.Errorf("login: %s", a.Body)
				}
				caller.Do("POST", v3+"/login", login).Fails(403, "M_FORBIDDEN") // once
				b.submit(at, "sign-out").is(303)
			}
		}
	})
}

func TestSSORefusals(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		b, nobody := g.tab("a.test"), g.Nobody(g.A)
		nobody.Do("GET", ssoRedirect, nil).Fails(400, "M_MISSING_PARAM")
		for _, to := range []string{"javascript:alert(1)", "JavaScript:alert(1)", "data:text/html,x", "/relative", "https:///nohost", "https://me:pw@example.com/", "https://a b/", "file:///etc/passwd", "x"} {
			q := "?" + url.Values{"redirectUrl": {to}}.Encode()
			nobody.Do("GET", ssoRedirect+q, nil).Fails(400, "M_INVALID_PARAM")
			b.get("/_matrix/sign-in" + q).is(400).has("stimmt")
		}
		b.get(ssoRedirect + "/other?redirectUrl=https%3A%2F%2Fx.test").is(404).has("Weg der Anmeldung")
		create := b.get(ssoRedirect + "?action=register&redirectUrl=https%3A%2F%2Fx.test").is(302).header.Get("Location")
		if u, err := url.Parse(create); err != nil || u.Query().Get("prompt") != "create" {
			t.Errorf("register: %s", create)
		}
		b.get(strings.TrimPrefix(create, "http://a.test")).is(200).has("Konto anlegen")
	})
}

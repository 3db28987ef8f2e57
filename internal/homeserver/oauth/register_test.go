// SPDX-License-Identifier: Apache-2.0

package oauth_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
)

func TestMetadata(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		for _, host := range []string{"a.test", "b.test", shared} {
			b := g.tab(host)
			for _, path := range []string{"/_matrix/client/v1/auth_metadata", "/_matrix/client/unstable/org.matrix.msc2965/auth_metadata", "/.well-known/oauth-authorization-server"} {
				p := b.get(path).is(200)
				for field, want := range map[string]string{
					"issuer": "http://" + host + "/", "authorization_endpoint": "http://" + host + authorize, "token_endpoint": "http://" + host + token,
					"registration_endpoint": "http://" + host + register, "revocation_endpoint": "http://" + host + revoke,
					"device_authorization_endpoint": "http://" + host + deviceEnd, "account_management_uri": "http://" + host + manage,
					"response_types_supported": `["code"]`, "response_modes_supported": `["query","fragment"]`, "code_challenge_methods_supported": `["S256"]`,
					"grant_types_supported": `["authorization_code","refresh_token","urn:ietf:params:oauth:grant-type:device_code"]`, "prompt_values_supported": `["create"]`,
				} {
					if got := p.field(field); got != want {
						t.Errorf("%s %s: %s = %s, want %s", host, path, field, got, want)
					}
				}
				if p.header.Get("Access-Control-Allow-Origin") != "*" {
					t.Error("browsers may not read the metadata")
				}
			}
			if p := b.get("/.well-known/matrix/client").is(200); p.field("org.matrix.msc2965.authentication") != `{"account":"http://`+host+manage+`","issuer":"http://`+host+`/"}` {
				t.Errorf("well-known: %s", p.body)
			}
			if got := b.get("/_matrix/client/unstable/org.matrix.msc2965/auth_issuer").is(200).field("issuer"); got != "http://"+host+"/" {
				t.Errorf("issuer %s", got)
			}
		}
	})
}

// TestRegistrationRules goes through the specification's checks on client metadata.
func TestRegistrationRules(t *testing.T) {
	const metadata, redirects = "invalid_client_metadata", "invalid_redirect_uri"
	native := func(uri string) m { return m{"application_type": "native", "redirect_uris": []string{uri}} }
	web := func(uri string) m { return m{"redirect_uris": []string{uri}} }
	cases := []struct {
		name   string
		change m
		want   string // error code; empty: registered
	}{
		{"client_uri missing", m{"client_uri": nil}, metadata},
		{"client_uri http", m{"client_uri": "http://example.com/"}, metadata},
		{"client_uri with a user", m{"client_uri": "https://me@example.com/"}, metadata},
		{"client_uri without a host", m{"client_uri": "https:///x"}, metadata},
		{"client_uri number", m{"client_uri": 5}, metadata},
		{"logo elsewhere", m{"logo_uri": "https://other.org/logo.png"}, metadata},
		{"logo http", m{"logo_uri": "http://example.com/logo.png"}, metadata},
		{"terms below the host", m{"tos_uri": "https://www.example.com/terms"}, ""},
		{"terms on a host that ends alike", m{"tos_uri": "https://notexample.com/terms"}, metadata},
		{"policy elsewhere in German", m{"policy_uri#de": "https://other.org/"}, metadata},
		{"name in French", m{"client_name#fr": "Mon application"}, ""},
		{"name too long", m{"client_name": strings.Repeat("x", 201)}, metadata},
		{"secret", m{"token_endpoint_auth_method": "client_secret_basic"}, metadata},
		{"no method", m{"token_endpoint_auth_method": nil}, ""},
		{"kind of application", m{"application_type": "toaster"}, metadata},
		{"unknown grant beside", m{"grant_types": []string{"authorization_code", "password"}}, ""},
		{"only unknown grants", m{"grant_types": []string{"password"}}, metadata},
		{"only refresh", m{"grant_types": []string{"refresh_token"}}, metadata},
		{"grants of the wrong type", m{"grant_types": "authorization_code"}, metadata},
		{"no code among response types", m{"response_types": []string{"token"}}, metadata},
		{"no redirect", m{"redirect_uris": []string{}}, redirects},
		{"no redirect for a device", m{"redirect_uris": nil, "grant_types": []string{"urn:ietf:params:oauth:grant-type:device_code"}}, ""},
		{"unknown member", m{"software_id": "x", "contacts": []string{"a@b.c"}}, ""},

		{"web", web("https://example.com/callback"), ""},
		{"web below", web("https://app.example.com/callback"), ""},
		{"web with port and query", web("https://example.com:5173/?query=value"), ""},
		{"web with fragment", web("https://example.com/callback#fragment"), redirects},
		{"web with empty fragment", web("https://example.com/callback#"), redirects},
		{"web by http", web("http://example.com/callback"), redirects},
		{"web on localhost", web("http://localhost/"), redirects},
		{"web elsewhere", web("https://app.com/callback"), redirects},
		{"web with user", web("https://me:secret@example.com/callback"), redirects},
		{"web with a scheme of its own", web("com.example.app:/callback"), redirects},
		{"web relative", web("/callback"), redirects},

		{"native scheme", native("com.example.app:/callback"), ""},
		{"native scheme, whole", native("com.example:/"), ""},
		{"native scheme, no slash", native("com.example:callback"), ""},
		{"native localhost", native("http://localhost/callback"), ""},
		{"native 127.0.0.1", native("http://127.0.0.1/callback"), ""},
		{"native ::1", native("http://[::1]/callback"), ""},
		{"native https", native("https://app.example.com/callback"), ""},
		{"native foreign scheme", native("example:/callback"), redirects},
		{"native scheme that begins alike", native("com.examples:/callback"), redirects},
		{"native scheme with host", native("com.example.app://callback"), redirects},
		{"native https localhost", native("https://localhost/callback"), redirects},
		{"native port", native("http://localhost:1234/callback"), redirects},
		{"native http elsewhere", native("http://example.com/callback"), redirects},
		{"native script", m{"application_type": "native", "client_uri": "https://javascript/", "redirect_uris": []string{"javascript:alert(1)"}}, redirects},
	}
	each(t, func(t *testing.T, g *rig) {
		b := g.tab("a.test")
		for _, c := range cases {
			body := m{"client_uri": "https://example.com/", "redirect_uris": []string{redirect}, "token_endpoint_auth_method": "none",
				"grant_types": []string{"authorization_code", "refresh_token"}, "response_types": []string{"code"}}
			for k, v := range c.change {
				body[k] = v
			}
			raw, err := json.Marshal(body)
			if err != nil {
				t.Fatal(err)
			}
			p := b.do("POST", register, "application/json", string(raw))
			if c.want == "" && p.status != 201 || c.want != "" && (p.status != 400 || p.field("error") != c.want) {
				t.Errorf("%s: %d %s, want %q", c.name, p.status, p.body, c.want)
			}
		}
		for _, body := range []string{"", "null", "[]", "{", `{"client_uri":"https://example.com","client_uri":"https://example.com"}`} {
			b.do("POST", register, "application/json", body).fails(400, metadata)
		}
	})
}

func TestRegistrationAnswer(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		b := g.tab("a.test")
		const body = `{"client_uri":"https://example.com/","client_name":"App","client_name#de":"Anwendung","logo_uri":"https://example.com/l.png",
			"redirect_uris":["https://app.example.com/callback"],"grant_types":["authorization_code","refresh_token","urn:ietf:params:oauth:grant-type:token-exchange"],
			"response_types":["code","id_token"]}`
		p := b.do("POST", register, "application/json", body).is(201)
		for field, want := range map[string]string{"client_name": "App", "client_name#de": "Anwendung", "application_type": "web", "token_endpoint_auth_method": "none",
			"grant_types": `["authorization_code","refresh_token"]`, "response_types": `["code"]`, "redirect_uris": `["https://app.example.com/callback"]`,
			"logo_uri": "https://example.com/l.png", "client_uri": "https://example.com/"} {
			if p.field(field) != want {
				t.Errorf("%s = %s, want %s", field, p.field(field), want)
			}
		}
		if p.header.Get("Cache-Control") != "no-store" || p.field("client_id") == "" || p.field("client_secret") != "" {
			t.Errorf("answer: %s", p.body)
		}
		if again := b.do("POST", register, "application/json", body).is(201); again.field("client_id") != p.field("client_id") {
			t.Error("the same client is there twice")
		}
		if other := b.client(nil); other == p.field("client_id") {
			t.Error("two clients are one")
		}
	})
}

// TestClientsExpire: a client that nobody uses goes, one with a session stays.
func TestClientsExpire(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		g.User(g.A, "alice")
		b := g.tab("a.test")
		used, unused := b.client(nil), b.client(m{"client_name": "Other App"})
		answer := b.send(token, exchange(used, b.code(used, "alice"))).is(200)
		g.pass(8 * 24 * time.Hour)
		b.client(m{"client_name": "A third one"})
		refresh := answer.field("refresh_token")
		b.send(token, map[string][]string{"grant_type": {"refresh_token"}, "client_id": {used}, "refresh_token": {refresh}}).is(200)
		b.send(token, map[string][]string{"grant_type": {"refresh_token"}, "client_id": {unused}, "refresh_token": {refresh}}).fails(400, "invalid_client")
		if inUse, err := g.Accounts.ClientInUse(context.Background(), g.A.ID, used); err != nil || !inUse {
			t.Errorf("the client is not in use: %v", err)
		}
	})
}

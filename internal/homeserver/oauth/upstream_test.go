// SPDX-License-Identifier: Apache-2.0

package oauth_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	stdjson "encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/oauth"
)

// idp is a small identity provider: whoever comes is who the test says.
type idp struct {
	t      testing.TB
	url    string
	key    *ecdsa.PrivateKey
	signer *ecdsa.PrivateKey // other than key: a forger
	claims m                 // over the right ones
	codes  map[string]url.Values
	g      *rig // its clock is the provider's
	asked  atomic.Int64
}

func newIDP(t testing.TB) *idp {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &idp{t: t, key: key, signer: key, codes: map[string]url.Values{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /elsewhere/.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) {
		p.asked.Add(1)
		http.NotFound(w, r)
	})
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		p.write(w, m{"issuer": p.url, "authorization_endpoint": p.url + "/auth", "token_endpoint": p.url + "/token", "jwks_uri": p.url + "/keys"})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		p.write(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: p.key.Public(), KeyID: "one", Algorithm: "ES256", Use: "sig"}}})
	})
	mux.HandleFunc("POST /token", p.token)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

func (p *idp) write(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := stdjson.NewEncoder(w).Encode(v); err != nil {
		p.t.Error(err)
	}
}

// token gives an id token for a code, if client and verifier are right.
func (p *idp) token(w http.ResponseWriter, r *http.Request) {
	name, secret, _ := r.BasicAuth()
	asked, known := p.codes[r.FormValue("code")]
	sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
	if !known || name != "konsil" || secret != "a+secret" && secret != url.QueryEscape("a+secret") || r.FormValue("redirect_uri") != asked.Get("redirect_uri") ||
		base64.RawURLEncoding.EncodeToString(sum[:]) != asked.Get("code_challenge") {
		http.Error(w, `{"error":"invalid_grant"}`, http.StatusBadRequest)
		return
	}
	delete(p.codes, r.FormValue("code"))
	now := p.g.clock().Unix()
	claims := m{"iss": p.url, "aud": "konsil", "sub": "subject-1", "exp": now + 60, "iat": now, "nonce": asked.Get("nonce"),
		"preferred_username": "Anna.Weber@klinik.example", "name": "Dr. Anna Weber", "acr": "high", "amr": []string{"pwd", "otp"}}
	for k, v := range p.claims {
		claims[k] = v
	}
	payload, err := stdjson.Marshal(claims)
	if err != nil {
		p.t.Error(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: p.signer}, (&jose.SignerOptions{}).WithHeader("kid", "one"))
	if err != nil {
		p.t.Error(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		p.t.Error(err)
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		p.t.Error(err)
	}
	p.write(w, m{"access_token": "x", "token_type": "Bearer", "id_token": compact})
}

// at is the provider's page: the address to which it sends the browser back with a code.
func (p *idp) at(to *url.URL, code string) string {
	p.t.Helper()
	q := to.Query()
	if !strings.HasPrefix(to.String(), p.url+"/auth?") || q.Get("client_id") != "konsil" || q.Get("code_challenge_method") != "S256" || q.Get("nonce") == "" ||
		!strings.Contains(q.Get("scope"), "openid") {
		p.t.Fatalf("the browser is sent to %s", to)
	}
	p.codes[code] = q
	back, err := url.Parse(q.Get("redirect_uri"))
	if err != nil {
		p.t.Fatal(err)
	}
	return back.Path + "?" + url.Values{"code": {code}, "state": {q.Get("state")}}.Encode()
}

// withIDP runs f with a tenant a.test that has an identity provider.
func withIDP(t *testing.T, change func(*oauth.Provider), f func(t *testing.T, g *rig, p *idp)) {
	t.Helper()
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		p := newIDP(t)
		config := &oauth.Provider{Issuer: p.url, Name: "Klinik-Anmeldung", ClientID: "konsil", ClientSecret: "a+secret", Scopes: []string{"profile"},
			Localpart: "preferred_username", DisplayName: "name", ACR: []string{"high"}, AMR: []string{"otp", "hwk"}}
		if change != nil {
			change(config)
		}
		p.g = newRig(t, db, func(o *oauth.Options) {
			o.Config.Provider = func(t *tenant.Tenant) *oauth.Provider {
				if t.Name == "a.test" {
					return config
				}
				return nil
			}
		})
		f(t, p.g, p)
	})
}

func TestIdentityProvider(t *testing.T) {
	withIDP(t, nil, func(t *testing.T, g *rig, p *idp) {
		b := g.tab("a.test")
		client := b.client(nil)
		path := request(client)
		page := b.get(path).is(200).has("Weiter mit Klinik-Anmeldung")
		if csp := page.header.Get("Content-Security-Policy"); !strings.Contains(csp, p.url) {
			t.Errorf("the form may not lead to the provider: %s", csp)
		}
		if to := b.get(p.at(b.submit(path, "provider").location(), "one")).location(); to.String() != path {
			t.Fatalf("after the provider: %s", to)
		}
		b.get(path).is(200).has("@anna.weber:a.test", "Erlauben")
		done := b.send(token, exchange(client, b.submit(path, "approve").answer().Get("code"))).is(200)
		web := g.with(g.A, done.field("access_token"))
		web.Do("GET", v3+"/account/whoami", nil).OK(nil)
		if name := web.Do("GET", v3+"/profile/@anna.weber:a.test/displayname", nil).OK(nil).Text("displayname"); name != "Dr. Anna Weber" {
			t.Errorf("name: %s", name)
		}
		// The same subject is the same person, whatever it is called now; another one who is called alike is somebody else.
		p.claims = m{"preferred_username": "weber"}
		other := g.tab("a.test")
		other.get(manage)
		other.get(p.at(other.submit(manage, "provider").location(), "two")).is(303)
		other.get(manage).is(200).has("@anna.weber:a.test")
		p.claims = m{"sub": "subject-2"}
		third := g.tab("a.test")
		third.get(manage)
		third.get(p.at(third.submit(manage, "provider").location(), "three")).is(303)
		third.get(manage).is(200).has("@anna.weber-2:a.test")
		// What cannot be undone is confirmed there again.
		g.pass(6 * 60 * 1e9)
		p.claims = nil
		end := act("org.matrix.account_deactivate")
		other.get(end).is(200).has("Stattdessen bestätigen mit Klinik-Anmeldung")
		to := other.submit(end, "provider-again").location()
		if to.Query().Get("prompt") != "login" {
			t.Errorf("not asked for a new proof: %s", to)
		}
		other.get(p.at(to, "four")).is(303)
		other.submit(end, "deactivate", "confirm", "@anna.weber:a.test").is(403) // the form is from before
		other.get(end)
		other.submit(end, "deactivate", "confirm", "@anna.weber:a.test").is(200)
		other.get(manage)
		other.get(p.at(other.submit(manage, "provider").location(), "five")).is(403).has("aufgelöst")
	})
}

// TestIdentityProviderOfSSO: login names both ways, and the provider's is gone at once.
func TestIdentityProviderOfSSO(t *testing.T) {
	withIDP(t, nil, func(t *testing.T, g *rig, p *idp) {
		b := g.tab("a.test")
		flows := b.get(v3 + "/login").is(200).body
		if !strings.Contains(flows, `"identity_providers":[{"id":"konsil","name":"a.test"},{"id":"oidc","name":"Klinik-Anmeldung"}]`) {
			t.Errorf("flows: %s", flows)
		}
		if flows := g.tab("b.test").get(v3 + "/login").body; strings.Contains(flows, "identity_providers") {
			t.Errorf("flows of the neighbour: %s", flows)
		}
		g.tab("b.test").get(ssoRedirect + "/oidc?redirectUrl=https%3A%2F%2Fx.test").is(404)
		u, err := url.Parse(b.get(ssoRedirect + "/oidc?redirectUrl=https%3A%2F%2Fx.test").is(302).header.Get("Location"))
		if err != nil {
			t.Fatal(err)
		}
		back := b.get(p.at(b.get(u.RequestURI()).location(), "one")).location()
		b.get(back.RequestURI()).is(200).has("x.test")
		if to := b.submit(back.RequestURI(), "approve").location(); !strings.HasPrefix(to.String(), "https://x.test?loginToken=") {
			t.Errorf("goes to %s", to)
		}
	})
}

// TestIDTokensAreChecked goes through OpenID Connect Core, section 3.1.3.7.
func TestIDTokensAreChecked(t *testing.T) {
	withIDP(t, nil, func(t *testing.T, g *rig, p *idp) {
		now := g.clock().Unix()
		for name, claims := range map[string]m{
			"other issuer": {"iss": "https://evil.test"}, "other audience": {"aud": "other"}, "no audience": {"aud": nil},
			"more audiences without azp": {"aud": []string{"konsil", "other"}}, "other azp": {"aud": []string{"konsil"}, "azp": "other"},
			"no subject": {"sub": ""}, "expired": {"exp": now - 3600}, "from the future": {"iat": now + 3600}, "old": {"iat": now - 7200},
			"other nonce": {"nonce": "x"}, "no nonce": {"nonce": nil}, "weak acr": {"acr": "low"}, "weak amr": {"amr": []string{"pwd"}}, "no amr": {"amr": nil},
		} {
			p.claims = claims
			b := g.tab("a.test")
			b.get(manage)
			if got := b.get(p.at(b.submit(manage, "provider").location(), name)); got.status != 403 || b.get(manage).has("Anmelden").status != 200 {
				t.Errorf("%s: %d", name, got.status)
			}
		}
		p.claims = nil
		forger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		p.signer = forger
		b := g.tab("a.test")
		b.get(manage)
		b.get(p.at(b.submit(manage, "provider").location(), "forged")).is(403)
		// The provider has changed its key: it is asked for once more.
		p.key = forger
		g.pass(2 * 60 * 1e9)
		b.get(manage)
		b.get(p.at(b.submit(manage, "provider").location(), "rotated")).is(303)
	})
}

// TestCallbacks: a state counts once, in the browser that it was made for, at its tenant.
func TestCallbacks(t *testing.T) {
	withIDP(t, nil, func(t *testing.T, g *rig, p *idp) {
		b := g.tab("a.test")
		b.get(manage)
		to := b.submit(manage, "provider").location()
		back := p.at(to, "one")
		g.tab("a.test").get(back).is(403)
		g.tab("b.test").get(back).is(404)
		stranger := g.tab("a.test")
		stranger.get(manage)
		stranger.get(back).is(403)
		b.get(back + "&iss=https%3A%2F%2Fevil.test").is(403)
		b.get(back).is(403) // used up by the one before
		b.get(manage)
		back = p.at(b.submit(manage, "provider").location(), "two")
		b.get(back).is(303)
		b.get(back).is(403)
		b.get("/_matrix/oauth2/callback?state=x&code=y").is(403)
		c := g.tab("a.test")
		c.get(manage)
		state := c.submit(manage, "provider").location().Query().Get("state")
		c.get("/_matrix/oauth2/callback?error=access_denied&state=" + url.QueryEscape(state)).is(403).has("nicht angemeldet")
		d := g.tab("a.test")
		d.get(manage)
		late := p.at(d.submit(manage, "provider").location(), "late")
		g.pass(16 * 60 * 1e9)
		d.get(late).is(403)
	})
}

func TestProviderAway(t *testing.T) {
	withIDP(t, func(p *oauth.Provider) { p.Issuer += "/elsewhere" }, func(t *testing.T, g *rig, p *idp) {
		b := g.tab("a.test")
		b.get(manage).is(200)
		b.submit(manage, "provider").is(502).has("antwortet nicht")
		b.get(manage).is(200)
		if n := p.asked.Load(); n != 1 { // whoever comes meanwhile does not wait for it again
			t.Errorf("asked %d times", n)
		}
		g.pass(31 * 1e9)
		b.get(manage).is(200)
		if n := p.asked.Load(); n != 2 {
			t.Errorf("asked %d times", n)
		}
	})
}

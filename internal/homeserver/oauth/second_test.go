// SPDX-License-Identifier: Apache-2.0

package oauth_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/keyring"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/account/accounttest"
	"github.com/konsil-health/konsil/internal/homeserver/oauth"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// strict is a rig on which no password alone lets anybody in (A_22936).
func strict(t *testing.T, db *database.DB) *rig {
	t.Helper()
	ring, err := keyring.New(db, make([]byte, keyring.MasterSize))
	if err != nil {
		t.Fatal(err)
	}
	g := &rig{t: t, now: time.Now()}
	g.Rig = accounttest.New(t, db, func(_ *accounttest.Rig, o *account.Options) {
		o.Now, o.Keyring, o.Config.SecondFactor = g.clock, ring, true
		o.Issuer = func(r *httpapi.Request) (issuer, page string) { return g.oauth.Issuer(r) }
		o.AccountPage = func(r *httpapi.Request, q url.Values) string { return g.oauth.AccountPage(r, q) }
		o.SignedOut = func(ctx context.Context, t *tenant.Tenant, user id.User) error {
			return g.oauth.EndBrowsers(ctx, t, user)
		}
	}, func(a *accounttest.Rig) []httpapi.Route {
		g.oauth = oauth.New(oauth.Options{DB: db, Tenants: a.Tenants, Accounts: a.Accounts, Policy: policy.Open{}, Now: g.clock, Keyring: ring,
			Limiter: limit.New(limit.Options{Now: g.clock})})
		return g.oauth.Routes()
	})
	return g
}

var secretOf = regexp.MustCompile(`<code>([A-Z2-7 ]+)</code>`)

// app is an authenticator app, made from the RFCs without our code.
type app struct {
	g   *rig
	key []byte
}

// enrolled reads the key that a page shows.
func (g *rig) enrolled(p *page) app {
	g.t.Helper()
	m := secretOf.FindStringSubmatch(p.body)
	if m == nil {
		g.t.Fatalf("no key in %s", p.body)
	}
	key, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.ReplaceAll(m[1], " ", ""))
	if err != nil || len(key) != 20 {
		g.t.Fatalf("%d %v", len(key), err)
	}
	return app{g, key}
}

// code is what the app shows at the rig's time and some steps from it.
func (a app) code(steps int) string {
	mac := hmac.New(sha1.New, a.key)
	_ = binary.Write(mac, binary.BigEndian, a.g.clock().Unix()/30+int64(steps))
	sum := mac.Sum(nil)
	at := sum[19] & 15
	return fmt.Sprintf("%06d", (binary.BigEndian.Uint32(sum[at:])&0x7fffffff)%1_000_000)
}

const ssoPage = "/_matrix/sign-in?redirectUrl=https%3A%2F%2Fapp.example.com%2F"

// password takes the first step on a page.
func (b *tab) password(path, name string) *page {
	b.g.t.Helper()
	b.get(path).is(200)
	return b.submit(path, "sign-in", "username", name, "password", accounttest.Password)
}

func TestNobodyEntersWithAPasswordAlone(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		g := strict(t, db)
		anna := g.user(t, "anna")
		login := func(fields m) (int, m) {
			body := m{"type": "m.login.password", "identifier": m{"type": "m.id.user", "user": "anna"}}
			for k, v := range fields {
				body[k] = v
			}
			return g.call("", "POST", v3+"/login", body)
		}
		_, flows := g.call("", "GET", v3+"/login", nil)
		if text := fmt.Sprint(flows); strings.Contains(text, "m.login.password") || !strings.Contains(text, "m.login.sso") {
			t.Errorf("flows: %s", text)
		}
		for _, password := range []string{accounttest.Password, "wrong"} { // nobody learns whether a password is right
			status, got := login(m{"password": password})
			if way, _ := got["sign_in"].(string); status != 403 || got["errcode"] != "M_FORBIDDEN" || !strings.Contains(way, "/_matrix/account") {
				t.Errorf("%s alone: %d %v", password, status, got)
			}
		}
		// First sign-in: the app is enrolled.
		b := g.tab("a.test")
		p := b.password(ssoPage, "anna").is(200)
		g.enrolled(p)
		b.submit(ssoPage, "second", "username", string(anna), "code", "000000").is(403)
		b.get(ssoPage).is(200).has("name=\"password\"")      // not signed in
		telephone := g.enrolled(b.password(ssoPage, "anna")) // another key each time, until one is proven
		b.submit(ssoPage, "second", "username", string(anna), "code", telephone.code(0)).is(303)
		b.get(ssoPage).is(200)
		to := b.submit(ssoPage, "approve").location()
		if status, got := g.call("", "POST", v3+"/login", m{"type": "m.login.token", "token": to.Query().Get("loginToken")}); status != 200 || got["user_id"] != string(anna) {
			t.Errorf("a client without OAuth: %d %v", status, got)
		}
		// Later sign-ins, in other browsers.
		for name, c := range map[string]struct {
			code string
			want int
		}{
			"no code": {"", 403}, "a wrong code": {"123456", 403}, "the same code again": {telephone.code(0), 403}, "an old code": {telephone.code(-1), 403},
			"a code of next week": {telephone.code(20160), 403},
		} {
			other := g.tab("a.test")
			if p := other.password(ssoPage, "anna").is(200); strings.Contains(p.body, "<code>") {
				t.Error("a second key is offered to who has one")
			}
			if p := other.submit(ssoPage, "second", "username", string(anna), "code", c.code); p.status != c.want {
				t.Errorf("%s: %d", name, p.status)
			}
			other.get(ssoPage).is(200).has("name=\"password\"")
		}
		g.pass(time.Minute)
		other := g.tab("a.test")
		other.password(ssoPage, "anna")
		code := telephone.code(0)
		other.submit(ssoPage, "second", "username", string(anna), "code", code).is(303)
		// The step belongs to one browser, and to who showed the password.
		thief := g.tab("a.test")
		thief.get(ssoPage)
		thief.submit(ssoPage, "second", "username", string(anna), "code", telephone.code(1)).is(403)
		// OAuth asks for the same.
		g.pass(time.Minute)
		client := g.tab("a.test").client(nil)
		third := g.tab("a.test")
		third.password(request(client), "anna").is(200)
		third.submit(request(client), "second", "username", string(anna), "code", telephone.code(0)).is(303)
		third.get(request(client)).is(200)
		if third.submit(request(client), "approve").answer().Get("code") == "" {
			t.Error("OAuth: no code")
		}
		// The telephone is lost: an administrator takes the factor away, and all sessions with it.
		if err := g.Accounts.RemoveSecondFactor(t.Context(), g.A, anna); err != nil {
			t.Fatal(err)
		}
		g.pass(time.Minute)
		fresh := g.tab("a.test")
		if again := g.enrolled(fresh.password(ssoPage, "anna")); string(again.key) == string(telephone.key) {
			t.Error("the lost key is offered again")
		}
	})
}

func TestBotsHaveCredentials(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		g := strict(t, db)
		bot, anna := g.user(t, "bot"), g.user(t, "anna")
		login := func(name, secret string) (int, m) {
			return g.call("", "POST", v3+"/login", m{"type": "m.login.password", "identifier": m{"type": "m.id.user", "user": name}, "password": secret})
		}
		credential, secret, err := g.Accounts.IssueBotCredential(t.Context(), g.A, bot, anna, "reminders")
		if err != nil {
			t.Fatal(err)
		}
		status, session := login("bot", secret)
		if status != 200 || session["user_id"] != string(bot) {
			t.Fatalf("%d %v", status, session)
		}
		for name, c := range map[string]struct{ name, secret string }{"another account": {"anna", secret}, "nobody": {"ghost", secret}, "another secret": {"bot", secret + "x"}} {
			if status, got := login(c.name, c.secret); status != 403 {
				t.Errorf("%s: %d %v", name, status, got)
			}
		}
		list, err := g.Accounts.BotCredentials(t.Context(), g.A.ID, bot)
		if err != nil || len(list) != 1 || list[0].Name != "reminders" || list[0].Issuer != anna || list[0].Revoked != 0 {
			t.Errorf("%+v %v", list, err)
		}
		if err := g.Accounts.RevokeBotCredential(t.Context(), g.A, bot, credential); err != nil {
			t.Fatal(err)
		}
		if status, _ := login("bot", secret); status != 403 {
			t.Errorf("revoked: %d", status)
		}
		token, _ := session["access_token"].(string)
		if status, _ := g.call(token, "GET", v3+"/account/whoami", nil); status != 401 {
			t.Errorf("its session goes on: %d", status)
		}
		if err := g.Accounts.RevokeBotCredential(t.Context(), g.A, bot, credential); err == nil {
			t.Error("revoked twice")
		}
		if _, _, err := g.Accounts.IssueBotCredential(t.Context(), g.A, bot, anna, " "); err == nil {
			t.Error("a credential without a name")
		}
	})
}

// user makes an account without a session.
func (g *rig) user(t *testing.T, name string) id.User {
	t.Helper()
	user, err := g.Accounts.Create(t.Context(), g.A, account.NewUser{LoginName: name, Password: accounttest.Password})
	if err != nil {
		t.Fatal(err)
	}
	return user
}

// call makes a request of the client API and returns status and body.
func (g *rig) call(token, method, path string, body any) (int, m) {
	g.t.Helper()
	answer := g.with(g.A, token).Do(method, path, body)
	got := m{}
	_ = json.Unmarshal(answer.Body, &got) // an empty answer has no members
	return answer.Status, got
}

// SPDX-License-Identifier: Apache-2.0

package account_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/mail"
	"github.com/konsil-health/konsil/internal/foundation/mail/mailtest"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/account/accounttest"
)

// withMail runs f with a node that sends its mail to a sink.
func withMail(t *testing.T, change func(*account.Options), f func(t *testing.T, g *accounttest.Rig, sink *mailtest.Sink)) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		sink := mailtest.New(t)
		sender, err := mail.New(mail.Config{Server: sink.Address, From: "Konsil <no-reply@a.test>", Encryption: mail.None})
		if err != nil {
			t.Fatal(err)
		}
		f(t, accounttest.New(t, db, func(_ *accounttest.Rig, o *account.Options) {
			o.SendMail, o.Config.BaseURL = sender.Send, nil
			if change != nil {
				change(o)
			}
		}, nil), sink)
	})
}

var linkInMail = regexp.MustCompile(`http://\S+`)

// link is the path and query of the link in the next mail.
func link(t *testing.T, sink *mailtest.Sink, to string) string {
	t.Helper()
	m := sink.Next(t)
	if m.To != to {
		t.Fatalf("mail to %s instead of %s", m.To, to)
	}
	u, err := url.Parse(linkInMail.FindString(m.Text))
	if err != nil || u.Path == "" {
		t.Fatalf("no link in %q", m.Text)
	}
	return u.RequestURI()
}

func TestRegistrationToken(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		g := accounttest.New(t, db, func(_ *accounttest.Rig, o *account.Options) {
			o.Config.Registration, o.Config.RegistrationTokens = account.RegistrationToken, []string{"fBVFdqVE", "other"}
		}, nil)
		nobody := g.Nobody(g.A)
		const validity = "/_matrix/client/v1/register/m.login.registration_token/validity"
		nobody.Do("GET", validity, nil).Fails(400, "M_MISSING_PARAM")
		for token, valid := range map[string]string{"fBVFdqVE": "true", "fBVFdqV": "false", "x": "false"} {
			if a := nobody.Do("GET", validity+"?token="+token, nil).OK(nil); a.Get("valid") != valid {
				t.Errorf("%s: %s", token, a.Body)
			}
		}
		challenge := nobody.Do("POST", v3+"/register", m{"username": "alice", "password": "secret"})
		if challenge.Status != 401 || challenge.Get("flows") != `[{"stages":["m.login.registration_token"]}]` || challenge.Get("params") != "{}" {
			t.Fatalf("challenge: %d %s", challenge.Status, challenge.Body)
		}
		session := challenge.Text("session")
		auth := func(token string) m {
			return m{"username": "alice", "password": "secret", "auth": m{"type": "m.login.registration_token", "session": session, "token": token}}
		}
		wrong := nobody.Do("POST", v3+"/register", auth("wrong")).Fails(401, "M_UNAUTHORIZED")
		if wrong.Text("session") != session || wrong.Get("flows") == "" || wrong.Get("completed") != "" {
			t.Errorf("wrong token: %s", wrong.Body)
		}
		nobody.Do("POST", v3+"/register", m{"username": "alice", "password": "secret", "auth": m{"type": "m.login.dummy", "session": session}}).Fails(401, "M_FORBIDDEN")
		nobody.Do("POST", v3+"/register", auth("fBVFdqVE")).OK(nil)
		nobody.Do("POST", v3+"/register", m{"username": "berta", "password": "secret", "auth": m{"session": session}}).Fails(400, "M_UNKNOWN")

		// The fallback page does the same for clients that do not know the stage.
		session = nobody.Do("POST", v3+"/register", m{"username": "berta", "password": "secret"}).Text("session")
		path := v3 + "/auth/m.login.registration_token/fallback/web?session=" + session
		shown := nobody.Do("GET", path, nil)
		if shown.Status != 200 || !strings.HasPrefix(shown.Header.Get("Content-Type"), "text/html") || !strings.Contains(string(shown.Body), session) {
			t.Fatalf("page: %d %s", shown.Status, shown.Body)
		}
		refused := nobody.Send("POST", path, "application/x-www-form-urlencoded", url.Values{"value": {"wrong"}, "session": {session}}.Encode())
		if refused.Status != 401 || !strings.Contains(string(refused.Body), "role=\"alert\"") {
			t.Errorf("wrong token: %d %s", refused.Status, refused.Body)
		}
		open := nobody.Do("POST", v3+"/register", m{"username": "berta", "password": "secret", "auth": m{"session": session}})
		if open.Status != 401 || open.Text("session") != session {
			t.Errorf("not yet: %d %s", open.Status, open.Body)
		}
		done := nobody.Send("POST", path, "application/x-www-form-urlencoded", url.Values{"value": {"other"}, "session": {session}}.Encode())
		if done.Status != 200 || !strings.Contains(string(done.Body), "onAuthDone") {
			t.Fatalf("done: %d %s", done.Status, done.Body)
		}
		nobody.Do("POST", v3+"/register", m{"username": "berta", "password": "secret", "auth": m{"session": session}}).OK(nil)
		nobody.Do("GET", v3+"/auth/m.login.registration_token/fallback/web?session=unknown", nil).Fails(400, "M_UNKNOWN")
		nobody.Do("GET", v3+"/auth/m.login.registration_token/fallback/web", nil).Fails(400, "M_MISSING_PARAM")
		nobody.Do("GET", v3+"/auth/m.login.unheard/fallback/web?session="+session, nil).Fails(404, "M_NOT_FOUND")
	})
}

func TestPasswordFallback(t *testing.T) {
	each(t, func(t *testing.T, g *accounttest.Rig) {
		anna := g.User(g.A, "anna")
		phone := anna.On("PHONE")
		session := anna.Do("DELETE", v3+"/devices/PHONE", m{}).Text("session")
		path := v3 + "/auth/m.login.password/fallback/web?session=" + url.QueryEscape(session)
		g.Nobody(g.A).Send("POST", path, "application/x-www-form-urlencoded", "value="+url.QueryEscape(accounttest.Password))
		other := anna.Do("DELETE", v3+"/devices/DEV1", m{"auth": m{"session": session}})
		other.Fails(403, "M_FORBIDDEN")
		anna.Do("DELETE", v3+"/devices/PHONE", m{"auth": m{"session": session}}).OK(nil)
		phone.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
	})
}

func TestRegisterWithEmail(t *testing.T) {
	withMail(t, nil, func(t *testing.T, g *accounttest.Rig, sink *mailtest.Sink) {
		nobody := g.Nobody(g.A)
		challenge := nobody.Do("POST", v3+"/register", m{"username": "alice", "password": "secret"})
		if challenge.Get("flows") != `[{"stages":["m.login.dummy"]},{"stages":["m.login.email.identity"]}]` {
			t.Fatalf("flows: %s", challenge.Body)
		}
		const request = v3 + "/register/email/requestToken"
		for _, bad := range []m{{"email": "a@b.test", "send_attempt": 1}, {"client_secret": "x", "send_attempt": 1}, {"client_secret": "x", "email": "a@b.test"}} {
			nobody.Do("POST", request, bad).Fails(400, "M_MISSING_PARAM")
		}
		nobody.Do("POST", request, m{"client_secret": "no spaces", "email": "a@b.test", "send_attempt": 1}).Fails(400, "M_INVALID_PARAM")
		nobody.Do("POST", request, m{"client_secret": "x", "email": "nobody", "send_attempt": 1}).Fails(400, "M_INVALID_PARAM")
		ask := m{"client_secret": "monkeys", "email": "Alice@Mail.test", "send_attempt": 1, "next_link": "https://client.test/next"}
		sid := nobody.Do("POST", request, ask).OK(nil).Text("sid")
		path := link(t, sink, "alice@mail.test")
		if again := nobody.Do("POST", request, ask).OK(nil); again.Text("sid") != sid {
			t.Errorf("the same attempt made another session: %s", again.Body)
		}
		sink.None(t)
		auth := m{"type": "m.login.email.identity", "session": challenge.Text("session"), "threepid_creds": m{"sid": sid, "client_secret": "monkeys"}}
		nobody.Do("POST", v3+"/register", m{"username": "alice", "password": "secret", "auth": auth}).Fails(401, "M_THREEPID_AUTH_FAILED")
		if bad := nobody.Do("GET", strings.Replace(path, "token=", "token=x", 1), nil); bad.Status != 400 {
			t.Errorf("changed link: %d", bad.Status)
		}
		followed, w := httptest.NewRequestWithContext(t.Context(), "GET", path, nil), httptest.NewRecorder()
		followed.Host = "a.test"
		g.Router.ServeHTTP(w, followed)
		if w.Code != 302 || w.Header().Get("Location") != "https://client.test/next" {
			t.Errorf("link: %d %v", w.Code, w.Header())
		}
		done := nobody.Do("POST", v3+"/register", m{"username": "alice", "password": "secret", "auth": auth}).OK(nil)
		alice := &accounttest.User{Rig: g, Tenant: g.A, Token: done.Text("access_token")}
		if list := alice.Do("GET", v3+"/account/3pid", nil).OK(nil); !strings.Contains(list.Get("threepids"), `"address":"alice@mail.test"`) {
			t.Errorf("addresses: %s", list.Body)
		}
		nobody.Do("POST", request, ask).Fails(400, "M_THREEPID_IN_USE")
		// Signing in by the address works with an identifier and as it did before there were any; it tells nobody who has an account.
		for _, who := range []m{{"identifier": m{"type": "m.id.thirdparty", "medium": "email", "address": "alice@MAIL.test"}}, {"medium": "email", "address": "alice@mail.test"}} {
			who["type"], who["password"] = "m.login.password", "secret"
			if l := nobody.Do("POST", v3+"/login", who).OK(nil); l.Text("user_id") != "@alice:a.test" {
				t.Errorf("login: %s", l.Body)
			}
		}
		nobody.Do("POST", v3+"/login", m{"type": "m.login.password", "password": "secret", "identifier": m{"type": "m.id.thirdparty", "medium": "email", "address": "other@mail.test"}}).Fails(403, "M_FORBIDDEN")
		nobody.Do("POST", v3+"/login", m{"type": "m.login.password", "password": "secret", "identifier": m{"type": "m.id.phone", "country": "DE", "phone": "1"}}).Fails(400, "M_UNKNOWN")
		// The neighbour knows nothing of it.
		g.Nobody(g.B).Do("POST", v3+"/login", m{"type": "m.login.password", "password": "secret", "identifier": m{"type": "m.id.thirdparty", "medium": "email", "address": "alice@mail.test"}}).Fails(403, "M_FORBIDDEN")
	})
}

func TestAddressesAndPasswordReset(t *testing.T) {
	withMail(t, nil, func(t *testing.T, g *accounttest.Rig, sink *mailtest.Sink) {
		anna, berta := g.User(g.A, "anna"), g.User(g.A, "berta")
		nobody := g.Nobody(g.A)
		add := func(u *accounttest.User, secret, sid string) *accounttest.Answer {
			return u.Do("POST", v3+"/account/3pid/add", m{"sid": sid, "client_secret": secret, "auth": passwordAuth(u, "", accounttest.Password)})
		}
		ask := func(kind, secret string) string {
			return nobody.Do("POST", v3+"/account/"+kind+"email/requestToken", m{"client_secret": secret, "email": "anna@mail.test", "send_attempt": 1}).OK(nil).Text("sid")
		}
		sid := ask("3pid/", "s1")
		path := link(t, sink, "anna@mail.test")
		add(anna, "s1", sid).Fails(400, "M_THREEPID_AUTH_FAILED")
		anna.Do("POST", v3+"/account/3pid/add", m{"sid": sid}).Fails(400, "M_MISSING_PARAM")
		if c := anna.Do("POST", v3+"/account/3pid/add", m{"sid": sid, "client_secret": "s1"}); c.Status != 401 || c.Text("session") == "" {
			t.Errorf("challenge: %d %s", c.Status, c.Body)
		}
		if p := nobody.Do("GET", path, nil); p.Status != 200 {
			t.Fatalf("link: %d %s", p.Status, p.Body)
		}
		add(anna, "s2", sid).Fails(400, "M_THREEPID_AUTH_FAILED")
		add(anna, "s1", sid).OK(nil)
		add(berta, "s1", sid).Fails(400, "M_THREEPID_AUTH_FAILED")
		nobody.Do("POST", v3+"/account/3pid/email/requestToken", m{"client_secret": "s", "email": "anna@mail.test", "send_attempt": 1}).Fails(400, "M_THREEPID_IN_USE")
		nobody.Do("POST", v3+"/account/password/email/requestToken", m{"client_secret": "s", "email": "berta@mail.test", "send_attempt": 1}).Fails(400, "M_THREEPID_NOT_FOUND")

		// The password is reset by the address; the link only asks at first, and all sessions end.
		sid = ask("password/", "r1")
		path = link(t, sink, "anna@mail.test")
		reset := m{"new_password": "new and long", "auth": m{"type": "m.login.email.identity", "threepid_creds": m{"sid": sid, "client_secret": "r1"}}}
		nobody.Do("GET", path, nil)
		nobody.Do("POST", v3+"/account/password", reset).Fails(401, "M_THREEPID_AUTH_FAILED")
		if p := nobody.Send("POST", path, "application/x-www-form-urlencoded", "session="); p.Status != 200 {
			t.Fatalf("link: %d %s", p.Status, p.Body)
		}
		berta.Do("POST", v3+"/account/password", reset).Fails(401, "M_THREEPID_AUTH_FAILED")
		nobody.Do("POST", v3+"/account/password", reset).OK(nil)
		nobody.Do("POST", v3+"/account/password", reset).Fails(401, "M_THREEPID_AUTH_FAILED")
		anna.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
		token := nobody.Do("POST", v3+"/login", m{"type": "m.login.password", "password": "new and long", "user": "anna"}).OK(nil).Text("access_token")
		anna = &accounttest.User{Rig: g, Tenant: g.A, ID: anna.ID, Token: token}

		anna.Do("POST", v3+"/account/3pid/unbind", m{"medium": "email", "address": "anna@mail.test"}).OK(nil)
		anna.Do("POST", v3+"/account/3pid/delete", m{"medium": "email"}).Fails(400, "M_MISSING_PARAM")
		berta.Do("POST", v3+"/account/3pid/delete", m{"medium": "email", "address": "anna@mail.test"}).OK(nil)
		if list := anna.Do("GET", v3+"/account/3pid", nil).OK(nil); !strings.Contains(list.Get("threepids"), "anna@mail.test") {
			t.Errorf("somebody else removed the address: %s", list.Body)
		}
		if d := anna.Do("POST", v3+"/account/3pid/delete", m{"medium": "email", "address": "Anna@mail.test"}).OK(nil); d.Text("id_server_unbind_result") != "no-support" {
			t.Errorf("delete: %s", d.Body)
		}
		if list := anna.Do("GET", v3+"/account/3pid", nil).OK(nil); list.Get("threepids") != "[]" {
			t.Errorf("left: %s", list.Body)
		}
		anna.Do("POST", v3+"/account/3pid", m{"three_pid_creds": m{"sid": "x", "client_secret": "y"}}).Fails(403, "M_THREEPID_AUTH_FAILED")
		anna.Do("POST", v3+"/account/3pid/bind", m{"sid": "x", "client_secret": "y", "id_server": "id.test", "id_access_token": "z"}).Fails(400, "M_SERVER_NOT_TRUSTED")
		nobody.Do("POST", v3+"/account/3pid/msisdn/requestToken", m{"client_secret": "y", "country": "DE", "phone_number": "1", "send_attempt": 1}).Fails(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED")
	})
}

// TestWithoutToken: passwords are changed and accounts ended by the proof alone too.
func TestWithoutToken(t *testing.T) {
	each(t, func(t *testing.T, g *accounttest.Rig) {
		anna := g.User(g.A, "anna")
		nobody := g.Nobody(g.A)
		if c := nobody.Do("POST", v3+"/account/password", m{"new_password": "another one"}); c.Status != 401 || c.Get("flows") != `[{"stages":["m.login.password"]}]` {
			t.Fatalf("challenge: %d %s", c.Status, c.Body)
		}
		nobody.Do("POST", v3+"/account/password/email/requestToken", m{"client_secret": "y", "email": "a@b.test", "send_attempt": 1}).Fails(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED")
		nobody.Do("POST", v3+"/account/password", m{"new_password": "another one", "auth": passwordAuth(anna, "", "wrong")}).Fails(401, "M_FORBIDDEN")
		nobody.Do("POST", v3+"/account/password", m{"new_password": "another one", "auth": passwordAuth(anna, "", accounttest.Password), "logout_devices": false}).OK(nil)
		anna.Do("GET", v3+"/account/whoami", nil).OK(nil)
		nobody.Do("POST", v3+"/account/deactivate", m{"auth": passwordAuth(anna, "", "another one")}).OK(nil)
		anna.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
		nobody.Do("POST", v3+"/login", m{"type": "m.login.password", "password": "another one", "user": "anna"}).Fails(403, "M_USER_DEACTIVATED")
	})
}

func TestDeleteAccountData(t *testing.T) {
	each(t, func(t *testing.T, g *accounttest.Rig) {
		anna, berta := g.User(g.A, "anna"), g.User(g.A, "berta")
		path := v3 + "/user/" + string(anna.ID) + "/account_data/com.example"
		anna.Do("DELETE", path, nil).OK(nil)
		anna.Do("PUT", path, m{"a": 1}).OK(nil)
		berta.Do("DELETE", path, nil).Fails(403, "M_FORBIDDEN")
		anna.Do("DELETE", path, nil).OK(nil)
		anna.Do("GET", path, nil).Fails(404, "M_NOT_FOUND")
		anna.Do("PUT", path, m{"b": 2}).OK(nil)
		if d := anna.Do("GET", path, nil).OK(nil); d.Get("b") != "2" {
			t.Errorf("set again: %s", d.Body)
		}
		room := v3 + "/user/" + string(anna.ID) + "/rooms/" + url.PathEscape("!r:a.test")
		anna.Do("PUT", room+"/tags/m.favourite", m{"order": 0.5}).OK(nil)
		anna.Do("DELETE", room+"/account_data/m.tag", nil).OK(nil)
		anna.Do("PUT", room+"/tags/u.work", m{}).OK(nil)
		if tags := anna.Do("GET", room+"/tags", nil).OK(nil); tags.Get("tags") != `{"u.work":{}}` {
			t.Errorf("tags: %s", tags.Body)
		}
		anna.Do("DELETE", v3+"/user/"+string(anna.ID)+"/account_data/m.push_rules", nil).Fails(405, "M_BAD_JSON")
	})
}

func TestTURN(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		now := time.Unix(1_800_000_000, 0)
		g := accounttest.New(t, db, func(_ *accounttest.Rig, o *account.Options) {
			o.Now = func() time.Time { return now }
			o.Config.TURN = account.TURNConfig{URIs: []string{"turn:turn.test?transport=udp"}, Secret: "north", Lifetime: time.Hour}
		}, nil)
		a := g.User(g.A, "anna").Do("GET", v3+"/voip/turnServer", nil).OK(nil)
		mac := hmac.New(sha1.New, []byte("north"))
		mac.Write([]byte("1800003600:@anna:a.test"))
		if a.Text("username") != "1800003600:@anna:a.test" || a.Text("password") != base64.StdEncoding.EncodeToString(mac.Sum(nil)) ||
			a.Get("uris") != `["turn:turn.test?transport=udp"]` || a.Get("ttl") != "3600" {
			t.Errorf("%s", a.Body)
		}
		g.Nobody(g.A).Do("GET", v3+"/voip/turnServer", nil).Fails(401, "M_MISSING_TOKEN")
	})
}

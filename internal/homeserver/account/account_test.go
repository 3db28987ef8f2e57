// SPDX-License-Identifier: Apache-2.0

package account_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/account/accounttest"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

type m = map[string]any

const v3 = "/_matrix/client/v3"

func each(t *testing.T, f func(t *testing.T, g *accounttest.Rig)) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) { f(t, accounttest.New(t, db, nil, nil)) })
}

func passwordAuth(u *accounttest.User, session, password string) m {
	return m{"type": "m.login.password", "session": session, "identifier": m{"type": "m.id.user", "user": string(u.ID)}, "password": password}
}

func TestRegister(t *testing.T) {
	each(t, func(t *testing.T, g *accounttest.Rig) {
		nobody := g.Nobody(g.A)
		nobody.Do("GET", v3+"/register/available?username=alice", nil).OK(nil)
		nobody.Do("POST", v3+"/register", m{"username": "al:ice", "password": "secret"}).Fails(400, "M_INVALID_USERNAME")
		challenge := nobody.Do("POST", v3+"/register", m{"username": "Alice", "password": "secret", "device_id": "PHONE"})
		if challenge.Status != 401 || challenge.Get("flows") != `[{"stages":["m.login.dummy"]}]` {
			t.Fatalf("challenge: %d %s", challenge.Status, challenge.Body)
		}
		session := challenge.Text("session")
		nobody.Do("POST", v3+"/register", m{"username": "alice", "password": "secret", "auth": m{"type": "m.login.dummy", "session": "other"}}).Fails(400, "M_UNKNOWN")
		done := nobody.Do("POST", v3+"/register", m{"username": "alice", "password": "secret", "device_id": "PHONE",
			"auth": m{"type": "m.login.dummy", "session": session}}).OK(nil)
		if done.Text("user_id") != "@alice:a.test" || done.Text("device_id") != "PHONE" || done.Text("access_token") == "" {
			t.Fatalf("registered: %s", done.Body)
		}
		if !regexp.MustCompile(`^kt_[0-9a-z]+_.{40,}$`).MatchString(done.Text("access_token")) {
			t.Errorf("form of the token: %s", done.Text("access_token"))
		}
		nobody.Do("POST", v3+"/register", m{"username": "alice", "password": "x"}).Fails(400, "M_USER_IN_USE")
		nobody.Do("GET", v3+"/register/available?username=alice", nil).Fails(400, "M_USER_IN_USE")
		nobody.Do("GET", v3+"/register/available", nil).Fails(400, "M_MISSING_PARAM")
		alice := &accounttest.User{Rig: g, Tenant: g.A, Token: done.Text("access_token")}
		if who := alice.Do("GET", v3+"/account/whoami", nil).OK(nil); who.Text("user_id") != "@alice:a.test" || who.Get("is_guest") != "false" {
			t.Errorf("whoami: %s", who.Body)
		}
		// The same name is free at the neighbour; inhibit_login gives no session; parameters sent only at first count.
		first := g.Nobody(g.B).Do("POST", v3+"/register", m{"username": "alice", "password": "secret", "inhibit_login": true})
		last := g.Nobody(g.B).Do("POST", v3+"/register", m{"password": "secret", "auth": m{"type": "m.login.dummy", "session": first.Text("session")}}).OK(nil)
		if last.Text("user_id") != "@alice:b.test" || last.Get("access_token") != "" {
			t.Errorf("inhibited: %s", last.Body)
		}
		shared := g.Nobody(g.A)
		shared.Host = "127.0.0.1"
		shared.Do("POST", v3+"/register", m{"username": "dora", "password": "secret"}).Fails(400, "M_MISSING_PARAM")
		dora := shared.Do("POST", v3+"/register", m{"username": "@dora:b.test", "password": "secret", "auth": m{"type": "m.login.dummy"}}).OK(nil)
		if dora.Text("user_id") != "@dora:b.test" {
			t.Errorf("at the shared address: %s", dora.Body)
		}
		random := nobody.Do("POST", v3+"/register", m{"password": "secret", "auth": m{"type": "m.login.dummy"}}).OK(nil)
		if len(random.Text("user_id")) < 20 {
			t.Errorf("random id: %s", random.Body)
		}
		guest := nobody.Do("POST", v3+"/register?kind=guest", m{}).OK(nil)
		visitor := &accounttest.User{Rig: g, Tenant: g.A, Token: guest.Text("access_token")}
		if who := visitor.Do("GET", v3+"/account/whoami", nil).OK(nil); who.Get("is_guest") != "true" {
			t.Errorf("guest: %s", who.Body)
		}
		visitor.Do("POST", v3+"/user_directory/search", m{"search_term": "a"}).Fails(403, "M_GUEST_ACCESS_FORBIDDEN")
		for body, code := range map[string]string{`{"username":`: "M_NOT_JSON", ``: "M_NOT_JSON", `{"username":5}`: "M_BAD_JSON", `[]`: "M_BAD_JSON", `{"auth":7,"password":"x"}`: "M_BAD_JSON"} {
			nobody.Do("POST", v3+"/register", body).Fails(400, code)
		}
	})
}

func TestRegistrationClosed(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		g := accounttest.New(t, db, func(_ *accounttest.Rig, o *account.Options) {
			o.Config.Registration, o.Config.Guests, o.Config.SharedSecret = account.RegistrationClosed, false, ""
		}, nil)
		nobody := g.Nobody(g.A)
		nobody.Do("POST", v3+"/register", m{"username": "alice", "password": "secret"}).Fails(403, "M_FORBIDDEN")
		nobody.Do("POST", v3+"/register?kind=guest", m{}).Fails(403, "M_FORBIDDEN")
		nobody.Do("GET", "/_synapse/admin/v1/register", nil).Fails(400, "M_UNKNOWN")
	})
}

func TestSharedSecret(t *testing.T) {
	each(t, func(t *testing.T, g *accounttest.Rig) {
		nobody := g.Nobody(g.A)
		const path = "/_synapse/admin/v1/register"
		nonce := nobody.Do("GET", path, nil).OK(nil).Text("nonce")
		sign := func(nonce string) string {
			mac := hmac.New(sha1.New, []byte("rig secret"))
			mac.Write([]byte(nonce + "\x00root\x00hunter2\x00admin"))
			return hex.EncodeToString(mac.Sum(nil))
		}
		body := m{"nonce": nonce, "username": "root", "displayname": "The Root", "password": "hunter2", "admin": true, "mac": sign(nonce)}
		done := nobody.Do("POST", path, body).OK(nil)
		if done.Text("user_id") != "@root:a.test" {
			t.Fatalf("%s", done.Body)
		}
		nobody.Do("POST", path, body).Fails(400, "M_UNKNOWN") // the nonce is used up
		body["nonce"] = nobody.Do("GET", path, nil).OK(nil).Text("nonce")
		nobody.Do("POST", path, body).Fails(403, "M_FORBIDDEN") // signed for another nonce
		root := &accounttest.User{Rig: g, Tenant: g.A, Token: done.Text("access_token")}
		bob := g.User(g.A, "bob")
		lock := "/_matrix/client/v1/admin/lock/" + string(bob.ID)
		bob.Do("GET", lock, nil).Fails(403, "M_FORBIDDEN")
		root.Do("PUT", lock, m{"locked": true}).OK(nil)
		bob.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_USER_LOCKED")
		root.Do("PUT", lock, m{"locked": "yes"}).Fails(400, "M_BAD_JSON")
		root.Do("PUT", lock, m{"locked": false}).OK(nil)
		bob.Do("GET", v3+"/account/whoami", nil).OK(nil)
		if whois := root.Do("GET", v3+"/admin/whois/"+string(bob.ID), nil).OK(nil); whois.Get("devices", "DEV1") == "" {
			t.Errorf("whois: %s", whois.Body)
		}
		if name := nobody.Do("GET", v3+"/profile/@root:a.test/displayname", nil).OK(nil).Text("displayname"); name != "The Root" {
			t.Errorf("display name %q", name)
		}
	})
}

func TestLogin(t *testing.T) {
	each(t, func(t *testing.T, g *accounttest.Rig) {
		alice := g.User(g.A, "alice")
		nobody := g.Nobody(g.A)
		flows := nobody.Do("GET", v3+"/login", nil).OK(nil)
		if !strings.Contains(string(flows.Body), `"m.login.password"`) {
			t.Errorf("flows: %s", flows.Body)
		}
		login := func(user any, password string) m {
			return m{"type": "m.login.password", "identifier": m{"type": "m.id.user", "user": user}, "password": password, "device_id": "D2"}
		}
		for _, name := range []string{"alice", "Alice", "@alice:a.test"} {
			l := nobody.Do("POST", v3+"/login", login(name, accounttest.Password)).OK(nil)
			if l.Text("user_id") != "@alice:a.test" || l.Text("device_id") != "D2" || l.Get("refresh_token") != "" {
				t.Errorf("login as %s: %s", name, l.Body)
			}
		}
		nobody.Do("POST", "/_matrix/client/r0/login", m{"type": "m.login.password", "user": "alice", "password": accounttest.Password}).OK(nil)
		for what, c := range map[string]struct {
			body   any
			status int
			code   string
		}{
			"wrong password":      {login("alice", "wrong"), 403, "M_FORBIDDEN"},
			"unknown user":        {login("mallory", accounttest.Password), 403, "M_FORBIDDEN"},
			"another server":      {login("@alice:b.test", accounttest.Password), 403, "M_FORBIDDEN"},
			"wrong type":          {login(7, accounttest.Password), 400, "M_BAD_JSON"},
			"no user":             {login("", accounttest.Password), 400, "M_MISSING_PARAM"},
			"no password":         {m{"type": "m.login.password", "user": "alice"}, 400, "M_MISSING_PARAM"},
			"no type":             {m{"user": "alice"}, 400, "M_MISSING_PARAM"},
			"unknown type":        {m{"type": "m.login.magic"}, 400, "M_UNKNOWN"},
			"third-party id":      {m{"type": "m.login.password", "identifier": m{"type": "m.id.thirdparty"}, "password": "x"}, 400, "M_MISSING_PARAM"},
			"no JSON":             {"{", 400, "M_NOT_JSON"},
			"wrong login token":   {m{"type": "m.login.token", "token": "x"}, 403, "M_FORBIDDEN"},
			"no application":      {m{"type": "m.login.application_service", "user": "alice"}, 401, "M_MISSING_TOKEN"},
			"too long password":   {login("alice", strings.Repeat("x", 2000)), 403, "M_FORBIDDEN"},
			"device id too long":  {m{"type": "m.login.password", "user": "alice", "password": accounttest.Password, "device_id": strings.Repeat("x", 600)}, 400, "M_INVALID_PARAM"},
			"duplicate JSON keys": {`{"type":"m.login.password","type":"x"}`, 400, "M_BAD_JSON"},
		} {
			a := nobody.Do("POST", v3+"/login", c.body)
			t.Log(what)
			a.Fails(c.status, c.code)
		}
		// On a client host that all tenants share, the full id finds the tenant, then the token does.
		shared := g.Nobody(g.A)
		shared.Host = "127.0.0.1"
		shared.Do("POST", v3+"/login", login("alice", accounttest.Password)).Fails(400, "M_MISSING_PARAM")
		l := shared.Do("POST", v3+"/login", login("@alice:a.test", accounttest.Password)).OK(nil)
		shared.Token = l.Text("access_token")
		if who := shared.Do("GET", v3+"/account/whoami", nil).OK(nil); who.Text("user_id") != "@alice:a.test" {
			t.Errorf("whoami: %s", who.Body)
		}
		// A neighbour's token is worth nothing.
		alice.Host = "b.test"
		alice.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
		nobody.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_MISSING_TOKEN")
		nobody.Token = "rubbish"
		nobody.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
	})
}

func TestTokenLogin(t *testing.T) {
	each(t, func(t *testing.T, g *accounttest.Rig) {
		alice := g.User(g.A, "alice")
		const path = "/_matrix/client/v1/login/get_token"
		session := alice.Do("POST", path, m{}).Text("session")
		token := alice.Do("POST", path, m{"auth": passwordAuth(alice, session, accounttest.Password)}).OK(nil).Text("login_token")
		body := m{"type": "m.login.token", "token": token}
		g.Nobody(g.B).Do("POST", v3+"/login", body).Fails(403, "M_FORBIDDEN")
		if l := g.Nobody(g.A).Do("POST", v3+"/login", body).OK(nil); l.Text("user_id") != string(alice.ID) {
			t.Errorf("%s", l.Body)
		}
		g.Nobody(g.A).Do("POST", v3+"/login", body).Fails(403, "M_FORBIDDEN")
	})
}

// randomNames gives localparts that do not follow from what people type.
type randomNames struct{ policy.Open }

func (randomNames) Localpart(context.Context, *tenant.Tenant, string) (string, error) { return "", nil }

func TestLoginNameIsNotTheLocalpart(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		g := accounttest.New(t, db, func(_ *accounttest.Rig, o *account.Options) { o.Policy = randomNames{} }, nil)
		alice := g.User(g.A, "Dr.Alice")
		if strings.Contains(string(alice.ID), "alice") {
			t.Fatalf("id %s tells the name", alice.ID)
		}
		shared := g.Nobody(g.A)
		shared.Host = "127.0.0.1"
		for _, name := range []string{"@dr.alice:a.test", string(alice.ID)} {
			l := shared.Do("POST", v3+"/login", m{"type": "m.login.password", "identifier": m{"type": "m.id.user", "user": name}, "password": accounttest.Password}).OK(nil)
			if l.Text("user_id") != string(alice.ID) {
				t.Errorf("login as %s: %s", name, l.Body)
			}
		}
		g.Nobody(g.A).Do("POST", v3+"/login", m{"type": "m.login.password", "user": "dr.alice", "password": accounttest.Password}).OK(nil)
	})
}

// Requirements: A_25394, A_25458.
func TestRefresh(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		var mu sync.Mutex
		now := time.Now()
		g := accounttest.New(t, db, func(_ *accounttest.Rig, o *account.Options) {
			o.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
		}, nil)
		g.User(g.A, "alice")
		nobody := g.Nobody(g.A)
		l := nobody.Do("POST", v3+"/login", m{"type": "m.login.password", "user": "alice", "password": accounttest.Password, "refresh_token": true, "device_id": "X"}).OK(nil)
		if l.Get("expires_in_ms") != "3600000" {
			t.Errorf("%s", l.Body)
		}
		old := &accounttest.User{Rig: g, Tenant: g.A, Token: l.Text("access_token")}
		old.Do("GET", v3+"/account/whoami", nil).OK(nil)
		refresh := m{"refresh_token": l.Text("refresh_token")}
		lost := nobody.Do("POST", v3+"/refresh", refresh).OK(nil) // this answer gets lost: asking again works
		got := nobody.Do("POST", v3+"/refresh", refresh).OK(nil)
		(&accounttest.User{Rig: g, Tenant: g.A, Token: lost.Text("access_token")}).Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
		fresh := &accounttest.User{Rig: g, Tenant: g.A, Token: got.Text("access_token")}
		if who := fresh.Do("GET", v3+"/account/whoami", nil).OK(nil); who.Text("device_id") != "X" {
			t.Errorf("%s", who.Body)
		}
		nobody.Do("POST", v3+"/refresh", refresh).Fails(401, "M_UNKNOWN_TOKEN") // spent by the first use of the new token
		mu.Lock()
		now = now.Add(2 * time.Hour)
		mu.Unlock()
		expired := fresh.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
		if expired.Get("soft_logout") != "true" {
			t.Errorf("%s", expired.Body)
		}
		third := nobody.Do("POST", v3+"/refresh", m{"refresh_token": got.Text("refresh_token")}).OK(nil)
		(&accounttest.User{Rig: g, Tenant: g.A, Token: third.Text("access_token")}).Do("POST", v3+"/logout", m{}).OK(nil)
		nobody.Do("POST", v3+"/refresh", m{"refresh_token": third.Text("refresh_token")}).Fails(401, "M_UNKNOWN_TOKEN")
		nobody.Do("POST", v3+"/refresh", m{}).Fails(400, "M_MISSING_PARAM")
	})
}

func TestDevices(t *testing.T) {
	each(t, func(t *testing.T, g *accounttest.Rig) {
		one := g.User(g.A, "alice")
		two, three := one.On("DEV2"), one.On("DEV3")
		if list := one.Do("GET", v3+"/devices", nil).OK(nil); strings.Count(string(list.Body), `"device_id"`) != 3 {
			t.Errorf("%s", list.Body)
		}
		one.Do("PUT", v3+"/devices/DEV2", m{"display_name": "Praxis"}).OK(nil)
		if d := one.Do("GET", v3+"/devices/DEV2", nil).OK(nil); d.Text("display_name") != "Praxis" {
			t.Errorf("%s", d.Body)
		}
		one.Do("PUT", v3+"/devices/NONE", m{"display_name": "x"}).Fails(404, "M_NOT_FOUND")
		one.Do("GET", v3+"/devices/NONE", nil).Fails(404, "M_NOT_FOUND")
		one.Do("PUT", v3+"/devices/DEV2", m{"display_name": 1}).Fails(400, "M_BAD_JSON")

		challenge := one.Do("DELETE", v3+"/devices/DEV2", nil)
		if challenge.Status != 401 || challenge.Get("flows") != `[{"stages":["m.login.password"]}]` {
			t.Fatalf("%d %s", challenge.Status, challenge.Body)
		}
		session := challenge.Text("session")
		wrong := one.Do("DELETE", v3+"/devices/DEV2", m{"auth": passwordAuth(one, session, "wrong")})
		wrong.Fails(401, "M_FORBIDDEN")
		if wrong.Text("session") != session {
			t.Errorf("%s", wrong.Body)
		}
		one.Do("DELETE", v3+"/devices/DEV3", m{"auth": passwordAuth(one, session, accounttest.Password)}).Fails(403, "M_FORBIDDEN")
		mallory := g.User(g.A, "mallory")
		stolen := passwordAuth(mallory, "", accounttest.Password)
		one.Do("DELETE", v3+"/devices/DEV2", m{"auth": stolen}).Fails(401, "M_FORBIDDEN")
		one.Do("DELETE", v3+"/devices/DEV2", m{"auth": passwordAuth(one, session, accounttest.Password)}).OK(nil)
		two.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
		one.Do("DELETE", v3+"/devices/DEV2", m{"auth": passwordAuth(one, session, accounttest.Password)}).Fails(400, "M_UNKNOWN") // the proof is used up

		one.Do("POST", v3+"/delete_devices", m{}).Fails(400, "M_MISSING_PARAM")
		session = one.Do("POST", v3+"/delete_devices", m{"devices": []string{"DEV3", "NONE"}}).Text("session")
		one.Do("POST", v3+"/delete_devices", m{"devices": []string{"DEV3", "NONE"}, "auth": passwordAuth(one, session, accounttest.Password)}).OK(nil)
		three.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")

		four := one.On("DEV4")
		four.Do("POST", v3+"/logout", m{}).OK(nil)
		four.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
		one.Do("GET", v3+"/devices/DEV4", nil).Fails(404, "M_NOT_FOUND")
		one.Do("POST", v3+"/logout/all", m{}).OK(nil)
		one.Do("GET", v3+"/devices", nil).Fails(401, "M_UNKNOWN_TOKEN")
	})
}

func TestPasswordAndDeactivation(t *testing.T) {
	each(t, func(t *testing.T, g *accounttest.Rig) {
		one := g.User(g.A, "alice")
		two := one.On("DEV2")
		change := func(u *accounttest.User, old, password string, more m) *accounttest.Answer {
			body := m{"new_password": password}
			for k, v := range more {
				body[k] = v
			}
			body["auth"] = passwordAuth(u, u.Do("POST", v3+"/account/password", body).Text("session"), old)
			return u.Do("POST", v3+"/account/password", body)
		}
		change(one, "wrong", "new one", nil).Fails(401, "M_FORBIDDEN")
		change(one, accounttest.Password, "new one", m{"logout_devices": false}).OK(nil)
		two.Do("GET", v3+"/account/whoami", nil).OK(nil)
		change(one, "new one", "newer one", nil).OK(nil)
		two.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
		one.Do("GET", v3+"/account/whoami", nil).OK(nil)
		one.Do("POST", v3+"/account/password", m{"new_password": ""}).Fails(400, "M_WEAK_PASSWORD")
		login := m{"type": "m.login.password", "user": "alice", "password": accounttest.Password}
		g.Nobody(g.A).Do("POST", v3+"/login", login).Fails(403, "M_FORBIDDEN")
		login["password"] = "newer one"
		g.Nobody(g.A).Do("POST", v3+"/login", login).OK(nil)

		session := one.Do("POST", v3+"/account/deactivate", nil).Text("session")
		one.Do("POST", v3+"/account/deactivate", m{"auth": passwordAuth(one, session, "newer one")}).OK(nil)
		one.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
		g.Nobody(g.A).Do("POST", v3+"/login", login).Fails(403, "M_USER_DEACTIVATED")
		g.Nobody(g.A).Do("GET", v3+"/profile/@alice:a.test", nil).Fails(404, "M_NOT_FOUND")
		g.Nobody(g.A).Do("GET", v3+"/register/available?username=alice", nil).Fails(400, "M_USER_IN_USE")
	})
}

func TestProfile(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		changed := make(chan id.User, 10)
		g := accounttest.New(t, db, func(_ *accounttest.Rig, o *account.Options) {
			o.ProfileChanged = func(_ context.Context, _ *tenant.Tenant, user id.User) error { changed <- user; return nil }
		}, nil)
		alice := g.User(g.A, "alice")
		path := v3 + "/profile/" + string(alice.ID)
		if p := alice.Do("GET", path, nil).OK(nil); string(p.Body) != "{}" {
			t.Errorf("%s", p.Body)
		}
		alice.Do("GET", path+"/displayname", nil).Fails(404, "M_NOT_FOUND")
		alice.Do("PUT", path+"/displayname", m{"displayname": "Alice 🩺"}).OK(nil)
		alice.Do("PUT", path+"/avatar_url", m{"avatar_url": "mxc://a.test/x"}).OK(nil)
		alice.Do("PUT", path+"/m.tz", m{"m.tz": "Europe/Berlin"}).OK(nil)
		alice.Do("PUT", path+"/org.example.job", m{"org.example.job": m{"title": "Dr."}}).OK(nil)
		if len(changed) != 2 {
			t.Errorf("%d changes reached the rooms, want 2", len(changed))
		}
		p := g.Nobody(g.A).Do("GET", path, nil).OK(nil)
		if p.Text("displayname") != "Alice 🩺" || p.Text("avatar_url") != "mxc://a.test/x" || p.Text("m.tz") != "Europe/Berlin" || p.Get("org.example.job") != `{"title":"Dr."}` {
			t.Errorf("%s", p.Body)
		}
		alice.Do("DELETE", path+"/org.example.job", nil).OK(nil)
		alice.Do("GET", path+"/org.example.job", nil).Fails(404, "M_NOT_FOUND")
		alice.Do("PUT", path+"/displayname", m{}).Fails(400, "M_MISSING_PARAM")
		alice.Do("PUT", path+"/displayname", m{"displayname": 5}).Fails(400, "M_BAD_JSON")
		alice.Do("PUT", path+"/displayname", m{"displayname": strings.Repeat("x", 300)}).Fails(400, "M_INVALID_PARAM")
		alice.Do("PUT", path+"/avatar_url", m{"avatar_url": "https://x"}).Fails(400, "M_INVALID_PARAM")
		alice.Do("PUT", path+"/Bad%20Key", m{"Bad Key": 1}).Fails(400, "M_INVALID_PARAM")
		alice.Do("PUT", path+"/x."+strings.Repeat("y", 260), "{}").Fails(400, "M_KEY_TOO_LARGE")
		alice.Do("PUT", path+"/org.example.big", m{"org.example.big": strings.Repeat("x", 70_000)}).Fails(400, "M_PROFILE_TOO_LARGE")
		alice.Do("GET", path+"/org.example.big", nil).Fails(404, "M_NOT_FOUND")
		g.User(g.A, "bob").Do("PUT", path+"/displayname", m{"displayname": "Mallory"}).Fails(403, "M_FORBIDDEN")
		g.Nobody(g.A).Do("GET", v3+"/profile/@nobody:a.test", nil).Fails(404, "M_NOT_FOUND")
		g.Nobody(g.B).Do("GET", path, nil).Fails(404, "M_NOT_FOUND")
		alice.Do("PUT", path+"/displayname", m{"displayname": ""}).OK(nil)
		alice.Do("GET", path+"/displayname", nil).Fails(404, "M_NOT_FOUND")
	})
}

func TestUserDirectory(t *testing.T) {
	each(t, func(t *testing.T, g *accounttest.Rig) {
		alice := g.User(g.A, "alice")
		g.User(g.B, "alina")
		for i := range 4 {
			u := g.User(g.A, fmt.Sprintf("user%d", i))
			u.Do("PUT", v3+"/profile/"+string(u.ID)+"/displayname", m{"displayname": "Übel & 100% Söhne"}).OK(nil)
		}
		search := func(term string, limit int) *accounttest.Answer {
			return alice.Do("POST", v3+"/user_directory/search", m{"search_term": term, "limit": limit}).OK(nil)
		}
		if a := search("ALI", 10); strings.Count(string(a.Body), "user_id") != 1 || a.Get("limited") != "false" {
			t.Errorf("%s", a.Body)
		}
		if a := search("übel & 100% s", 3); strings.Count(string(a.Body), "user_id") != 3 || a.Get("limited") != "true" {
			t.Errorf("%s", a.Body)
		}
		if a := search("2345%", 3); a.Get("results") != "[]" {
			t.Errorf("%s", a.Body)
		}
		for name, display := range map[string]string{"doc1": "Dr. Anna Schmidt", "doc2": "Anna Schmitt", "doc3": "Bernd Schmidtberger"} {
			u := g.User(g.A, name)
			u.Do("PUT", v3+"/profile/"+string(u.ID)+"/displayname", m{"displayname": display}).OK(nil)
		}
		for term, want := range map[string]string{
			"schmidt": "@doc1 @doc3 @doc2", "shcmidt": "@doc1 @doc3", "schmit anna": "@doc2 @doc1", "berndd schmidt": "@doc3", "schmidt x": "", "@doc2:a.test": "@doc2 @doc1 @doc3",
		} {
			var found struct {
				Results []struct {
					User id.User `json:"user_id"`
				} `json:"results"`
			}
			search(term, 10).OK(&found)
			var got []string
			for _, r := range found.Results {
				got = append(got, "@"+r.User.Localpart())
			}
			if strings.Join(got, " ") != want {
				t.Errorf("%q finds %v, want %s", term, got, want)
			}
		}
		alice.Do("POST", v3+"/user_directory/search", m{}).Fails(400, "M_MISSING_PARAM")
	})
}

func TestAccountData(t *testing.T) {
	each(t, func(t *testing.T, g *accounttest.Rig) {
		alice, ctx := g.User(g.A, "alice"), context.Background()
		base := v3 + "/user/" + string(alice.ID)
		room := base + "/rooms/!r:a.test"
		alice.Do("GET", base+"/account_data/m.direct", nil).Fails(404, "M_NOT_FOUND")
		alice.Do("PUT", base+"/account_data/m.direct", m{"@b:b": []string{"!r:a.test"}}).OK(nil)
		before, err := g.Feed.Position(ctx, g.A.ID)
		if err != nil {
			t.Fatal(err)
		}
		alice.Do("PUT", room+"/account_data/org.x", `{"n": 12345678901234567890}`).OK(nil)
		if d := alice.Do("GET", room+"/account_data/org.x", nil).OK(nil); string(d.Body) != `{"n":12345678901234567890}` {
			t.Errorf("%s", d.Body)
		}
		now, err := g.Feed.Position(ctx, g.A.ID)
		if err != nil || now != before+1 {
			t.Fatalf("position %d after %d, %v", now, before, err)
		}
		since, err := g.Accounts.AccountDataSince(ctx, g.A.ID, alice.ID, before, now)
		if err != nil || len(since) != 1 || since[0].Type != "org.x" || since[0].Room != "!r:a.test" || since[0].Position != now {
			t.Errorf("since: %+v, %v", since, err)
		}
		if all, err := g.Accounts.AccountDataSince(ctx, g.A.ID, alice.ID, 0, now); err != nil || len(all) != 2 {
			t.Errorf("all: %+v, %v", all, err)
		}
		for _, typ := range []string{"m.fully_read", "m.push_rules"} {
			alice.Do("PUT", base+"/account_data/"+typ, m{}).Fails(405, "M_BAD_JSON")
			alice.Do("PUT", room+"/account_data/"+typ, m{}).Fails(405, "M_BAD_JSON")
		}
		alice.Do("PUT", base+"/account_data/x", "[]").Fails(400, "M_BAD_JSON")
		alice.Do("PUT", base+"/account_data/x", "{").Fails(400, "M_NOT_JSON")
		alice.Do("PUT", base+"/rooms/nonsense/account_data/x", m{}).Fails(400, "M_INVALID_PARAM")
		bob := g.User(g.A, "bob")
		bob.Do("PUT", base+"/account_data/x", m{}).Fails(403, "M_FORBIDDEN")
		bob.Do("GET", base+"/account_data/m.direct", nil).Fails(403, "M_FORBIDDEN")
	})
}

func TestTagsFromManyDevices(t *testing.T) {
	each(t, func(t *testing.T, g *accounttest.Rig) {
		alice := g.User(g.A, "alice")
		path := v3 + "/user/" + string(alice.ID) + "/rooms/!r:a.test/tags"
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				if a := alice.Do("PUT", fmt.Sprintf("%s/u.%d", path, i), m{"order": 0.5}); a.Status != 200 {
					t.Errorf("%d %s", a.Status, a.Body)
				}
			})
		}
		wg.Wait()
		if tags := alice.Do("GET", path, nil).OK(nil); strings.Count(string(tags.Body), `{"order":0.5}`) != 8 {
			t.Errorf("%s", tags.Body)
		}
		alice.Do("DELETE", path+"/u.3", nil).OK(nil)
		if d := alice.Do("GET", v3+"/user/"+string(alice.ID)+"/rooms/!r:a.test/account_data/m.tag", nil).OK(nil); strings.Count(string(d.Body), "order") != 7 {
			t.Errorf("%s", d.Body)
		}
		alice.Do("PUT", path+"/u.x", m{"order": "first"}).Fails(400, "M_BAD_JSON")
	})
}

func TestFilters(t *testing.T) {
	each(t, func(t *testing.T, g *accounttest.Rig) {
		alice := g.User(g.A, "alice")
		path := v3 + "/user/" + string(alice.ID) + "/filter"
		filter := `{"room":{"timeline":{"limit":10,"types":["m.room.message"]}}}`
		one := alice.Do("POST", path, filter).OK(nil).Text("filter_id")
		if two := alice.Do("POST", path, filter).OK(nil).Text("filter_id"); two != one || strings.HasPrefix(one, "{") {
			t.Errorf("ids %q, %q", one, two)
		}
		if f := alice.Do("GET", path+"/"+one, nil).OK(nil); string(f.Body) != filter {
			t.Errorf("%s", f.Body)
		}
		alice.Do("GET", path+"/none", nil).Fails(404, "M_NOT_FOUND")
		for _, bad := range []string{`{"room":[]}`, `{"room":{"timeline":{"limit":-1}}}`, `{"event_format":"x"}`, `{"presence":{"senders":["bob"]}}`, `{"room":{"rooms":["x"]}}`} {
			alice.Do("POST", path, bad).Fails(400, "M_BAD_JSON")
		}
		g.User(g.A, "bob").Do("GET", path+"/"+one, nil).Fails(403, "M_FORBIDDEN")
	})
}

func TestOpenID(t *testing.T) {
	each(t, func(t *testing.T, g *accounttest.Rig) {
		alice, ctx := g.User(g.A, "alice"), context.Background()
		a := alice.Do("POST", v3+"/user/"+string(alice.ID)+"/openid/request_token", m{}).OK(nil)
		if a.Text("matrix_server_name") != "a.test" || a.Text("token_type") != "Bearer" || a.Get("expires_in") != "3600" {
			t.Errorf("%s", a.Body)
		}
		for range 2 {
			if user, err := g.Accounts.OpenIDUser(ctx, g.A.ID, a.Text("access_token")); err != nil || user != alice.ID {
				t.Errorf("%s, %v", user, err)
			}
		}
		if _, err := g.Accounts.OpenIDUser(ctx, g.B.ID, a.Text("access_token")); !errors.Is(err, mxerror.UnknownToken) {
			t.Errorf("neighbour: %v", err)
		}
		if _, err := g.Accounts.OpenIDUser(ctx, g.A.ID, alice.Token); !errors.Is(err, mxerror.UnknownToken) {
			t.Errorf("an access token is no OpenID token: %v", err)
		}
		(&accounttest.User{Rig: g, Tenant: g.A, Token: a.Text("access_token")}).Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
		alice.Do("POST", v3+"/user/@bob:a.test/openid/request_token", m{}).Fails(403, "M_FORBIDDEN")
	})
}

func TestAbout(t *testing.T) {
	each(t, func(t *testing.T, g *accounttest.Rig) {
		shared := g.Nobody(g.A)
		shared.Host = "127.0.0.1"
		if v := shared.Do("GET", "/_matrix/client/versions", nil).OK(nil); !strings.Contains(v.Get("versions"), `"v1.11"`) {
			t.Errorf("%s", v.Body)
		}
		shared.Do("GET", v3+"/login", nil).OK(nil)
		if w := shared.Do("GET", "/.well-known/matrix/client", nil).OK(nil); w.Text("m.homeserver", "base_url") != "https://client.test" {
			t.Errorf("%s", w.Body)
		}
		g.Nobody(g.A).Do("GET", "/.well-known/matrix/server", nil).Fails(404, "M_NOT_FOUND")
		c := g.User(g.A, "alice").Do("GET", v3+"/capabilities", nil).OK(nil)
		if c.Text("capabilities", "m.room_versions", "available", "12") != "stable" || c.Text("capabilities", "m.room_versions", "default") != "12" {
			t.Errorf("%s", c.Body)
		}
		for name, want := range map[string]string{"m.change_password": "true", "m.set_displayname": "true", "m.set_avatar_url": "true", "m.profile_fields": "true",
			"m.get_login_token": "true", "m.3pid_changes": "false", "m.forget_forced_upon_leave": "false"} {
			if got := c.Get("capabilities", name, "enabled"); got != want { // without a way to send mail nobody can prove an address
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
		if c.Get("capabilities", "m.account_moderation") != "" {
			t.Errorf("somebody who is no administrator may moderate: %s", c.Body)
		}
	})
}

func TestAppService(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		as := &account.AppService{ID: "bridge", Sender: "@bot:a.test", Users: []*regexp.Regexp{regexp.MustCompile(`@_b_.*:a\.test`)}}
		g := accounttest.New(t, db, func(g *accounttest.Rig, o *account.Options) {
			o.Config.Registration = account.RegistrationClosed
			o.AppService = func(_ context.Context, t *tenant.Tenant, token string) (*account.AppService, bool) {
				return as, t.ID == g.A.ID && token == "secret"
			}
			o.AppServiceByID = func(_ context.Context, t *tenant.Tenant, name string) (*account.AppService, bool) {
				return as, t.ID == g.A.ID && name == "bridge"
			}
		}, nil)
		bridge := &accounttest.User{Rig: g, Tenant: g.A, Token: "secret"}
		if who := bridge.Do("GET", v3+"/account/whoami", nil).OK(nil); who.Text("user_id") != "@bot:a.test" {
			t.Errorf("%s", who.Body)
		}
		bridge.Do("GET", v3+"/account/whoami?user_id=@_b_x:a.test", nil).Fails(403, "M_FORBIDDEN")
		register := m{"type": "m.login.application_service", "username": "_b_x", "inhibit_login": true}
		g.Nobody(g.A).Do("POST", v3+"/register", register).Fails(401, "M_MISSING_TOKEN")
		bridge.Do("POST", v3+"/register", register).OK(nil)
		bridge.Do("POST", v3+"/register", m{"type": "m.login.application_service", "username": "alice"}).Fails(400, "M_EXCLUSIVE")
		if who := bridge.Do("GET", v3+"/account/whoami?user_id=@_b_x:a.test", nil).OK(nil); who.Text("user_id") != "@_b_x:a.test" {
			t.Errorf("%s", who.Body)
		}
		if put := bridge.Do("PUT", v3+"/devices/BRIDGE?user_id=@_b_x:a.test", m{}); put.Status != 201 {
			t.Errorf("%d %s", put.Status, put.Body)
		}
		if who := bridge.Do("GET", v3+"/account/whoami?user_id=@_b_x:a.test&device_id=BRIDGE", nil).OK(nil); who.Text("device_id") != "BRIDGE" {
			t.Errorf("%s", who.Body)
		}
		bridge.Do("GET", v3+"/account/whoami?user_id=@alice:a.test", nil).Fails(403, "M_FORBIDDEN")
		neighbour := &accounttest.User{Rig: g, Tenant: g.B, Token: "secret"}
		neighbour.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
	})
}

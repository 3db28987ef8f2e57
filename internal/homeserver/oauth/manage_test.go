// SPDX-License-Identifier: Apache-2.0

package oauth_test

import (
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/homeserver/account/accounttest"
)

func act(name string) string { return manage + "?action=" + name }

func TestAccountPage(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		alice := g.User(g.A, "alice")
		b := g.tab("a.test")
		b.signIn(manage, "alice").is(200).has("Ihr Konto", "@alice:a.test")
		b.submit(manage, "displayname", "displayname", "Dr. Alice").is(303)
		b.get(manage+"?saved=1").has("Dr. Alice", "Gespeichert")
		if name := alice.Do("GET", v3+"/profile/@alice:a.test/displayname", nil).OK(nil).Text("displayname"); name != "Dr. Alice" {
			t.Errorf("name: %s", name)
		}
		b.submit(manage, "displayname", "displayname", "").is(303)
		alice.Do("GET", v3+"/profile/@alice:a.test/displayname", nil).Fails(404, "M_NOT_FOUND")

		web := alice.On("WEB")
		for _, name := range []string{"org.matrix.devices_list", "org.matrix.sessions_list", "sessions_list"} {
			b.get(act(name)).is(200).has("name of DEV1", "name of WEB")
		}
		b.get(act("org.matrix.device_view&device_id=WEB")).is(200).has("name of WEB", "WEB")
		b.get(act("org.matrix.device_view&device_id=OTHER")).is(404)
		end := act("org.matrix.device_delete&device_id=WEB")
		b.get(end).is(200).has("Gerät abmelden")
		web.Do("GET", v3+"/account/whoami", nil).OK(nil)
		b.submit(end, "end").is(200).has("keinen Zugriff mehr")
		web.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
		alice.Do("GET", v3+"/account/whoami", nil).OK(nil)
		b.submit(manage, "sign-out").is(303)
		b.get(manage).is(200).has("Anmelden zum eigenen Konto")
	})
}

// TestLogoutAllEndsBrowsers: signing out everywhere leaves no way back without the password.
func TestLogoutAllEndsBrowsers(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		alice := g.User(g.A, "alice")
		b := g.tab("a.test")
		client := b.client(nil)
		code := b.code(client, "alice")
		b.get(manage).has("Ihr Konto")
		alice.Do("POST", v3+"/logout/all", m{}).OK(nil)
		b.get(manage).has("Anmelden zum eigenen Konto")
		b.send(token, exchange(client, code)).fails(400, "invalid_grant")
	})
}

func TestChangePasswordOnThePage(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		alice := g.User(g.A, "alice")
		b, other := g.tab("a.test"), g.tab("a.test")
		path := act("password")
		b.signIn(path, "alice").is(200)
		other.signIn(manage, "alice").has("Ihr Konto")
		b.submit(path, "password", "new", "one", "repeat", "two").is(403).has("nicht gleich")
		b.submit(path, "password", "new", "", "repeat", "").is(403)
		g.pass(6 * time.Minute) // the proof is old now
		b.get(path).is(200).has("Ihr Passwort")
		b.submit(path, "password", "new", "brand new", "repeat", "brand new").is(403)
		b.submit(path, "password", "password", "wrong", "new", "brand new", "repeat", "brand new").is(403).has("stimmt nicht")
		b.submit(path, "password", "password", accounttest.Password, "new", "brand new", "repeat", "brand new").is(200).has("Passwort geändert")
		b.get(manage).has("Ihr Konto")
		other.get(manage).has("Anmelden zum eigenen Konto")
		alice.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
		if _, err := g.Accounts.CheckPassword(t.Context(), g.A, "alice", "brand new"); err != nil {
			t.Error(err)
		}
	})
}

func TestDeactivateOnThePage(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		alice := g.User(g.A, "alice")
		b := g.tab("a.test")
		path := act("org.matrix.account_deactivate")
		b.signIn(path, "alice").is(200).has("nicht rückgängig")
		b.submit(path, "deactivate", "confirm", "alice").is(403).has("besteht weiter")
		alice.Do("GET", v3+"/account/whoami", nil).OK(nil)
		b.submit(path, "deactivate", "confirm", "@alice:a.test").is(200).has("gibt es nicht mehr")
		alice.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
		b.get(manage).has("Anmelden zum eigenen Konto")
		b.submit(manage, "sign-in", "username", "alice", "password", accounttest.Password).is(403)
		if len(g.erased) != 0 {
			t.Errorf("erased without being asked: %v", g.erased)
		}
		g.User(g.A, "berta")
		b = g.tab("a.test")
		b.signIn(path, "berta").is(200).has("soll nicht lesen")
		b.submit(path, "deactivate", "confirm", "@berta:a.test", "erase", "yes").is(200)
		if len(g.erased) != 1 || g.erased[0] != "@berta:a.test" {
			t.Errorf("erased: %v", g.erased)
		}
	})
}

// TestCrossSigningReset: the account page completes the stage m.oauth of the client that asked.
func TestCrossSigningReset(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		g.User(g.A, "alice")
		g.User(g.A, "bob")
		b := g.tab("a.test")
		path := act("org.matrix.cross_signing_reset") + "&session=unknown"
		b.signIn(path, "alice").is(200).has("zurücksetzen")
		b.submit(path, "reset").is(404).has("abgelaufen")
		b.submit(path, "deny").is(200).has("Nichts geändert")
		if err := g.Accounts.ApproveCrossSigning(t.Context(), g.A, "@bob:a.test", "unknown"); err == nil {
			t.Error("approved what nobody asked for")
		}
	})
}

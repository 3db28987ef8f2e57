// SPDX-License-Identifier: Apache-2.0

package oauth_test

import (
	"strings"
	"testing"
	"time"
)

// TestConfirmByCard: who signed in with a card, and has no password, signs one of their other devices out from a client that knows user-interactive
// authentication only: its page asks for the card again, tells the client's window, and the session is good for that once.
//
// Requirements: A_22936.
func TestConfirmByCard(t *testing.T) {
	eachClinic(t, func(t *testing.T, c *clinic) {
		b := c.tab(cardHost)
		b.byCard(c, ssoPage, c.smcb(ownID)).is(303)
		signIn := func(device string) string {
			b.get(ssoPage).is(200)
			token := b.submit(ssoPage, "approve").location().Query().Get("loginToken")
			return c.with(c.practice, "").Do("POST", v3+"/login", m{"type": "m.login.token", "token": token, "device_id": device}).OK(nil).Text("access_token")
		}
		desk, phone := signIn("DESK"), signIn("PHONE")
		client := c.with(c.practice, desk)
		challenge := client.Do("DELETE", v3+"/devices/PHONE", m{})
		if challenge.Status != 401 || challenge.Get("flows") != `[{"stages":["m.login.sso"]}]` {
			t.Fatalf("challenge: %d %s", challenge.Status, challenge.Body)
		}
		session := challenge.Text("session")
		again := m{"auth": m{"session": session}}
		client.Do("DELETE", v3+"/devices/PHONE", m{"auth": m{"type": "m.login.sso", "session": session}}).Fails(401, "M_UNAUTHORIZED")
		fallback := v3 + "/auth/m.login.sso/fallback/web?session=" + session

		// Being signed in in the browser is not enough after a while: the card is asked for again.
		c.pass(10 * time.Minute)
		page := b.get(fallback).location().RequestURI()
		if shown := b.get(page).is(200); strings.Contains(shown.body, "Bestätigen, dass Sie es sind") {
			t.Error("no card was asked for")
		}
		b.byCard(c, page, c.smcb(ownID)).is(303)
		b.get(page).is(200).has("Bestätigen, dass Sie es sind", "ein Gerät abmelden")
		b.submit(page, "deny").is(200).has("Es wurde nichts bestätigt")
		if a := client.Do("DELETE", v3+"/devices/PHONE", again); a.Status != 401 {
			t.Errorf("done without a confirmation: %d", a.Status)
		}
		back := b.submit(page, "confirm").is(303).location().RequestURI()
		if back != fallback {
			t.Errorf("goes to %s", back)
		}
		b.get(back).is(200).has("onAuthDone")
		client.Do("DELETE", v3+"/devices/DESK", again).Fails(403, "M_FORBIDDEN") // it was not begun for this
		client.Do("DELETE", v3+"/devices/PHONE", again).OK(nil)
		c.with(c.practice, phone).Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
		client.Do("DELETE", v3+"/devices/PHONE", again).Fails(400, "M_UNKNOWN")
	})
}

// TestConfirmRefusals: sessions that are unknown or somebody else's are not completed.
func TestConfirmRefusals(t *testing.T) {
	eachClinic(t, func(t *testing.T, c *clinic) {
		anna := c.person("anna")
		b := c.tab(cardHost)
		b.byCard(c, ssoPage, c.smcb(ownID)).is(303)
		page := manage + "?action=confirm&session="
		b.get(page + "unknown").is(200)
		b.submit(page+"unknown", "confirm").is(404).has("abgelaufen")
		b.get(v3 + "/auth/m.login.sso/fallback/web?session=unknown").is(400)
		token, err := c.Accounts.NewLoginToken(t.Context(), c.practice, anna)
		if err != nil {
			t.Fatal(err)
		}
		other := c.with(c.practice, c.with(c.practice, "").Do("POST", v3+"/login", m{"type": "m.login.token", "token": token}).OK(nil).Text("access_token"))
		challenge := other.Do("DELETE", v3+"/devices/NONE", m{})
		if challenge.Get("flows") != `[{"stages":["m.login.password"]},{"stages":["m.login.sso"]}]` {
			t.Errorf("who has a password and a card may use either: %s", challenge.Body)
		}
		b.submit(page+challenge.Text("session"), "confirm").is(404).has("abgelaufen")
	})
}

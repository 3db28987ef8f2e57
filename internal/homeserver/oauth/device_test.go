// SPDX-License-Identifier: Apache-2.0

package oauth_test

import (
	"net/url"
	"regexp"
	"testing"
	"time"
)

const grantDevice = "urn:ietf:params:oauth:grant-type:device_code"

func poll(client, code string) url.Values {
	return url.Values{"grant_type": {grantDevice}, "client_id": {client}, "device_code": {code}}
}

// TestDeviceGrant is the way of a client without a browser (RFC 8628), on a tenant's host and on that of all.
func TestDeviceGrant(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		alice := g.User(g.A, "alice")
		for _, c := range []struct{ host, name string }{{"a.test", "alice"}, {shared, string(alice.ID)}} {
			device, b := g.tab(c.host), g.tab(c.host)
			client := device.client(m{"redirect_uris": nil, "grant_types": []string{grantDevice, "refresh_token"}})
			p := device.send(deviceEnd, url.Values{"client_id": {client}, "scope": {scope}}).is(200)
			if !regexp.MustCompile(`^[A-Z]{4}-[A-Z]{4}$`).MatchString(p.field("user_code")) || p.field("verification_uri") != "http://"+c.host+link ||
				p.field("verification_uri_complete") != "http://"+c.host+link+"?user_code="+p.field("user_code") || p.field("interval") != "5" || p.field("expires_in") != "1200" {
				t.Fatalf("answer: %s", p.body)
			}
			code := p.field("device_code")
			device.send(token, poll(client, code)).fails(400, "authorization_pending")
			device.send(token, poll(client, code)).fails(400, "slow_down")
			g.pass(6 * time.Second)
			device.send(token, poll(client, code)).fails(400, "slow_down") // five seconds more than before
			g.pass(16 * time.Second)
			device.send(token, poll(client, code)).fails(400, "authorization_pending")

			b.signIn(link, c.name).is(200).has("Code")
			b.submit(link, "code", "user_code", "wrong").is(303)
			b.get(link + "?user_code=BBBB-BBBB").is(404).has("gibt es nicht")
			to := b.submit(link, "code", "user_code", " "+p.field("user_code")+" ").location().String()
			b.get(to).is(200).has("Test App", p.field("user_code"), "Gerät verbinden")
			b.submit(to, "approve", "user_code", p.field("user_code")).is(200).has("Gerät verbunden")
			b.submit(to, "deny", "user_code", p.field("user_code")).is(404) // decided once

			done := device.send(token, poll(client, code)).is(200)
			if done.field("scope") != scope || done.field("refresh_token") == "" {
				t.Errorf("token: %s", done.body)
			}
			web := g.with(g.A, done.field("access_token"))
			if who := web.Do("GET", v3+"/account/whoami", nil).OK(nil); who.Text("user_id") != string(alice.ID) || who.Text("device_id") != "WEB0123456" {
				t.Errorf("whoami: %s", who.Body)
			}
			device.send(token, poll(client, code)).fails(400, "invalid_grant")
			device.send(token, url.Values{"grant_type": {"refresh_token"}, "client_id": {client}, "refresh_token": {done.field("refresh_token")}}).is(200)
		}
	})
}

func TestDeviceGrantRefusals(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		g.User(g.A, "alice")
		b := g.tab("a.test")
		client, webOnly := b.client(nil), b.client(m{"grant_types": []string{"authorization_code"}})
		for name, c := range map[string]struct {
			form url.Values
			want string
		}{
			"no client":           {url.Values{"scope": {scope}}, "invalid_client"},
			"unknown client":      {url.Values{"client_id": {"x"}, "scope": {scope}}, "invalid_client"},
			"no scope":            {url.Values{"client_id": {client}}, "invalid_scope"},
			"no device":           {url.Values{"client_id": {client}, "scope": {"urn:matrix:client:api:*"}}, "invalid_scope"},
			"grant not asked for": {url.Values{"client_id": {webOnly}, "scope": {scope}}, "unauthorized_client"},
		} {
			if p := b.send(deviceEnd, c.form); p.status != 400 || p.field("error") != c.want {
				t.Errorf("%s: %d %s", name, p.status, p.body)
			}
		}
		open := func() (code, userCode string) {
			p := b.send(deviceEnd, url.Values{"client_id": {client}, "scope": {scope}}).is(200)
			return p.field("device_code"), p.field("user_code")
		}
		code, userCode := open()
		other := b.client(m{"client_name": "Other"})
		b.send(token, poll(other, code)).fails(400, "invalid_grant")
		b.send(token, poll(client, code+"x")).fails(400, "invalid_grant")
		neighbour := g.tab("b.test")
		neighbour.send(token, poll(neighbour.client(nil), code)).fails(400, "invalid_grant")
		b.signIn(link, "alice").is(200)
		b.get(link + "?user_code=" + userCode).is(200)
		b.submit(link, "deny", "user_code", userCode).is(200).has("Nicht verbunden")
		b.send(token, poll(client, code)).fails(400, "access_denied")
		code, userCode = open()
		g.pass(21 * time.Minute)
		b.send(token, poll(client, code)).fails(400, "expired_token")
		b.signIn(link, "alice").is(200)
		b.get(link + "?user_code=" + userCode).is(404)
	})
}

// TestUserCodesAreNotGuessed: looking for codes is limited as signing in is.
func TestUserCodesAreNotGuessed(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		g.User(g.A, "alice")
		b := g.tab("a.test")
		b.signIn(link, "alice").is(200)
		last := 0
		for range 20 {
			last = b.get(link + "?user_code=BCDF-GHJK").status
		}
		if last != 429 {
			t.Errorf("after twenty codes: %d", last)
		}
	})
}

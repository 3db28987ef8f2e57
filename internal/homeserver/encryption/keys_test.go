// SPDX-License-Identifier: Apache-2.0

package encryption_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/account/accounttest"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

type (
	plan = stream.Plan
	tx   = database.Tx
)

func TestUploadAndQuery(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		alice, bob := g.User(g.A, "alice"), g.User(g.A, "bob")
		upload(alice)
		at := g.position(g.A)
		upload(alice) // the same again changes nothing
		if now := g.position(g.A); now != at {
			t.Errorf("repeated upload took positions: %d → %d", at, now)
		}
		q := bob.Do("POST", v3+"/keys/query", m{"device_keys": m{string(alice.ID): []string{}}}).OK(nil)
		if q.Text("device_keys", string(alice.ID), "DEV1", "unsigned", "device_display_name") != "name of DEV1" ||
			q.Text("device_keys", string(alice.ID), "DEV1", "keys", "ed25519:DEV1") != deviceKey(alice).public || q.Get("failures") != "{}" {
			t.Errorf("%s", q.Body)
		}
		if q := bob.Do("POST", v3+"/keys/query", m{"device_keys": m{string(alice.ID): []string{"OTHER"}}}).OK(nil); q.Get("device_keys", string(alice.ID)) != "{}" {
			t.Errorf("%s", q.Body)
		}
		if q := bob.Do("POST", v3+"/keys/query", m{"device_keys": m{"@x:far.test": []string{}}}).OK(nil); q.Get("failures", "far.test") == "" {
			t.Errorf("%s", q.Body)
		}
		for body, code := range map[string]string{`{`: "M_NOT_JSON", `{}`: "M_MISSING_PARAM", `{"device_keys":[]}`: "M_BAD_JSON",
			`{"device_keys":{"@a:b":{}}}`: "M_BAD_JSON", `{"device_keys":{"bob":[]}}`: "M_INVALID_PARAM"} {
			bob.Do("POST", v3+"/keys/query", body).Fails(400, code)
		}
		bob.Do("POST", v3+"/keys/upload", m{"device_keys": identity(alice)}).Fails(400, "M_INVALID_PARAM")
		bob.Do("POST", v3+"/keys/upload", `{"device_keys":7}`).Fails(400, "M_BAD_JSON")
		bob.Do("POST", v3+"/keys/upload", `{"one_time_keys":{"nocolon":"x"}}`).Fails(400, "M_BAD_JSON")
		bob.Do("POST", v3+"/keys/upload", `{"one_time_keys":{"a:b":1}}`).Fails(400, "M_BAD_JSON")
		g.Nobody(g.A).Do("POST", v3+"/keys/query", m{}).Fails(401, "M_MISSING_TOKEN")
		alice.Host = "b.test"
		alice.Do("POST", v3+"/keys/upload", m{}).Fails(401, "M_UNKNOWN_TOKEN")
	})
}

func TestOneTimeKeys(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		alice, bob := g.User(g.A, "alice"), g.User(g.A, "bob")
		if a := alice.Do("POST", v3+"/keys/upload", m{}).OK(nil); a.Get("one_time_key_counts") != `{"signed_curve25519":0}` {
			t.Errorf("%s", a.Body)
		}
		if a := alice.Do("POST", v3+"/keys/upload", m{"one_time_keys": oneTimeKeys(0, 1)}).OK(nil); a.Get("one_time_key_counts", "signed_curve25519") != "1" {
			t.Errorf("%s", a.Body)
		}
		alice.Do("POST", v3+"/keys/upload", m{"one_time_keys": oneTimeKeys(0, 2)}).OK(nil) // the same key again is no news
		alice.Do("POST", v3+"/keys/upload", m{"one_time_keys": m{"signed_curve25519:K0001": m{"key": "changed"}, "signed_curve25519:K0009": m{}}}).Fails(400, "M_UNKNOWN")
		alice.Do("POST", v3+"/keys/upload", m{"fallback_keys": m{"signed_curve25519:F1": m{"key": "f", "fallback": true, "signatures": m{}}}}).OK(nil)
		claim := func() *accounttest.Answer {
			return bob.Do("POST", v3+"/keys/claim", m{"one_time_keys": m{string(alice.ID): m{"DEV1": "signed_curve25519"}}}).OK(nil)
		}
		for _, want := range []string{"K0000", "K0001", "F1", "F1"} { // first in, first out; nothing of the refused upload is there
			if c := claim(); c.Get("one_time_keys", string(alice.ID), "DEV1", "signed_curve25519:"+want) == "" {
				t.Errorf("want %s: %s", want, c.Body)
			}
		}
		ctx := context.Background()
		unused := func() []string {
			_, unused, err := g.keys.KeyCounts(ctx, g.A.ID, alice.ID, alice.Device)
			if err != nil {
				t.Fatal(err)
			}
			return unused
		}
		if u := unused(); len(u) != 0 {
			t.Errorf("used fallback key counted as unused: %v", u)
		}
		alice.Do("POST", v3+"/keys/upload", m{"fallback_keys": m{"signed_curve25519:F1": m{"key": "f", "fallback": true, "signatures": m{}}}}).OK(nil)
		if u := unused(); len(u) != 0 {
			t.Errorf("the same fallback key became unused: %v", u)
		}
		alice.Do("POST", v3+"/keys/upload", m{"fallback_keys": m{"signed_curve25519:F2": m{"key": "g", "signatures": m{}}}}).OK(nil)
		if u := unused(); !slices.Equal(u, []string{"signed_curve25519"}) {
			t.Errorf("new fallback key: %v", u)
		}
		if c := bob.Do("POST", v3+"/keys/claim", m{"one_time_keys": m{string(alice.ID): m{"NONE": "signed_curve25519"}, "@nobody:a.test": m{"X": "y"}}}).OK(nil); c.Get("one_time_keys") != "{}" {
			t.Errorf("%s", c.Body)
		}
		bob.Do("POST", v3+"/keys/claim", m{}).Fails(400, "M_MISSING_PARAM")
		bob.Do("POST", v3+"/keys/claim", `{"one_time_keys":{"@a:a.test":[]}}`).Fails(400, "M_BAD_JSON")
	})
}

// No one-time key is given out twice, whoever asks at the same time.
func TestClaimsAtOnce(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		const keys, askers = 60, 12
		alice, bob := g.User(g.A, "alice"), g.User(g.A, "bob")
		carol := alice.On("DEV2")
		for i := range 3 { // in the order of the uploads
			alice.Do("POST", v3+"/keys/upload", m{"one_time_keys": oneTimeKeys(i*keys/3, keys/3)}).OK(nil)
			carol.Do("POST", v3+"/keys/upload", m{"one_time_keys": oneTimeKeys(i*keys/3, keys/3)}).OK(nil)
		}
		var mu sync.Mutex
		seen := map[string]int{}
		var wg sync.WaitGroup
		for range askers {
			wg.Go(func() {
				for range keys/askers + 1 {
					a := bob.Do("POST", v3+"/keys/claim", m{"one_time_keys": m{string(alice.ID): m{"DEV1": "signed_curve25519", "DEV2": "signed_curve25519"}}})
					var reply struct {
						Keys map[id.User]map[id.Device]map[string]any `json:"one_time_keys"`
					}
					if a.Status != 200 {
						t.Errorf("%d %s", a.Status, a.Body)
						return
					}
					a.Into(&reply)
					mu.Lock()
					for device, found := range reply.Keys[alice.ID] {
						for name := range found {
							seen[string(device)+" "+name]++
						}
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if len(seen) != 2*keys {
			t.Errorf("%d different keys were given out, want %d", len(seen), 2*keys)
		}
		for name, n := range seen {
			if n != 1 {
				t.Errorf("%s was given out %d times", name, n)
			}
		}
	})
}

// crossKeys are the three keys of a user made from a seed, signed by the master key.
func crossKeys(u *accounttest.User, seed string) (body m, master, self, user key) {
	master, self, user = newKey(seed+"master"+string(u.ID)), newKey(seed+"self"+string(u.ID)), newKey(seed+"user"+string(u.ID))
	object := func(usage string, k key) m {
		return m{"user_id": u.ID, "usage": []string{usage}, "keys": m{"ed25519:" + k.public: k.public}}
	}
	return m{
		"master_key":       object("master", master),
		"self_signing_key": sign(object("self_signing", self), u.ID, master.public, master),
		"user_signing_key": sign(object("user_signing", user), u.ID, master.public, master),
	}, master, self, user
}

// TestCrossSigningByOAuthClient: the session of an OAuth 2.0 client replaces the keys after its user has agreed on the account page.
func TestCrossSigningByOAuthClient(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		alice := g.User(g.A, "alice")
		ctx := context.Background()
		l, err := g.Accounts.StartSession(ctx, g.A, account.SessionSpec{User: alice.ID, Device: "WEB", Grant: &account.Grant{Client: "app", Scope: "x"}})
		if err != nil {
			t.Fatal(err)
		}
		web := &accounttest.User{Rig: g.Rig, Tenant: g.A, ID: alice.ID, Device: "WEB", Token: l.AccessToken}
		const path = v3 + "/keys/device_signing/upload"
		first, _, _, _ := crossKeys(alice, "1")
		second, _, _, _ := crossKeys(alice, "2")
		web.Do("POST", path, first).OK(nil)
		challenge := web.Do("POST", path, second)
		if challenge.Status != 401 || challenge.Get("params", "m.oauth", "url") == "" {
			t.Fatalf("%d %s", challenge.Status, challenge.Body)
		}
		second["auth"] = m{"session": challenge.Text("session")}
		if a := web.Do("POST", path, second); a.Status != 401 {
			t.Errorf("without the user: %d %s", a.Status, a.Body)
		}
		if err := g.Accounts.ApproveCrossSigning(ctx, g.A, alice.ID, challenge.Text("session")); err != nil {
			t.Fatal(err)
		}
		web.Do("POST", path, second).OK(nil)
	})
}

// Requirements: A_22792.
func TestCrossSigning(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		alice, bob, eve := g.User(g.A, "alice"), g.User(g.A, "bob"), g.User(g.A, "eve")
		const path = v3 + "/keys/device_signing/upload"
		upload(alice)
		body, master, self, userSigning := crossKeys(alice, "1")
		alice.Do("POST", path, m{"self_signing_key": body["self_signing_key"]}).Fails(400, "M_MISSING_PARAM")
		other, _, _, _ := crossKeys(alice, "2")
		alice.Do("POST", path, m{"master_key": body["master_key"], "self_signing_key": other["self_signing_key"]}).Fails(400, "M_INVALID_SIGNATURE")
		alice.Do("POST", path, m{"master_key": m{"user_id": bob.ID, "usage": []string{"master"}, "keys": m{}}}).Fails(400, "M_INVALID_PARAM")
		alice.Do("POST", path, `{"master_key":1}`).Fails(400, "M_BAD_JSON")
		alice.Do("POST", path, body).OK(nil) // the first keys need no password
		alice.Do("POST", path, body).OK(nil) // nor does repeating them
		challenge := alice.Do("POST", path, other)
		if challenge.Status != 401 || challenge.Text("session") == "" {
			t.Fatalf("%d %s", challenge.Status, challenge.Body)
		}
		q := alice.Do("POST", v3+"/keys/query", m{"device_keys": m{string(alice.ID): []string{}}}).OK(nil)
		for _, usage := range []string{"master_keys", "self_signing_keys", "user_signing_keys"} {
			if q.Get(usage, string(alice.ID)) == "" {
				t.Errorf("no %s: %s", usage, q.Body)
			}
		}
		if q := bob.Do("POST", v3+"/keys/query", m{"device_keys": m{string(alice.ID): []string{}}}).OK(nil); q.Get("user_signing_keys", string(alice.ID)) != "" || q.Get("master_keys", string(alice.ID)) == "" {
			t.Errorf("bob sees %s", q.Body)
		}
		// Alice's self-signing key signs her device, her device signs her master key; nonsense fails one by one.
		device := sign(identity(alice), alice.ID, self.public, self)
		masterSigned := sign(body["master_key"], alice.ID, "DEV1", deviceKey(alice))
		const signatures = v3 + "/keys/signatures/upload"
		wrong := sign(identity(alice), alice.ID, self.public, newKey("wrong"))
		if f := alice.Do("POST", signatures, m{string(alice.ID): m{"DEV1": wrong, "NONE": device}}).OK(nil); f.Text("failures", string(alice.ID), "DEV1", "errcode") != "M_INVALID_SIGNATURE" ||
			f.Text("failures", string(alice.ID), "NONE", "errcode") != "M_NOT_FOUND" {
			t.Errorf("%s", f.Body)
		}
		at := g.position(g.A)
		if f := alice.Do("POST", signatures, m{string(alice.ID): m{"DEV1": device, master.public: masterSigned}}).OK(nil); f.Get("failures") != "{}" {
			t.Fatalf("%s", f.Body)
		}
		q = bob.Do("POST", v3+"/keys/query", m{"device_keys": m{string(alice.ID): []string{}}}).OK(nil)
		if q.Get("device_keys", string(alice.ID), "DEV1", "signatures", string(alice.ID), "ed25519:"+self.public) == "" ||
			q.Get("master_keys", string(alice.ID), "signatures", string(alice.ID), "ed25519:DEV1") == "" {
			t.Errorf("%s", q.Body)
		}
		g.rooms.put(1, alice.ID, bob.ID, eve.ID)
		ctx := context.Background()
		changed, _, err := g.keys.DeviceListChanges(ctx, g.A.ID, bob.ID, at, g.position(g.A))
		if err != nil || !slices.Equal(changed, []id.User{alice.ID}) {
			t.Errorf("changed for bob: %v, %v", changed, err)
		}
		// Alice verifies Bob; only she sees it, and her other devices are told.
		bobs, bobMaster, _, _ := crossKeys(bob, "b")
		bob.Do("POST", path, bobs).OK(nil)
		at = g.position(g.A)
		verified := sign(bobs["master_key"], alice.ID, userSigning.public, userSigning)
		forged := sign(bobs["master_key"], eve.ID, userSigning.public, userSigning)
		if f := eve.Do("POST", signatures, m{string(bob.ID): m{bobMaster.public: forged}}).OK(nil); f.Text("failures", string(bob.ID), bobMaster.public, "errcode") != "M_INVALID_SIGNATURE" {
			t.Errorf("%s", f.Body)
		}
		if f := alice.Do("POST", signatures, m{string(bob.ID): m{bobMaster.public: verified}}).OK(nil); f.Get("failures") != "{}" {
			t.Errorf("%s", f.Body)
		}
		for u, sees := range map[*accounttest.User]bool{alice: true, bob: false, eve: false} {
			q := u.Do("POST", v3+"/keys/query", m{"device_keys": m{string(bob.ID): []string{}}}).OK(nil)
			if got := q.Get("master_keys", string(bob.ID), "signatures", string(alice.ID)) != ""; got != sees {
				t.Errorf("%s sees it: %v", u.ID, got)
			}
			changed, _, err := g.keys.DeviceListChanges(ctx, g.A.ID, u.ID, at, g.position(g.A))
			if err != nil || slices.Contains(changed, bob.ID) != sees {
				t.Errorf("%s is told %v, %v", u.ID, changed, err)
			}
		}
		// A device may not be called like a key.
		login := m{"type": "m.login.password", "user": "alice", "password": accounttest.Password, "device_id": master.public}
		g.Nobody(g.A).Do("POST", v3+"/login", login).Fails(403, "M_FORBIDDEN")
		// With the password, new keys replace the old ones.
		other["auth"] = m{"type": "m.login.password", "session": challenge.Text("session"), "user": "alice", "password": accounttest.Password}
		alice.Do("POST", path, other).OK(nil)
	})
}

func TestDeviceListChanges(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		alice, bob, carol := g.User(g.A, "alice"), g.User(g.A, "bob"), g.User(g.A, "carol")
		g.rooms.put(1, alice.ID, bob.ID)
		ctx := context.Background()
		changes := func(u *accounttest.User, from int64) []id.User {
			t.Helper()
			changed, _, err := g.keys.DeviceListChanges(ctx, g.A.ID, u.ID, from, g.position(g.A))
			if err != nil {
				t.Fatal(err)
			}
			return changed
		}
		at := g.position(g.A)
		upload(alice)
		two := alice.On("DEV2")
		upload(two)
		for u, want := range map[*accounttest.User]int{alice: 1, bob: 1, carol: 0} {
			if got := changes(u, at); len(got) != want {
				t.Errorf("%s: %v", u.ID, got)
			}
		}
		at = g.position(g.A)
		two.Do("PUT", v3+"/devices/DEV2", m{"display_name": "new"}).OK(nil)
		if got := changes(bob, at); len(got) != 1 {
			t.Errorf("renamed: %v", got)
		}
		at = g.position(g.A)
		two.Do("POST", v3+"/logout", m{}).OK(nil)
		if got := changes(bob, at); len(got) != 1 {
			t.Errorf("logged out: %v", got)
		}
		if q := bob.Do("POST", v3+"/keys/query", m{"device_keys": m{string(alice.ID): []string{}}}).OK(nil); strings.Contains(string(q.Body), "DEV2") {
			t.Errorf("%s", q.Body)
		}
		if got := changes(bob, g.position(g.A)); got != nil {
			t.Errorf("quiet: %v", got)
		}
		g.rooms.joined = map[id.User]struct{}{alice.ID: {}, carol.ID: {}}
		g.rooms.left = map[id.User]struct{}{alice.ID: {}, carol.ID: {}}
		g.Committer.Commit(ctx, &plan{Tenant: g.A.ID, Changes: []stream.Change{{Kind: stream.Other}}})
		changed, left, err := g.keys.DeviceListChanges(ctx, g.A.ID, bob.ID, g.position(g.A)-1, g.position(g.A))
		if err != nil || !slices.Equal(changed, []id.User{alice.ID}) || !slices.Equal(left, []id.User{carol.ID}) {
			t.Errorf("changed %v, left %v, %v", changed, left, err)
		}
		bob.Do("GET", v3+"/keys/changes?from=0", nil).Fails(400, "M_MISSING_PARAM")
		bob.Do("GET", v3+"/keys/changes?from=x&to=1", nil).Fails(400, "M_INVALID_PARAM")
		if a := bob.Do("GET", v3+"/keys/changes?from=0&to=1000", nil).OK(nil); a.Get("changed") != `["@alice:a.test"]` {
			t.Errorf("%s", a.Body)
		}
	})
}

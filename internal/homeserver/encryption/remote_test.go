// SPDX-License-Identifier: Apache-2.0

package encryption_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/homeserver/account/accounttest"
	"github.com/konsil-health/konsil/internal/homeserver/encryption"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

func devicesOf(u *accounttest.User, of id.User) *accounttest.Answer {
	u.TB.Helper()
	return u.Do("POST", v3+"/keys/query", m{"device_keys": m{string(of): []string{}}}).OK(nil)
}

func TestRemoteUsersAreTrackedWhileARoomIsShared(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		alice, bob := g.User(g.A, "alice"), g.User(g.B, "bob")
		upload(bob)
		// Without a room each question goes to the other server.
		if q := devicesOf(alice, bob.ID); q.Get("device_keys", string(bob.ID), "DEV1") == "" || g.wire.count() != 1 {
			t.Fatalf("%d fetches, %s", g.wire.count(), q.Body)
		}
		devicesOf(alice, bob.ID)
		if g.wire.count() != 2 {
			t.Errorf("%d fetches, want 2", g.wire.count())
		}
		g.rooms.put(1, alice.ID, bob.ID)
		for range 3 { // with one, it goes there once
			if q := devicesOf(alice, bob.ID); q.Text("device_keys", string(bob.ID), "DEV1", "unsigned", "device_display_name") != "name of DEV1" {
				t.Fatalf("%s", q.Body)
			}
		}
		if g.wire.count() != 3 {
			t.Errorf("%d fetches, want 3", g.wire.count())
		}
		// Changes arrive as EDUs and are told to Alice.
		sent, at := g.position(g.B), g.position(g.A)
		upload(bob.On("DEV2"))
		n, sent := g.pump(g.B, g.A, sent)
		changed, _, err := g.keys.DeviceListChanges(context.Background(), g.A.ID, alice.ID, at, g.position(g.A))
		if n != 1 || err != nil || !slices.Equal(changed, []id.User{bob.ID}) {
			t.Errorf("%d units, changed %v, %v", n, changed, err)
		}
		if q := devicesOf(alice, bob.ID); q.Get("device_keys", string(bob.ID), "DEV2") == "" || g.wire.count() != 3 {
			t.Errorf("%d fetches, %s", g.wire.count(), q.Body)
		}
		keys, _, _, _ := crossKeys(bob, "b")
		bob.Do("POST", v3+"/keys/device_signing/upload", keys).OK(nil)
		n, _ = g.pump(g.B, g.A, sent)
		if q := devicesOf(alice, bob.ID); n != 1 || q.Get("master_keys", string(bob.ID)) == "" || q.Get("user_signing_keys", string(bob.ID)) != "" || g.wire.count() != 3 {
			t.Errorf("%d units, %d fetches, %s", n, g.wire.count(), q.Body)
		}
		// A lost unit is a gap: the list is fetched anew.
		upload(bob.On("DEV3"))
		sent = g.position(g.B)
		upload(bob.On("DEV4"))
		_, sent = g.pump(g.B, g.A, sent)
		if q := devicesOf(alice, bob.ID); strings.Count(string(q.Body), "device_display_name") != 4 || g.wire.count() < 4 {
			t.Errorf("%d fetches, %s", g.wire.count(), q.Body)
		}
		// A removed device goes.
		(bob.On("DEV4")).Do("POST", v3+"/logout", m{}).OK(nil)
		g.pump(g.B, g.A, sent)
		if q := devicesOf(alice, bob.ID); q.Get("device_keys", string(bob.ID), "DEV4") != "" || q.Get("device_keys", string(bob.ID), "DEV3") == "" {
			t.Errorf("%s", q.Body)
		}
	})
}

func TestStaleListSurvivesAnOutage(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		alice, bob := g.User(g.A, "alice"), g.User(g.B, "bob")
		upload(bob)
		g.rooms.put(1, alice.ID, bob.ID)
		devicesOf(alice, bob.ID)
		g.wire.cut(true)
		upload(bob.On("DEV2"))
		gap := encryption.EDU{Type: encryption.EDUDeviceListUpdate, Content: []byte(`{"user_id":"@bob:b.test","device_id":"X","stream_id":90,"prev_id":[80]}`)}
		g.receive(g.A, "b.test", gap)
		q := devicesOf(alice, bob.ID) // the old copy, and a failure that lets the client ask again
		if q.Get("device_keys", string(bob.ID), "DEV1") == "" || q.Get("failures", "b.test") == "" {
			t.Errorf("%s", q.Body)
		}
		g.wire.cut(false)
		if q := devicesOf(alice, bob.ID); q.Get("device_keys", string(bob.ID), "DEV2") == "" || q.Get("failures") != "{}" {
			t.Errorf("%s", q.Body)
		}
		g.receive(g.A, "c.test", encryption.EDU{Type: gap.Type, Content: []byte(`{"user_id":"@bob:b.test","device_id":"DEV1","stream_id":4,"prev_id":[2],"deleted":true}`)})
		if q := devicesOf(alice, bob.ID); q.Get("device_keys", string(bob.ID), "DEV1") == "" {
			t.Errorf("a server spoke for another one: %s", q.Body)
		}
	})
}

func TestListIsStaleAfterTheLastSharedRoom(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		ctx := context.Background()
		alice, anne, bob := g.User(g.A, "alice"), g.User(g.A, "anne"), g.User(g.B, "bob")
		upload(bob)
		g.rooms.put(1, alice.ID, anne.ID, bob.ID)
		devicesOf(alice, bob.ID)
		leave := func(user id.User) {
			t.Helper()
			p := &plan{Tenant: g.A.ID}
			if err := g.keys.MemberLeft(ctx, g.A, 1, user, p); err != nil {
				t.Fatal(err)
			}
			if len(p.Rows) > 0 {
				if _, err := g.Committer.Commit(ctx, p); err != nil {
					t.Fatal(err)
				}
			}
			g.rooms.remove(1, user)
		}
		leave(anne.ID)
		before := g.wire.count()
		devicesOf(alice, bob.ID)
		if g.wire.count() != before {
			t.Error("the list was fetched although the tenant is still in the room")
		}
		leave(alice.ID)
		upload(bob.On("DEV2")) // nobody is told
		g.rooms.put(2, alice.ID, bob.ID)
		if q := devicesOf(alice, bob.ID); q.Get("device_keys", string(bob.ID), "DEV2") == "" {
			t.Errorf("%s", q.Body)
		}
	})
}

func TestToDevice(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		ctx := context.Background()
		alice, bob := g.User(g.A, "alice"), g.User(g.A, "bob")
		bob.On("DEV2")
		send := func(txn string, messages m) *accounttest.Answer {
			return alice.Do("PUT", v3+"/sendToDevice/m.room.encrypted/"+txn, m{"messages": messages})
		}
		inbox := func(device id.Device) []encryption.ToDeviceMessage {
			t.Helper()
			list, err := g.keys.ToDevice(ctx, g.A.ID, bob.ID, device, 0, g.position(g.A), 100)
			if err != nil {
				t.Fatal(err)
			}
			return list
		}
		send("1", m{string(bob.ID): m{"*": m{"n": 1}}}).OK(nil)
		send("1", m{string(bob.ID): m{"*": m{"n": 1}}}).OK(nil) // once
		send("2", m{string(bob.ID): m{"DEV2": m{"n": 2}, "*": m{"n": 3}, "NONE": m{}}, "@nobody:a.test": m{"*": m{}}}).OK(nil)
		one, two := inbox("DEV1"), inbox("DEV2")
		if len(one) != 2 || string(one[0].JSON) != `{"sender":"@alice:a.test","type":"m.room.encrypted","content":{"n":1}}` || !strings.Contains(string(one[1].JSON), `"n":3`) {
			t.Errorf("DEV1: %+v", one)
		}
		if len(two) != 2 || !strings.Contains(string(two[1].JSON), `"n":2`) {
			t.Errorf("DEV2: %+v", two)
		}
		if err := g.keys.Acknowledge(ctx, g.A.ID, bob.ID, "DEV1", one[0].Position); err != nil || len(inbox("DEV1")) != 1 || len(inbox("DEV2")) != 2 {
			t.Errorf("after the acknowledgement: %v, %v, %v", err, inbox("DEV1"), inbox("DEV2"))
		}
		(&accounttest.User{Rig: g.Rig, Tenant: g.A, ID: bob.ID, Token: bob.On("DEV2").Token}).Do("POST", v3+"/logout", m{}).OK(nil)
		if len(inbox("DEV2")) != 0 {
			t.Error("the inbox outlived its device")
		}
		for body, code := range map[string]string{`{`: "M_NOT_JSON", `{}`: "M_MISSING_PARAM", `{"messages":{"@a:a.test":{"X":1}}}`: "M_BAD_JSON", `{"messages":{"a":{}}}`: "M_INVALID_PARAM"} {
			alice.Do("PUT", v3+"/sendToDevice/x/9", body).Fails(400, code)
		}
	})
}

func TestToDeviceReachesOtherServersOnce(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		ctx := context.Background()
		alice, bob := g.User(g.A, "alice"), g.User(g.B, "bob")
		at := g.position(g.A)
		for i := range 8 { // more than one page, in order
			alice.Do("PUT", fmt.Sprintf("%s/sendToDevice/m.x/%d", v3, i), m{"messages": m{string(bob.ID): m{"*": m{"n": i}}, string(alice.ID): m{"*": m{}}}}).OK(nil)
		}
		big := m{}
		for i := range 4 {
			big[fmt.Sprintf("DEV%d", i)] = m{"text": strings.Repeat("x", 30_000)}
		}
		alice.Do("PUT", v3+"/sendToDevice/m.x/big", m{"messages": m{string(bob.ID): big}}).OK(nil)
		n, upTo := g.pump(g.A, g.B, at)
		if n != 12 {
			t.Errorf("%d units, want 8 and 4 parts of the large one", n)
		}
		list, err := g.keys.ToDevice(ctx, g.B.ID, bob.ID, "DEV1", 0, g.position(g.B), 100)
		if err != nil || len(list) != 9 {
			t.Fatalf("%d messages, %v", len(list), err)
		}
		for i := range 8 {
			if !strings.Contains(string(list[i].JSON), fmt.Sprintf(`"n":%d`, i)) {
				t.Errorf("message %d: %s", i, list[i].JSON)
			}
		}
		if err := g.DB.Write(ctx, func(tx *tx) error { return g.keys.Delivered(ctx, tx, g.A, "b.test", upTo) }); err != nil {
			t.Fatal(err)
		}
		if units, complete, err := g.keys.Outgoing(ctx, g.A, "b.test", 0, upTo, 100); err != nil || len(units) != 0 || complete != upTo {
			t.Errorf("left over: %v, %d, %v", units, complete, err)
		}
		g.receive(g.B, "c.test", encryption.EDU{Type: encryption.EDUToDevice,
			Content: []byte(`{"sender":"@alice:a.test","type":"m.x","message_id":"forged","messages":{"@bob:b.test":{"*":{}}}}`)})
		if list, err := g.keys.ToDevice(ctx, g.B.ID, bob.ID, "DEV1", 0, g.position(g.B), 100); err != nil || len(list) != 9 {
			t.Errorf("a server spoke for another one: %d, %v", len(list), err)
		}
	})
}

func TestClaimAtAnotherServer(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		alice, bob := g.User(g.A, "alice"), g.User(g.B, "bob")
		bob.Do("POST", v3+"/keys/upload", m{"one_time_keys": oneTimeKeys(0, 1)}).OK(nil)
		want := m{"one_time_keys": m{string(bob.ID): m{"DEV1": "signed_curve25519"}}}
		if c := alice.Do("POST", v3+"/keys/claim", want).OK(nil); c.Get("one_time_keys", string(bob.ID), "DEV1", "signed_curve25519:K0000") == "" {
			t.Errorf("%s", c.Body)
		}
		g.wire.cut(true)
		if c := alice.Do("POST", v3+"/keys/claim", want).OK(nil); c.Get("failures", "b.test") == "" || c.Get("one_time_keys") != "{}" {
			t.Errorf("%s", c.Body)
		}
	})
}

func TestAfterRestore(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		ctx := context.Background()
		alice, bob := g.User(g.A, "alice"), g.User(g.B, "bob")
		g.rooms.put(1, alice.ID, bob.ID)
		upload(bob)
		bob.Do("POST", v3+"/keys/upload", m{"one_time_keys": oneTimeKeys(0, 3)}).OK(nil)
		devicesOf(alice, bob.ID)
		devicesOf(bob, alice.ID)
		if err := encryption.AfterRestore(ctx, g.DB, g.B.ID, g.B.Name); err != nil {
			t.Fatal(err)
		}
		if counts, _, err := g.keys.KeyCounts(ctx, g.B.ID, bob.ID, bob.Device); err != nil || counts["signed_curve25519"] != 0 {
			t.Errorf("one-time keys survived: %v, %v", counts, err)
		}
		fetches, sent := g.wire.count(), g.position(g.B)
		upload(bob.On("DEV2"))
		g.pump(g.B, g.A, sent) // a gap for A, which fetches
		if q := devicesOf(alice, bob.ID); q.Get("device_keys", string(bob.ID), "DEV2") == "" || g.wire.count() == fetches {
			t.Errorf("%d fetches, %s", g.wire.count()-fetches, q.Body)
		}
		fetches = g.wire.count()
		if devicesOf(bob, alice.ID); g.wire.count() == fetches {
			t.Error("a copy from before the restore was believed")
		}
	})
}

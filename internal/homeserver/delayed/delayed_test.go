// SPDX-License-Identifier: Apache-2.0

package delayed_test

import (
	"net/url"
	"testing"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/konsiltest"
)

type object = map[string]any

const (
	v3    = "/_matrix/client/v3"
	base  = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"
	delay = "?org.matrix.msc4140.delay="
	hour  = delay + "3600000"
)

func start(t *testing.T, database string) *konsiltest.Cell {
	return konsiltest.New(t, konsiltest.Spec{Tenants: []string{"hs1"}, Database: database,
		Configure: func(c *config.Config) { c.Calls.LiveKit = []string{"https://sfu.test/livekit/jwt"} }}).Cell(0)
}

func inRoom(room string) string { return v3 + "/rooms/" + url.PathEscape(room) }

func idOf(answer object) string { s, _ := answer["delay_id"].(string); return s }

// message waits until a message of the room's is seen.
func message(u *konsiltest.Session, room, body string) {
	u.Until("", "message "+body, func(sync map[string]any) bool {
		for _, e := range konsiltest.Events(sync, room) {
			if konsiltest.At(e, "content", "body") == body {
				return true
			}
		}
		return false
	})
}

func waiting(u *konsiltest.Session) []any { return u.Do("GET", base, nil)["delayed_events"].([]any) }

func TestDelayedEvents(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 1, func(t *testing.T, urls []string) {
		c := start(t, urls[0])
		alice, bob := c.SignIn(t, "@alice:hs1"), c.SignIn(t, "@bob:hs1")
		room := alice.CreateRoom(object{"preset": "public_chat"})
		bob.Join(room)
		send := func(txn, query, body string) string {
			t.Helper()
			return idOf(alice.Do("PUT", inRoom(room)+"/send/m.room.message/"+txn+query, object{"msgtype": "m.text", "body": body}))
		}
		if send("a", delay+"1", "soon") == "" {
			t.Fatal("no delay id")
		}
		message(bob, room, "soon")

		// Restarted, listed, repeated, sent at once, cancelled.
		one := send("b", hour, "one")
		if again := send("b", hour, "one"); again != one {
			t.Errorf("the same transaction made %s and %s", one, again)
		}
		list := waiting(alice)
		if len(list) != 1 || konsiltest.At(list, 0, "delay_id") != one || konsiltest.At(list, 0, "room_id") != room ||
			konsiltest.At(list, 0, "type") != "m.room.message" || konsiltest.At(list, 0, "content", "body") != "one" || konsiltest.At(list, 0, "delay") != 3600000.0 {
			t.Errorf("%v", list)
		}
		if len(waiting(bob)) != 0 {
			t.Error("somebody else's delayed events are listed")
		}
		nobody := *alice
		nobody.Token = "" // the id is enough
		nobody.Do("POST", base+"/"+one, object{"action": "restart"})
		nobody.Do("POST", base+"/"+one+"/restart", nil)
		nobody.Do("POST", base+"/"+one+"/send", object{})
		message(bob, room, "one")
		two := send("c", hour, "two")
		alice.Do("POST", base+"/"+two, object{"action": "cancel"})
		if len(waiting(alice)) != 0 {
			t.Error("a cancelled event waits")
		}
		for path, want := range map[string]struct {
			body   any
			status int
			code   string
		}{
			base + "/" + two:              {object{"action": "send"}, 404, "M_NOT_FOUND"},
			base + "/" + two + "/cancel":  {object{}, 404, "M_NOT_FOUND"},
			base + "/nothing":             {object{"action": "restart"}, 404, "M_NOT_FOUND"},
			base + "/x" + two:             {object{"action": "explode"}, 400, "M_INVALID_PARAM"},
			base + "/y" + two:             {object{}, 400, "M_MISSING_PARAM"},
			base + "/" + two + "/explode": {object{}, 404, "M_UNRECOGNIZED"},
		} {
			if status, answer := alice.Try("POST", path, want.body); status != want.status || answer["errcode"] != want.code {
				t.Errorf("%s: %d %v", path, status, answer)
			}
		}
		for query, code := range map[string]string{delay + "-1": "M_INVALID_PARAM", delay + "x": "M_INVALID_PARAM", delay + "999999999999": "M_UNKNOWN"} {
			status, answer := alice.Try("PUT", inRoom(room)+"/send/m.room.message/z"+query, object{})
			if status != 400 || answer["errcode"] != code || code == "M_UNKNOWN" && (answer["org.matrix.msc4140.errcode"] != "M_MAX_DELAY_EXCEEDED" || answer["org.matrix.msc4140.max_delay"] != 86400000.0) {
				t.Errorf("%s: %d %v", query, status, answer)
			}
		}
		carol := c.SignIn(t, "@carol:hs1")
		if status, answer := carol.Try("PUT", inRoom(room)+"/send/m.room.message/1"+hour, object{}); status != 403 {
			t.Errorf("%d %v", status, answer)
		}
	})
}

func TestCallMembersLeaveByThemselves(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 1, func(t *testing.T, urls []string) {
		c := start(t, urls[0])
		alice, bob := c.SignIn(t, "@alice:hs1"), c.SignIn(t, "@bob:hs1")
		room := alice.CreateRoom(object{"preset": "public_chat", "power_level_content_override": object{
			"events": object{"m.room.topic": 0, "org.matrix.msc3401.call.member": 0}}})
		bob.Join(room)
		// What Element Call does: first the leave for later, then the membership, under a key of its own.
		state := inRoom(room) + "/state/org.matrix.msc3401.call.member/_@bob:hs1_" + bob.Device + "_m.call"
		leave := idOf(bob.Do("PUT", state+hour, object{}))
		bob.Do("PUT", state, object{"application": "m.call"})
		if list := waiting(bob); len(list) != 1 || konsiltest.At(list, 0, "state_key") != "_@bob:hs1_"+bob.Device+"_m.call" {
			t.Fatalf("the leave was cancelled by the user's own membership: %v", list)
		}
		bob.Do("POST", base+"/"+leave, object{"action": "restart"})
		c.Restart()
		bob.Do("POST", base+"/"+leave+"/send", object{})
		if answer := alice.Do("GET", state, nil); len(answer) != 0 {
			t.Errorf("bob is still in the call: %v", answer)
		}
		// Somebody else's newer state cancels.
		topic := inRoom(room) + "/state/m.room.topic"
		bob.Do("PUT", topic+hour, object{"topic": "bob's"})
		alice.Do("PUT", topic, object{"topic": "alice's"})
		if list := waiting(bob); len(list) != 0 {
			t.Errorf("%v", list)
		}
	})
}

func TestDelayedOverRestart(t *testing.T) {
	t.Parallel()
	c := start(t, "")
	alice := c.SignIn(t, "@alice:hs1")
	room := alice.CreateRoom(object{})
	alice.Do("PUT", inRoom(room)+"/send/m.room.message/1"+delay+"300", object{"msgtype": "m.text", "body": "after the restart"})
	c.Restart()
	message(alice, room, "after the restart")
}

func TestTransports(t *testing.T) {
	t.Parallel()
	c := start(t, "")
	c.Stop()
	c.Config.PublicURL = "https://client.test"
	c.Start()
	alice := c.SignIn(t, "@alice:hs1")
	for _, list := range []any{alice.Do("GET", "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports", nil)["rtc_transports"],
		alice.Do("GET", "/.well-known/matrix/client", nil)["org.matrix.msc4143.rtc_foci"]} {
		if konsiltest.At(list, 0, "type") != "livekit" || konsiltest.At(list, 0, "livekit_service_url") != "https://sfu.test/livekit/jwt" {
			t.Errorf("%v", list)
		}
	}
}

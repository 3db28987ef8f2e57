// SPDX-License-Identifier: Apache-2.0

package ephemeral_test

import (
	"context"
	"fmt"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	. "github.com/konsil-health/konsil/internal/homeserver/clientsync/clientsynctest"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

func chat(g *Rig) (anna, ben *Person, room string) {
	anna, ben = g.Person("anna"), g.Person("ben")
	room = anna.Create(M{"preset": "private_chat"})
	anna.Invite(room, ben)
	ben.Join(room)
	anna.Sync("")
	ben.Sync("")
	return anna, ben, room
}

func receipt(room, kind, event string) string {
	return Room(room) + "/receipt/" + kind + "/" + url.PathEscape(event)
}

func TestReceipts(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, room := chat(g)
		first, second := anna.Say(room, "1"), anna.Say(room, "2")
		anna.Sync("")
		ben.Do("POST", receipt(room, "m.read", second), M{}).OK(nil)
		r := anna.Sync("").Ephemeral(room, "m.receipt")
		if len(r) != 1 || At(r[0], "content", second, "m.read", string(ben.ID), "ts") == nil {
			t.Fatalf("receipts %v", r)
		}
		// Backwards and again change nothing.
		for _, e := range []string{first, second} {
			ben.Do("POST", receipt(room, "m.read", e), nil).OK(nil)
		}
		if a := anna.Sync(""); a.At("rooms") != nil {
			t.Errorf("a receipt that does not move: %v", a.At("rooms"))
		}
		// Private ones are for their owner, on all devices.
		ben.Sync("")
		third := anna.Say(room, "3")
		anna.Sync("")
		ben.Sync("")
		ben.Do("POST", receipt(room, "m.read.private", third), M{}).OK(nil)
		if a := anna.Sync(""); a.At("rooms") != nil {
			t.Errorf("a private receipt reaches others: %v", a.At("rooms"))
		}
		b := ben.Sync("")
		if r := b.Ephemeral(room, "m.receipt"); len(r) != 1 || At(r[0], "content", third, "m.read.private", string(ben.ID)) == nil {
			t.Errorf("own private receipt: %v", b.At("rooms"))
		}
		fresh := anna.On("DEV2").Sync("")
		if r := fresh.Ephemeral(room, "m.receipt"); len(r) != 1 || At(r[0], "content", second, "m.read", string(ben.ID)) == nil || At(r[0], "content", third) != nil {
			t.Errorf("receipts of a new device: %v", r)
		}
		// Threads and the room as a whole keep receipts of their own.
		root := anna.Say(room, "Wurzel")
		inThread := anna.Message(room, M{"body": "Antwort", "msgtype": "m.text", "m.relates_to": M{"rel_type": "m.thread", "event_id": root}})
		anna.Sync("")
		ben.Do("POST", receipt(room, "m.read", inThread), M{"thread_id": root}).OK(nil)
		ben.Do("POST", receipt(room, "m.read", root), M{"thread_id": "main"}).OK(nil)
		ben.Do("POST", receipt(room, "m.read", root), M{}).OK(nil)
		threads := map[any]bool{}
		for _, e := range anna.Sync("").Ephemeral(room, "m.receipt") {
			for _, eid := range []string{root, inThread} {
				if r := At(e, "content", eid, "m.read", string(ben.ID)); r != nil {
					threads[At(r, "thread_id")] = true
				}
			}
		}
		if !reflect.DeepEqual(threads, map[any]bool{root: true, "main": true, nil: true}) {
			t.Errorf("threads %v", threads)
		}
	})
}

func TestReceiptsBadInput(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, room := chat(g)
		e := anna.Say(room, "1")
		root := anna.Say(room, "Wurzel")
		for body, code := range map[string]string{`{"thread_id":""}`: "M_INVALID_PARAM", `{"thread_id":5}`: "M_INVALID_PARAM", `{"thread_id":null}`: "M_INVALID_PARAM",
			fmt.Sprintf(`{"thread_id":%q}`, root): "M_INVALID_PARAM", `{`: "M_NOT_JSON", `[]`: "M_BAD_JSON"} {
			ben.Do("POST", receipt(room, "m.read", e), body).Fails(400, code)
		}
		ben.Do("POST", receipt(room, "m.seen", e), M{}).Fails(400, "M_INVALID_PARAM")
		ben.Do("POST", receipt(room, "m.read", "nonsense"), M{}).Fails(400, "M_INVALID_PARAM")
		ben.Do("POST", receipt(room, "m.fully_read", e), M{"thread_id": "main"}).Fails(400, "M_INVALID_PARAM")
		ben.Do("POST", receipt(room, "m.fully_read", "$unknown"), M{}).Fails(400, "M_INVALID_PARAM")
		g.Person("carla").Do("POST", receipt(room, "m.read", e), M{}).Fails(403, "M_FORBIDDEN")
		g.User(g.B, "berta").Do("POST", receipt(room, "m.read", e), M{}).Fails(403, "M_FORBIDDEN")
		ben.Do("POST", Room(room)+"/read_markers", M{"m.fully_read": 5}).Fails(400, "M_BAD_JSON")
		ben.Do("POST", Room(room)+"/read_markers", "").Fails(400, "M_NOT_JSON")
	})
}

func TestReadMarkers(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, room := chat(g)
		e := anna.Say(room, "1")
		ben.Sync("")
		ben.Do("POST", Room(room)+"/read_markers", M{"m.fully_read": e, "m.read": e, "m.read.private": e}).OK(nil)
		b := ben.Sync("")
		if d := b.Events("rooms", "join", room, "account_data", "events"); len(d) != 1 || d[0]["type"] != "m.fully_read" || At(d[0], "content", "event_id") != e {
			t.Errorf("read marker %v", b.At("rooms"))
		}
		if r := b.Ephemeral(room, "m.receipt"); At(r[0], "content", e, "m.read") == nil || At(r[0], "content", e, "m.read.private") == nil {
			t.Errorf("receipts %v", r)
		}
		ben.Do("POST", Room(room)+"/read_markers", M{}).OK(nil)
	})
}

func TestReceiptsBetweenServers(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, room := chat(g)
		e := anna.Say(room, "1")
		anna.Sync("")
		ctx := context.Background()
		give := func(user id.User, kind string) {
			t.Helper()
			raw := fmt.Sprintf(`{%q:{%q:{%q:{"event_ids":[%q],"data":{"ts":5}}}},"!other:x":{"m.read":{}}}`, room, kind, user, e)
			if err := g.Ephemeral.ReceiveReceipts(ctx, g.A, user.Server(), jsontext.Value(raw)); err != nil {
				t.Fatal(err)
			}
		}
		give("@nobody:b.test", "m.read")
		give(ben.ID, "m.read.private")
		if a := anna.Sync(""); a.At("rooms") != nil {
			t.Errorf("receipts that do not fit: %v", a.At("rooms"))
		}
		if err := g.Ephemeral.ReceiveReceipts(ctx, g.A, "b.test", jsontext.Value(fmt.Sprintf(`{%q:{"m.read":{%q:{"event_ids":[%q],"data":{"ts":5}}}}}`, room, ben.ID, e))); err != nil {
			t.Fatal(err)
		}
		if a := anna.Sync(""); a.At("rooms") != nil {
			t.Errorf("a receipt from the wrong server: %v", a.At("rooms"))
		}
		give(ben.ID, "m.read") // as if ben were of another server: the slice looks at the origin alone
		if r := anna.Sync("").Ephemeral(room, "m.receipt"); len(r) != 1 || At(r[0], "content", e, "m.read", string(ben.ID), "ts") != 5.0 {
			t.Errorf("receipts %v", r)
		}
		for _, bad := range []string{`[]`, `{`, `{"x":5}`} {
			if err := g.Ephemeral.ReceiveReceipts(ctx, g.A, "b.test", jsontext.Value(bad)); err != nil {
				t.Errorf("%s: %v", bad, err)
			}
		}
		if sent := g.EDUs(); len(sent) != 0 && sent[0].Kind == "m.receipt" {
			t.Errorf("a room without other servers sends %v", sent)
		}
	})
}

func typing(p *Person, room string, body any) {
	p.TB.Helper()
	p.Do("PUT", Room(room)+"/typing/"+url.PathEscape(string(p.ID)), body).OK(nil)
}

func TestTyping(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, room := chat(g)
		carla := g.Person("carla")
		carla.Sync("")
		typing(ben, room, M{"typing": true, "timeout": 10_000})
		users := func(p *Person, query string) any {
			t.Helper()
			e := p.Sync(query).Ephemeral(room, "m.typing")
			if len(e) == 0 {
				return nil
			}
			return At(e[0], "content", "user_ids")
		}
		if got := users(anna, ""); !reflect.DeepEqual(got, []any{string(ben.ID)}) {
			t.Errorf("typing %v", got)
		}
		if got := users(anna, ""); got != nil {
			t.Errorf("typing again %v", got)
		}
		if got := users(carla, ""); got != nil {
			t.Errorf("a stranger sees %v", got)
		}
		if got := users(anna.On("DEV2"), ""); !reflect.DeepEqual(got, []any{string(ben.ID)}) {
			t.Errorf("a new device sees %v", got)
		}
		typing(ben, room, M{"typing": true, "timeout": 20_000}) // goes on: nobody is told
		g.Clock.Move(15 * time.Second)
		if got := users(anna, ""); got != nil {
			t.Errorf("while it goes on: %v", got)
		}
		got := make(chan any)
		go func() { got <- users(anna, "timeout=60000") }()
		g.Clock.Move(6 * time.Second)
		if v := <-got; !reflect.DeepEqual(v, []any{}) {
			t.Errorf("after the end: %v", v)
		}
		typing(anna, room, M{"typing": true})
		typing(ben, room, M{"typing": true})
		typing(anna, room, M{"typing": false})
		if v := users(anna, ""); !reflect.DeepEqual(v, []any{string(ben.ID)}) {
			t.Errorf("after one has stopped: %v", v)
		}
		g.Clock.Move(time.Minute)
		g.Clock.Move(10 * time.Minute)
		if n := g.Clock.Timers(); n != 0 {
			t.Errorf("%d timers stay", n)
		}
		// Other servers' users.
		ctx := context.Background()
		edu := func(origin id.Server, user id.User, on bool) {
			raw := fmt.Sprintf(`{"room_id":%q,"user_id":%q,"typing":%v}`, room, user, on)
			if err := g.Ephemeral.ReceiveTyping(ctx, g.A, origin, jsontext.Value(raw)); err != nil {
				t.Error(err)
			}
		}
		anna.Sync("")
		edu("b.test", ben.ID, true)
		edu("b.test", "@stranger:b.test", true)
		if v := users(anna, ""); v != nil {
			t.Errorf("from the wrong server: %v", v)
		}
		edu("a.test", ben.ID, true)
		if v := users(anna, ""); !reflect.DeepEqual(v, []any{string(ben.ID)}) {
			t.Errorf("from the right server: %v", v)
		}
	})
}

func TestTypingBadInput(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, room := chat(g)
		path := Room(room) + "/typing/" + url.PathEscape(string(anna.ID))
		anna.Do("PUT", path, M{}).Fails(400, "M_MISSING_PARAM")
		anna.Do("PUT", path, M{"typing": "yes"}).Fails(400, "M_BAD_JSON")
		anna.Do("PUT", path, M{"typing": true, "timeout": -1}).Fails(400, "M_INVALID_PARAM")
		ben.Do("PUT", path, M{"typing": true}).Fails(403, "M_FORBIDDEN")
		carla := g.Person("carla")
		carla.Do("PUT", Room(room)+"/typing/"+url.PathEscape(string(carla.ID)), M{"typing": true}).Fails(403, "M_FORBIDDEN")
	})
}

func TestPresence(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, _ := chat(g)
		carla := g.Person("carla")
		path := func(p *Person) string { return V3 + "/presence/" + url.PathEscape(string(p.ID)) + "/status" }
		anna.Sync("")
		ben.Do("PUT", path(ben), M{"presence": "unavailable", "status_msg": "im OP"}).OK(nil)
		e := anna.Sync("").Events("presence", "events")
		if len(e) != 1 || e[0]["sender"] != string(ben.ID) || At(e[0], "content", "presence") != "unavailable" || At(e[0], "content", "status_msg") != "im OP" {
			t.Errorf("presence %v", e)
		}
		if a := anna.Do("GET", path(ben), nil).OK(nil); a.Text("status_msg") != "im OP" {
			t.Errorf("status %s", a.Body)
		}
		carla.Do("GET", path(ben), nil).Fails(403, "M_FORBIDDEN")
		carla.Do("PUT", path(ben), M{"presence": "online"}).Fails(403, "M_FORBIDDEN")
		carla.Do("PUT", path(carla), M{"presence": "here"}).Fails(400, "M_INVALID_PARAM")
		carla.Do("PUT", path(carla), M{"presence": "online", "status_msg": strings.Repeat("x", 2000)}).Fails(400, "M_INVALID_PARAM")
		// Who syncs is online; who stops is offline after a while.
		ben.Sync("")
		if e = anna.Sync("").Events("presence", "events"); len(e) != 1 || At(e[0], "content", "presence") != "online" || At(e[0], "content", "currently_active") != true {
			t.Errorf("after a sync: %v", e)
		}
		ben.Sync("set_presence=offline")
		if a := anna.Sync(""); a.At("presence") != nil {
			t.Errorf("a sync that does not count: %v", a.At("presence"))
		}
		g.Clock.Move(3 * time.Minute)
		found := false
		for _, e := range anna.Sync("").Events("presence", "events") {
			found = found || e["sender"] == string(ben.ID) && At(e, "content", "presence") == "offline"
		}
		if !found {
			t.Error("ben stays online")
		}
		raw := `{"push":[{"user_id":"@x:b.test","presence":"online"},{"user_id":"` + string(ben.ID) + `","presence":"online","last_active_ago":5}]}`
		if err := g.Ephemeral.ReceivePresence(context.Background(), g.A, "a.test", jsontext.Value(raw)); err != nil {
			t.Fatal(err)
		}
		if e = anna.Sync("").Events("presence", "events"); len(e) != 1 || At(e[0], "content", "presence") != "online" {
			t.Errorf("from another server: %v", e)
		}
	})
}

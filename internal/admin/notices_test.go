// SPDX-License-Identifier: Apache-2.0

package admin_test

import (
	"testing"

	"github.com/konsil-health/konsil/internal/konsiltest"
)

// TestServerNotices: an administrator's notice reaches a user in a room that is marked as such, in the same one each time, and only they may write there.
func TestServerNotices(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 1, func(t *testing.T, urls []string) {
		c := konsiltest.New(t, konsiltest.Spec{Tenants: []string{"hs1", "hs2"}, Database: urls[0]}).Cell(0)
		root, alice := administrator(t, c), c.SignIn(t, "@alice:hs1")
		const send = v1 + "/send_server_notice"
		notice := func(text string) object {
			return object{"user_id": "@alice:hs1", "content": object{"msgtype": "m.text", "body": text}}
		}
		fails(t, alice, "POST", send, notice("x"), 403, "M_FORBIDDEN")
		fails(t, root, "POST", send, object{"user_id": "@eve:hs2", "content": object{}}, 400, "M_UNKNOWN")
		fails(t, root, "POST", send, object{"user_id": "@nobody:hs1", "content": object{}}, 404, "M_NOT_FOUND")
		fails(t, root, "POST", send, object{"user_id": "@alice:hs1"}, 400, "M_BAD_JSON")
		root.Do("POST", send, notice("Wartung um 22 Uhr"))
		sync := alice.Do("GET", v3+"/sync", nil)
		invites, _ := konsiltest.At(sync, "rooms", "invite").(object)
		if len(invites) != 1 {
			t.Fatalf("invites: %v", invites)
		}
		var in string
		for in = range invites {
		}
		alice.Join(in)
		if tags := alice.Do("GET", v3+"/user/@alice:hs1/rooms/"+escape(in)+"/tags", nil); konsiltest.At(tags, "tags", "m.server_notice") == nil {
			t.Errorf("tags: %v", tags)
		}
		first := root.Do("PUT", send+"/once", notice("Wartung beendet"))["event_id"]
		if again := root.Do("PUT", send+"/once", notice("Wartung beendet"))["event_id"]; again != first {
			t.Errorf("a repeated notice was sent twice: %v, %v", first, again)
		}
		page := alice.Do("GET", v3+"/rooms/"+escape(in)+"/messages?dir=b&limit=2", nil)["chunk"]
		if konsiltest.At(page, 0, "event_id") != first || konsiltest.At(page, 0, "content", "body") != "Wartung beendet" || konsiltest.At(page, 0, "sender") != "@_notices:hs1" {
			t.Errorf("%v", page)
		}
		fails(t, alice, "PUT", v3+"/rooms/"+escape(in)+"/send/m.room.message/reply", object{"msgtype": "m.text", "body": "?"}, 403, "M_FORBIDDEN")
		alice.Do("POST", v3+"/rooms/"+escape(in)+"/leave", object{})
		root.Do("POST", send, notice("noch etwas"))
		if sync := alice.Do("GET", v3+"/sync", nil); konsiltest.At(sync, "rooms", "invite", in) == nil {
			t.Error("who left was not invited to the same room again")
		}
	})
}

// TestErase: what a user has said who asked to be erased comes without its content to those who enter later; who was there still reads it.
func TestErase(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 1, func(t *testing.T, urls []string) {
		c := konsiltest.New(t, konsiltest.Spec{Tenants: []string{"hs1"}, Database: urls[0]}).Cell(0)
		root, alice, bob := administrator(t, c), c.SignIn(t, "@alice:hs1"), c.SignIn(t, "@bob:hs1")
		in := alice.CreateRoom(object{"preset": "public_chat"})
		bob.Join(in)
		said, kept := bob.Send(in, "Befund: geheim"), alice.Send(in, "Guten Tag")
		if status, answer := bob.Try("POST", v3+"/account/deactivate", object{"erase": true, "auth": object{"type": "m.login.password", "password": bob.Password,
			"identifier": object{"type": "m.id.user", "user": "bob"}}}); status != 200 {
			t.Fatalf("%d %v", status, answer)
		}
		carl := c.SignIn(t, "@carl:hs1")
		carl.Join(in)
		body := func(who *konsiltest.Session, event string) any {
			return konsiltest.At(who.Do("GET", v3+"/rooms/"+escape(in)+"/event/"+escape(event), nil), "content", "body")
		}
		for _, r := range []struct {
			who   *konsiltest.Session
			event string
			want  any
		}{{alice, said, "Befund: geheim"}, {carl, said, nil}, {alice, kept, "Guten Tag"}, {carl, kept, "Guten Tag"}} {
			if got := body(r.who, r.event); got != r.want {
				t.Errorf("%s reads %v, want %v", r.who.User, got, r.want)
			}
		}
		page := carl.Do("GET", v3+"/rooms/"+escape(in)+"/messages?dir=b&limit=50", nil)["chunk"].([]any)
		for i := range page {
			if konsiltest.At(page, i, "sender") == "@bob:hs1" && konsiltest.At(page, i, "content", "body") != nil {
				t.Errorf("carl pages back to %v", page[i])
			}
		}
		if got := root.Do("GET", v2+"/users/@bob:hs1", nil); got["erased"] != true || got["deactivated"] != true {
			t.Errorf("%v", got)
		}
		if got := root.Do("GET", v2+"/users/@alice:hs1", nil); got["erased"] != false {
			t.Errorf("%v", got)
		}
	})
}

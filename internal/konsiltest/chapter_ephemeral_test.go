// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import (
	"net/url"

	"github.com/konsil-health/konsil/internal/konsiltest"
)

// ephemeral: who types, who has read what in which thread, who is there.
func (s *storybook) ephemeral() {
	room := s.create(s.anna, "lively", map[string]any{"preset": "private_chat", "invite": []string{s.berta.User}})
	s.enter(s.berta, room, s.anna)
	eid := s.say(s.anna, room, "Lies mich", s.berta)
	reply := s.tells(s.anna, room, "in a thread", "m.room.message", map[string]any{"msgtype": "m.text", "body": "Faden",
		"m.relates_to": map[string]any{"rel_type": "m.thread", "event_id": eid}}, s.berta)

	typing := in(room) + "/typing/" + url.PathEscape(s.berta.User)
	s.try(s.berta, "PUT", typing, map[string]any{"typing": true, "timeout": 60_000})
	s.until(s.anna, "berta typing", func() bool {
		return konsiltest.At(s.ephemeralOf(s.anna, room, "m.typing"), "user_ids", 0) == s.berta.User
	})
	s.try(s.berta, "PUT", typing, map[string]any{"typing": false})
	s.until(s.anna, "berta no longer typing", func() bool { return konsiltest.At(s.ephemeralOf(s.anna, room, "m.typing"), "user_ids", 0) == nil })
	s.try(s.berta, "PUT", in(room)+"/typing/"+url.PathEscape(s.anna.User), map[string]any{"typing": true})

	read := func(kind, eid string, content map[string]any) {
		s.try(s.berta, "POST", in(room)+"/receipt/"+kind+"/"+url.PathEscape(eid), content)
	}
	read("m.read", eid, map[string]any{"thread_id": "main"})
	read("m.read", reply, map[string]any{"thread_id": eid})
	read("m.read.private", reply, map[string]any{})
	read("m.read", "$nothing", map[string]any{})
	got := func(eid string) any {
		return konsiltest.At(s.ephemeralOf(s.anna, room, "m.receipt"), eid, "m.read", s.berta.User, "thread_id")
	}
	s.until(s.anna, "both receipts", func() bool { return got(eid) == "main" && got(reply) == eid })
	receipts, _ := s.ephemeralOf(s.anna, room, "m.receipt").(map[string]any)
	for _, about := range []string{eid, reply} {
		s.note("anna sees of berta that she has read %s: %v, in private: %v", about, got(about), konsiltest.At(receipts, about, "m.read.private"))
	}

	s.try(s.anna, "PUT", "presence/"+url.PathEscape(s.anna.User)+"/status", map[string]any{"presence": "online", "status_msg": "im OP"})
	s.until(s.berta, "anna's presence", func() bool {
		_, is := s.berta.Try("GET", client+"presence/"+url.PathEscape(s.anna.User)+"/status", nil)
		return is["status_msg"] == "im OP"
	})
	s.try(s.berta, "GET", "presence/"+url.PathEscape("@nobody:praxis.test")+"/status", nil)
}

// ephemeralOf is the content of a room's ephemeral event in somebody's whole sync.
func (s *storybook) ephemeralOf(who *konsiltest.Session, room, kind string) any {
	events, _ := konsiltest.At(who.Sync("", 0), "rooms", "join", room, "ephemeral", "events").([]any)
	for _, e := range events {
		if konsiltest.At(e, "type") == kind {
			return konsiltest.At(e, "content")
		}
	}
	return nil
}

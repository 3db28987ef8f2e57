// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import (
	"net/url"

	"github.com/konsil-health/konsil/internal/konsiltest"
)

// privateRoom: invitations, power, redaction, ban.
func (s *storybook) privateRoom() {
	room := s.create(s.anna, "private", map[string]any{"preset": "private_chat", "name": "Konsil"})
	at := "rooms/" + url.PathEscape(room)
	s.try(s.berta, "POST", "join/"+url.PathEscape(room)+"?server_name=praxis.test", map[string]any{})
	s.try(s.anna, "POST", at+"/invite", map[string]any{"user_id": "@nobody:klinik.test"})
	s.try(s.anna, "POST", at+"/invite", map[string]any{"user_id": s.berta.User, "reason": "Bitte"})
	s.try(s.anna, "POST", at+"/invite", map[string]any{"user_id": s.carl.User})
	s.enter(s.berta, room, s.anna)
	s.settle()
	s.try(s.carl, "POST", at+"/leave", map[string]any{"reason": "keine Zeit"})
	s.membership(room, s.carl.User, "leave", s.anna)
	s.membership(room, s.carl.User, "leave", s.berta)
	s.say(s.anna, room, "Frage", s.berta)
	reply := s.say(s.berta, room, "Antwort", s.anna)
	s.set(s.berta, room, "m.room.topic", map[string]any{"topic": "ohne Recht"})
	s.set(s.anna, room, "m.room.power_levels", map[string]any{"users": map[string]any{s.berta.User: 50}}, s.berta)
	s.set(s.anna, room, "m.room.history_visibility", map[string]any{"history_visibility": "joined"}, s.berta)
	s.set(s.berta, room, "m.room.topic", map[string]any{"topic": "mit Recht"}, s.anna)
	s.set(s.berta, room, "m.room.power_levels", map[string]any{"users": map[string]any{s.berta.User: 100}})
	s.try(s.anna, "PUT", at+"/redact/"+url.PathEscape(reply)+"/r1", map[string]any{"reason": "Versehen"})
	s.until(s.berta, "the redaction", func() bool {
		_, e := s.berta.Try("GET", client+at+"/event/"+url.PathEscape(reply), nil)
		return konsiltest.At(e, "unsigned", "redacted_because") != nil
	})
	s.try(s.anna, "POST", at+"/ban", map[string]any{"user_id": s.carl.User})
	s.membership(room, s.carl.User, "ban", s.berta)
	s.try(s.berta, "POST", at+"/invite", map[string]any{"user_id": s.carl.User})
	s.try(s.berta, "POST", at+"/kick", map[string]any{"user_id": s.anna.User})
	s.try(s.carl, "GET", at+"/messages?dir=b", nil)
	s.send(s.carl, room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "von draußen"})
}

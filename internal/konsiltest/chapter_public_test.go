// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import (
	"encoding/json"
	"net/url"
	"strings"

	"github.com/konsil-health/konsil/internal/konsiltest"
)

// publicRoom: aliases, the other server's directory, joining late, history, kick and knock.
func (s *storybook) publicRoom() {
	room := s.create(s.anna, "public", map[string]any{"preset": "public_chat", "visibility": "public", "room_alias_name": "visite", "name": "Visite"})
	at := "rooms/" + url.PathEscape(room)
	early := s.say(s.anna, room, "früh")
	found := s.try(s.berta, "GET", "directory/room/"+url.PathEscape("#visite:praxis.test"), nil)
	s.note("the alias leads to %v by %v", found["room_id"], found["servers"])
	s.try(s.berta, "GET", "directory/room/"+url.PathEscape("#nichts:praxis.test"), nil)
	listed := s.try(s.berta, "POST", "publicRooms?server=praxis.test", map[string]any{})
	s.note("listed: %v, %v members", konsiltest.At(listed, "chunk", 0, "name"), konsiltest.At(listed, "chunk", 0, "num_joined_members"))
	s.try(s.berta, "POST", "join/"+url.PathEscape("#visite:praxis.test"), map[string]any{})
	s.try(s.carl, "POST", "join/"+url.PathEscape("#nichts:praxis.test"), map[string]any{})
	s.membership(room, s.berta.User, "join", s.anna)
	s.say(s.anna, room, "spät", s.berta)
	s.until(s.berta, "the history", func() bool {
		_, page := s.berta.Try("GET", client+at+"/messages?dir=b&limit=50", nil)
		text, _ := json.Marshal(page)
		return strings.Contains(string(text), early)
	})
	s.try(s.anna, "POST", at+"/kick", map[string]any{"user_id": s.berta.User, "reason": "Pause"})
	s.until(s.berta, "the kick", func() bool {
		status, _ := s.berta.Try("PUT", client+at+"/typing/"+url.PathEscape(s.berta.User), map[string]any{"typing": false})
		return status == 403
	})
	s.set(s.anna, room, "m.room.join_rules", map[string]any{"join_rule": "knock"})
	s.try(s.berta, "POST", "join/"+url.PathEscape(room)+"?server_name=praxis.test", map[string]any{})
	s.try(s.berta, "POST", "knock/"+url.PathEscape(room)+"?server_name=praxis.test", map[string]any{"reason": "darf ich?"})
	s.membership(room, s.berta.User, "knock", s.anna)
	s.try(s.anna, "POST", at+"/invite", map[string]any{"user_id": s.berta.User})
	s.enter(s.berta, room, s.anna)
	s.say(s.berta, room, "wieder da", s.anna)
}

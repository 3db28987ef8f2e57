// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import (
	"net/url"

	"github.com/konsil-health/konsil/internal/konsiltest"
)

// spaces: who is in the space may join, seen from the other server too.
func (s *storybook) spaces() {
	space := s.create(s.anna, "space", map[string]any{"preset": "public_chat", "name": "Bereich", "creation_content": map[string]any{"type": "m.space"}})
	room := s.create(s.anna, "restricted", map[string]any{"preset": "private_chat", "name": "Team", "initial_state": []any{map[string]any{
		"type": "m.room.join_rules", "state_key": "", "content": map[string]any{"join_rule": "restricted",
			"allow": []any{map[string]any{"type": "m.room_membership", "room_id": space}}}}}})
	s.try(s.anna, "PUT", "rooms/"+url.PathEscape(space)+"/state/m.space.child/"+url.PathEscape(room), map[string]any{"via": []string{"praxis.test"}})
	s.try(s.berta, "POST", "join/"+url.PathEscape(room)+"?server_name=praxis.test", map[string]any{})
	s.try(s.berta, "POST", "join/"+url.PathEscape(space)+"?server_name=praxis.test", map[string]any{})
	s.try(s.berta, "POST", "join/"+url.PathEscape(room)+"?server_name=praxis.test", map[string]any{})
	s.membership(room, s.berta.User, "join", s.anna)
	status, tree := s.berta.Try("GET", "/_matrix/client/v1/rooms/"+url.PathEscape(space)+"/hierarchy", nil)
	rooms, _ := tree["rooms"].([]any)
	s.note("hierarchy: %d, %d rooms, %v, %v", status, len(rooms), konsiltest.At(tree, "rooms", 0, "name"), konsiltest.At(tree, "rooms", 1, "name"))
	s.say(s.berta, room, "im Team", s.anna)

	// A room that only the other server has is shown by asking it.
	ward := s.create(s.berta, "ward", map[string]any{"preset": "public_chat", "name": "Station"})
	s.try(s.anna, "PUT", in(space)+"/state/m.space.child/"+url.PathEscape(ward), map[string]any{"via": []string{"klinik.test"}, "suggested": true})
	for _, query := range []string{"", "?suggested_only=true", "?max_depth=0"} {
		tree := s.try(s.anna, "GET", "/_matrix/client/v1/"+in(space)+"/hierarchy"+query, nil)
		rooms, _ := tree["rooms"].([]any)
		for _, r := range rooms {
			s.note("  %v: %v, %v, %v members", konsiltest.At(r, "room_id"), konsiltest.At(r, "name"), konsiltest.At(r, "join_rule"), konsiltest.At(r, "num_joined_members"))
		}
	}
	summary := s.try(s.anna, "GET", "/_matrix/client/v1/room_summary/"+url.PathEscape(ward)+"?via=klinik.test", nil)
	s.note("summary: %v, %v", summary["name"], summary["membership"])
}

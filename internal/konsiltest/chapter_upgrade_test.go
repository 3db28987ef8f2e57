// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import (
	"net/url"

	"github.com/konsil-health/konsil/internal/konsiltest"
)

// upgrade: a room gets a successor; people of both servers find it, and the old one is closed.
func (s *storybook) upgrade() {
	room := s.create(s.anna, "old", map[string]any{"preset": "public_chat", "name": "Umzug", "room_version": "10", "room_alias_name": "umzug"})
	s.enter(s.berta, room, s.anna)
	s.say(s.berta, room, "hier", s.anna)
	s.try(s.berta, "POST", in(room)+"/upgrade", map[string]any{"new_version": "12"})
	s.try(s.anna, "POST", in(room)+"/upgrade", map[string]any{"new_version": "999"})
	successor := s.name(s.try(s.anna, "POST", in(room)+"/upgrade", map[string]any{"new_version": "12"}), "replacement_room", "new")
	s.rooms[len(s.rooms)-1] = successor // in the old one berta can say nothing any more
	s.until(s.berta, "the tombstone, and that the room is closed", func() bool {
		_, tombstone := s.berta.Try("GET", client+in(room)+"/state/m.room.tombstone", nil)
		_, levels := s.berta.Try("GET", client+in(room)+"/state/m.room.power_levels", nil)
		return tombstone["replacement_room"] == successor && levels["events_default"] != 0.0
	})
	s.send(s.berta, room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "zu spät"})
	s.enter(s.berta, successor, s.anna)
	created := s.try(s.berta, "GET", in(successor)+"/state/m.room.create", nil)
	s.note("it comes from %v", konsiltest.At(created, "predecessor", "room_id"))
	s.note("the alias leads to %v", s.try(s.berta, "GET", "directory/room/"+url.PathEscape("#umzug:praxis.test"), nil)["room_id"])
	s.say(s.berta, successor, "angekommen", s.anna)
	s.look(s.anna, room)
	s.look(s.berta, room)
}

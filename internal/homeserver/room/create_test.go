// SPDX-License-Identifier: Apache-2.0

package room_test

import (
	"net/url"
	"testing"

	. "github.com/konsil-health/konsil/internal/homeserver/clientsync/clientsynctest"
)

// TestRefusedRoomIsNotLeftBehind: a creation that is refused half-way leaves neither a room nor an alias.
func TestRefusedRoomIsNotLeftBehind(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna := g.Person("anna")
		wrong := []M{{"type": "m.room.power_levels", "state_key": "", "content": M{"users": M{string(anna.ID): 0}}}}
		anna.Do("POST", V3+"/createRoom", M{"initial_state": wrong, "name": "x", "room_version": "11", "room_alias_name": "befunde", "visibility": "public"}).
			Fails(400, "M_INVALID_ROOM_STATE")
		m := M{}
		anna.Do("GET", V3+"/joined_rooms", nil).OK(&m)
		if rooms := m["joined_rooms"].([]any); len(rooms) != 0 {
			t.Errorf("left behind: %v", rooms)
		}
		anna.Do("GET", V3+"/publicRooms", nil).OK(&m)
		if At(m, "chunk", 0) != nil {
			t.Errorf("in the directory: %v", m["chunk"])
		}
		again := anna.Create(M{"name": "x", "room_version": "11", "room_alias_name": "befunde"})
		anna.Do("GET", V3+"/directory/room/"+url.PathEscape("#befunde:a.test"), nil).OK(&m)
		if m["room_id"] != again {
			t.Errorf("the alias leads to %v", m["room_id"])
		}
	})
}

// TestUpgradeByAModerator: whoever may send the tombstone may upgrade, and has no more rights in the new room than in the old one.
func TestUpgradeByAModerator(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		room := anna.Create(M{"preset": "public_chat", "room_version": "10", "name": "Befunde", "power_level_content_override": M{
			"users": M{string(anna.ID): 100, string(ben.ID): 50}, "events": M{"m.room.tombstone": 50, "m.room.history_visibility": 100, "m.room.power_levels": 100}}})
		ben.Join(room)
		m := M{}
		ben.Do("POST", Room(room)+"/upgrade", M{"new_version": "11"}).OK(&m)
		replacement := m["replacement_room"].(string)
		levels := M{}
		ben.Do("GET", Room(replacement)+"/state/m.room.power_levels", nil).OK(&levels)
		if At(levels, "users", string(ben.ID)) != 50.0 || At(levels, "users", string(anna.ID)) != 100.0 {
			t.Errorf("levels %v", levels["users"])
		}
		name := M{}
		ben.Do("GET", Room(replacement)+"/state/m.room.name", nil).OK(&name)
		if name["name"] != "Befunde" {
			t.Errorf("name %v", name)
		}
		ben.Do("PUT", Room(replacement)+"/state/m.room.history_visibility", M{"history_visibility": "joined"}).Fails(403, "M_FORBIDDEN")
	})
}

// TestListNeedsToken: everybody may read the list of public rooms (client-server API), but only who has signed in may search it.
func TestListNeedsToken(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna := g.Person("anna")
		stranger := *anna.User
		stranger.Token = ""
		anna.Do("POST", V3+"/publicRooms", M{"limit": 1}).OK(nil)
		stranger.Do("POST", V3+"/publicRooms", M{"limit": 1}).Fails(401, "M_MISSING_TOKEN")
		stranger.Do("GET", V3+"/publicRooms", nil).OK(nil)
	})
}

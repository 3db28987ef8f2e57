// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import "net/url"

// bans: kicks and bans across servers, who may not, and a server that a room's access list shuts out.
func (s *storybook) bans() {
	room := s.create(s.anna, "notices", map[string]any{"preset": "public_chat", "name": "Aushang"})
	s.enter(s.berta, room, s.anna)
	s.enter(s.carl, room, s.anna, s.berta)
	s.act(s.berta, "kick", room, s.anna)
	s.act(s.berta, "ban", room, s.carl)
	s.act(s.anna, "kick", room, s.berta)
	s.membership(room, s.berta.User, "leave", s.carl)
	s.enter(s.berta, room, s.anna)
	s.act(s.anna, "ban", room, s.carl)
	s.membership(room, s.carl.User, "ban", s.berta)
	s.listed(s.carl, "join", room, false)
	s.enter(s.carl, room)
	s.try(s.carl, "POST", "knock/"+url.PathEscape(room)+"?server_name=praxis.test", map[string]any{})
	s.act(s.berta, "unban", room, s.carl)
	s.act(s.anna, "unban", room, s.carl)
	s.membership(room, s.carl.User, "leave", s.berta)
	s.enter(s.carl, room, s.anna, s.berta)
	s.say(s.carl, room, "wieder erlaubt", s.anna, s.berta)

	closed := s.create(s.anna, "closed to the clinic", map[string]any{"preset": "public_chat", "room_alias_name": "zu", "initial_state": initial("m.room.server_acl",
		map[string]any{"allow": []string{"*"}, "deny": []string{"klinik.*"}, "allow_ip_literals": false})})
	s.enter(s.berta, closed)
	s.try(s.berta, "POST", "join/"+url.PathEscape("#zu:praxis.test"), map[string]any{})
	s.try(s.berta, "POST", "knock/"+url.PathEscape(closed)+"?server_name=praxis.test", map[string]any{})
	s.try(s.berta, "GET", in(closed)+"/messages?dir=b", nil)
	s.act(s.anna, "invite", closed, s.berta)

	later := s.create(s.anna, "closed later", map[string]any{"preset": "public_chat"})
	s.enter(s.berta, later, s.anna)
	s.say(s.berta, later, "noch offen", s.anna)
	list := func(deny ...string) map[string]any {
		return map[string]any{"allow": []string{"*"}, "deny": deny, "allow_ip_literals": false}
	}
	s.set(s.anna, later, "m.room.server_acl", list("klinik.test"), s.berta)
	s.say(s.berta, later, "ungehört")
	s.say(s.anna, later, "unter uns", s.berta)
	s.set(s.anna, later, "m.room.server_acl", list("other.test"), s.berta)
	s.say(s.berta, later, "wieder gehört", s.anna)
}

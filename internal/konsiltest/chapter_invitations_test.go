// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import (
	"encoding/json"
	"net/url"

	"github.com/konsil-health/konsil/internal/konsiltest"
)

// invitations: a knock turned down and one taken back, an invitation turned down and one taken back, and one for an address that is nobody's yet.
func (s *storybook) invitations() {
	room := s.create(s.anna, "knocking", map[string]any{"preset": "private_chat", "name": "Klopfen", "initial_state": initial("m.room.join_rules", map[string]any{"join_rule": "knock"})})
	knock := "knock/" + url.PathEscape(room) + "?server_name=praxis.test"
	s.try(s.berta, "POST", knock, map[string]any{"reason": "bitte"})
	s.membership(room, s.berta.User, "knock", s.anna)
	s.listed(s.berta, "knock", room, true)
	s.act(s.anna, "kick", room, s.berta)
	s.listed(s.berta, "knock", room, false)
	s.try(s.carl, "POST", knock, map[string]any{})
	s.membership(room, s.carl.User, "knock", s.anna)
	s.try(s.carl, "POST", in(room)+"/leave", map[string]any{})
	s.membership(room, s.carl.User, "leave", s.anna)
	s.listed(s.carl, "knock", room, false)

	s.act(s.anna, "invite", room, s.berta)
	s.listed(s.berta, "invite", room, true)
	s.note("berta is shown %s", s.invitedBy(s.berta, room))
	s.try(s.berta, "POST", in(room)+"/leave", map[string]any{"reason": "nein"})
	s.membership(room, s.berta.User, "leave", s.anna)
	s.listed(s.berta, "invite", room, false)
	s.act(s.anna, "invite", room, s.carl)
	s.listed(s.carl, "invite", room, true)
	s.act(s.anna, "kick", room, s.carl)
	s.listed(s.carl, "invite", room, false)
	s.enter(s.carl, room)
	s.try(s.berta, "POST", "rooms/"+url.PathEscape(room)+"/invite", map[string]any{"user_id": s.carl.User})

	s.thirdPartyInvite()
}

// invitedBy is who an invitation is said to come from, and the room's name in it.
func (s *storybook) invitedBy(who *konsiltest.Session, room string) string {
	events, _ := konsiltest.At(who.Sync("", 0), "rooms", "invite", room, "invite_state", "events").([]any)
	var said []any
	for _, e := range events {
		switch konsiltest.At(e, "type") {
		case "m.room.name":
			said = append(said, konsiltest.At(e, "content", "name"))
		case "m.room.member":
			said = append(said, konsiltest.At(e, "sender"), konsiltest.At(e, "state_key"), konsiltest.At(e, "content", "membership"))
		}
	}
	return s.sorted(said)
}

// thirdPartyInvite: the identity server knows one address, keeps the invitation of the other, and tells the server of whoever proves to have it.
func (s *storybook) thirdPartyInvite() {
	s.names[s.identity.PublicKey()] = "<the identity server's key>"
	s.identity.On("GET", "/_matrix/identity/v2/hash_details", konsiltest.JSON(map[string]any{"lookup_pepper": "pfeffer", "algorithms": []string{"none"}}))
	s.identity.On("POST", "/_matrix/identity/v2/lookup", konsiltest.JSON(map[string]any{"mappings": map[string]any{"bekannt@praxis.example email": s.berta.User}}))
	s.identity.On("POST", "/_matrix/identity/v2/store-invite", konsiltest.JSON(map[string]any{"token": "geheim", "display_name": "n...@k...",
		"public_keys": []any{map[string]any{"public_key": s.identity.PublicKey(), "key_validity_url": "https://id.test/valid"}}}))
	room := s.create(s.anna, "by address", map[string]any{"preset": "private_chat", "name": "Anschrift"})
	invite := func(address string) {
		s.try(s.anna, "POST", in(room)+"/invite", map[string]any{"id_server": s.identity.Name, "id_access_token": "a", "medium": "email", "address": address})
	}
	invite("bekannt@praxis.example")
	s.listed(s.berta, "invite", room, true)
	s.enter(s.berta, room, s.anna)
	invite("neu@klinik.example")
	signed := json.RawMessage(s.identity.Sign(map[string]any{"mxid": s.carl.User, "token": "geheim"}))
	status, _ := s.identity.Ask(s.network, s.klinik, "klinik.test", "PUT", "/_matrix/federation/v1/3pid/onbind", map[string]any{
		"medium": "email", "address": "neu@klinik.example", "mxid": s.carl.User, "invites": []any{map[string]any{"medium": "email",
			"address": "neu@klinik.example", "mxid": s.carl.User, "room_id": room, "sender": s.anna.User, "signed": signed}}})
	s.note("the identity server's notice: %d", status)
	s.listed(s.carl, "invite", room, true)
	s.enter(s.carl, room, s.anna, s.berta)
	s.say(s.carl, room, "gefunden", s.anna, s.berta)
}

// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import (
	"net/url"

	"github.com/konsil-health/konsil/internal/konsiltest"
)

// leaving: the last one leaves, all forget, and nobody comes back; and a token by which another service learns who somebody is.
func (s *storybook) leaving() {
	room := s.name(s.try(s.anna, "POST", "createRoom", map[string]any{"preset": "public_chat", "room_alias_name": "ende"}), "room_id", "left")
	s.enter(s.berta, room, s.anna)
	s.say(s.berta, room, "das war's", s.anna)
	s.try(s.berta, "POST", in(room)+"/forget", map[string]any{})
	s.try(s.anna, "POST", in(room)+"/leave", map[string]any{})
	s.membership(room, s.anna.User, "leave", s.berta)
	s.enter(s.carl, room, s.berta)
	for _, who := range []*konsiltest.Session{s.berta, s.carl} {
		s.try(who, "POST", in(room)+"/leave", map[string]any{})
	}
	for _, who := range []*konsiltest.Session{s.anna, s.berta} {
		s.look(who, room)
		s.try(who, "POST", in(room)+"/forget", map[string]any{})
		s.try(who, "GET", in(room)+"/messages?dir=b", nil)
		s.listed(who, "join", room, false)
		s.try(who, "POST", "join/"+url.PathEscape(room)+"?server_name=praxis.test&server_name=klinik.test", map[string]any{})
	}
	s.try(s.berta, "POST", "join/"+url.PathEscape("#ende:praxis.test"), map[string]any{})

	token, _ := s.try(s.anna, "POST", "user/"+url.PathEscape(s.anna.User)+"/openid/request_token", map[string]any{})["access_token"].(string)
	for _, t := range []string{token, "wrong"} {
		status, who := s.identity.Ask(s.network, s.praxis, "praxis.test", "GET", "/_matrix/federation/v1/openid/userinfo?access_token="+url.QueryEscape(t), nil)
		if status != 200 {
			who = nil
		}
		s.note("the token is of: %d %s", status, who)
	}
}

// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import "github.com/konsil-health/konsil/internal/konsiltest"

// policyServer: a room of one server lets the other judge what may be said in it.
func (s *storybook) policyServer() {
	key, _ := konsiltest.At(s.try(s.klinik.Anonymous(s.t, "klinik.test"), "GET", "/.well-known/matrix/policy_server", nil), "public_keys", "ed25519").(string)
	s.try(s.praxis.Anonymous(s.t, "praxis.test"), "GET", "/.well-known/matrix/policy_server", nil)
	s.names[key] = "<the policy server's key>"
	room := s.create(s.anna, "judged", map[string]any{"preset": "public_chat", "room_version": "11"})
	s.enter(s.berta, room, s.anna)
	s.set(s.anna, room, "m.room.policy", map[string]any{"via": "klinik.test", "public_keys": map[string]string{"ed25519": key}}, s.berta)
	s.say(s.anna, room, "erlaubt", s.berta)
	s.say(s.berta, room, "auch erlaubt", s.anna)
	for _, who := range []*konsiltest.Session{s.anna, s.berta} {
		s.send(who, room, "org.example.advert", map[string]any{"body": "Kaufen!"})
	}
	s.say(s.anna, room, "danach", s.berta)
}

// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import (
	"fmt"
	"net/url"

	"github.com/konsil-health/konsil/internal/konsiltest"
)

// history: what somebody who comes late may read under each visibility, by paging, by context and by time.
func (s *storybook) history() {
	for _, visibility := range []string{"world_readable", "shared", "invited", "joined"} {
		room := s.create(s.anna, visibility, map[string]any{"preset": "private_chat",
			"initial_state": initial("m.room.history_visibility", map[string]any{"history_visibility": visibility})})
		before := s.say(s.anna, room, visibility+": vorher")
		s.act(s.anna, "invite", room, s.berta)
		between := s.say(s.anna, room, visibility+": eingeladen")
		s.try(s.berta, "GET", in(room)+"/messages?dir=b", nil)
		s.enter(s.berta, room, s.anna)
		s.byTime(room) // before paging has fetched what was before
		s.say(s.anna, room, visibility+": dabei", s.berta)
		s.look(s.berta, room)
		for _, eid := range []string{before, between} {
			s.try(s.berta, "GET", in(room)+"/context/"+url.PathEscape(eid), nil)
			s.try(s.carl, "GET", in(room)+"/event/"+url.PathEscape(eid), nil)
		}
	}
}

// byTime asks for the first and the last event that there was, and for one before all.
func (s *storybook) byTime(room string) {
	for _, when := range []string{"ts=0&dir=f", "ts=9999999999999&dir=b", "ts=0&dir=b"} {
		for _, who := range []*konsiltest.Session{s.anna, s.berta, s.carl} {
			found := s.try(who, "GET", "/_matrix/client/v1/"+in(room)+"/timestamp_to_event?"+when, nil)
			_, e := who.Try("GET", client+in(room)+"/event/"+url.PathEscape(fmt.Sprint(found["event_id"])), nil)
			s.note("then there was %v by %v", e["type"], e["sender"])
		}
	}
}

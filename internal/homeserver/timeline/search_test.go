// SPDX-License-Identifier: Apache-2.0

package timeline_test

import (
	"fmt"
	"net/url"
	"reflect"
	"testing"

	. "github.com/konsil-health/konsil/internal/homeserver/clientsync/clientsynctest"
)

// find searches and returns the results' event ids and the whole section.
func find(p *Person, next string, criteria M) ([]string, M) {
	p.TB.Helper()
	path := "/_matrix/client/v3/search"
	if next != "" {
		path += "?next_batch=" + url.QueryEscape(next)
	}
	m := M{}
	p.Do("POST", path, M{"search_categories": M{"room_events": criteria}}).OK(&m)
	section, _ := At(m, "search_categories", "room_events").(M)
	ids := []string{}
	list, _ := section["results"].([]any)
	for _, r := range list {
		ids = append(ids, At(r, "result", "event_id").(string))
	}
	return ids, section
}

// Requirements: A_26210.
func TestSearch(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, room, _ := chat(g, 0)
		carl := g.Person("carl")
		first := anna.Say(room, "Das Röntgenbild der Lunge ist da")
		middle := ben.Say(room, "Danke!")
		second := ben.Say(room, "röntgenbild: Lunge unauffällig, Lunge frei")
		aside := carl.Create(M{"preset": "private_chat", "name": "Röntgenbild Lunge"})
		carl.Say(aside, "Röntgenbild Lunge geheim")

		ids, section := find(anna, "", M{"search_term": "LUNGE röntgenbild", "order_by": "recent"})
		if !reflect.DeepEqual(ids, []string{second, first}) || section["count"] != 2.0 || !reflect.DeepEqual(section["highlights"], []any{"lunge", "röntgenbild"}) || section["next_batch"] != nil {
			t.Errorf("recent: %v", section)
		}
		if ids, _ := find(anna, "", M{"search_term": "lunge"}); !reflect.DeepEqual(ids, []string{second, first}) {
			t.Errorf("rank: %v", ids)
		}
		if ids, section := find(anna, "", M{"search_term": "geheim"}); len(ids) != 0 || section["count"] != 0.0 || section["results"] == nil {
			t.Errorf("another room's message: %v", section)
		}
		if ids, _ := find(anna, "", M{"search_term": "befunde", "keys": []string{"content.name"}}); len(ids) != 1 {
			t.Errorf("name: %v", ids)
		}
		if ids, _ := find(anna, "", M{"search_term": "befunde", "keys": []string{"content.body"}}); len(ids) != 0 {
			t.Errorf("name as body: %v", ids)
		}
		if ids, _ := find(anna, "", M{"search_term": "lunge", "filter": M{"senders": []string{string(ben.ID)}}}); !reflect.DeepEqual(ids, []string{second}) {
			t.Errorf("filter: %v", ids)
		}
		if ids, _ := find(anna, "", M{"search_term": "lunge", "filter": M{"not_rooms": []string{room}}}); len(ids) != 0 {
			t.Errorf("filter of rooms: %v", ids)
		}
		// Context, profiles, state and groups.
		_, section = find(anna, "", M{"search_term": "lunge", "order_by": "recent", "include_state": true,
			"event_context": M{"before_limit": 1, "after_limit": 0, "include_profile": true}, "groupings": M{"group_by": []M{{"key": "room_id"}, {"key": "sender"}}}})
		if At(section, "results", 0, "context", "events_before", 0, "event_id") != middle || At(section, "results", 0, "context", "start") == nil ||
			At(section, "results", 0, "context", "profile_info", string(ben.ID)) == nil || len(At(section, "results", 0, "context", "events_after").([]any)) != 0 {
			t.Errorf("context: %v", section["results"])
		}
		if At(section, "groups", "room_id", room, "results", 1) != first || At(section, "groups", "sender", string(ben.ID), "results", 0) != second || At(section, "state", room, 0, "type") != "m.room.create" {
			t.Errorf("groups: %v, state: %v", section["groups"], section["state"])
		}
		// Pages, of the whole and of a group.
		for i := range 5 {
			anna.Say(room, fmt.Sprint("Lunge ", i))
		}
		seen, next := []string{}, ""
		for {
			ids, section := find(anna, next, M{"search_term": "lunge", "order_by": "recent", "filter": M{"limit": 3}, "groupings": M{"group_by": []M{{"key": "room_id"}}}})
			seen = append(seen, ids...)
			if next == "" {
				in, _ := At(section, "groups", "room_id", room, "next_batch").(string)
				if more, _ := find(anna, in, M{"search_term": "lunge", "order_by": "recent", "filter": M{"limit": 50}}); len(more) != 4 {
					t.Errorf("rest of the group: %v", more)
				}
				anna.Say(room, "Lunge, aber später") // is not part of the pages that were begun before
			}
			if next, _ = section["next_batch"].(string); next == "" {
				break
			}
		}
		if len(seen) != 7 || seen[6] != first {
			t.Errorf("pages: %v", seen)
		}
		// What is redacted is found no more; nor by somebody who may not see it.
		anna.Do("PUT", Room(room)+"/redact/"+url.PathEscape(first)+"/r1", M{}).OK(nil)
		if ids, _ := find(anna, "", M{"search_term": "röntgenbild"}); !reflect.DeepEqual(ids, []string{second}) {
			t.Errorf("redacted: %v", ids)
		}
		ben.Do("POST", Room(room)+"/leave", M{}).OK(nil)
		late := anna.Say(room, "Nachtrag zur Lunge")
		if ids, _ := find(ben, "", M{"search_term": "nachtrag"}); len(ids) != 0 {
			t.Errorf("ben has left and finds %v (%s)", ids, late)
		}
		if ids, _ := find(ben, "", M{"search_term": "unauffällig"}); !reflect.DeepEqual(ids, []string{second}) {
			t.Errorf("ben finds no more what he saw: %v", ids)
		}
		m := M{}
		anna.Do("POST", "/_matrix/client/v3/search", M{"search_categories": M{}}).OK(&m)
		if !reflect.DeepEqual(m, M{"search_categories": M{}}) {
			t.Errorf("no category: %v", m)
		}
		for code, body := range map[string]any{
			"M_NOT_JSON": "x", "M_BAD_JSON": M{"search_categories": 1},
		} {
			anna.Do("POST", "/_matrix/client/v3/search", body).Fails(400, code)
		}
		for _, bad := range []M{{"search_term": "x", "order_by": "old"}, {"search_term": "x", "keys": []string{"content.url"}}, {"search_term": "x", "groupings": M{"group_by": []M{{"key": "type"}}}}} {
			anna.Do("POST", "/_matrix/client/v3/search", M{"search_categories": M{"room_events": bad}}).Fails(400, "M_INVALID_PARAM")
		}
		anna.Do("POST", "/_matrix/client/v3/search", M{}).Fails(400, "M_MISSING_PARAM")
		anna.Do("POST", "/_matrix/client/v3/search", M{"search_categories": M{"room_events": M{}}}).Fails(400, "M_MISSING_PARAM")
		anna.Do("POST", "/_matrix/client/v3/search?next_batch=x", M{"search_categories": M{"room_events": M{"search_term": "x"}}}).Fails(400, "M_INVALID_PARAM")
	})
}

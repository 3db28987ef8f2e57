// SPDX-License-Identifier: Apache-2.0

package clientsync_test

import (
	"net/url"
	"testing"

	. "github.com/konsil-health/konsil/internal/homeserver/clientsync/clientsynctest"
)

func TestOldSync(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, carl := g.Person("anna"), g.Person("ben"), g.Person("carl")
		get := func(p *Person, path string) M {
			p.TB.Helper()
			m := M{}
			p.Do("GET", "/_matrix/client/v3"+path, nil).OK(&m)
			return m
		}
		room := anna.Create(M{"preset": "private_chat", "name": "Befunde"})
		anna.Invite(room, ben)
		said := anna.Say(room, "eins")
		m := get(ben, "/initialSync")
		if At(m, "rooms", 0, "membership") != "invite" || At(m, "rooms", 0, "inviter") != string(anna.ID) || At(m, "rooms", 0, "room_id") != room || m["presence"] == nil {
			t.Errorf("invited: %v", m)
		}
		end := m["end"].(string)
		ben.Join(room)
		said2 := anna.Say(room, "zwei")
		m = get(ben, "/events?from="+url.QueryEscape(end))
		ids := []string{}
		for _, e := range m["chunk"].([]any) {
			ids = append(ids, At(e, "event_id").(string))
		}
		if len(ids) < 2 || ids[len(ids)-1] != said2 || m["start"] == nil || m["end"] == nil {
			t.Errorf("events: %v", m)
		}
		if m := get(ben, "/events?from="+url.QueryEscape(m["end"].(string))+"&timeout=1"); len(m["chunk"].([]any)) != 0 {
			t.Errorf("nothing new: %v", m)
		}
		m = get(anna, "/initialSync?limit=1")
		if At(m, "rooms", 0, "messages", "chunk", 0, "event_id") != said2 || At(m, "rooms", 0, "state", 0, "type") != "m.room.create" || At(m, "rooms", 0, "visibility") != "private" {
			t.Errorf("initial sync: %v", m)
		}
		m = get(anna, "/rooms/"+url.PathEscape(room)+"/initialSync?limit=2")
		if At(m, "messages", "chunk", 1, "event_id") != said2 || m["membership"] != "join" || m["account_data"] == nil {
			t.Errorf("room: %v", m)
		}
		if e := get(ben, "/events/"+url.PathEscape(said)); e["event_id"] != said || e["room_id"] != room {
			t.Errorf("event: %v", e)
		}
		carl.Do("GET", "/_matrix/client/v3/events/"+url.PathEscape(said), nil).Fails(404, "M_NOT_FOUND")
		carl.Do("GET", "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/initialSync", nil).Fails(403, "M_FORBIDDEN")
		carl.Do("GET", "/_matrix/client/v3/events?room_id="+url.QueryEscape(room), nil).Fails(403, "M_FORBIDDEN")
		carl.Do("GET", "/_matrix/client/v3/events?from=x", nil).Fails(400, "M_INVALID_PARAM")

		// Whoever is not in a world-readable room may look into it, and waits for what happens there.
		anna.SetState(room, "m.room.history_visibility", M{"history_visibility": "world_readable"})
		start := get(carl, "/rooms/"+url.PathEscape(room)+"/initialSync")
		if start["state"] == nil || start["membership"] != nil {
			t.Errorf("peeked: %v", start)
		}
		from := get(carl, "/events?room_id="+url.QueryEscape(room))["end"].(string)
		waited := make(chan M)
		go func() {
			m := M{}
			carl.Do("GET", "/_matrix/client/v3/events?timeout=60000&room_id="+url.QueryEscape(room)+"&from="+url.QueryEscape(from), nil).OK(&m)
			waited <- m
		}()
		third := anna.Say(room, "drei")
		if m := <-waited; At(m, "chunk", 0, "event_id") != third {
			t.Errorf("waited: %v", m)
		}
		ben.Leave(room)
		if m := get(ben, "/initialSync?archived=true"); At(m, "rooms", 0, "membership") != "leave" || At(m, "rooms", 0, "messages", "chunk", 0) == nil {
			t.Errorf("archived: %v", m)
		}
	})
}

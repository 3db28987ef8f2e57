// SPDX-License-Identifier: Apache-2.0

package timeline_test

import (
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"testing"

	"github.com/konsil-health/konsil/internal/homeserver/account/accounttest"
	. "github.com/konsil-health/konsil/internal/homeserver/clientsync/clientsynctest"
)

// chat is a room of anna and ben in which both have written.
func chat(g *Rig, n int) (anna, ben *Person, room string, said []string) {
	anna, ben = g.Person("anna"), g.Person("ben")
	room = anna.Create(M{"preset": "private_chat", "name": "Befunde"})
	anna.Invite(room, ben)
	ben.Join(room)
	for i := range n {
		said = append(said, []*Person{anna, ben}[i%2].Say(room, fmt.Sprint(i)))
	}
	return anna, ben, room, said
}

func get(p *Person, path string) M {
	p.TB.Helper()
	m := M{}
	p.Do("GET", path, nil).OK(&m)
	return m
}

func chunk(m M) []M {
	l, _ := m["chunk"].([]any)
	out := make([]M, len(l))
	for i, e := range l {
		out[i] = e.(M)
	}
	return out
}

// walk pages to the end.
func walk(p *Person, room, query string) (all []M) {
	p.TB.Helper()
	for from := ""; ; {
		path := Room(room) + "/messages?" + query
		if from != "" {
			path += "&from=" + url.QueryEscape(from)
		}
		m := get(p, path)
		all = append(all, chunk(m)...)
		next, _ := m["end"].(string)
		if next == "" || len(chunk(m)) == 0 {
			return all
		}
		from = next
	}
}

func TestMessages(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, room, said := chat(g, 20)
		back, forth := walk(anna, room, "dir=b&limit=3"), walk(anna, room, "dir=f&limit=3")
		a, b := IDs(back), IDs(forth)
		slices.Reverse(b)
		if !reflect.DeepEqual(a, b) || forth[0]["type"] != "m.room.create" || back[0]["event_id"] != said[19] {
			t.Errorf("backwards %v, forwards %v", a, b)
		}
		if n := len(slices.Compact(slices.Sorted(slices.Values(a)))); n != len(a) {
			t.Errorf("%d events, %d different ones", len(a), n)
		}
		f := url.QueryEscape(`{"types":["m.room.message"],"senders":["` + string(ben.ID) + `"],"lazy_load_members":true}`)
		m := get(anna, Room(room)+"/messages?dir=b&limit=4&filter="+f)
		if got := chunk(m); len(got) != 4 || got[0]["sender"] != string(ben.ID) || got[3]["sender"] != string(ben.ID) || At(m, "state", 0, "state_key") != string(ben.ID) {
			t.Errorf("filtered: %v", m)
		}
		// From a position of sync, and between two of them.
		anna.Sync("")
		first := anna.Since
		later := anna.Say(room, "später")
		anna.Sync("")
		if got := IDs(chunk(get(anna, Room(room)+"/messages?dir=f&from="+url.QueryEscape(first)))); !reflect.DeepEqual(got, []string{later}) {
			t.Errorf("forwards from a sync token: %v", got)
		}
		if got := IDs(chunk(get(anna, Room(room)+"/messages?dir=b&from="+url.QueryEscape(anna.Since)+"&to="+url.QueryEscape(first)))); !reflect.DeepEqual(got, []string{later}) {
			t.Errorf("between two sync tokens: %v", got)
		}
		for query, code := range map[string]string{"": "M_MISSING_PARAM", "dir=x": "M_INVALID_PARAM", "dir=b&limit=-1": "M_INVALID_PARAM", "dir=b&limit=x": "M_INVALID_PARAM",
			"dir=b&from=x": "M_INVALID_PARAM", "dir=b&to=x": "M_INVALID_PARAM", "dir=b&filter=x": "M_NOT_JSON", "dir=b&filter=[]": "M_BAD_JSON"} {
			anna.Do("GET", Room(room)+"/messages?"+query, nil).Fails(400, code)
		}
		carla, berta := g.Person("carla"), g.User(g.B, "berta")
		carla.Do("GET", Room(room)+"/messages?dir=b", nil).Fails(403, "M_FORBIDDEN")
		berta.Do("GET", Room(room)+"/messages?dir=b", nil).Fails(403, "M_FORBIDDEN")
		carla.Do("GET", Room("!unknown:a.test")+"/messages?dir=b", nil).Fails(403, "M_FORBIDDEN")
		carla.Do("GET", Room("nonsense")+"/messages?dir=b", nil).Fails(400, "M_INVALID_PARAM")
	})
}

func TestWhoLeft(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, room, said := chat(g, 4)
		ben.Leave(room)
		secret := anna.Say(room, "unter uns")
		anna.SetState(room, "m.room.name", M{"name": "neuer Name"})
		got := walk(ben, room, "dir=b&limit=2")
		if At(got[0], "content", "membership") != "leave" || got[1]["event_id"] != said[3] {
			t.Errorf("a former member reads %v", got[:2])
		}
		if slices.Contains(IDs(walk(ben, room, "dir=f")), secret) {
			t.Error("a former member reads on")
		}
		if m := get(ben, Room(room)+"/state/m.room.name"); m["name"] != "Befunde" {
			t.Errorf("state at the departure: %v", m)
		}
		ben.Do("GET", Room(room)+"/event/"+secret, nil).Fails(404, "M_NOT_FOUND")
		ben.Do("GET", Room(room)+"/context/"+secret, nil).Fails(404, "M_NOT_FOUND")
		ben.Do("GET", Room(room)+"/joined_members", nil).Fails(403, "M_FORBIDDEN")
		if m := chunk(get(ben, Room(room)+"/members?membership=leave")); len(m) != 1 || m[0]["state_key"] != string(ben.ID) {
			t.Errorf("members at the departure: %v", m)
		}
		// Who only refused an invite sees nothing.
		carla := g.Person("carla")
		anna.Invite(room, carla)
		for _, path := range []string{"/state", "/messages?dir=b", "/members"} {
			carla.Do("GET", Room(room)+path, nil).Fails(403, "M_FORBIDDEN")
		}
		carla.Leave(room)
		for _, path := range []string{"/state", "/messages?dir=b", "/members", "/state/m.room.name"} {
			carla.Do("GET", Room(room)+path, nil).Fails(403, "M_FORBIDDEN")
		}
		carla.Do("GET", Room(room)+"/event/"+said[0], nil).Fails(404, "M_NOT_FOUND")
	})
}

func TestHistoryVisibility(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		for _, c := range []struct {
			visibility                   string
			beforeInvite, invited, alien bool
		}{{"shared", true, true, false}, {"invited", false, true, false}, {"joined", false, false, false}, {"world_readable", true, true, true}} {
			anna, ben, carla := g.Person("anna"+c.visibility), g.Person("ben"+c.visibility), g.Person("carla"+c.visibility)
			room := anna.Create(M{"preset": "private_chat", "initial_state": []M{{"type": "m.room.history_visibility", "content": M{"history_visibility": c.visibility}}}})
			early := anna.Say(room, "früh")
			anna.Invite(room, ben)
			between := anna.Say(room, "dazwischen")
			ben.Join(room)
			late := anna.Say(room, "spät")
			got := IDs(walk(ben, room, "dir=b"))
			if slices.Contains(got, early) != c.beforeInvite || slices.Contains(got, between) != c.invited || !slices.Contains(got, late) {
				t.Errorf("%s: %v", c.visibility, got)
			}
			status := carla.Do("GET", Room(room)+"/messages?dir=b", nil).Status
			if (status == 200) != c.alien {
				t.Errorf("%s: a stranger gets %d", c.visibility, status)
			}
			if status = carla.Do("GET", Room(room)+"/event/"+late, nil).Status; (status == 200) != c.alien {
				t.Errorf("%s: a stranger gets %d for an event", c.visibility, status)
			}
		}
	})
}

func TestContextAndEvent(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, _, room, said := chat(g, 9)
		m := get(anna, Room(room)+"/context/"+said[4]+"?limit=4")
		if At(m, "event", "event_id") != said[4] || At(m, "events_before", 0, "event_id") != said[3] || At(m, "events_before", 1, "event_id") != said[2] ||
			At(m, "events_after", 1, "event_id") != said[6] || At(m, "events_after", 2) != nil || Find(list(m["state"]), "m.room.create", "") == nil {
			t.Errorf("context %v", m)
		}
		before := chunk(get(anna, Room(room)+"/messages?dir=b&limit=1&from="+url.QueryEscape(m["start"].(string))))
		after := chunk(get(anna, Room(room)+"/messages?dir=f&limit=1&from="+url.QueryEscape(m["end"].(string))))
		if before[0]["event_id"] != said[1] || after[0]["event_id"] != said[7] {
			t.Errorf("the context goes on with %v and %v", before, after)
		}
		if m = get(anna, Room(room)+"/context/"+said[4]+"?limit=0"); At(m, "event", "event_id") != said[4] || At(m, "events_before", 0) != nil || At(m, "events_after", 0) != nil {
			t.Errorf("context of nothing: %v", m)
		}
		e := get(anna, Room(room)+"/event/"+said[0])
		if e["room_id"] != room || At(e, "content", "body") != "0" || At(e, "unsigned", "transaction_id") == nil {
			t.Errorf("event %v", e)
		}
		anna.Do("PUT", Room(room)+"/redact/"+said[0]+"/r1", M{"reason": "x"}).OK(nil)
		e = get(anna, Room(room)+"/event/"+said[0])
		if At(e, "content", "body") != nil || At(e, "unsigned", "redacted_because", "content", "reason") != "x" {
			t.Errorf("redacted event %v", e)
		}
		other := anna.Create(M{})
		anna.Do("GET", Room(other)+"/event/"+said[1], nil).Fails(404, "M_NOT_FOUND")
		anna.Do("GET", Room(room)+"/event/$nothing", nil).Fails(404, "M_NOT_FOUND")
		anna.Do("GET", Room("!x:a.test")+"/event/$nothing", nil).Fails(404, "M_NOT_FOUND")
		if got := get(anna, V3+"/joined_rooms"); len(got["joined_rooms"].([]any)) != 2 {
			t.Errorf("joined rooms %v", got)
		}
	})
}

func list(v any) []M {
	l, _ := v.([]any)
	out := make([]M, len(l))
	for i, e := range l {
		out[i] = e.(M)
	}
	return out
}

func TestStateAndMembers(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, room, _ := chat(g, 1)
		anna.Sync("")
		then := anna.Since
		anna.Do("PUT", Room(room)+"/state/org.x/key%2Fwith%20slash", M{"a": 1}).OK(nil)
		if m := get(anna, Room(room)+"/state/org.x/key%2Fwith%20slash"); m["a"] != 1.0 {
			t.Errorf("content %v", m)
		}
		if m := get(anna, Room(room)+"/state/m.room.name/?format=event"); m["type"] != "m.room.name" || m["event_id"] == nil || At(m, "content", "name") != "Befunde" {
			t.Errorf("event %v", m)
		}
		anna.Do("GET", Room(room)+"/state/m.room.name?format=x", nil).Fails(400, "M_INVALID_PARAM")
		anna.Do("GET", Room(room)+"/state/org.nothing", nil).Fails(404, "M_NOT_FOUND")
		g.Person("carla").Do("GET", Room(room)+"/state/m.room.name", nil).Fails(403, "M_FORBIDDEN")
		ben.Leave(room)
		for query, want := range map[string][]string{"": {"anna", "ben"}, "?membership=join": {"anna"}, "?not_membership=join": {"ben"}, "?at=" + url.QueryEscape(then) + "&membership=join": {"anna", "ben"}} {
			var got []string
			for _, e := range chunk(get(anna, Room(room)+"/members"+query)) {
				got = append(got, e["state_key"].(string))
			}
			slices.Sort(got)
			for i := range want {
				want[i] = "@" + want[i] + ":a.test"
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("members%s: %v", query, got)
			}
		}
		anna.Do("GET", Room(room)+"/members?membership=here", nil).Fails(400, "M_INVALID_PARAM")
		anna.Do("GET", Room(room)+"/members?at=x", nil).Fails(400, "M_INVALID_PARAM")
		if m := get(anna, Room(room)+"/joined_members"); len(m["joined"].(M)) != 1 || At(m, "joined", string(anna.ID)) == nil {
			t.Errorf("joined members %v", m)
		}
	})
}

func TestRelations(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, room, said := chat(g, 3)
		relate := func(p *Person, typ, rel, to string, more M) string {
			content := M{"m.relates_to": M{"rel_type": rel, "event_id": to}}
			for k, v := range more {
				content[k] = v
			}
			return p.Event(room, typ, content)
		}
		edit := relate(anna, "m.room.message", "m.replace", said[0], M{"msgtype": "m.text", "body": "* x", "m.new_content": M{"msgtype": "m.text", "body": "x"}})
		relate(ben, "m.room.message", "m.replace", said[0], M{"msgtype": "m.text", "body": "* y", "m.new_content": M{"body": "y"}}) // not the author's
		var thread []string
		for i := range 5 {
			thread = append(thread, relate([]*Person{anna, ben}[i%2], "m.room.message", "m.thread", said[1], M{"msgtype": "m.text", "body": fmt.Sprint(i)}))
		}
		reaction := relate(ben, "m.reaction", "m.annotation", thread[4], nil)
		reference := relate(ben, "m.room.message", "m.reference", said[2], M{"msgtype": "m.text", "body": "r"})
		path := V1 + "/rooms/" + url.PathEscape(room) + "/relations/"
		if got := IDs(chunk(get(anna, path+said[1]+"/m.thread?limit=2"))); !reflect.DeepEqual(got, []string{thread[4], thread[3]}) {
			t.Errorf("thread %v", got)
		}
		m := get(anna, path+said[1]+"/m.thread/m.room.message?limit=3&dir=f")
		next := get(anna, path+said[1]+"/m.thread/m.room.message?limit=3&dir=f&from="+url.QueryEscape(m["next_batch"].(string)))
		if got := append(IDs(chunk(m)), IDs(chunk(next))...); !reflect.DeepEqual(got, thread) || next["next_batch"] != nil {
			t.Errorf("thread in pages %v", got)
		}
		if got := get(anna, path+said[1]+"?recurse=true&limit=50"); len(chunk(got)) != 6 || chunk(got)[0]["event_id"] != reaction || got["recursion_depth"] == nil {
			t.Errorf("recursive: %v", got)
		}
		for query, want := range map[string]any{"": nil, "?recurse=false": 0.0, "?recurse=true": 3.0} {
			if m := get(anna, path+said[1]+query); m["recursion_depth"] != want {
				t.Errorf("%q: recursion_depth %v, want %v", query, m["recursion_depth"], want)
			}
		}
		for _, bad := range []string{"from=x", "to=x", "limit=0", "limit=x"} {
			anna.Do("GET", path+said[1]+"?"+bad, nil).Fails(400, "M_INVALID_PARAM")
		}
		if got := chunk(get(anna, path+said[1]+"/m.annotation")); len(got) != 0 {
			t.Errorf("annotations %v", got)
		}
		e := get(anna, Room(room)+"/event/"+said[0])
		if At(e, "unsigned", "m.relations", "m.replace", "event_id") != edit {
			t.Errorf("edited event %v", e)
		}
		e = get(ben, Room(room)+"/event/"+said[1])
		if th := At(e, "unsigned", "m.relations", "m.thread"); At(th, "count") != 5.0 || At(th, "latest_event", "event_id") != thread[4] || At(th, "current_user_participated") != true {
			t.Errorf("thread root %v", e)
		}
		e = get(ben, Room(room)+"/event/"+said[2])
		if At(e, "unsigned", "m.relations", "m.reference", "chunk", 0, "event_id") != reference {
			t.Errorf("referenced event %v", e)
		}
		relate(anna, "m.room.message", "m.thread", said[2], M{"msgtype": "m.text", "body": "z"})
		threads := V1 + "/rooms/" + url.PathEscape(room) + "/threads"
		m = get(ben, threads+"?limit=1")
		if got := IDs(chunk(m)); !reflect.DeepEqual(got, []string{said[2]}) {
			t.Errorf("threads %v", got)
		}
		m = get(ben, threads+"?limit=1&from="+url.QueryEscape(m["next_batch"].(string)))
		if got := IDs(chunk(m)); !reflect.DeepEqual(got, []string{said[1]}) || m["next_batch"] != nil {
			t.Errorf("more threads %v", m)
		}
		if got := IDs(chunk(get(ben, threads+"?include=participated"))); !reflect.DeepEqual(got, []string{said[1]}) {
			t.Errorf("ben's threads %v", got)
		}
		anna.Do("GET", path+"$nothing", nil).Fails(404, "M_NOT_FOUND")
		anna.Do("GET", path+said[1]+"?dir=x", nil).Fails(400, "M_INVALID_PARAM")
		anna.Do("GET", path+said[1]+"?recurse=x", nil).Fails(400, "M_INVALID_PARAM")
		anna.Do("GET", threads+"?limit=0", nil).Fails(400, "M_INVALID_PARAM")
		anna.Do("GET", threads+"?include=none", nil).Fails(400, "M_INVALID_PARAM")
		anna.Do("GET", threads+"?from=x", nil).Fails(400, "M_INVALID_PARAM")
		g.Person("carla").Do("GET", threads, nil).Fails(403, "M_FORBIDDEN")
	})
}

// TestThreadsOfTheReader: the list of threads and their summaries hold what the reader may and wants to see.
func TestThreadsOfTheReader(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, room, said := chat(g, 2)
		carla := g.Person("carla")
		anna.Invite(room, carla)
		carla.Join(room)
		answer := func(p *Person, root string) string {
			return p.Message(room, M{"msgtype": "m.text", "body": "x", "m.relates_to": M{"rel_type": "m.thread", "event_id": root}})
		}
		redact := func(p *Person, eid string) {
			p.Do("PUT", Room(room)+"/redact/"+url.PathEscape(eid)+"/r"+url.PathEscape(eid), M{}).OK(nil)
		}
		threads := func(p *Person, want ...string) []M {
			t.Helper()
			list := chunk(get(p, V1+"/rooms/"+url.PathEscape(room)+"/threads"))
			if got := IDs(list); !reflect.DeepEqual(got, want) {
				t.Errorf("threads %v, want %v", got, want)
			}
			return list
		}
		summary := func(e M, path ...any) any {
			return At(e, append([]any{"unsigned", "m.relations", "m.thread"}, path...)...)
		}
		gone := anna.Say(room, "ohne Antworten")
		redact(ben, answer(ben, gone))
		kept := said[0]
		first := answer(ben, kept)
		redact(ben, answer(ben, kept))
		list := threads(anna, kept)
		if summary(list[0], "count") != 1.0 || summary(list[0], "latest_event", "event_id") != first {
			t.Errorf("a thread with a redacted answer: %v", list[0])
		}
		if e := get(anna, Room(room)+"/event/"+gone); At(e, "unsigned", "m.relations") != nil {
			t.Errorf("a thread without answers: %v", e)
		}

		hers := carla.Say(room, "von Carla")
		answer(anna, hers)
		toHer := anna.Say(room, "an Carla")
		answer(carla, toHer)
		ben.Do("PUT", V3+"/user/"+url.PathEscape(string(ben.ID))+"/account_data/m.ignored_user_list", M{"ignored_users": M{string(carla.ID): M{}}}).OK(nil)
		list = threads(ben, hers, kept)
		if c, _ := list[0]["content"].(M); len(c) != 0 || summary(list[0], "count") != 1.0 {
			t.Errorf("the root of somebody ignored: %v", list[0])
		}
		if list = threads(anna, toHer, hers, kept); At(list[1], "content", "body") != "von Carla" {
			t.Errorf("anna ignores nobody: %v", list[1])
		}

		// Who has left learns nothing of what came later.
		ben.Leave(room)
		answer(anna, said[1])
		answer(anna, kept)
		list = threads(ben, kept, hers)
		if summary(list[0], "count") != 1.0 || summary(list[0], "latest_event", "event_id") != first {
			t.Errorf("a thread that went on: %v", list[0])
		}
	})
}

// TestRelationsRefused: nobody reacts twice in the same way, and threads do not branch.
func TestRelationsRefused(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, room, said := chat(g, 2)
		n := 0
		relate := func(p *Person, typ, rel, to, key string) *accounttest.Answer {
			n++
			relates := M{"rel_type": rel, "event_id": to}
			if key != "" {
				relates["key"] = key
			}
			return p.Do("PUT", fmt.Sprintf("%s/send/%s/r%d", Room(room), typ, n), M{"msgtype": "m.text", "body": "x", "m.relates_to": relates})
		}
		like := relate(ben, "m.reaction", "m.annotation", said[0], "x").OK(nil).Text("event_id")
		relate(ben, "m.reaction", "m.annotation", said[0], "x").Fails(400, "M_DUPLICATE_ANNOTATION")
		relate(ben, "m.reaction", "m.annotation", said[0], "y").OK(nil)
		relate(ben, "m.reaction", "m.annotation", said[1], "x").OK(nil)
		relate(ben, "org.vote", "m.annotation", said[0], "x").OK(nil)
		relate(anna, "m.reaction", "m.annotation", said[0], "x").OK(nil)
		same := func() string {
			return ben.Do("PUT", Room(room)+"/send/m.reaction/same", M{"m.relates_to": M{"rel_type": "m.annotation", "event_id": said[0], "key": "z"}}).OK(nil).Text("event_id")
		}
		if first, second := same(), same(); first != second {
			t.Errorf("a repeated transaction made %s, want %s", second, first)
		}
		ben.Do("PUT", Room(room)+"/redact/"+url.PathEscape(like)+"/r", M{}).OK(nil)
		relate(ben, "m.reaction", "m.annotation", said[0], "x").OK(nil)

		reply := relate(ben, "m.room.message", "m.thread", said[0], "").OK(nil).Text("event_id")
		relate(ben, "m.room.message", "m.thread", reply, "").Fails(400, "M_UNKNOWN")
		quote := ben.Message(room, M{"msgtype": "m.text", "body": "x", "m.relates_to": M{"m.in_reply_to": M{"event_id": said[0]}}})
		relate(ben, "m.room.message", "m.thread", quote, "").OK(nil)
		relate(ben, "m.room.message", "m.thread", "$unknown", "").OK(nil)
	})
}

func TestTimestampToEvent(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, _, room, said := chat(g, 2)
		ts := get(anna, Room(room)+"/event/"+said[0])["origin_server_ts"].(float64)
		path := V1 + "/rooms/" + url.PathEscape(room) + "/timestamp_to_event?"
		if m := get(anna, path+"dir=b&ts=9000000000000"); m["event_id"] != said[1] {
			t.Errorf("the newest %v", m)
		}
		if m := get(anna, path+"dir=f&ts=0"); m["origin_server_ts"].(float64) > ts {
			t.Errorf("the oldest %v", m)
		}
		anna.Do("GET", path+"dir=f&ts=9000000000000", nil).Fails(404, "M_NOT_FOUND")
		anna.Do("GET", path+"dir=f", nil).Fails(400, "M_MISSING_PARAM")
		anna.Do("GET", path+"ts=1", nil).Fails(400, "M_MISSING_PARAM")
		anna.Do("GET", path+"dir=f&ts=x", nil).Fails(400, "M_INVALID_PARAM")
		g.Person("carla").Do("GET", path+"dir=f&ts=0", nil).Fails(403, "M_FORBIDDEN")
	})
}

// SPDX-License-Identifier: Apache-2.0

package clientsync_test

import (
	"context"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	. "github.com/konsil-health/konsil/internal/homeserver/clientsync/clientsynctest"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

const member = "m.room.member"

func filterParam(f string) string { return "filter=" + url.QueryEscape(f) }

func TestInitialSync(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		room := anna.Create(M{"preset": "private_chat", "name": "Befunde"})
		anna.Invite(room, ben)
		ben.Join(room)
		for range 3 { // with what makes the room more than the ten events of a timeline
			ben.Say(room, "hallo")
		}
		last := ben.Say(room, "guten Tag")
		a := anna.Sync("")
		events := a.Timeline(room)
		if got := IDs(events); len(got) == 0 || got[len(got)-1] != last {
			t.Errorf("timeline %v", got)
		}
		if a.At("rooms", "join", room, "timeline", "limited") != true || a.At("rooms", "join", room, "timeline", "prev_batch") == nil {
			t.Errorf("timeline %v", a.At("rooms", "join", room, "timeline"))
		}
		for _, e := range events {
			if e["room_id"] != nil {
				t.Error("events of a section name their room")
			}
		}
		all := append(a.State(room), events...)
		for _, want := range []string{"m.room.create", "m.room.power_levels", "m.room.join_rules", "m.room.name", "m.room.history_visibility"} {
			if Find(all, want, "") == nil {
				t.Errorf("neither state nor timeline has %s", want)
			}
		}
		if n := len(slices.Compact(slices.Sorted(slices.Values(IDs(all))))); n != len(all) {
			t.Errorf("%d events, %d different ones", len(all), n)
		}
		if a.At("rooms", "join", room, "summary", "m.joined_member_count") != 2.0 || a.At("rooms", "join", room, "summary", "m.heroes") != nil {
			t.Errorf("summary %v", a.At("rooms", "join", room, "summary"))
		}
		if a.At("device_one_time_keys_count", "signed_curve25519") != 0.0 || a.At("device_unused_fallback_key_types") == nil {
			t.Errorf("keys %v %v", a.At("device_one_time_keys_count"), a.At("device_unused_fallback_key_types"))
		}
		if e := a.Events("account_data", "events"); len(e) != 1 || e[0]["type"] != "m.push_rules" {
			t.Errorf("account data %v", e)
		}
		// A quiet sync says nothing, and its token goes on.
		if b := anna.Sync(""); b.At("rooms") != nil || b.At("account_data") != nil || b.At("device_lists") != nil {
			t.Errorf("a quiet sync says %v", b.Body)
		}
	})
}

func TestOngoingSync(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		room := anna.Create(M{"preset": "private_chat"})
		anna.Sync("")
		ben.Sync("")
		anna.Invite(room, ben)
		b := ben.Sync("")
		invite := b.Events("rooms", "invite", room, "invite_state", "events")
		if Find(invite, member, string(ben.ID)) == nil || Find(invite, "m.room.create", "") == nil {
			t.Errorf("invite state %v", invite)
		}
		ben.Join(room)
		b = ben.Sync("")
		if Find(append(b.State(room), b.Timeline(room)...), "m.room.create", "") == nil || Find(b.Timeline(room), member, string(ben.ID)) == nil {
			t.Errorf("a new room comes as %v", b.At("rooms", "join", room))
		}
		if b.At("rooms", "join", room, "summary", "m.heroes", 0) != string(anna.ID) {
			t.Errorf("summary %v", b.At("rooms", "join", room, "summary"))
		}
		if l := b.At("device_lists", "changed"); l == nil || l.([]any)[0] != string(anna.ID) {
			t.Errorf("device lists %v", b.At("device_lists"))
		}
		a := anna.Sync("")
		if got := a.Timeline(room); len(got) != 2 || At(got[1], "content", "membership") != "join" || At(got[1], "unsigned", "prev_content", "membership") != "invite" {
			t.Errorf("timeline %v", got)
		}
		if a.State(room) != nil && len(a.State(room)) > 0 {
			t.Errorf("state %v beside a complete timeline", a.State(room))
		}
		first := ben.Say(room, "eins")
		a = anna.Sync("")
		if got := IDs(a.Timeline(room)); !reflect.DeepEqual(got, []string{first}) || a.At("rooms", "join", room, "timeline", "limited") != false {
			t.Errorf("timeline %v", a.At("rooms", "join", room))
		}
		if b = ben.Sync(""); At(b.Timeline(room)[0], "unsigned", "transaction_id") == nil {
			t.Errorf("the sender's device does not see its transaction id: %v", b.Timeline(room))
		}
		// Ben's leave reaches both; what comes afterwards does not reach him.
		ben.Leave(room)
		anna.Say(room, "allein")
		b = ben.Sync("")
		left := b.Events("rooms", "leave", room, "timeline", "events")
		if len(left) != 1 || At(left[0], "content", "membership") != "leave" || b.At("rooms", "join", room) != nil {
			t.Errorf("after leaving: %v", b.At("rooms"))
		}
		if l := b.At("device_lists", "left"); l == nil || l.([]any)[0] != string(anna.ID) {
			t.Errorf("device lists %v", b.At("device_lists"))
		}
		if b = ben.Sync(""); b.At("rooms") != nil {
			t.Errorf("later: %v", b.At("rooms"))
		}
		fresh := ben.On("DEV2")
		if c := fresh.Sync(""); c.At("rooms") != nil {
			t.Errorf("a new device sees rooms that were left: %v", c.At("rooms"))
		}
		fresh.Since = ""
		c := fresh.Sync(filterParam(`{"room":{"include_leave":true}}`))
		if got := c.Events("rooms", "leave", room, "timeline", "events"); len(got) == 0 || At(got[len(got)-1], "content", "membership") != "leave" {
			t.Errorf("the archive holds %v", c.At("rooms"))
		}
	})
}

func TestLimitedTimeline(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		room := anna.Create(M{"preset": "private_chat"})
		anna.Invite(room, ben)
		ben.Join(room)
		classic, after := ben.On("CLASSIC"), ben.On("AFTER")
		classic.Sync("")
		after.Sync("use_state_after=true")
		anna.SetState(room, "m.room.topic", M{"topic": "alt"})
		name := anna.SetState(room, "m.room.name", M{"name": "neu"})
		for range 3 {
			anna.Say(room, "x")
		}
		topic := anna.SetState(room, "m.room.topic", M{"topic": "neu"})
		last := anna.Say(room, "y")
		f := filterParam(`{"room":{"timeline":{"limit":2}}}`)
		c := classic.Sync(f)
		if got := IDs(c.Timeline(room)); !reflect.DeepEqual(got, []string{topic, last}) || c.At("rooms", "join", room, "timeline", "limited") != true {
			t.Fatalf("timeline %v", c.At("rooms", "join", room, "timeline"))
		}
		if e := Find(c.State(room), "m.room.topic", ""); e == nil || At(e, "content", "topic") != "alt" {
			t.Errorf("the state before the timeline has the topic %v", e)
		}
		if e := Find(c.State(room), "m.room.name", ""); e == nil || e["event_id"] != name || len(c.State(room)) != 2 {
			t.Errorf("state %v", c.State(room))
		}
		a := after.Sync(f + "&use_state_after=true")
		end := a.Events("rooms", "join", room, "state_after", "events")
		if e := Find(end, "m.room.topic", ""); e == nil || At(e, "content", "topic") != "neu" || len(end) != 2 || a.At("rooms", "join", room, "state") != nil {
			t.Errorf("state after %v", a.At("rooms", "join", room))
		}
		// The gap is filled by paging back from prev_batch down to the last sync.
		messages := M{}
		classic.Do("GET", Room(room)+"/messages?dir=b&limit=50&from="+url.QueryEscape(c.At("rooms", "join", room, "timeline", "prev_batch").(string)), nil).OK(&messages)
		if At(messages, "chunk", 0, "content", "body") != "x" || At(messages, "chunk", 3, "event_id") != name {
			t.Errorf("before the timeline: %v", messages["chunk"])
		}
		for _, limit := range []string{"0", "1"} {
			d := ben.On(device("LIMIT" + limit))
			x := d.Sync(filterParam(`{"room":{"timeline":{"limit":` + limit + `}}}`))
			if x.At("rooms", "join", room, "timeline", "limited") != true || Find(x.State(room), "m.room.create", "") == nil {
				t.Errorf("limit %s: %v", limit, x.At("rooms", "join", room, "timeline"))
			}
		}
	})
}

func TestFilters(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		room, other := anna.Create(M{"preset": "private_chat"}), anna.Create(M{"name": "anderer"})
		anna.Invite(room, ben)
		ben.Join(room)
		anna.Say(room, "von Anna")
		bens := ben.Say(room, "von Ben")
		anna.Event(room, "org.example.other", M{"url": "x"})
		try := func(f string) *Answer {
			t.Helper()
			anna.Since = ""
			return anna.Sync(filterParam(f))
		}
		a := try(`{"room":{"rooms":["` + room + `"],"timeline":{"types":["m.room.message"],"senders":["` + string(ben.ID) + `"]}}}`)
		if got := IDs(a.Timeline(room)); !reflect.DeepEqual(got, []string{bens}) || a.At("rooms", "join", other) != nil {
			t.Errorf("types and senders: %v", a.At("rooms"))
		}
		a = try(`{"room":{"not_rooms":["` + other + `"],"timeline":{"not_types":["m.room.*"]},"state":{"types":["m.room.create"]}}}`)
		if got := a.Timeline(room); len(got) != 1 || got[0]["type"] != "org.example.other" || len(a.State(room)) != 1 {
			t.Errorf("not_types: %v", a.At("rooms", "join", room))
		}
		a = try(`{"room":{"timeline":{"contains_url":true}},"account_data":{"not_types":["*"]}}`)
		if got := a.Timeline(room); len(got) != 1 || a.At("account_data") != nil {
			t.Errorf("contains_url: %v", got)
		}
		a = try(`{"room":{"timeline":{"rooms":[]}}}`)
		if got := a.Timeline(room); len(got) != 0 || len(a.State(room)) == 0 {
			t.Errorf("no rooms in the timeline: %v", a.At("rooms", "join", room))
		}
		a = try(`{"event_format":"federation","room":{"timeline":{"limit":1}}}`)
		if e := a.Timeline(room)[0]; e["auth_events"] == nil || e["hashes"] == nil {
			t.Errorf("federation format: %v", e)
		}
		stored := anna.Do("POST", V3+"/user/"+url.PathEscape(string(anna.ID))+"/filter", M{"room": M{"timeline": M{"limit": 1}}}).OK(nil).Text("filter_id")
		anna.Since = ""
		if a = anna.Sync("filter=" + stored); len(a.Timeline(room)) != 1 {
			t.Errorf("a stored filter: %v", a.Timeline(room))
		}
	})
}

func TestLazyLoadedMembers(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, carla := g.Person("anna"), g.Person("ben"), g.Person("carla")
		room := anna.Create(M{"preset": "private_chat", "name": "x"})
		anna.Invite(room, ben, carla)
		ben.Join(room)
		carla.Join(room)
		ben.Say(room, "hallo")
		lazy := filterParam(`{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":1}}}`)
		a := anna.Sync(lazy)
		s := a.State(room)
		if Find(s, member, string(ben.ID)) == nil || Find(s, member, string(anna.ID)) == nil || Find(s, member, string(carla.ID)) != nil {
			t.Errorf("members in the state: %v", s)
		}
		carla.Say(room, "auch")
		if s = anna.Sync(lazy).State(room); len(s) != 1 || Find(s, member, string(carla.ID)) == nil {
			t.Errorf("members of an ongoing sync: %v", s)
		}
		// Members who changed in a gap come even when they are silent.
		ben.Leave(room)
		carla.Say(room, "1")
		carla.Say(room, "2")
		if s = anna.Sync(lazy).State(room); At(Find(s, member, string(ben.ID)), "content", "membership") != "leave" {
			t.Errorf("members of a gap: %v", s)
		}
	})
}

func TestWaitingSync(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, carla := g.Person("anna"), g.Person("ben"), g.Person("carla")
		room, private := anna.Create(M{"preset": "private_chat"}), carla.Create(M{})
		anna.Invite(room, ben)
		ben.Join(room)
		anna.Sync("")
		answer := make(chan *Answer, 1)
		go func() { answer <- anna.Sync("timeout=60000") }()
		carla.Say(private, "nicht für Anna")
		said := ben.Say(room, "für Anna")
		if got := IDs((<-answer).Timeline(room)); !reflect.DeepEqual(got, []string{said}) {
			t.Errorf("woken with %v", got)
		}
		// To-device, account data and invites wake as well.
		for what, act := range map[string]func(){
			"to_device": func() {
				ben.Do("PUT", V3+"/sendToDevice/m.x/1", M{"messages": M{string(anna.ID): M{"*": M{"n": 1}}}}).OK(nil)
			},
			"account_data": func() {
				anna.Do("PUT", V3+"/user/"+url.PathEscape(string(anna.ID))+"/account_data/org.x", M{"a": 1}).OK(nil)
			},
			"rooms": func() { carla.Invite(private, anna) },
		} {
			go func() { answer <- anna.Sync("timeout=60000") }()
			act()
			if a := <-answer; a.At(what) == nil {
				t.Errorf("%s did not wake: %v", what, a.Body)
			}
		}
		// A stopping node lets everybody go.
		go func() { answer <- anna.Sync("timeout=60000") }()
		g.Sync.Close()
		if a := <-answer; a.At("next_batch") == nil {
			t.Error("no answer at the end")
		}
	})
}

func TestToDeviceIsKeptUntilAcknowledged(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		second := anna.On("DEV2")
		anna.Sync("")
		second.Sync("")
		for i := range 120 {
			ben.Do("PUT", fmt.Sprintf("%s/sendToDevice/m.x/%d", V3, i), M{"messages": M{string(anna.ID): M{"DEV1": M{"n": i}}}}).OK(nil)
		}
		before := anna.Since
		a := anna.Sync("")
		lost := a.Events("to_device", "events")
		anna.Since = before // the answer was lost
		a = anna.Sync("")
		again := a.Events("to_device", "events")
		if len(lost) != 100 || !reflect.DeepEqual(lost, again) {
			t.Fatalf("%d and %d messages", len(lost), len(again))
		}
		// A token of another device acknowledges nothing.
		other := &Person{User: second.User, Since: anna.Since}
		other.Sync("")
		a = anna.Sync("timeout=60000")
		if rest := a.Events("to_device", "events"); len(rest) != 20 || At(rest[0], "content", "n") != 100.0 || At(rest[0], "sender") != string(ben.ID) {
			t.Fatalf("the rest: %v", rest)
		}
		if a = anna.Sync(""); a.At("to_device") != nil {
			t.Errorf("more messages: %v", a.At("to_device"))
		}
		anna.Since = ""
		if a = anna.Sync(""); a.At("to_device") != nil {
			t.Errorf("acknowledged messages come again: %v", a.At("to_device"))
		}
	})
}

func TestAccountDataInSync(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		room := anna.Create(M{"preset": "private_chat"})
		own := V3 + "/user/" + url.PathEscape(string(ben.ID))
		anna.Invite(room, ben)
		ben.Do("PUT", own+"/rooms/"+url.PathEscape(room)+"/account_data/org.room", M{"a": 1}).OK(nil)
		ben.Sync("")
		ben.Join(room)
		b := ben.Sync("")
		if e := b.Events("rooms", "join", room, "account_data", "events"); len(e) != 1 || e[0]["type"] != "org.room" {
			t.Errorf("account data of a new room: %v", e)
		}
		ben.Do("PUT", own+"/rooms/"+url.PathEscape(room)+"/tags/m.favourite", M{"order": 0.5}).OK(nil)
		ben.Do("PUT", own+"/account_data/org.global", M{"b": 2}).OK(nil)
		b = ben.Sync("")
		if e := b.Events("rooms", "join", room, "account_data", "events"); len(e) != 1 || e[0]["type"] != "m.tag" || At(e[0], "content", "tags", "m.favourite", "order") != 0.5 {
			t.Errorf("tags: %v", e)
		}
		if e := b.Events("account_data", "events"); len(e) != 1 || e[0]["type"] != "org.global" {
			t.Errorf("global account data: %v", e)
		}
		// Messages of the ignored are left out, their state is not.
		anna.Sync("")
		ben.Do("PUT", own+"/account_data/m.ignored_user_list", M{"ignored_users": M{string(anna.ID): M{}}}).OK(nil)
		ben.Sync("")
		anna.Say(room, "hallo?")
		name := anna.SetState(room, "m.room.name", M{"name": "x"})
		if got := IDs(ben.Sync("").Timeline(room)); !reflect.DeepEqual(got, []string{name}) {
			t.Errorf("of an ignored user: %v", got)
		}
		another := anna.Create(M{})
		anna.Invite(another, ben)
		if b = ben.Sync(""); b.At("rooms", "invite") != nil {
			t.Errorf("an ignored user's invite: %v", b.At("rooms"))
		}
	})
}

func TestFullState(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna := g.Person("anna")
		room := anna.Create(M{"name": "x"})
		anna.Sync("")
		a := anna.Sync("full_state=true&timeout=60000")
		if Find(a.State(room), "m.room.create", "") == nil || len(a.Timeline(room)) != 0 {
			t.Errorf("full state: %v", a.At("rooms", "join", room))
		}
	})
}

func TestBadRequests(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna := g.Person("anna")
		stranger := g.User(g.B, "berta")
		anna.Sync("")
		forged := anna.Since[:len(anna.Since)-2] + "AA"
		if forged == anna.Since {
			forged = anna.Since[:len(anna.Since)-2] + "BB"
		}
		for query, code := range map[string]string{
			"since=nonsense":           "M_INVALID_PARAM",
			"since=" + forged:          "M_INVALID_PARAM",
			"timeout=-1":               "M_INVALID_PARAM",
			"timeout=soon":             "M_INVALID_PARAM",
			"full_state=yes":           "M_INVALID_PARAM",
			"set_presence=away":        "M_INVALID_PARAM",
			filterParam(`{"room":`):    "M_NOT_JSON",
			filterParam(`{"room":[]}`): "M_BAD_JSON",
		} {
			anna.Do("GET", V3+"/sync?"+query, nil).Fails(400, code)
		}
		anna.Do("GET", V3+"/sync?filter=unknown", nil).Fails(404, "M_NOT_FOUND")
		anna.Do("POST", V3+"/sync", nil).Fails(405, "M_UNRECOGNIZED")
		g.Nobody(g.A).Do("GET", V3+"/sync", nil).Fails(401, "M_MISSING_TOKEN")
		// A token of one tenant says nothing in another.
		stranger.Do("GET", V3+"/sync?since="+url.QueryEscape(anna.Since), nil).Fails(400, "M_INVALID_PARAM")
		if strings.ContainsAny(anna.Since, "=/+ ") {
			t.Errorf("token %q", anna.Since)
		}
	})
}

func TestEpoch(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		room, gone := anna.Create(M{"preset": "private_chat"}), anna.Create(M{})
		anna.Invite(room, ben)
		ben.Join(room)
		anna.Leave(gone)
		anna.Sync("")
		old, err := g.Tokens.OpenStream(g.A.ID, anna.Since)
		if err != nil {
			t.Fatal(err)
		}
		old.Epoch--
		anna.Since = g.Tokens.Stream(g.A.ID, old)
		a := anna.Sync("timeout=60000")
		if Find(a.State(room), "m.room.create", "") == nil && Find(a.Timeline(room), "m.room.create", "") == nil {
			t.Errorf("a token of an old epoch gets %v", a.At("rooms", "join", room))
		}
		if a.At("rooms", "join", room, "timeline", "limited") != true || a.At("rooms", "leave", gone, "timeline", "limited") != true {
			t.Error("a room that fits into the answer is no gap")
		}
		if a.At("rooms", "leave", gone) == nil {
			t.Error("a room that was left is not mentioned")
		}
		if l, _ := a.At("device_lists", "changed").([]any); len(l) != 2 {
			t.Errorf("device lists %v", l)
		}
		if p, err := g.Tokens.Position(context.Background(), g.A, g.Tokens.Stream(g.A.ID, old)); p != 0 || err != nil {
			t.Errorf("position %d, %v", p, err)
		}
	})
}

type device = id.Device

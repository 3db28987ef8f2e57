// SPDX-License-Identifier: Apache-2.0

package clientsync_test

import (
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"testing"

	. "github.com/konsil-health/konsil/internal/homeserver/clientsync/clientsynctest"
)

// TestTokenOfAnotherDeviceHidesNoMessage: a device that goes on from another one's token still gets its own to-device messages, all of them.
func TestTokenOfAnotherDeviceHidesNoMessage(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		second := anna.On("DEV2")
		second.Sync("")
		ben.Do("PUT", V3+"/sendToDevice/m.x/1", M{"messages": M{string(anna.ID): M{"DEV2": M{"n": 1}}}}).OK(nil)
		anna.Sync("")
		borrowed := &Person{User: second.User, Since: anna.Since}
		a := borrowed.Sync("timeout=5000")
		if got := a.Events("to_device", "events"); len(got) != 1 || At(got[0], "content", "n") != 1.0 {
			t.Errorf("with a borrowed token: %v", got)
		}
		if a = borrowed.Sync(""); a.At("to_device") != nil {
			t.Errorf("once more: %v", a.At("to_device"))
		}
	})
}

// TestDeviceListsOfFilteredRooms: whose keys changed does not depend on which rooms the filter shows.
func TestDeviceListsOfFilteredRooms(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		room := anna.Create(M{"preset": "public_chat"})
		none := filterParam(`{"room":{"rooms":[]}}`)
		anna.Sync(none)
		ben.Join(room)
		if a := anna.Sync(none); a.At("device_lists", "changed", 0) != string(ben.ID) || a.At("rooms") != nil {
			t.Errorf("after a join: %v", a.Body)
		}
		ben.Leave(room)
		if a := anna.Sync(none); a.At("device_lists", "left", 0) != string(ben.ID) {
			t.Errorf("after a leave: %v", a.Body)
		}
	})
}

// TestCountsFollowOwnReceipts: another device's receipt clears the counts even where the filter wants no receipts.
func TestCountsFollowOwnReceipts(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		room := anna.Create(M{"preset": "public_chat"})
		ben.Join(room)
		quiet := filterParam(`{"room":{"ephemeral":{"types":[]},"timeline":{"unread_thread_notifications":true}}}`)
		anna.Sync(quiet)
		said := ben.Say(room, "hallo")
		if a := anna.Sync(quiet); a.At("rooms", "join", room, "unread_notifications", "notification_count") != 1.0 {
			t.Errorf("after a message: %v", a.At("rooms", "join", room))
		}
		anna.On("OTHER").Do("POST", Room(room)+"/receipt/m.read.private/"+url.PathEscape(said), M{}).OK(nil)
		if a := anna.Sync(quiet + "&timeout=5000"); a.At("rooms", "join", room, "unread_notifications", "notification_count") != 0.0 {
			t.Errorf("after the receipt: %v", a.At("rooms", "join", room))
		}
	})
}

// TestHeroesWhenTheNameGoes: a room that loses its name is named by its heroes.
func TestHeroesWhenTheNameGoes(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		room := anna.Create(M{"preset": "public_chat", "name": "Befunde"})
		ben.Join(room)
		anna.Sync("")
		anna.SetState(room, "m.room.name", M{"name": ""})
		if a := anna.Sync(""); !reflect.DeepEqual(a.At("rooms", "join", room, "summary", "m.heroes"), []any{string(ben.ID)}) {
			t.Errorf("summary %v", a.At("rooms", "join", room, "summary"))
		}
		anna.Say(room, "x")
		if a := anna.Sync(""); a.At("rooms", "join", room, "summary") != nil {
			t.Errorf("summary of an unchanged room %v", a.At("rooms", "join", room, "summary"))
		}
	})
}

// TestRejoinInTheGap: who left and came back gets the whole state, but no event a second time.
func TestRejoinInTheGap(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		room := anna.Create(M{"preset": "public_chat"})
		ben.Join(room)
		before := anna.Say(room, "vorher")
		ben.Sync("")
		ben.Leave(room)
		anna.SetState(room, "m.room.topic", M{"topic": "neu"})
		ben.Join(room)
		after := anna.Say(room, "nachher")
		b := ben.Sync("")
		got := IDs(b.Timeline(room))
		if len(got) == 0 || got[len(got)-1] != after {
			t.Errorf("timeline %v", got)
		}
		for _, e := range got {
			if e == before {
				t.Errorf("%s came a second time", before)
			}
		}
		for _, typ := range []string{"m.room.create", "m.room.topic"} {
			if Find(append(b.State(room), b.Timeline(room)...), typ, "") == nil {
				t.Errorf("no %s", typ)
			}
		}
	})
}

func TestEventFields(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna := g.Person("anna")
		room := anna.Create(M{})
		anna.Message(room, M{"msgtype": "m.text", "body": "x", "a.b": M{"c": 1, "d": 2}})
		a := anna.Sync(filterParam(`{"event_fields":["type","content.body","content.a\\.b.c"],"room":{"timeline":{"limit":1}}}`))
		if got := a.Timeline(room); len(got) != 1 || !reflect.DeepEqual(got[0], M{"type": "m.room.message", "content": M{"body": "x", "a.b": M{"c": 1.0}}}) {
			t.Errorf("timeline %v", got)
		}
		if s := a.State(room); len(s) == 0 || s[0]["sender"] != nil || s[0]["type"] == nil {
			t.Errorf("state %v", s)
		}
	})
}

// TestRedundantMembers: a lazy client gets the member event of a sender once, again when the answer was lost or when it wants it always.
func TestRedundantMembers(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		room := anna.Create(M{"preset": "public_chat"})
		ben.Join(room)
		anna.Say(room, "letzte")
		lazy := filterParam(`{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":1}}}`)
		always := filterParam(`{"room":{"state":{"lazy_load_members":true,"include_redundant_members":true},"timeline":{"limit":1}}}`)
		anna.Sync(filterParam(`{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":1}}}`))
		before := anna.Since
		has := func(a *Answer) bool { return Find(a.State(room), member, string(ben.ID)) != nil }
		ben.Say(room, "1")
		anna.Sync(lazy) // lost
		anna.Since = before
		ben.Say(room, "2")
		lost := anna.Sync(lazy)
		ben.Say(room, "3")
		redundant := anna.Sync(lazy)
		ben.Say(room, "4")
		wanted := anna.Sync(always)
		// Ben came by the heroes of the first answer already, so only an explicit wish brings him again.
		if !has(wanted) || has(redundant) {
			t.Errorf("lost %v, redundant %v, wanted %v", lost.State(room), redundant.State(room), wanted.State(room))
		}
		carla := g.Person("carla")
		carla.Join(room)
		if a := anna.Sync(lazy); Find(append(a.State(room), a.Timeline(room)...), member, string(carla.ID)) == nil {
			t.Errorf("a new member is missing: %v", a.At("rooms", "join", room))
		}
		// A changed member is not redundant.
		anna.Say(room, "x")
		ben.Do("PUT", Room(room)+"/state/"+member+"/"+url.PathEscape(string(ben.ID)), M{"membership": "join", "displayname": "B."}).OK(nil)
		anna.Say(room, "y")
		if a := anna.Sync(lazy); At(Find(a.State(room), member, string(ben.ID)), "content", "displayname") != "B." {
			t.Errorf("a member changed in the gap: %v", a.State(room))
		}
		anna.Since = ""
		if a := anna.Sync(filterParam(`{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":20}}}`)); Find(append(a.State(room), a.Timeline(room)...), member, string(ben.ID)) == nil {
			t.Error("a first sync has nothing redundant")
		}
	})
}

// TestRedundantMembersAfterALostAnswer: what an answer brought counts only when the client comes back with its token.
func TestRedundantMembersAfterALostAnswer(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna := g.Person("anna")
		room := anna.Create(M{"preset": "public_chat", "name": "ohne Helden"})
		var last *Person
		for i := range 3 {
			last = g.Person(fmt.Sprint("p", i))
			last.Join(room)
		}
		anna.Say(room, "letzte")
		lazy := filterParam(`{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":1}}}`)
		anna.Sync(lazy)
		before := anna.Since
		last.Say(room, "1")
		has := func(a *Answer) bool { return Find(a.State(room), member, string(last.ID)) != nil }
		if !has(anna.Sync(lazy)) {
			t.Error("a sender is missing")
		}
		anna.Since = before
		last.Say(room, "2")
		if !has(anna.Sync(lazy)) {
			t.Error("a sender is missing after a lost answer")
		}
		last.Say(room, "3")
		if has(anna.Sync(lazy)) {
			t.Error("a sender came again")
		}
	})
}

// TestPresenceOfNewcomers: who comes into sight by a join is shown with its presence.
func TestPresenceOfNewcomers(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		room := anna.Create(M{"preset": "public_chat"})
		ben.Sync("")
		anna.Sync("")
		ben.Join(room)
		shows := func(a *Answer, who *Person) bool {
			return slices.ContainsFunc(a.Events("presence", "events"), func(e M) bool { return e["sender"] == string(who.ID) })
		}
		if a := anna.Sync(""); !shows(a, ben) {
			t.Errorf("a newcomer's presence: %v", a.At("presence"))
		}
		if b := ben.Sync(""); !shows(b, anna) {
			t.Errorf("presence in a new room: %v", b.At("presence"))
		}
		if a := anna.Sync(""); a.At("rooms") != nil {
			t.Errorf("more: %v", a.Body)
		}
	})
}

// TestRescindedInvite: an invite that was taken back moves the room to the left ones; so does one that the user refused on another device.
func TestRescindedInvite(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		room, refused := anna.Create(M{"preset": "private_chat"}), anna.Create(M{"preset": "private_chat"})
		anna.Invite(room, ben)
		anna.Invite(refused, ben)
		ben.Sync("")
		anna.Do("POST", Room(room)+"/kick", M{"user_id": ben.ID, "reason": "Irrtum"}).OK(nil)
		ben.On("OTHER").Leave(refused)
		b := ben.Sync("timeout=5000")
		for _, r := range []string{room, refused} {
			got := b.Events("rooms", "leave", r, "timeline", "events")
			if len(got) != 1 || At(got[0], "content", "membership") != "leave" || len(b.Events("rooms", "leave", r, "state", "events")) != 0 {
				t.Errorf("after the invite: %v", b.At("rooms", "leave", r))
			}
		}
		if b = ben.Sync(""); b.At("rooms") != nil {
			t.Errorf("later: %v", b.At("rooms"))
		}
		anna.Do("POST", Room(room)+"/ban", M{"user_id": ben.ID}).OK(nil)
		if b = ben.Sync(""); At(b.Events("rooms", "leave", room, "timeline", "events")[0], "content", "membership") != "ban" {
			t.Errorf("after the ban: %v", b.At("rooms"))
		}
	})
}

// TestKnock: a knock is shown with the room's stripped state until it is answered.
func TestKnock(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		room := anna.Create(M{"preset": "private_chat", "name": "Praxis", "initial_state": []any{M{"type": "m.room.join_rules", "content": M{"join_rule": "knock"}}}})
		ben.Sync("")
		ben.Do("POST", V3+"/knock/"+url.PathEscape(room), M{"reason": "bitte"}).OK(nil)
		b := ben.Sync("")
		state := b.Events("rooms", "knock", room, "knock_state", "events")
		if Find(state, member, string(ben.ID)) == nil || At(Find(state, "m.room.name", ""), "content", "name") != "Praxis" {
			t.Errorf("knock state %v", state)
		}
		anna.Do("POST", Room(room)+"/kick", M{"user_id": ben.ID}).OK(nil)
		if b = ben.Sync(""); b.At("rooms", "leave", room) == nil || b.At("rooms", "knock", room) != nil {
			t.Errorf("a refused knock: %v", b.At("rooms"))
		}
	})
}

// TestLeaveInALimitedGap: the archive of a room ends at the leave; its state is that of the leave.
func TestLeaveInALimitedGap(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		room := anna.Create(M{"preset": "public_chat"})
		ben.Join(room)
		anna.SetState(room, "m.room.topic", M{"topic": "eins"})
		ben.Sync("")
		anna.SetState(room, "m.room.topic", M{"topic": "zwei"})
		anna.Say(room, "x")
		anna.Say(room, "y")
		ben.Leave(room)
		anna.SetState(room, "m.room.topic", M{"topic": "drei"})
		b := ben.Sync(filterParam(`{"room":{"timeline":{"limit":2}}}`))
		got := b.Events("rooms", "leave", room, "timeline", "events")
		state := b.Events("rooms", "leave", room, "state", "events")
		if len(got) != 2 || At(got[0], "content", "body") != "y" || b.At("rooms", "leave", room, "timeline", "limited") != true {
			t.Errorf("timeline %v", got)
		}
		if len(state) != 1 || At(state[0], "content", "topic") != "zwei" {
			t.Errorf("state %v", state)
		}
		c := ben.On("NEW").Sync(filterParam(`{"room":{"include_leave":true,"timeline":{"limit":1}}}`) + "&use_state_after=true")
		if e := Find(c.Events("rooms", "leave", room, "state_after", "events"), "m.room.topic", ""); At(e, "content", "topic") != "zwei" {
			t.Errorf("the archive's state has the topic %v", e)
		}
	})
}

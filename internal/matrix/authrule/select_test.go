// SPDX-License-Identifier: Apache-2.0

package authrule

import (
	"slices"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

func TestNeeded(t *testing.T) {
	each(t, func(f *fixture) {
		who := outside
		for _, c := range []struct {
			typ     string
			key     *string
			content string
			want    string
		}{
			{event.TypeCreate, new(string), `{}`, ""},
			{"m.room.message", nil, `{}`, "pl sender"},
			{"m.room.topic", new(string), `{"membership":"join"}`, "pl sender"},
			{event.TypeMember, &who, m("join"), "pl sender target jr"},
			{event.TypeMember, &who, m("invite"), "pl sender target jr"},
			{event.TypeMember, &who, m("knock"), "pl sender target jr"},
			{event.TypeMember, &who, m("leave"), "pl sender target"},
			{event.TypeMember, &who, m("ban"), "pl sender target"},
			{event.TypeMember, nil, m("join"), "pl sender"},
			{event.TypeMember, &who, `{"membership":"join","join_authorised_via_users_server":"@via:y"}`, "pl sender target jr via"},
			{event.TypeMember, &who, `{"membership":"invite","join_authorised_via_users_server":"@via:y"}`, "pl sender target jr"},
			{event.TypeMember, &who, `{"membership":"invite","third_party_invite":{"signed":{"token":"tok"}}}`, "pl sender target jr tpi"},
			{event.TypeMember, &who, `{"membership":"join","third_party_invite":{"signed":{"token":"tok"}}}`, "pl sender target jr"},
		} {
			names := map[event.Key]string{
				event.CreateKey: "create", powerLevelsKey: "pl", joinRulesKey: "jr", {Type: event.TypeMember, StateKey: member}: "sender",
				{Type: event.TypeMember, StateKey: outside}: "target", {Type: event.TypeMember, StateKey: "@via:y"}: "via",
				{Type: event.TypeThirdPartyInvite, StateKey: "tok"}: "tpi",
			}
			var got []string
			for _, k := range Needed(f.v, c.typ, c.key, member, []byte(c.content)) {
				got = append(got, names[k])
			}
			want := c.want
			if !f.v.RestrictedJoins {
				want = strings.TrimSuffix(want, " via")
			}
			if !f.v.RoomIDIsHash && c.typ != event.TypeCreate {
				want = "create " + want
			}
			if strings.Join(got, " ") != want {
				t.Errorf("%s %s %s: %v, want %s", f.v, c.typ, c.content, got, want)
			}
		}
		self := member
		if got := Needed(f.v, event.TypeMember, &self, member, []byte(m("leave"))); len(slices.Compact(got)) != len(got) {
			t.Error("sender and target are one", got)
		}
	})
}

func TestCheckAuthEvents(t *testing.T) {
	each(t, func(f *fixture) {
		pl, sender := f.state[powerLevelsKey], f.state[event.Key{Type: event.TypeMember, StateKey: member}]
		other := f.state[event.Key{Type: event.TypeMember, StateKey: mod}]
		second := f.build(event.TypePowerLevels, "", creator, `{}`)
		message := f.build("m.room.message", noStateKey, member, `{}`)
		stranger := f.build(event.TypeMember, member, member, m("join"), func(d *event.Draft) { d.Room = strangeRoom(f) })
		base := []*event.Event{pl, sender}
		if !f.v.RoomIDIsHash {
			base = append(base, f.create)
		}
		check := func(reason string, auth []*event.Event, rejected ...*event.Event) {
			t.Helper()
			e := f.build("m.room.message", noStateKey, member, `{}`, func(d *event.Draft) {
				for _, a := range auth {
					d.AuthEvents = append(d.AuthEvents, a.ID())
				}
			})
			err := CheckAuthEvents(e, auth, f.create, func(eid id.Event) bool {
				return slices.ContainsFunc(rejected, func(r *event.Event) bool { return r.ID() == eid })
			})
			if (err == nil) != (reason == "") || err != nil && !strings.Contains(err.Error(), reason) {
				t.Errorf("version %s: %v, want %q", f.v, err, reason)
			}
		}
		with := func(e ...*event.Event) []*event.Event { return append(slices.Clone(base), e...) }
		check("", base)
		check("two auth events", with(second))
		check("two auth events", with(pl))
		check("superfluous", with(other))
		check("not state", with(message))
		check("was rejected", base, pl)
		check("another room", append([]*event.Event{pl, stranger}, base[2:]...))
		if f.v.RoomIDIsHash {
			check("superfluous", with(f.create))
			check("no accepted create event", base, f.create)
			if CheckAuthEvents(message, nil, nil, nil) == nil {
				t.Error("version 12 without a create event")
			}
		} else {
			check("no create event", base[:2])
			check("was rejected", base, f.create)
		}
		e := f.build("m.room.message", noStateKey, member, `{}`, func(d *event.Draft) { d.AuthEvents = []id.Event{pl.ID(), "$unknown"} })
		if err := CheckAuthEvents(e, []*event.Event{pl}, f.create, nil); err == nil || !strings.Contains(err.Error(), "missing") {
			t.Error(err)
		}
		if err := CheckAuthEvents(f.create, nil, nil, nil); err != nil {
			t.Error(err)
		}
	})
}

func strangeRoom(f *fixture) id.Room {
	if f.v.RoomIDIsHash {
		return "!Nhcu5BS-UMnFX7hBVfVSoXiD7OgH6iRT-xyIuqDnpYQ"
	}
	return "!other:x"
}

func TestSelect(t *testing.T) {
	each(t, func(f *fixture) {
		key := outside
		got := Select(Needed(f.v, event.TypeMember, &key, mod, []byte(m("invite"))), f.state)
		want := 2 // power levels, sender; neither target nor join rules exist
		if !f.v.RoomIDIsHash {
			want++
		}
		if len(got) != want {
			t.Error(got)
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package authrule

import (
	"math"
	"testing"

	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

func TestPowerLevelForm(t *testing.T) {
	each(t, func(f *fixture) {
		delete(f.state, powerLevelsKey)
		pl := func(content string) *event.Event { return f.build(event.TypePowerLevels, "", creator, content) }
		f.want("", pl(`{}`))
		f.want("", pl(`{"users":{"@a:x":-9007199254740991},"more":"x","events":{},"notifications":{"room":20}}`))
		for _, content := range []string{
			`{"users":[]}`, `{"users":null}`, `{"users":{"nobody":1}}`, `{"users":{"@a:x":null}}`, `{"users":{"@a:x":{}}}`, `{"users":{"@a:x":true}}`,
			`{"users":{"@a:x":"1.5"}}`, `{"users":{"@a:x":"x"}}`, `{"users":{"@a:x":""}}`, `{"users":{"@a:x":"+-1"}}`, `{"users":{"@a:x":"1 1"}}`, `{"users":{"@a:x":"99999999999999999999"}}`, `{"users":{"@a:x":"1e2"}}`,
			`{"ban":"x"}`, `{"ban":{}}`, `{"events":{"x":"y"}}`, `{"events":7}`, `{"notifications":{"room":[]}}`,
		} {
			f.want("power levels", pl(content))
		}
		// Until version 9 a string may be a level; from 10 on only an integer.
		for _, content := range []string{
			`{"users":{"@a:x":"100"}}`, `{"users":{"@a:x":" +0100 "}}`, `{"users":{"@a:x":"-5"}}`, `{"ban":"50"}`, `{"users_default":"0"}`, `{"kick":" 1"}`,
			`{"events":{"x":"1"}}`, `{"notifications":{"room":"1"}}`, `{"events":null}`,
		} {
			reason := ""
			if f.v.IntegerPowerLevels {
				reason = "power levels"
			}
			f.want(reason, pl(content))
		}
		// Before canonical JSON was enforced any number counts, cut at its point.
		if !f.v.StrictJSON {
			for number, want := range map[string]int64{"50.57": 50, "-7.9": -7, "5.114698E4": 51146, "1e1": 10, "0.9": 0, "1e300": math.MaxInt64, "-1e300": math.MinInt64, "99999999999999999999": math.MaxInt64} {
				e := pl(`{"users":{"@a:x":` + number + `},"ban":` + number + `}`)
				f.want("", e)
				p, err := ReadPowerLevels(f.v, e, f.create)
				if err != nil || p.User("@a:x") != want || p.Ban() != want {
					t.Error(f.v, number, p.User("@a:x"), err)
				}
			}
			f.want("power levels", pl(`{"users":{"@a:x":1e400}}`)) // beyond what a double holds
		}
		reason := ""
		if f.v.PrivilegedCreators {
			reason = "stands among users"
		}
		f.want(reason, pl(`{"users":{"`+creator+`":100}}`))
	})
}

func TestPowerLevelChanges(t *testing.T) {
	each(t, func(f *fixture) {
		f.levels(`"events":{"m.room.power_levels":0,"high":70},"notifications":{"room":70},"ban":70,"state_default":50`)
		base := `"events":{"m.room.power_levels":0,"high":70},"notifications":{"room":70},"ban":70,"state_default":50`
		change := func(by, more string) *event.Event {
			return f.build(event.TypePowerLevels, "", by, f.levelContent(more))
		}
		f.want("", change(mod, base))
		f.want("", change(mod, base+`,"kick":40`))
		f.want("", change(mod, base+`,"invite":50`))
		f.want("cannot change kick", change(mod, base+`,"kick":51`))
		f.want("cannot change ban", change(mod, `"events":{"m.room.power_levels":0,"high":70},"notifications":{"room":70},"ban":10,"state_default":50`))
		f.want("cannot change ban", change(mod, `"events":{"m.room.power_levels":0,"high":70},"notifications":{"room":70},"state_default":50`))
		f.want("cannot change events", change(mod, `"events":{"m.room.power_levels":0,"high":10},"notifications":{"room":70},"ban":70,"state_default":50`))
		f.want("cannot change events", change(mod, `"events":{"m.room.power_levels":0},"notifications":{"room":70},"ban":70,"state_default":50`))
		f.want("cannot set events", change(mod, `"events":{"m.room.power_levels":0,"high":70,"new":51},"notifications":{"room":70},"ban":70,"state_default":50`))
		f.want("", change(mod, `"events":{"m.room.power_levels":50,"high":70,"new":50},"notifications":{"room":70},"ban":70,"state_default":50`))
		notify := func(reason string) string {
			if f.v.NotificationLevels {
				return reason
			}
			return ""
		}
		f.want(notify("cannot change notifications"), change(mod, `"events":{"m.room.power_levels":0,"high":70},"notifications":{"room":1},"ban":70,"state_default":50`))
		f.want(notify("cannot set notifications"), change(mod, `"events":{"m.room.power_levels":0,"high":70},"notifications":{"room":70,"x":60},"ban":70,"state_default":50`))
		f.want("", change(creator, base+`,"kick":100`))
		reason := "cannot change kick"
		if f.v.PrivilegedCreators {
			reason = "" // creators stand above every number
		}
		f.want(reason, change(creator, base+`,"kick":101`))
	})
}

func TestUserLevelChanges(t *testing.T) {
	each(t, func(f *fixture) {
		top := `"@top:x":100,`
		users := func(list string) string {
			return `{"users":{` + list + `},"events":{"m.room.power_levels":0}}`
		}
		f.set(event.TypeMember, "@top:x", "@top:x", m("join"))
		f.set(event.TypePowerLevels, "", "@top:x", users(top+`"@mod:x":50,"@two:x":50,"@low:x":10`))
		pl := func(by, list string) *event.Event { return f.build(event.TypePowerLevels, "", by, users(list)) }
		f.want("", pl(mod, top+`"@mod:x":50,"@two:x":50,"@low:x":10`))
		f.want("", pl(mod, top+`"@mod:x":50,"@two:x":50,"@low:x":50`)) // up to his own
		f.want("", pl(mod, top+`"@mod:x":50,"@two:x":50`))             // a lower one away
		f.want("", pl(mod, top+`"@mod:x":50,"@two:x":50,"@low:x":10,"@new:x":50`))
		f.want("", pl(mod, top+`"@mod:x":10,"@two:x":50,"@low:x":10`)) // himself down
		f.want("", pl(mod, top+`"@two:x":50,"@low:x":10`))             // himself away
		f.want("cannot set users", pl(mod, top+`"@mod:x":51,"@two:x":50,"@low:x":10`))
		f.want("cannot set users", pl(mod, top+`"@mod:x":50,"@two:x":50,"@low:x":51`))
		f.want("cannot change users", pl(mod, top+`"@mod:x":50,"@two:x":10,"@low:x":10`)) // an equal
		f.want("cannot change users", pl(mod, top+`"@mod:x":50,"@low:x":10`))
		f.want("cannot change users", pl(mod, `"@top:x":50,"@mod:x":50,"@two:x":50,"@low:x":10`))
	})
}

func TestCreatorsAboveLevels(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "12", `{"additional_creators":["`+member+`"]}`)
	f.levels(`"events":{"m.room.topic":9007199254740991},"ban":9007199254740991,"kick":9007199254740991`)
	for _, u := range []string{creator, member} {
		f.want("", f.build("m.room.topic", "", u, `{}`))
		f.want("", f.build(event.TypeMember, mod, u, m("ban")))
		f.want("", f.build(event.TypePowerLevels, "", u, f.levelContent(`"ban":1`)))
	}
	// They cannot remove each other, and nobody writes them into users.
	f.want("banning", f.build(event.TypeMember, creator, member, m("ban")))
	f.want("kicking", f.build(event.TypeMember, member, creator, m("leave")))
	f.want("stands among users", f.build(event.TypePowerLevels, "", creator, `{"users":{"`+member+`":1}}`))
	p, err := ReadPowerLevels(f.v, f.state[powerLevelsKey], f.create)
	if err != nil || p.User(creator) != CreatorLevel || p.User(member) != CreatorLevel || p.User(mod) != 50 || p.User(outside) != 0 {
		t.Error(p, err)
	}
	if got := Creators(f.create); len(got) != 2 || got[0] != creator || got[1] != member {
		t.Error(got)
	}
	// Before version 12 additional_creators means nothing.
	old := newFixture(t, "11", `{"additional_creators":["`+member+`"]}`)
	old.want("needs level", old.build("m.room.topic", "", member, `{}`))
}

func TestReadPowerLevels(t *testing.T) {
	each(t, func(f *fixture) {
		none, err := ReadPowerLevels(f.v, nil, f.create)
		if err != nil {
			t.Fatal(err)
		}
		want := int64(100)
		if f.v.PrivilegedCreators {
			want = CreatorLevel
		}
		if none.User(creator) != want || none.User(mod) != 0 || none.Event("x", true) != 50 || none.Event("x", false) != 0 ||
			none.Invite() != 0 || none.Kick() != 50 || none.Ban() != 50 || none.Redact() != 50 || none.Notification("room") != 50 {
			t.Errorf("%s: defaults without an event", f.v)
		}
		pl := f.build(event.TypePowerLevels, "", creator, `{"users":{"@a:x":7},"users_default":1,"events":{"t":2},"events_default":3,"state_default":4,"invite":5,"kick":6,"ban":8,"redact":9,"notifications":{"room":10}}`)
		p, err := ReadPowerLevels(f.v, pl, f.create)
		if err != nil || p.User("@a:x") != 7 || p.User(mod) != 1 || p.Event("t", true) != 2 || p.Event("x", false) != 3 || p.Event("x", true) != 4 ||
			p.Invite() != 5 || p.Kick() != 6 || p.Ban() != 8 || p.Redact() != 9 || p.Notification("room") != 10 || p.Notification("x") != 50 {
			t.Errorf("%s: %+v, %v", f.v, p, err)
		}
		if !f.v.PrivilegedCreators && p.User(creator) != 1 {
			t.Error("with power levels the creator is a user like others")
		}
		if _, err := ReadPowerLevels(f.v, f.build(event.TypePowerLevels, "", creator, `{"ban":[]}`), f.create); err == nil {
			t.Error("read nonsense")
		}
		if _, err := ReadPowerLevels(f.v, f.create, f.create); err == nil {
			t.Error("read a create event as levels")
		}
		// A room whose current levels are nonsense lets nobody do what needs a level.
		f.state[powerLevelsKey] = f.build(event.TypePowerLevels, "", creator, `{"users":[]}`)
		f.want("power levels", f.build("m.room.message", noStateKey, creator, `{}`))
	})
}

func TestCreatorOfOldRooms(t *testing.T) {
	t.Parallel()
	// Until version 10 content.creator counts, later the sender does.
	for ver, who := range map[string]id.User{"1": mod, "9": mod, "10": mod, "11": creator} {
		f := newFixture(t, ver, `{"creator":"`+mod+`"}`)
		delete(f.state, powerLevelsKey)
		p, err := ReadPowerLevels(f.v, nil, f.create)
		if err != nil || p.User(who) != 100 || Creators(f.create)[0] != who {
			t.Error(ver, Creators(f.create), err)
		}
	}
}

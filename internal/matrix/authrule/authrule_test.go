// SPDX-License-Identifier: Apache-2.0

package authrule

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
	"github.com/konsil-health/konsil/internal/matrix/signing"
)

var testKey = ed25519.NewKeyFromSeed([]byte("0123456789abcdef0123456789abcdef"))

// fixture is a room in the making: a state and its create event.
type fixture struct {
	t      testing.TB
	v      *roomversion.Version
	create *event.Event
	state  Map
	n      int64
}

const (
	creator = "@creator:x"
	mod     = "@mod:x"
	member  = "@member:y"
	banned  = "@banned:y"
	invited = "@invited:y"
	knocker = "@knocker:y"
	outside = "@outside:z"
)

// newFixture makes a room with one user of each kind; levels: creator 100 (or above all), mod 50, others 0.
func newFixture(t testing.TB, ver, createContent string) *fixture {
	t.Helper()
	v, ok := roomversion.Get(ver)
	if !ok {
		t.Fatal(ver)
	}
	f := &fixture{t: t, v: v, state: Map{}}
	f.create = f.build(event.TypeCreate, "", creator, createContent)
	f.state[event.CreateKey] = f.create
	for u, m := range map[string]string{creator: "join", mod: "join", member: "join", banned: "ban", invited: "invite", knocker: "knock"} {
		f.set(event.TypeMember, u, u, `{"membership":"`+m+`"}`)
	}
	f.levels(`"kick":50,"ban":50,"invite":0`)
	return f
}

func defaultCreate(ver string) string {
	return `{"creator":"` + creator + `","room_version":"` + ver + `"}`
}

// levels sets power levels with the usual users and more members of the content.
func (f *fixture) levels(more string) {
	f.set(event.TypePowerLevels, "", creator, f.levelContent(more))
}

func (f *fixture) levelContent(more string) string {
	users := `"` + mod + `":50`
	if !f.v.PrivilegedCreators {
		users = `"` + creator + `":100,` + users
	}
	if more != "" {
		more = "," + more
	}
	return `{"users":{` + users + `}` + more + `}`
}

const noStateKey = "\x00none"

func (f *fixture) build(typ, stateKey, sender, content string, change ...func(*event.Draft)) *event.Event {
	f.t.Helper()
	f.n++
	d := event.Draft{
		Version: f.v, Type: typ, StateKey: &stateKey, Sender: id.User(sender), Content: []byte(content), Timestamp: f.n,
		PrevEvents: []id.Event{"$previous"}, Depth: 5,
	}
	if stateKey == noStateKey {
		d.StateKey = nil
	}
	if typ == event.TypeCreate {
		d.PrevEvents = nil
	}
	if typ != event.TypeCreate || !f.v.RoomIDIsHash {
		d.Room = "!r:x"
		if f.create != nil {
			d.Room = f.create.Room()
		}
	}
	for _, c := range change {
		c(&d)
	}
	d.Hashes = map[id.Event]string{} // versions 1 and 2 write them, nobody looks
	for _, eid := range append(append([]id.Event{}, d.PrevEvents...), d.AuthEvents...) {
		d.Hashes[eid] = "x"
	}
	e, err := d.Build("x", "ed25519:1", testKey)
	if err != nil {
		f.t.Fatal(err)
	}
	return e
}

func (f *fixture) set(typ, stateKey, sender, content string) *event.Event {
	f.t.Helper()
	e := f.build(typ, stateKey, sender, content)
	f.state[e.Key()] = e
	return e
}

// want checks one event against the state. reason is part of the refusal, "" when it is allowed.
func (f *fixture) want(reason string, e *event.Event) {
	f.t.Helper()
	err := Allowed(e, f.state, f.create)
	switch {
	case reason == "" && err != nil:
		f.t.Errorf("version %s: %s by %s %s: %v", f.v.ID, e.Type(), e.Sender(), e.Content(), err)
	case reason != "" && (err == nil || !errors.Is(err, ErrNotAllowed) || !strings.Contains(err.Error(), reason)):
		f.t.Errorf("version %s: %s by %s %s: %v, want %q", f.v.ID, e.Type(), e.Sender(), e.Content(), err, reason)
	}
}

func each(t *testing.T, run func(*fixture)) {
	t.Parallel()
	for _, ver := range roomversion.Supported() {
		run(newFixture(t, ver, defaultCreate(ver)))
	}
}

func TestCreate(t *testing.T) {
	each(t, func(f *fixture) {
		c := func(content string, change ...func(*event.Draft)) *event.Event {
			return f.build(event.TypeCreate, "", creator, content, change...)
		}
		f.want("", c(defaultCreate(f.v.ID)))
		f.want("", c(`{"creator":"`+creator+`"}`))
		f.want("prev_events", c(defaultCreate(f.v.ID), func(d *event.Draft) { d.PrevEvents = []id.Event{"$x"} }))
		f.want("unknown room version", c(`{"creator":"@a:x","room_version":"org.example"}`))
		f.want("unknown room version", c(`{"creator":"@a:x","room_version":12}`))
		f.want("state key", f.build(event.TypeCreate, "x", creator, defaultCreate(f.v.ID)))
		f.want("state key", f.build(event.TypeCreate, noStateKey, creator, defaultCreate(f.v.ID)))
		if !f.v.RoomIDIsHash {
			f.want("server", c(defaultCreate(f.v.ID), func(d *event.Draft) { d.Room = "!r:y" }))
		}
		reason := ""
		if !f.v.CreatorIsSender {
			reason = "no creator"
		}
		f.want(reason, c(`{}`))
		for _, extra := range []string{`"@a:x"`, `{}`, `[1]`, `["a"]`, `["@a:x","@b"]`, `null`} {
			reason := ""
			if f.v.PrivilegedCreators {
				reason = "additional_creators"
			}
			f.want(reason, c(`{"creator":"@a:x","additional_creators":`+extra+`}`))
		}
		f.want("", c(`{"creator":"@a:x","additional_creators":["@a:x","@b:y"]}`))
		f.want("", c(`{"creator":"@a:x","additional_creators":[]}`))
	})
}

func TestRoomAndFederation(t *testing.T) {
	each(t, func(f *fixture) {
		msg := f.build("m.room.message", noStateKey, member, `{}`)
		f.want("", msg)
		other := newFixture(t, f.v.ID, `{"creator":"`+creator+`","x":1}`)
		if f.v.RoomIDIsHash {
			if err := Allowed(msg, f.state, other.create); err == nil {
				t.Error("an event of a room whose create event is another one")
			}
		}
		if err := Allowed(msg, Map{}, nil); err == nil {
			t.Error("no create event")
		}
		closed := newFixture(t, f.v.ID, `{"creator":"`+creator+`","m.federate":false}`)
		closed.want("federate", closed.build("m.room.message", noStateKey, member, `{}`))
		closed.want("", closed.build("m.room.message", noStateKey, mod, `{}`))
		closed.set(event.TypeJoinRules, "", creator, `{"join_rule":"public"}`)
		closed.want("federate", closed.build(event.TypeMember, outside, outside, `{"membership":"join"}`))
		odd := newFixture(t, f.v.ID, `{"creator":"`+creator+`","m.federate":"false"}`)
		odd.want("", odd.build("m.room.message", noStateKey, member, `{}`))
	})
}

func m(membership string) string { return `{"membership":"` + membership + `"}` }

func TestMembershipForm(t *testing.T) {
	each(t, func(f *fixture) {
		f.want("needs a state key", f.build(event.TypeMember, noStateKey, member, m("join")))
		f.want("needs a state key", f.build(event.TypeMember, member, member, `{}`))
		f.want("unknown membership", f.build(event.TypeMember, member, member, m("hello")))
		f.want("unknown membership", f.build(event.TypeMember, member, member, `{"membership":1}`))
		reason := "not a user id"
		if !f.v.RestrictedJoins {
			reason = "" // a member of the content like any other
		}
		f.want(reason, f.build(event.TypeMember, member, member, `{"membership":"join","join_authorised_via_users_server":1}`))
		f.want(reason, f.build(event.TypeMember, member, member, `{"membership":"leave","join_authorised_via_users_server":"x"}`))
	})
}

func TestJoin(t *testing.T) {
	each(t, func(f *fixture) {
		join := func(who string) *event.Event { return f.build(event.TypeMember, who, who, m("join")) }
		first := func(d *event.Draft) { d.PrevEvents = []id.Event{f.create.ID()} }
		delete(f.state, event.Key{Type: event.TypeMember, StateKey: creator})
		f.want("", f.build(event.TypeMember, creator, creator, m("join"), first))
		f.want("join rule", join(creator))
		f.want("join rule", f.build(event.TypeMember, outside, outside, m("join"), first))
		f.want("join rule", f.build(event.TypeMember, creator, creator, m("join"), func(d *event.Draft) { d.PrevEvents = []id.Event{f.create.ID(), "$b"} }))

		// rule → who gets in, beside nobody who is banned
		const byInvite, anybody, nobody = "member invited", "member invited knocker outside", ""
		rules := map[string]string{"": byInvite, "invite": byInvite, "knock": byInvite, "public": anybody, "private": nobody, "bogus": nobody, "restricted": byInvite, "knock_restricted": nobody}
		if f.v.KnockRestricted {
			rules["knock_restricted"] = byInvite
		}
		if !f.v.Knock {
			rules["knock"] = nobody
		}
		if !f.v.RestrictedJoins {
			rules["restricted"] = nobody
		}
		for rule, in := range rules {
			delete(f.state, joinRulesKey)
			if rule != "" {
				f.set(event.TypeJoinRules, "", creator, `{"join_rule":"`+rule+`"}`)
			}
			for name, who := range map[string]string{"member": member, "invited": invited, "knocker": knocker, "outside": outside} {
				reason := "join rule"
				if strings.Contains(rule, "restricted") && (rule == "restricted" && f.v.RestrictedJoins || f.v.KnockRestricted) {
					reason = "authorised"
				}
				if strings.Contains(in, name) {
					reason = ""
				}
				f.want(reason, join(who))
			}
			f.want("banned", join(banned))
			f.want("somebody else", f.build(event.TypeMember, invited, member, m("join")))
		}
		f.set(event.TypeJoinRules, "", creator, `{"join_rule":7}`)
		f.want("join rule", join(invited))
	})
}

func TestRestrictedJoin(t *testing.T) {
	each(t, func(f *fixture) {
		for _, rule := range []string{"restricted", "knock_restricted"} {
			f.set(event.TypeJoinRules, "", creator, `{"join_rule":"`+rule+`"}`)
			via := func(who, by string) *event.Event {
				return f.build(event.TypeMember, who, who, `{"membership":"join","join_authorised_via_users_server":"`+by+`"}`)
			}
			deny := func(reason string) string {
				if rule == "knock_restricted" && !f.v.KnockRestricted || !f.v.RestrictedJoins {
					return "join rule"
				}
				return reason
			}
			f.levels(`"invite":50`)
			f.want(deny(""), via(outside, mod))
			f.want(deny(""), via(knocker, creator))
			f.want(deny("may not invite"), via(outside, member))
			f.want(deny("not joined"), via(outside, "@nobody:z"))
			f.want(deny("not joined"), via(outside, invited))
			f.want("banned", via(banned, mod))
			f.levels(`"invite":0`)
			f.want(deny(""), via(outside, member))
		}
	})
}

func TestInvite(t *testing.T) {
	each(t, func(f *fixture) {
		invite := func(by, who string) *event.Event { return f.build(event.TypeMember, who, by, m("invite")) }
		f.want("", invite(member, outside))
		f.want("", invite(member, knocker))
		f.want("", invite(member, invited))
		f.want("cannot be invited", invite(member, mod))
		f.want("cannot be invited", invite(mod, banned))
		f.want("not joined", invite(outside, "@new:z"))
		f.want("not joined", invite(invited, "@new:z"))
		f.levels(`"invite":50`)
		f.want("level 50", invite(member, outside))
		f.want("", invite(mod, outside))
		f.want("", invite(creator, outside))
	})
}

func TestLeave(t *testing.T) {
	each(t, func(f *fixture) {
		leave := func(by, who string) *event.Event { return f.build(event.TypeMember, who, by, m("leave")) }
		for _, who := range []string{member, invited, creator} {
			f.want("", leave(who, who))
		}
		if f.v.Knock {
			f.want("", leave(knocker, knocker))
		} else {
			f.want("not in the room", leave(knocker, knocker))
		}
		f.want("not in the room", leave(outside, outside))
		f.want("not in the room", leave(banned, banned))
		f.want("", leave(mod, member))
		f.want("", leave(mod, invited)) // takes the invite back
		f.want("", leave(mod, knocker)) // refuses the knock
		f.want("", leave(creator, mod))
		f.want("kicking", leave(mod, creator))
		f.want("kicking", leave(member, invited))
		f.want("not joined", leave(outside, member))
		f.want("", leave(mod, banned))
		f.levels(`"ban":60,"kick":50`)
		f.want("unbanning", leave(mod, banned))
		f.levels(`"ban":50,"kick":60`)
		f.want("kicking", leave(mod, banned))
		f.want("kicking", leave(mod, member))
		f.levels(`"kick":0`)
		f.want("kicking", leave(member, invited)) // not above the target
	})
}

func TestBan(t *testing.T) {
	each(t, func(f *fixture) {
		ban := func(by, who string) *event.Event { return f.build(event.TypeMember, who, by, m("ban")) }
		for _, who := range []string{member, invited, knocker, outside, banned} {
			f.want("", ban(mod, who))
		}
		f.want("banning", ban(mod, creator))
		f.want("banning", ban(mod, mod))
		f.want("banning", ban(member, outside))
		f.want("not joined", ban(outside, member))
		f.levels(`"ban":51`)
		f.want("banning", ban(mod, member))
		f.want("", ban(creator, mod))
	})
}

func TestKnock(t *testing.T) {
	each(t, func(f *fixture) {
		knock := func(who string) *event.Event { return f.build(event.TypeMember, who, who, m("knock")) }
		if !f.v.Knock {
			f.set(event.TypeJoinRules, "", creator, `{"join_rule":"knock"}`)
			f.want("unknown membership", knock(outside))
			return
		}
		for _, rule := range []string{"public", "invite", "restricted", "private"} {
			f.set(event.TypeJoinRules, "", creator, `{"join_rule":"`+rule+`"}`)
			f.want("no knocking", knock(outside))
		}
		f.set(event.TypeJoinRules, "", creator, `{"join_rule":"knock_restricted"}`)
		if f.v.KnockRestricted {
			f.want("", knock(outside))
		} else {
			f.want("no knocking", knock(outside))
		}
		f.set(event.TypeJoinRules, "", creator, `{"join_rule":"knock"}`)
		f.want("", knock(outside))
		f.want("", knock(knocker))
		for _, who := range []string{member, invited, banned} {
			f.want("cannot knock", knock(who))
		}
		f.want("somebody else", f.build(event.TypeMember, outside, member, m("knock")))
	})
}

func TestThirdPartyInvite(t *testing.T) {
	each(t, func(f *fixture) {
		pub := signing.Encode(testKey.Public().(ed25519.PublicKey))
		otherKey := ed25519.NewKeyFromSeed(make([]byte, 32))
		f.levels(`"invite":50`)
		f.want("", f.build(event.TypeThirdPartyInvite, "tok", mod, `{}`))
		f.want("third-party invites need", f.build(event.TypeThirdPartyInvite, "tok", member, `{}`))
		f.set(event.TypeThirdPartyInvite, "tok", mod, `{"public_key":"`+pub+`"}`)
		f.set(event.TypeThirdPartyInvite, "list", mod, `{"public_key":"bad","public_keys":[{"public_key":"AAAA"},{"public_key":"`+pub+`"}]}`)
		signed := func(mxid, token string, priv ed25519.PrivateKey) string {
			b, err := signing.SignJSON([]byte(`{"mxid":"`+mxid+`","token":"`+token+`"}`), "id.example", "ed25519:0", priv)
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
		use := func(by, who, signed string) *event.Event {
			return f.build(event.TypeMember, who, by, `{"membership":"invite","third_party_invite":{"display_name":"x","signed":`+signed+`}}`)
		}
		f.want("", use(mod, outside, signed(outside, "tok", testKey)))
		f.want("", use(mod, outside, signed(outside, "list", testKey)))
		f.want("", use(mod, member, signed(member, "tok", testKey))) // the rules do not ask for the membership, only for bans
		f.want("banned", use(mod, banned, signed(banned, "tok", testKey)))
		f.want("no signature", use(mod, outside, signed(outside, "tok", otherKey)))
		f.want("is for", use(mod, outside, signed(invited, "tok", testKey)))
		f.want("no third-party invite", use(mod, outside, signed(outside, "other", testKey)))
		f.want("another sender", use(creator, outside, signed(outside, "tok", testKey)))
		f.want("no signed mxid", use(mod, outside, `{"mxid":"`+outside+`"}`))
		f.want("no signed mxid", use(mod, outside, `{"token":"tok","mxid":1}`))
		f.want("no signed mxid", f.build(event.TypeMember, outside, mod, `{"membership":"invite","third_party_invite":{}}`))
		f.want("no signed mxid", f.build(event.TypeMember, outside, mod, `{"membership":"invite","third_party_invite":1}`))
		many := `{"mxid":"` + outside + `","token":"tok","signatures":{"id.example":{`
		for i := range maxInviteChecks + 1 {
			many += fmt.Sprintf(`"ed25519:%d":"%s",`, i, signing.Encode(make([]byte, 64)))
		}
		f.want("too many", use(mod, outside, strings.TrimSuffix(many, ",")+`}}}`))
	})
}

func TestSending(t *testing.T) {
	each(t, func(f *fixture) {
		msg := func(by string) *event.Event { return f.build("m.room.message", noStateKey, by, `{}`) }
		topic := func(by string) *event.Event { return f.build("m.room.topic", "", by, `{}`) }
		f.want("", msg(member))
		for _, by := range []string{outside, banned, invited, knocker} {
			f.want("not joined", msg(by))
		}
		f.want("needs level 50", topic(member))
		f.want("", topic(mod))
		f.levels(`"events_default":10,"state_default":0,"events":{"m.room.topic":60}`)
		f.want("needs level 10", msg(member))
		f.want("needs level 60", topic(mod))
		f.want("", topic(creator))
		f.want("", f.build("m.room.name", "", member, `{}`))
		f.want("another user", f.build("org.example", "@mod:x", member, `{}`))
		f.want("", f.build("org.example", member, member, `{}`))
		f.want("", f.build("org.example", "_@mod:x", member, `{}`))
		f.levels(`"users_default":-1`)
		f.want("needs level 0", msg(member))
		// Without power levels the creator has 100 or more, everybody else 0; state needs 50.
		delete(f.state, powerLevelsKey)
		f.want("", topic(creator))
		f.want("needs level 50", topic(mod))
		f.want("", msg(member))
	})
}

// TestRedaction: in versions 1 and 2 the level or the servers in the two ids decide; later redactions are events like others.
func TestRedaction(t *testing.T) {
	each(t, func(f *fixture) {
		redact := func(by, target string) *event.Event {
			return f.build(event.TypeRedaction, noStateKey, by, `{}`, func(d *event.Draft) { d.Redacts = id.Event(target) })
		}
		for target, sameServer := range map[string]bool{"$a:x": true, "$a:y": false, "$a": false, "$hash": false, "": false} { // x signs here
			f.want("", redact(mod, target))
			reason := ""
			if f.v.RedactionRule && !sameServer {
				reason = "redacting"
			}
			f.want(reason, redact(member, target))
		}
		f.levels(`"events":{"m.room.redaction":10}`)
		f.want("needs level 10", redact(member, "$a:x"))
	})
}

// TestAliases: until version 5 a server's aliases are its own affair, later m.room.aliases is state like other.
func TestAliases(t *testing.T) {
	each(t, func(f *fixture) {
		aliases := func(by, key string) *event.Event { return f.build("m.room.aliases", key, by, `{"aliases":["#a:y"]}`) }
		if !f.v.AliasesRule {
			f.want("needs level 50", aliases(member, "y"))
			f.want("", aliases(mod, "y"))
			return
		}
		f.want("", aliases(member, "y"))
		f.want("", aliases(outside, "z")) // members or not
		f.want("the sender's server", aliases(mod, "y"))
		f.want("the sender's server", aliases(member, ""))
		f.want("the sender's server", aliases(member, noStateKey))
	})
}

// TestOversized: what older servers counted in characters is taken and rejected.
func TestOversized(t *testing.T) {
	each(t, func(f *fixture) {
		if f.v.StrictFields {
			return
		}
		for _, name := range []string{"type", "state_key"} {
			raw := signing.Replace(f.build("m.room.topic", "", creator, `{}`).JSON(), name, []byte(`"`+strings.Repeat("ü", 200)+`"`))
			e, err := event.Parse(f.v, raw)
			if err != nil {
				t.Fatal(err)
			}
			f.want("more than 255 bytes", e)
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package matrixtest

import (
	"crypto/ed25519"
	"fmt"

	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/signing"
)

// Grow adds n random events. Most follow the newest ones; some fork off older ones and some merge forks.
func (r *Room) Grow(n int) {
	for range n {
		on := r.parents()
		d := r.step(on)
		if r.chance(12) {
			d.AuthEvents = r.wrongAuth(d, on)
		} else if r.chance(8) {
			d = r.evasion()
		} else if !r.chance(4) {
			d = r.likely(d, on)
		}
		r.Append(d, on)
	}
}

// evasion is an event that an older state allows and whose auth events come from there, whatever happened since.
func (r *Room) evasion() event.Draft {
	older := r.recent(40)
	d := r.likely(r.step([]*Verdict{older}), []*Verdict{older})
	d.AuthEvents = []id.Event{}
	for _, a := range authrule.Select(authrule.Needed(r.Version, d.Type, d.StateKey, d.Sender, d.Content), r.State(older.After)) {
		d.AuthEvents = append(d.AuthEvents, a.ID())
	}
	return d
}

// likely exchanges a draft that the state refuses for another one, a few times.
func (r *Room) likely(d event.Draft, on []*Verdict) event.Draft {
	state := r.State(r.stateBefore(on))
	for range 8 {
		probe := d
		for _, p := range on {
			probe.PrevEvents = append(probe.PrevEvents, p.Event.ID())
		}
		if authrule.Allowed(r.build(probe), state, r.Create) == nil {
			break
		}
		d = r.step(on)
	}
	return d
}

// Forks returns a few states that servers could have to merge: those after random recent events.
func (r *Room) Forks(n int) []map[event.Key]id.Event {
	sets := make([]map[event.Key]id.Event, n)
	for i := range sets {
		sets[i] = r.recent(30).After
	}
	return sets
}

func (r *Room) recent(n int) *Verdict {
	from := max(4, len(r.Log)-n)
	if from >= len(r.Log) {
		return r.Log[len(r.Log)-1]
	}
	return r.Log[from+r.rng.IntN(len(r.Log)-from)]
}

func (r *Room) parents() []*Verdict {
	switch r.rng.IntN(10) {
	case 0, 1, 2:
		return []*Verdict{r.recent(12)} // a fork, mostly
	case 3, 4, 5:
		a, b := r.recent(8), r.recent(12)
		if a == b {
			return []*Verdict{a}
		}
		if r.chance(3) {
			if c := r.recent(20); c != a && c != b {
				return []*Verdict{a, b, c}
			}
		}
		return []*Verdict{a, b}
	}
	return r.Heads(1)
}

// step drafts one random event that mostly has a chance of being allowed.
func (r *Room) step(on []*Verdict) event.Draft {
	sender, target := r.user(), r.user()
	if r.chance(2) {
		sender = r.Users[r.rng.IntN(3)] // those with power
	}
	empty := ""
	member := func(by, who id.User, membership string) event.Draft {
		return r.Draft(event.TypeMember, (*string)(&who), by, map[string]any{"membership": membership})
	}
	switch r.rng.IntN(24) {
	case 0, 1, 2, 3:
		return member(target, target, "join")
	case 4, 5:
		return member(sender, target, "invite")
	case 6:
		return member(target, target, "leave")
	case 7, 8:
		return member(sender, target, "leave")
	case 9, 10:
		return member(sender, target, "ban")
	case 11:
		return member(target, target, "knock")
	case 12:
		return r.restrictedJoin(target)
	case 13, 14, 15:
		return r.powerLevels(sender, on)
	case 16, 17:
		rule := r.pick("public", "public", "invite", "knock", "restricted", "knock_restricted", "private")
		content := map[string]any{"join_rule": rule}
		if rule == "restricted" || rule == "knock_restricted" {
			content["allow"] = []any{map[string]any{"type": "m.room_membership", "room_id": "!other:s1.example"}}
		}
		return r.Draft(event.TypeJoinRules, &empty, sender, content)
	case 18:
		return r.thirdParty(sender, target, on)
	case 19:
		key := r.pick("", "a", string(sender), string(target))
		if r.chance(4) {
			key = r.pick(string(sender.Server()), string(target.Server()))
			return r.Draft("m.room.aliases", &key, sender, map[string]any{"aliases": []string{"#a:" + key}})
		}
		return r.Draft(r.pick("m.room.topic", "org.example.state"), &key, sender, map[string]any{"n": r.rng.IntN(100)})
	case 20:
		return r.odd(sender, target, on)
	case 21:
		d := r.Draft(event.TypeRedaction, nil, sender, map[string]any{"reason": "because"})
		d.Redacts = r.recent(20).Event.ID()
		return d
	}
	return r.Draft("m.room.message", nil, sender, map[string]any{"body": fmt.Sprint("text ", r.rng.IntN(1000)), "msgtype": "m.text"})
}

func (r *Room) restrictedJoin(who id.User) event.Draft {
	return r.Draft(event.TypeMember, (*string)(&who), who, map[string]any{
		"membership": "join", "join_authorised_via_users_server": r.user(),
	})
}

// powerLevels changes something small in the current levels, or something that the sender has no power for.
func (r *Room) powerLevels(sender id.User, on []*Verdict) event.Draft {
	empty := ""
	users := map[string]any{}
	current := r.State(on[0].After)[event.Key{Type: event.TypePowerLevels}]
	levels, err := authrule.ReadPowerLevels(r.Version, current, r.Create)
	if err != nil {
		panic(err)
	}
	for _, u := range r.Users {
		if l := levels.User(u); l != 0 && l != authrule.CreatorLevel {
			users[string(u)] = l
		}
	}
	content := map[string]any{"users": users}
	for range 1 + r.rng.IntN(2) {
		level := []int{0, 25, 49, 50, 51, 99, 100, 101, -1}[r.rng.IntN(9)]
		switch r.rng.IntN(6) {
		case 0, 1:
			u := string(r.user())
			if r.chance(3) {
				delete(users, u)
			} else {
				users[u] = level
			}
		case 2:
			content[r.pick("ban", "kick", "invite", "redact")] = level
		case 3:
			content[r.pick("users_default", "events_default", "state_default")] = level % 51
		case 4:
			content["events"] = map[string]any{r.pick("m.room.topic", "m.room.message", event.TypePowerLevels, event.TypeJoinRules): level}
		case 5:
			content["notifications"] = map[string]any{"room": level}
		}
	}
	if r.chance(15) {
		users[string(r.Users[3])] = r.pick("50", " +7 ", "-3", "007", "x", "1.5")
	} else if r.chance(15) && !r.Version.StrictJSON {
		users[string(r.Users[3])] = []float64{50.57, -3.9, 0.5, 7}[r.rng.IntN(4)]
	}
	return r.Draft(event.TypePowerLevels, &empty, sender, content)
}

// thirdParty sends a third-party invite, or uses one that stands in the state.
func (r *Room) thirdParty(sender, target id.User, on []*Verdict) event.Draft {
	priv := Key("identity.example")
	if r.chance(4) {
		priv = Key("wrong.example")
	}
	for i := range 3 {
		k := event.Key{Type: event.TypeThirdPartyInvite, StateKey: fmt.Sprint("token", i)}
		eid, ok := on[0].After[k]
		if !ok || r.chance(4) {
			continue
		}
		signed, err := signing.SignJSON(Content(map[string]any{"mxid": target, "token": k.StateKey, "sender": sender}),
			"identity.example", "ed25519:0", priv)
		if err != nil {
			panic(err)
		}
		if r.chance(2) {
			sender = r.Event(eid).Sender()
		}
		return r.Draft(event.TypeMember, (*string)(&target), sender, map[string]any{
			"membership": "invite", "third_party_invite": map[string]any{"display_name": "x", "signed": jsonRaw(signed)},
		})
	}
	token := fmt.Sprint("token", r.rng.IntN(3))
	pub := signing.Encode(Key("identity.example").Public().(ed25519.PublicKey))
	return r.Draft(event.TypeThirdPartyInvite, &token, sender, map[string]any{
		"display_name": "x", "public_key": pub, "key_validity_url": "https://identity.example/valid",
		"public_keys": []any{map[string]any{"public_key": pub}},
	})
}

// odd is an event that nobody should send.
func (r *Room) odd(sender, target id.User, on []*Verdict) event.Draft {
	empty, key := "", string(target)
	switch r.rng.IntN(8) {
	case 0:
		return r.Draft(event.TypeMember, &key, sender, map[string]any{"membership": "hello"})
	case 1:
		return r.Draft(event.TypeMember, &key, sender, map[string]any{})
	case 2:
		return r.Draft(event.TypeMember, nil, sender, map[string]any{"membership": "join"})
	case 3:
		return r.Draft(event.TypePowerLevels, &empty, sender, map[string]any{"users": map[string]any{"nobody": 1}})
	case 4:
		return r.Draft(event.TypePowerLevels, &empty, sender, map[string]any{"users": map[string]any{string(r.Users[0]): 100}})
	case 5:
		return r.Draft(event.TypePowerLevels, &empty, sender, map[string]any{"events": map[string]any{"m.room.topic": "50"}})
	case 6:
		return r.Draft(event.TypeMember, &key, sender, map[string]any{"membership": "join"})
	}
	return r.Draft(event.TypeMember, &key, target, map[string]any{"membership": "invite", "third_party_invite": map[string]any{}})
}

// wrongAuth names auth events that are not quite those of the state: one too few, one too many, a
// rejected one, or older ones.
func (r *Room) wrongAuth(d event.Draft, on []*Verdict) []id.Event {
	older := r.recent(25)
	needed := authrule.Needed(r.Version, d.Type, d.StateKey, d.Sender, d.Content)
	ids := []id.Event{}
	for _, a := range authrule.Select(needed, r.State(older.After)) {
		ids = append(ids, a.ID())
	}
	switch r.rng.IntN(4) {
	case 0:
		if len(ids) > 0 {
			ids = ids[:len(ids)-1]
		}
	case 1:
		extra := r.recent(25).Event.ID()
		for _, have := range ids {
			if have == extra {
				return ids
			}
		}
		ids = append(ids, extra)
	case 2:
		for i, have := range ids {
			for j := len(r.Log) - 1; j >= 0; j-- {
				bad := r.Log[j]
				if bad.Rejected && bad.Event.IsState() && bad.Event.Key() == r.Event(have).Key() {
					ids[i] = bad.Event.ID()
					return ids
				}
			}
		}
	}
	return ids
}

// AppendLikely adds one state event on the given one that its state allows, or returns nil when none came up.
func (r *Room) AppendLikely(on *Verdict) *Verdict {
	for range 4 {
		d := r.likely(r.step([]*Verdict{on}), []*Verdict{on})
		if d.StateKey == nil {
			continue
		}
		if v := r.Append(d, []*Verdict{on}); !v.Rejected {
			return v
		}
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"bytes"
	"errors"

	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/event"
)

// situation is what the known differences are told apart by. Rule numbers are those of room version 12.
type situation struct {
	e          *event.Event
	allowed    bool // by ours; the other one says the contrary
	self       bool // a member event of the sender about himself
	membership string
	before     string // the target's membership
	rule       string // the join rule
}

func situationOf(e *event.Event, s authrule.State, ours error) situation {
	x := situation{e: e, allowed: ours == nil, membership: e.Membership(), rule: "invite"}
	if e.Type() == event.TypeMember && e.IsState() {
		x.self = e.StateKeyIs(string(e.Sender()))
		if m := s.Get(event.Key{Type: event.TypeMember, StateKey: *e.StateKey()}); m != nil {
			x.before = m.Membership()
		}
	}
	if jr := s.Get(event.Key{Type: event.TypeJoinRules}); jr != nil {
		x.rule = canonicaljson.GetString(jr.Content(), "join_rule")
	}
	return x
}

// noRule: the join rule does not exist in this room version, or lets nobody in.
func (x situation) noRule() bool {
	v := x.e.Version()
	return x.rule == "private" || x.rule == "knock_restricted" && !v.KnockRestricted || x.rule == "restricted" && !v.RestrictedJoins || x.rule == "knock" && !v.Knock
}

// gmslDiffers names what gomatrixserverlib is known to decide otherwise. In all of it ours follows the text.
func gmslDiffers(e *event.Event, s authrule.State, ours, theirs error) string {
	x := situationOf(e, s, ours)
	switch {
	case nonsenseLevels(s):
		return nonsense
	case e.Type() == "m.room.aliases" && !e.Version().AliasesRule:
		return "it keeps the rule about m.room.aliases, which ends with version 5"
	case x.membership == "leave" && !x.self && !x.allowed && x.before == "ban":
		return "it unbans by the ban level alone; by rule 5.5.5 the kick level and the target's level count too"
	case x.membership == "leave" && x.self && !x.allowed && (x.before == "leave" || x.before == ""):
		return "it lets those leave who are not in the room, and says so; rule 5.5.1 does not"
	case x.membership == "join" && x.self && !x.allowed && x.noRule() && (x.before == "invite" || x.before == "join"):
		return "it lets invited and joined users join under any join rule; rule 5.3.7 rejects under those it does not name"
	case x.membership == "join" && x.self && x.allowed && x.before == "knock" && x.rule == "public":
		return "it does not let somebody who knocked join a public room; rule 5.3.6 does"
	case (x.membership == "knock" || x.membership == "join") && !x.allowed && x.noRule() && x.rule != "private":
		return "it takes knock_restricted for a join rule before version 10 has it"
	case x.membership == "invite" && x.allowed && canonicaljson.Get(e.Content(), "third_party_invite") != nil:
		return "it encodes signed of third-party invites anew, without the members that it does not know (sender), so the signature fails"
	case x.membership == "invite" && !x.allowed && canonicaljson.Get(e.Content(), "third_party_invite") != nil:
		return "it checks neither ban nor sender of a third-party invite; rules 5.4.1.1 and 5.4.1.6 do"
	case e.Type() == event.TypePowerLevels && x.allowed && changesNotifications(e, s):
		return "it treats notification levels like those of users: an old one equal to the sender's may not change; rule 10.7 says greater"
	case e.Type() == event.TypePowerLevels && comparesDefaults(e, s):
		return "it takes the default for a level that is absent before or after; rule 10.6 compares the values that are there"
	case e.Type() == event.TypePowerLevels && !x.allowed && !e.Version().IntegerPowerLevels:
		return "before version 10 it ignores values that are no levels"
	}
	return ""
}

const nonsense = "the power levels that the event names as auth event were rejected; no rule says what they mean, the event is rejected with them"

func nonsenseLevels(s authrule.State) bool {
	pl := s.Get(event.Key{Type: event.TypePowerLevels})
	if pl == nil {
		return false
	}
	_, err := authrule.ReadPowerLevels(pl.Version(), pl, nil)
	return err != nil
}

func changesNotifications(e *event.Event, s authrule.State) bool {
	old := s.Get(event.Key{Type: event.TypePowerLevels})
	return old != nil && string(canonicaljson.Get(old.Content(), "notifications")) != string(canonicaljson.Get(e.Content(), "notifications"))
}

// comparesDefaults: a top-level level is added or removed.
func comparesDefaults(e *event.Event, s authrule.State) bool {
	old := s.Get(event.Key{Type: event.TypePowerLevels})
	if old == nil {
		return false
	}
	for _, name := range []string{"users_default", "events_default", "state_default", "ban", "redact", "kick", "invite", "events"} {
		if (canonicaljson.Get(old.Content(), name) == nil) != (canonicaljson.Get(e.Content(), name) == nil) {
			return true
		}
	}
	return false
}

// mautrixDiffers names what mautrix-go is known to decide otherwise. In all of it ours follows the text.
func mautrixDiffers(e *event.Event, s authrule.State, ours, theirs error) string {
	x := situationOf(e, s, ours)
	switch {
	case nonsenseLevels(s):
		return nonsense
	case e.Type() == "m.room.aliases" && e.Version().AliasesRule:
		return "it has no rule about m.room.aliases, which versions 1 to 5 have"
	case !e.Version().RestrictedJoins && canonicaljson.Get(e.Content(), "join_authorised_via_users_server") != nil:
		return "it wants join_authorised_via_users_server signed before version 8 gives it a meaning"
	case e.Type() == event.TypePowerLevels && x.allowed && !e.Version().NotificationLevels && changesNotifications(e, s):
		return "it checks notification levels before version 6 does"
	case !e.Version().StrictJSON && hasFloat(e, s):
		return "it refuses levels that are floats, which versions 1 to 5 take"
	case theirs == errPanic && e.Type() == event.TypePowerLevels:
		return "it panics when power levels no longer name a user whom they named"
	case x.membership == "invite" && x.allowed && canonicaljson.Get(e.Content(), "third_party_invite") != nil:
		return "it looks for the keys of a third-party invite in the invite instead of m.room.third_party_invite, so no signature fits"
	}
	return ""
}

// errPanic stands for a verdict that mautrix does not reach.
var errPanic = errors.New("panics")

// hasFloat: a level of the event or of the power levels in the state is a number with a point.
func hasFloat(e *event.Event, s authrule.State) bool {
	float := func(e *event.Event) bool {
		for _, level := range canonicaljson.Members(canonicaljson.Get(e.Content(), "users")) {
			if level.Kind() == '0' && bytes.ContainsRune(level, '.') {
				return true
			}
		}
		return false
	}
	pl := s.Get(event.Key{Type: event.TypePowerLevels})
	return e.Type() == event.TypePowerLevels && float(e) || pl != nil && float(pl)
}

// SPDX-License-Identifier: Apache-2.0

package authrule

import (
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// Needed lists the state that an event of this kind names in auth_events, as far as it exists, and that Allowed
// looks at. From version 12 on the create event is not in it. No key occurs twice.
func Needed(v *roomversion.Version, typ string, stateKey *string, sender id.User, content jsontext.Value) []event.Key {
	if typ == event.TypeCreate {
		return nil
	}
	keys := make([]event.Key, 0, 6)
	if !v.RoomIDIsHash {
		keys = append(keys, event.CreateKey)
	}
	keys = append(keys, powerLevelsKey, event.Key{Type: event.TypeMember, StateKey: string(sender)})
	if typ != event.TypeMember || stateKey == nil {
		return keys
	}
	keys = addKey(keys, event.Key{Type: event.TypeMember, StateKey: *stateKey})
	membership := canonicaljson.GetString(content, "membership")
	switch membership {
	case "join", "invite", "knock":
		keys = append(keys, joinRulesKey)
	}
	if membership == "invite" {
		if token, ok := canonicaljson.String(canonicaljson.Get(content, "third_party_invite", "signed", "token")); ok {
			keys = append(keys, event.Key{Type: event.TypeThirdPartyInvite, StateKey: token})
		}
	}
	if membership == "join" && v.RestrictedJoins {
		if u, ok := canonicaljson.String(canonicaljson.Get(content, authorisedVia)); ok {
			keys = addKey(keys, event.Key{Type: event.TypeMember, StateKey: u})
		}
	}
	return keys
}

const authorisedVia = "join_authorised_via_users_server"

func addKey(keys []event.Key, k event.Key) []event.Key {
	if slices.Contains(keys, k) {
		return keys
	}
	return append(keys, k)
}

// NeededBy is Needed for an event that exists.
func NeededBy(e *event.Event) []event.Key {
	return Needed(e.Version(), e.Type(), e.StateKey(), e.Sender(), e.Content())
}

// CheckAuthEvents applies the rules about the auth_events list itself: nothing twice, nothing superfluous, nothing
// rejected, nothing of another room, the create event where the version wants it. auth are the events that e names,
// in any order; one that is missing is an error. rejected may be nil when nothing was.
func CheckAuthEvents(e *event.Event, auth []*event.Event, create *event.Event, rejected func(id.Event) bool) error {
	if e.Type() == event.TypeCreate {
		return nil // rule 1 allows or rejects it before the list is looked at
	}
	v := e.Version()
	if v.RoomIDIsHash {
		if create == nil || event.CreateRoomID(create) != e.Room() || rejected != nil && rejected(create.ID()) {
			return deny("room id %s names no accepted create event", e.Room())
		}
	}
	needed := NeededBy(e)
	byID := make(map[id.Event]*event.Event, len(auth))
	for _, a := range auth {
		byID[a.ID()] = a
	}
	seen := make([]event.Key, 0, len(needed))
	for _, eid := range e.AuthEvents() {
		a := byID[eid]
		switch {
		case a == nil:
			return deny("auth event %s is missing", eid)
		case !a.IsState():
			return deny("auth event %s is not state", eid)
		case slices.Contains(seen, a.Key()):
			return deny("two auth events for %s %q", a.Type(), *a.StateKey())
		case !slices.Contains(needed, a.Key()):
			return deny("auth event %s for %s %q is superfluous", eid, a.Type(), *a.StateKey())
		case rejected != nil && rejected(eid):
			return deny("auth event %s was rejected", eid)
		case a.Room() != e.Room():
			return deny("auth event %s is of another room", eid)
		}
		seen = append(seen, a.Key())
	}
	if !v.RoomIDIsHash && !slices.Contains(seen, event.CreateKey) {
		return deny("no create event among auth_events")
	}
	return nil
}

// Select picks from a state what Needed names: the auth_events of a new event.
func Select(needed []event.Key, s State) []*event.Event {
	auth := make([]*event.Event, 0, len(needed))
	for _, k := range needed {
		if a := s.Get(k); a != nil {
			auth = append(auth, a)
		}
	}
	return auth
}

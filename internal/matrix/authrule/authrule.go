// SPDX-License-Identifier: Apache-2.0

package authrule

import (
	"errors"
	"fmt"
	"strings"

	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// ErrNotAllowed is what every refusal of this package wraps; the text behind it names the reason.
var ErrNotAllowed = errors.New("event not allowed")

func deny(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrNotAllowed, fmt.Sprintf(format, a...))
}

// State is the room state against which an event is judged. Get returns nil for what is not there.
type State interface{ Get(event.Key) *event.Event }

// Map is a State in memory.
type Map map[event.Key]*event.Event

// Get implements State.
func (m Map) Get(k event.Key) *event.Event { return m[k] }

// Allowed applies the authorisation rules of the event's room version to the state s. create is the room's create
// event: from version 12 on it is implied and must be accepted; before, the one in s wins. Rules about the auth_events
// list itself are CheckAuthEvents; that join_authorised_via_users_server signed is event.RequiredSigners.
func Allowed(e *event.Event, s State, create *event.Event) error {
	if name := e.Oversized(); name != "" {
		return deny("%s has more than %d bytes", name, event.MaxField)
	}
	if e.Type() == event.TypeCreate {
		return createAllowed(e)
	}
	v := e.Version()
	if !v.RoomIDIsHash {
		if c := s.Get(event.CreateKey); c != nil {
			create = c
		}
	}
	if create == nil || create.Type() != event.TypeCreate || event.CreateRoomID(create) != e.Room() {
		return deny("no create event of room %s", e.Room())
	}
	c := check{e: e, v: v, state: s, create: create, info: infoOf(create)}
	if c.info.federate == no && e.Sender().Server() != create.Sender().Server() {
		return deny("the room does not federate")
	}
	if e.Type() == typeAliases && v.AliasesRule {
		return c.aliases()
	}
	if e.Type() == event.TypeMember {
		return c.member()
	}
	if m := c.membership(e.Sender()); m != "join" {
		return deny("sender %s is not joined (%q)", e.Sender(), m)
	}
	levels, err := c.levels()
	if err != nil {
		return err
	}
	sender := levels.User(e.Sender())
	if e.Type() == event.TypeThirdPartyInvite {
		if sender < levels.Invite() {
			return deny("third-party invites need level %d, sender has %d", levels.Invite(), sender)
		}
		return nil
	}
	if need := levels.Event(e.Type(), e.IsState()); need > sender {
		return deny("%s needs level %d, sender has %d", e.Type(), need, sender)
	}
	if k := e.StateKey(); k != nil && strings.HasPrefix(*k, "@") && *k != string(e.Sender()) {
		return deny("state key %q belongs to another user", *k)
	}
	switch {
	case e.Type() == event.TypePowerLevels:
		return c.powerLevels(sender)
	case e.Type() == event.TypeRedaction && v.RedactionRule:
		return c.redaction(sender, levels)
	}
	return nil
}

const typeAliases = "m.room.aliases"

// aliases is rule 4 until version 5: each server may list its own aliases, whoever there says so.
func (c *check) aliases() error {
	if !c.e.StateKeyIs(string(c.e.Sender().Server())) {
		return deny("the state key of %s is the sender's server", typeAliases)
	}
	return nil
}

// redaction is rule 11 of versions 1 and 2.
func (c *check) redaction(sender int64, levels PowerLevels) error {
	if sender >= levels.Redact() {
		return nil
	}
	_, own, _ := strings.Cut(string(c.e.ID()), ":")
	_, other, named := strings.Cut(string(c.e.Redacts()), ":")
	if named && own == other {
		return nil
	}
	return deny("redacting an event of another server needs level %d, sender has %d", levels.Redact(), sender)
}

// check is one call of Allowed.
type check struct {
	e      *event.Event
	v      *roomversion.Version
	state  State
	create *event.Event
	info   *createInfo
}

// membership is the user's current membership, "" without a member event.
func (c *check) membership(u id.User) string {
	if m := c.state.Get(event.Key{Type: event.TypeMember, StateKey: string(u)}); m != nil {
		return m.Membership()
	}
	return ""
}

func (c *check) levels() (PowerLevels, error) {
	p, err := ReadPowerLevels(c.v, c.state.Get(powerLevelsKey), c.create)
	if err != nil {
		return p, deny("%v", err)
	}
	return p, nil
}

// joinRule is the room's join rule; without an event it is "invite".
func (c *check) joinRule() string {
	if jr := c.state.Get(joinRulesKey); jr != nil {
		rule, _ := canonicaljson.String(canonicaljson.Get(jr.Content(), "join_rule"))
		return rule
	}
	return "invite"
}

var (
	powerLevelsKey = event.Key{Type: event.TypePowerLevels}
	joinRulesKey   = event.Key{Type: event.TypeJoinRules}
)

type tristate uint8

const (
	unset tristate = iota
	yes
	no
)

// createInfo is what the rules need of a create event, read once.
type createInfo struct {
	federate tristate
	creator  id.User   // the one whose first join is free and who has level 100 without power levels
	creators []id.User // from version 12: all who stand above power levels
	badExtra bool      // additional_creators is not a list of user ids
}

func infoOf(create *event.Event) *createInfo {
	if create.Type() != event.TypeCreate {
		return &createInfo{}
	}
	return create.Memo(func() any {
		v := create.Version()
		info := &createInfo{creator: create.Sender()}
		if !v.CreatorIsSender {
			info.creator = id.User(canonicaljson.GetString(create.Content(), "creator"))
		}
		switch string(canonicaljson.Get(create.Content(), "m.federate")) {
		case "false":
			info.federate = no
		case "true":
			info.federate = yes
		}
		if !v.PrivilegedCreators {
			return info
		}
		info.creators = []id.User{create.Sender()}
		extra := canonicaljson.Get(create.Content(), "additional_creators")
		if extra != nil && extra.Kind() != '[' {
			info.badExtra = true
		}
		for el := range canonicaljson.Elements(extra) {
			s, ok := canonicaljson.String(el)
			u, err := id.ParseUser(s)
			if !ok || err != nil {
				info.badExtra = true
				continue
			}
			info.creators = append(info.creators, u)
		}
		return info
	}).(*createInfo)
}

// Creators lists the users who stand above all power levels in rooms from version 12 on; in earlier rooms the one
// creator, who stands above nothing but has level 100 until there are power levels.
func Creators(create *event.Event) []id.User {
	info := infoOf(create)
	if create.Version().PrivilegedCreators {
		return append([]id.User(nil), info.creators...)
	}
	return []id.User{info.creator}
}

// createAllowed is rule 1.
func createAllowed(e *event.Event) error {
	v := e.Version()
	if len(e.PrevEvents()) > 0 {
		return deny("a create event has no prev_events")
	}
	if !e.StateKeyIs("") {
		// The rules' text does not say it, but such an event would fill no place in any state.
		return deny("a create event has an empty state key")
	}
	if !v.RoomIDIsHash {
		if s, _ := e.Room().Server(); s != e.Sender().Server() {
			return deny("room id %s is not of the sender's server", e.Room())
		}
	}
	if rv := canonicaljson.Get(e.Content(), "room_version"); rv != nil {
		if s, ok := canonicaljson.String(rv); !ok || !roomversion.Recognised(s) {
			return deny("unknown room version %s", rv)
		}
	}
	if !v.CreatorIsSender && canonicaljson.Get(e.Content(), "creator") == nil {
		return deny("content has no creator")
	}
	if infoOf(e).badExtra {
		return deny("additional_creators is not a list of user ids")
	}
	return nil
}

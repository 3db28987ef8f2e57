// SPDX-License-Identifier: Apache-2.0

package event

import (
	"sync/atomic"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// The event types that the protocol core knows by name.
const (
	TypeCreate           = "m.room.create"
	TypeMember           = "m.room.member"
	TypePowerLevels      = "m.room.power_levels"
	TypeJoinRules        = "m.room.join_rules"
	TypeThirdPartyInvite = "m.room.third_party_invite"
	TypeRedaction        = "m.room.redaction"
)

// Limits of an event. Specification: client-server API, "Size limits"; PDU schema of each room version.
const (
	MaxSize       = 65536 // bytes of the canonical form with signatures
	MaxField      = 255   // bytes of type, state_key, sender, room_id
	MaxPrevEvents = 20
	MaxAuthEvents = 10
)

// Key names a piece of room state.
type Key struct{ Type, StateKey string }

// CreateKey is the key of the event that begins every room.
var CreateKey = Key{Type: TypeCreate}

// Event is a parsed event. Slices that its methods return belong to it and must not be changed.
type Event struct {
	version    *roomversion.Version
	id         id.Event
	raw        []byte // canonical
	room       id.Room
	typ        string
	stateKey   *string
	sender     id.User
	content    jsontext.Value
	depth      int64
	timestamp  int64
	prev, auth []id.Event
	redacts    id.Event
	membership string
	hashes     jsontext.Value
	signatures jsontext.Value
	unsigned   jsontext.Value
	oversized  string
	memo       atomic.Pointer[any]
}

// ID is the event's id; from room version 3 on it covers everything that redaction keeps. In versions 1 and 2 its
// sender chose it, and two events may have the same.
func (e *Event) ID() id.Event { return e.id }

// Room is the room's id. For a create event from version 12 on it is derived from the event's own id.
func (e *Event) Room() id.Room { return e.room }

// Type is the event type.
func (e *Event) Type() string { return e.typ }

// StateKey is nil for events that are not state.
func (e *Event) StateKey() *string { return e.stateKey }

// IsState reports whether the event has a state key.
func (e *Event) IsState() bool { return e.stateKey != nil }

// StateKeyIs reports whether the event is state under exactly this state key.
func (e *Event) StateKeyIs(key string) bool { return e.stateKey != nil && *e.stateKey == key }

// Key is the place in the room's state that the event fills. Only for state events.
func (e *Event) Key() Key {
	if e.stateKey == nil {
		return Key{Type: e.typ}
	}
	return Key{Type: e.typ, StateKey: *e.stateKey}
}

// Sender is the user who sent the event.
func (e *Event) Sender() id.User { return e.sender }

// Content is the raw content object.
func (e *Event) Content() jsontext.Value { return e.content }

// Depth is what the sender claims. It is not trusted for any order.
func (e *Event) Depth() int64 { return e.depth }

// Timestamp is origin_server_ts: milliseconds since 1970 by the sender's clock.
func (e *Event) Timestamp() int64 { return e.timestamp }

// PrevEvents are the events that this one directly follows.
func (e *Event) PrevEvents() []id.Event { return e.prev }

// AuthEvents are the events that the sender names as its permission. From version 12 on the create event is not
// among them; it is implied by the room id.
func (e *Event) AuthEvents() []id.Event { return e.auth }

// Redacts is the target of a redaction event, wherever the room version puts it; "" for all other events.
func (e *Event) Redacts() id.Event { return e.redacts }

// JSON is the canonical event as it is federated: with hashes, signatures and unsigned.
func (e *Event) JSON() []byte { return e.raw }

// Unsigned is the raw unsigned object, nil when there is none. Nothing vouches for what another server put there.
func (e *Event) Unsigned() jsontext.Value { return e.unsigned }

// Version is the version of the event's room.
func (e *Event) Version() *roomversion.Version { return e.version }

// Oversized names a member of more than 255 bytes that the room version tolerates because it has no more than 255
// characters: the event has a place in the room's graph and is not allowed. It is "" for all others.
func (e *Event) Oversized() string { return e.oversized }

// Membership is content.membership of a member event, "" for all other events and when it is not a string.
func (e *Event) Membership() string { return e.membership }

// Memo keeps one value that is derived from the event's content, so that it is computed once (authrule keeps the
// parsed power levels here). Concurrent callers may compute it twice and get one of the results.
func (e *Event) Memo(compute func() any) any {
	if p := e.memo.Load(); p != nil {
		return *p
	}
	v := compute()
	e.memo.CompareAndSwap(nil, &v)
	return *e.memo.Load()
}

// CreateRoomID is the id of the room that a create event begins: from version 12 on its own id with the sigil
// exchanged, before that its room_id.
func CreateRoomID(e *Event) id.Room {
	if e.version.RoomIDIsHash {
		return roomOfCreate(e.id)
	}
	return e.room
}

// CreateEventID is the id of the create event that a room id from version 12 on names; false for other room ids.
func CreateEventID(v *roomversion.Version, room id.Room) (id.Event, bool) {
	if !v.RoomIDIsHash || len(room) < 2 {
		return "", false
	}
	return id.Event("$" + string(room[1:])), true
}

func roomOfCreate(e id.Event) id.Room {
	if e == "" {
		return ""
	}
	return id.Room("!" + string(e[1:]))
}

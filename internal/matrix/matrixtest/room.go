// SPDX-License-Identifier: Apache-2.0

package matrixtest

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
	"github.com/konsil-health/konsil/internal/matrix/stateres"
)

// KeyID is the key id under which every server of a generated room signs.
const KeyID id.KeyID = "ed25519:test"

// Key is the signing key of a server: always the same for the same name.
func Key(s id.Server) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("matrixtest " + s))
	return ed25519.NewKeyFromSeed(seed[:])
}

// Verdict is what became of one generated event.
type Verdict struct {
	Event *event.Event
	// Auth are the events that it names in auth_events.
	Auth []*event.Event
	// Before is the resolved state before it.
	Before map[event.Key]id.Event
	// After is Before with the event, when it is state and was not rejected.
	After map[event.Key]id.Event
	// AuthList, ByAuth and ByState are the refusals by the rules of the list, by the auth events and by the state
	// before; nil where it passed.
	AuthList, ByAuth, ByState error
	// Rejected is set when one of the three is.
	Rejected bool
}

// Room is a generated room. It implements stateres.Source.
type Room struct {
	Version *roomversion.Version
	ID      id.Room
	Create  *event.Event
	// Users are all users that occur, creator first.
	Users []id.User
	// Log holds every event in the order of creation.
	Log  []*Verdict
	byID map[id.Event]*Verdict
	keys map[id.Server]ed25519.PrivateKey // deriving one takes as long as signing
	rng  *rand.Rand
	now  int64
}

// New begins a room: create, creator's join, power levels, join rules.
func New(version string, seed uint64) *Room {
	v, ok := roomversion.Get(version)
	if !ok {
		panic("matrixtest: unknown room version " + version)
	}
	r := &Room{
		Version: v, byID: map[id.Event]*Verdict{}, keys: map[id.Server]ed25519.PrivateKey{}, rng: rand.New(rand.NewPCG(seed, 0x6b6f6e73696c)), now: 1_700_000_000_000,
	}
	for i := range 7 {
		r.Users = append(r.Users, id.User(fmt.Sprintf("@u%d:s%d.example", i, i%3)))
	}
	creator := r.Users[0]
	content := map[string]any{"room_version": version}
	if !v.CreatorIsSender {
		content["creator"] = creator
	}
	if v.PrivilegedCreators && r.chance(2) {
		content["additional_creators"] = []id.User{r.Users[1]}
	}
	if r.chance(20) {
		content["m.federate"] = false
	}
	if !v.RoomIDIsHash {
		r.ID = "!gen:s0.example"
	}
	empty := ""
	create := r.build(event.Draft{Type: event.TypeCreate, StateKey: &empty, Sender: creator, Content: Content(content), Depth: 1})
	r.Create = create
	r.ID = event.CreateRoomID(create)
	r.add(create, map[event.Key]id.Event{})
	r.Append(r.Draft(event.TypeMember, (*string)(&creator), creator, map[string]any{"membership": "join"}), r.Heads(1))
	users := map[string]any{string(r.Users[2]): 50}
	if !v.PrivilegedCreators {
		users[string(creator)] = 100
	}
	r.Append(r.Draft(event.TypePowerLevels, &empty, creator, map[string]any{"users": users}), r.Heads(1))
	rule := r.pick("public", "public", "invite", "knock", "restricted", "knock_restricted")
	r.Append(r.Draft(event.TypeJoinRules, &empty, creator, map[string]any{"join_rule": rule}), r.Heads(1))
	return r
}

// Content encodes v or panics; for literals in tests.
func Content(v any) jsontext.Value {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		panic(err)
	}
	return b
}

// Event implements stateres.Source.
func (r *Room) Event(e id.Event) *event.Event {
	if v := r.byID[e]; v != nil {
		return v.Event
	}
	return nil
}

// Rejected implements stateres.Source.
func (r *Room) Rejected(e id.Event) bool {
	v := r.byID[e]
	return v != nil && v.Rejected
}

// Verdict finds what became of an event.
func (r *Room) Verdict(e id.Event) *Verdict { return r.byID[e] }

// Heads returns the last n events.
func (r *Room) Heads(n int) []*Verdict { return r.Log[max(0, len(r.Log)-n):] }

// Draft begins an event of the room.
func (r *Room) Draft(typ string, stateKey *string, sender id.User, content map[string]any) event.Draft {
	if stateKey != nil {
		k := *stateKey
		stateKey = &k
	}
	return event.Draft{Type: typ, StateKey: stateKey, Sender: sender, Content: Content(content)}
}

// Append completes the draft on top of the given events with the auth events that their resolved state gives,
// judges it and adds it, rejected or not.
func (r *Room) Append(d event.Draft, on []*Verdict) *Verdict {
	before := r.stateBefore(on)
	if d.AuthEvents == nil {
		for _, a := range authrule.Select(authrule.Needed(r.Version, d.Type, d.StateKey, d.Sender, d.Content), r.stateMap(before)) {
			d.AuthEvents = append(d.AuthEvents, a.ID())
		}
	}
	for _, p := range on {
		d.PrevEvents = append(d.PrevEvents, p.Event.ID())
		d.Depth = max(d.Depth, p.Event.Depth()+1)
	}
	return r.add(r.build(d), before)
}

func (r *Room) build(d event.Draft) *event.Event {
	d.Version = r.Version
	if r.Version.EventIDs == roomversion.EventIDInEvent {
		d.Hashes = map[id.Event]string{}
		for _, eid := range slices.Concat(d.PrevEvents, d.AuthEvents) {
			d.Hashes[eid] = r.Event(eid).ReferenceHash()
		}
	}
	if d.Room == "" {
		d.Room = r.ID
	}
	if d.Timestamp == 0 {
		r.now += int64(r.rng.IntN(4)) // the same millisecond is common
		d.Timestamp = r.now
		if r.chance(10) {
			d.Timestamp -= int64(r.rng.IntN(50)) // clocks of other servers are wrong
		}
	}
	s := d.Sender.Server()
	e, err := d.Build(s, KeyID, r.key(s))
	if err != nil {
		panic(fmt.Sprintf("matrixtest: %v", err))
	}
	for _, other := range e.RequiredSigners() {
		if other != s {
			if e, err = e.WithSignature(other, KeyID, r.key(other)); err != nil {
				panic(err)
			}
		}
	}
	return e
}

func (r *Room) add(e *event.Event, before map[event.Key]id.Event) *Verdict {
	if old := r.byID[e.ID()]; old != nil {
		return old
	}
	v := &Verdict{Event: e, Before: before, After: before}
	auth := authrule.Map{}
	for _, eid := range e.AuthEvents() {
		if a := r.Event(eid); a != nil {
			v.Auth = append(v.Auth, a)
			if a.IsState() {
				auth[a.Key()] = a
			}
		}
	}
	v.AuthList = authrule.CheckAuthEvents(e, v.Auth, r.Create, r.Rejected)
	v.ByAuth = authrule.Allowed(e, auth, r.Create)
	v.ByState = authrule.Allowed(e, r.stateMap(before), r.Create)
	v.Rejected = v.AuthList != nil || v.ByAuth != nil || v.ByState != nil
	if e.IsState() && !v.Rejected {
		v.After = make(map[event.Key]id.Event, len(before)+1)
		for k, eid := range before {
			v.After[k] = eid
		}
		v.After[e.Key()] = e.ID()
	}
	r.Log = append(r.Log, v)
	r.byID[e.ID()] = v
	return v
}

func (r *Room) stateBefore(on []*Verdict) map[event.Key]id.Event {
	sets := make([]map[event.Key]id.Event, len(on))
	for i, p := range on {
		sets[i] = p.After
	}
	s, err := stateres.Resolve(r.Version, sets, r)
	if err != nil {
		panic(err)
	}
	return s
}

// StateMap turns ids into events.
func (r *Room) stateMap(ids map[event.Key]id.Event) authrule.Map {
	m := make(authrule.Map, len(ids))
	for k, eid := range ids {
		m[k] = r.Event(eid)
	}
	return m
}

// State is the state of the given ids with their events.
func (r *Room) State(ids map[event.Key]id.Event) authrule.Map { return r.stateMap(ids) }

func (r *Room) key(s id.Server) ed25519.PrivateKey {
	k := r.keys[s]
	if k == nil {
		k = Key(s)
		r.keys[s] = k
	}
	return k
}

func (r *Room) chance(oneIn int) bool { return r.rng.IntN(oneIn) == 0 }

func (r *Room) pick(from ...string) string { return from[r.rng.IntN(len(from))] }

func (r *Room) user() id.User { return r.Users[r.rng.IntN(len(r.Users))] }

func jsonRaw(b []byte) jsontext.Value { return b }

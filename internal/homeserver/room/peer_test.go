// SPDX-License-Identifier: Apache-2.0

package room_test

import (
	"context"
	"crypto/ed25519"
	"slices"
	"sync"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// peer is a scripted server b.example: it makes events of its users, honest or not, and answers what the room service asks. Signatures are
// federation's business and not looked at here.
type peer struct {
	t testing.TB
	h *house
	r *room.Room

	mu     sync.Mutex
	events map[id.Event]*event.Event
	// states is what it answers as the state before an event.
	states map[id.Event][]id.Event
	// hidden events are not handed out.
	hidden map[id.Event]bool
	// away are events for which it cannot be reached.
	away  map[id.Event]bool
	asked map[string]int
	// from hides an event from one kind of question.
	from map[string]map[id.Event]bool
	now  int64
}

const (
	ben2 = id.User("@ben:b.example")
	eva  = id.User("@eva:b.example")
)

var peerKey = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))

// meet makes a public room on the house's server with a user of the peer in it.
func meet(t *testing.T, h *house, version string) *peer {
	t.Helper()
	ctx := context.Background()
	rid, err := h.Create(ctx, h.t, anna, policy.CreateRoom{RoomVersion: version, Preset: "public_chat"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := h.Lookup(ctx, h.t.ID, rid)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, h: h, r: r, events: map[id.Event]*event.Event{}, states: map[id.Event][]id.Event{}, hidden: map[id.Event]bool{}, away: map[id.Event]bool{}, asked: map[string]int{}, from: map[string]map[id.Event]bool{}, now: 1_800_000_000_000}
	h.Remote = p
	p.accept(p.make(p.heads(), ben2, event.TypeMember, string(ben2), `{"membership":"join"}`))
	return p
}

// heads are the room's forward extremities at the house.
func (p *peer) heads() []*event.Event {
	p.t.Helper()
	ids, err := p.h.Extremities(context.Background(), p.h.t.ID, p.r)
	if err != nil {
		p.t.Fatal(err)
	}
	found, err := p.h.Events(context.Background(), p.h.t.ID, ids)
	if err != nil {
		p.t.Fatal(err)
	}
	var out []*event.Event
	for _, e := range found {
		out = append(out, e.Event)
	}
	return out
}

// state is the room's current state at the house.
func (p *peer) state() authrule.Map {
	p.t.Helper()
	ctx := context.Background()
	st, err := p.h.CurrentState(ctx, p.h.t.ID, p.r)
	if err != nil {
		p.t.Fatal(err)
	}
	list, err := p.h.StateEvents(ctx, p.h.t.ID, st)
	if err != nil {
		p.t.Fatal(err)
	}
	m := authrule.Map{}
	for _, e := range list {
		m[e.Key()] = e.Event
	}
	return m
}

const noKey = "\x00"

// make builds an event on others with auth events of the current state; change may spoil it.
func (p *peer) make(on []*event.Event, sender id.User, typ, key, content string, change ...func(*event.Draft)) *event.Event {
	p.t.Helper()
	p.now++
	d := event.Draft{Version: p.r.Version, Room: p.r.ID, Type: typ, StateKey: &key, Sender: sender, Content: jsontext.Value(content), Timestamp: p.now, Depth: 1}
	if key == noKey {
		d.StateKey = nil
	}
	state := p.state()
	for _, a := range authrule.Select(authrule.Needed(d.Version, typ, d.StateKey, sender, d.Content), state) {
		d.AuthEvents = append(d.AuthEvents, a.ID())
	}
	for _, e := range on {
		d.PrevEvents = append(d.PrevEvents, e.ID())
		d.Depth = max(d.Depth, e.Depth()+1)
	}
	for _, c := range change {
		c(&d)
	}
	d.Hashes = map[id.Event]string{}
	for _, eid := range slices.Concat(d.PrevEvents, d.AuthEvents) {
		d.Hashes[eid] = "x"
	}
	e, err := d.Build("b.example", "ed25519:1", peerKey)
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events[e.ID()] = e
	for _, s := range state {
		p.states[e.ID()] = append(p.states[e.ID()], s.ID())
	}
	return e
}

func (p *peer) message(on []*event.Event, text string, change ...func(*event.Draft)) *event.Event {
	p.t.Helper()
	return p.make(on, ben2, "m.room.message", noKey, `{"msgtype":"m.text","body":"`+text+`"}`, change...)
}

// accept hands an event over as federation does with one whose ancestry may have to be fetched.
func (p *peer) accept(e *event.Event) *room.Event {
	p.t.Helper()
	if err := p.h.Accept(context.Background(), p.h.t, "b.example", e); err != nil {
		p.t.Fatalf("%s: %v", e.JSON(), err)
	}
	return p.stored(e.ID())
}

func (p *peer) stored(eid id.Event) *room.Event {
	p.t.Helper()
	e, err := p.h.Event(context.Background(), p.h.t.ID, eid)
	if err != nil {
		p.t.Fatalf("%s: %v", eid, err)
	}
	return e
}

// count says how often something was asked, and forgets it.
func (p *peer) count(what string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.asked[what]
	p.asked[what] = 0
	return n
}

func (p *peer) hide(eid id.Event, hidden bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hidden[eid] = hidden
}

func (p *peer) hideFrom(what string, eid id.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.from[what] = map[id.Event]bool{eid: true}
}

func (p *peer) pick(what string, ids []id.Event) []*event.Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked[what]++
	var out []*event.Event
	for _, eid := range ids {
		if e := p.events[eid]; e != nil && !p.hidden[eid] && !p.from[what][eid] {
			out = append(out, e)
		}
	}
	return out
}

// walk goes back from events along their prev events, newest first.
func (p *peer) walk(what string, from, stop []id.Event, limit int, themselves bool) []*event.Event {
	seen := map[id.Event]bool{}
	for _, s := range stop {
		seen[s] = true
	}
	var out []*event.Event
	front := slices.Clone(from)
	for len(front) > 0 && len(out) < limit {
		eid := front[0]
		front = front[1:]
		if seen[eid] {
			continue
		}
		seen[eid] = true
		for _, e := range p.pick(what, []id.Event{eid}) {
			if themselves || !slices.Contains(from, eid) {
				out = append(out, e)
			}
			front = append(front, e.PrevEvents()...)
		}
	}
	return out
}

func (p *peer) GetMissingEvents(_ context.Context, _ *tenant.Tenant, _ id.Server, _ *room.Room, earliest, latest []id.Event, limit int) ([]*event.Event, error) {
	return p.walk("missing", latest, earliest, limit, false), nil
}

func (p *peer) Event(_ context.Context, _ *tenant.Tenant, _ id.Server, _ *room.Room, eid id.Event) (*event.Event, error) {
	p.mu.Lock()
	away := p.away[eid]
	p.mu.Unlock()
	if away {
		return nil, room.ErrUnreachable
	}
	if found := p.pick("event", []id.Event{eid}); len(found) > 0 {
		return found[0], nil
	}
	return nil, mxerror.NotFound
}

func (p *peer) EventAuth(_ context.Context, _ *tenant.Tenant, _ id.Server, _ *room.Room, eid id.Event) ([]*event.Event, error) {
	var out []*event.Event
	seen := map[id.Event]bool{}
	for _, e := range p.pick("auth", []id.Event{eid}) {
		front := slices.Clone(e.AuthEvents())
		for len(front) > 0 {
			for _, a := range p.pick("", front[:1]) {
				if !seen[a.ID()] {
					seen[a.ID()] = true
					out, front = append(out, a), append(front, a.AuthEvents()...)
				}
			}
			front = front[1:]
		}
	}
	return out, nil
}

func (p *peer) StateIDs(_ context.Context, _ *tenant.Tenant, _ id.Server, _ *room.Room, eid id.Event) (state, auth []id.Event, err error) {
	p.pick("state", nil)
	if p.states[eid] == nil {
		return nil, nil, mxerror.NotFound
	}
	return p.states[eid], nil, nil
}

func (p *peer) State(_ context.Context, _ *tenant.Tenant, _ id.Server, _ *room.Room, eid id.Event) (state, auth []*event.Event, err error) {
	return p.pick("state", p.states[eid]), nil, nil
}

func (p *peer) Backfill(_ context.Context, _ *tenant.Tenant, _ id.Server, _ *room.Room, from []id.Event, limit int) ([]*event.Event, error) {
	return p.walk("backfill", from, nil, limit, true), nil
}

var errNotScripted = mxerror.NotFound.With("not scripted")

func (p *peer) MakeJoin(context.Context, *tenant.Tenant, id.Server, id.Room, id.User, []string) (room.Template, error) {
	return room.Template{}, errNotScripted
}

func (p *peer) SendJoin(context.Context, *tenant.Tenant, id.Server, *event.Event) (room.Joined, error) {
	return room.Joined{}, errNotScripted
}

func (p *peer) MakeLeave(context.Context, *tenant.Tenant, id.Server, id.Room, id.User) (room.Template, error) {
	return room.Template{}, errNotScripted
}

func (p *peer) SendLeave(context.Context, *tenant.Tenant, id.Server, *event.Event) error {
	return errNotScripted
}

func (p *peer) MakeKnock(context.Context, *tenant.Tenant, id.Server, id.Room, id.User, []string) (room.Template, error) {
	return room.Template{}, errNotScripted
}

func (p *peer) SendKnock(context.Context, *tenant.Tenant, id.Server, *event.Event) ([]jsontext.Value, error) {
	return nil, errNotScripted
}

func (p *peer) Invite(context.Context, *tenant.Tenant, id.Server, *event.Event, []jsontext.Value) (*event.Event, error) {
	return nil, errNotScripted
}

func (p *peer) QueryDirectory(context.Context, *tenant.Tenant, id.Alias) (id.Room, []id.Server, error) {
	return "", nil, errNotScripted
}

// SPDX-License-Identifier: Apache-2.0

package clientsync

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// delta is what the state section of a room is computed from.
type delta struct {
	q      *query
	place  *place
	window window
	// final is the whole state at the end, for a client that has none; nil for one that gets only what changed.
	final room.State
	// changes are what changed in the state since the client's position, oldest first.
	changes []room.StateChange
	// heroes are members whose events the client needs to name the room.
	heroes []id.User
}

// state returns the events that a room's state section needs so that the client ends with the right state: before the timeline is applied,
// or after it when the client asked for that.
//
// Before the timeline: a key that ends with an event of the timeline needs what it held at the start of the timeline; a key that ends with
// any other event needs that one (it changed before the timeline, or by resolution without an event of its own).
func (s *Service) state(ctx context.Context, d *delta) ([]any, error) {
	shown := d.window.has()
	var start room.State
	if d.final != nil && !d.q.after() && len(d.window.events) > 0 {
		var err error
		if start, err = s.o.Rooms.StateBefore(ctx, d.q.t.ID, d.window.events[0]); err != nil {
			return nil, err
		}
	}
	picked := map[event.Key]id.Event{}
	pick := func(k event.Key, end, begin id.Event) {
		switch {
		case d.q.after() || !shown[end]:
			picked[k] = end
		case begin != "" && begin != end:
			picked[k] = begin
		}
	}
	if d.final != nil {
		for k, eid := range d.final {
			pick(k, eid, start[k])
		}
	} else {
		for k, c := range d.bounds() {
			pick(k, c.end, c.begin)
		}
	}
	if err := s.lazyMembers(ctx, d, shown, picked); err != nil {
		return nil, err
	}
	return s.stateEvents(ctx, d, picked)
}

// bound is what a key held at the start of the timeline, when that was new to the client, and at the end.
type bound struct{ begin, end id.Event }

// bounds reduces the changes to what each key held.
func (d *delta) bounds() map[event.Key]bound {
	out := map[event.Key]bound{}
	for _, c := range d.changes {
		b := out[c.Key]
		if len(d.window.events) > 0 && c.Position < d.window.events[0].Position {
			b.begin = c.New
		}
		b.end = c.New
		out[c.Key] = b
	}
	return out
}

// lazyMembers narrows the members to those that the client needs: the senders in the timeline, the user, the heroes, and in an ongoing sync all
// that changed (client-server API, "Lazy-loading room members").
func (s *Service) lazyMembers(ctx context.Context, d *delta, shown map[id.Event]bool, picked map[event.Key]id.Event) error {
	if !d.q.filter.Room.State.LazyLoadMembers {
		return nil
	}
	needed := map[event.Key]bool{}
	for _, e := range d.window.events {
		needed[memberKey(e.Sender())] = true
	}
	for _, u := range d.heroes {
		needed[memberKey(u)] = true
	}
	if d.final != nil {
		needed[memberKey(d.q.user)] = true
		maps.DeleteFunc(picked, func(k event.Key, _ id.Event) bool { return k.Type == event.TypeMember && !needed[k] })
		return nil
	}
	if len(d.window.events) == 0 {
		return nil
	}
	state, err := s.o.Rooms.StateAfter(ctx, d.q.t.ID, d.window.events[len(d.window.events)-1])
	if err != nil {
		return err
	}
	for k := range needed {
		if eid := state[k]; picked[k] == "" && eid != "" && (d.q.after() || !shown[eid]) && !s.members.has(d.q, eid) {
			picked[k] = eid
		}
	}
	return nil
}

func memberKey(u id.User) event.Key { return event.Key{Type: event.TypeMember, StateKey: string(u)} }

// stateEvents loads, filters and converts the events of a state section.
func (s *Service) stateEvents(ctx context.Context, d *delta, picked map[event.Key]id.Event) ([]any, error) {
	f := &d.q.filter.Room.State
	if len(picked) == 0 || !f.Room(d.place.Room.ID) {
		return nil, nil
	}
	var ids []id.Event
	for k, eid := range picked {
		if eid != "" && f.Type(k.Type) {
			ids = append(ids, eid)
		}
	}
	found, err := s.o.Rooms.Events(ctx, d.q.t.ID, ids)
	if err != nil {
		return nil, err
	}
	events := slices.Collect(maps.Values(found))
	events = slices.DeleteFunc(events, func(e *room.Event) bool { return !f.Event(e.Type(), e.Sender(), e.Content()) })
	slices.SortFunc(events, func(x, y *room.Event) int {
		return cmp.Or(cmp.Compare(x.Topological, y.Topological), cmp.Compare(x.NID, y.NID))
	})
	out := make([]any, 0, len(events))
	if d.q.filter.EventFormat == "federation" {
		for _, e := range events {
			out = append(out, jsontext.Value(e.JSON()))
		}
		return out, nil
	}
	list, err := s.o.Rooms.ClientState(ctx, d.q.t.ID, d.place.Room, events)
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		e.RoomID = ""
		out = append(out, e)
	}
	return out, nil
}

// state puts events into the block that the client asked for. The blocks for the state after the timeline are there even when they are empty,
// the one before it only when it is not.
func (q *query) state(events []any) roomState {
	var r roomState
	if events == nil {
		events = []any{}
	}
	switch {
	case q.stateAfter:
		r.StateAfter = &list{events}
	case q.unstableAfter:
		r.UnstableAfter = &list{events}
	case len(events) > 0:
		r.State = &list{events}
	}
	return r
}

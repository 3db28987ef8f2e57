// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/stateres"
)

// maxAuthChain bounds how many events a resolution may load.
const maxAuthChain = 50_000

// resolve merges the states of several branches. extra is an event that is not stored yet and may be named by a state; it may be nil.
func (s *Service) resolve(ctx context.Context, t tenant.ID, r *Room, states []State, extra *event.Event) (State, error) {
	distinct := distinctStates(states)
	if len(distinct) == 1 {
		return distinct[0], nil
	}
	src := &source{events: map[id.Event]*event.Event{}, rejected: map[id.Event]bool{}}
	if extra != nil {
		src.events[extra.ID()] = extra
	}
	sets := make([]map[event.Key]id.Event, len(distinct))
	for i, st := range distinct {
		sets[i] = st
	}
	for {
		st, err := stateres.Resolve(r.Version, sets, src)
		var missing *stateres.MissingError
		if !errors.As(err, &missing) {
			return st, err
		}
		if err := s.loadChain(ctx, t, src, missing.IDs); err != nil {
			return nil, err
		}
	}
}

// distinctStates drops repeated states, so that branches that agree cost nothing.
func distinctStates(states []State) []State {
	var out []State
next:
	for _, st := range states {
		for _, o := range out {
			if maps.Equal(st, o) {
				continue next
			}
		}
		out = append(out, st)
	}
	return out
}

// source hands events to the resolution.
type source struct {
	events   map[id.Event]*event.Event
	rejected map[id.Event]bool
}

// Event returns a loaded event, or nil.
func (s *source) Event(eid id.Event) *event.Event { return s.events[eid] }

// Rejected says whether the event was rejected when it was received.
func (s *source) Rejected(eid id.Event) bool { return s.rejected[eid] }

// loadChain reads events and their auth chains, a generation at a time.
func (s *Service) loadChain(ctx context.Context, t tenant.ID, src *source, ids []id.Event) error {
	for len(ids) > 0 {
		found, err := s.Events(ctx, t, ids)
		if err != nil {
			return err
		}
		for _, eid := range ids {
			if found[eid] == nil {
				return fmt.Errorf("state resolution needs event %s, which is not stored", eid)
			}
		}
		ids = nil
		for eid, e := range found {
			src.events[eid] = e.Event
			src.rejected[eid] = e.Rejected
			for _, a := range e.AuthEvents() {
				if src.events[a] == nil && found[a] == nil {
					ids = append(ids, a)
				}
			}
		}
		if len(src.events) > maxAuthChain {
			return fmt.Errorf("state resolution needs more than %d events", maxAuthChain)
		}
	}
	return nil
}

// AuthChain returns the events and all that their auth events lead to, each once.
func (s *Service) AuthChain(ctx context.Context, t tenant.ID, ids []id.Event) ([]*Event, error) {
	out := map[id.Event]*Event{}
	for len(ids) > 0 {
		found, err := s.Events(ctx, t, ids)
		if err != nil {
			return nil, err
		}
		ids = nil
		for eid, e := range found {
			out[eid] = e
		}
		for _, e := range found {
			for _, a := range e.AuthEvents() {
				if out[a] == nil {
					ids = append(ids, a)
				}
			}
		}
		if len(out) > maxAuthChain {
			return nil, fmt.Errorf("auth chain of more than %d events", maxAuthChain)
		}
	}
	list := make([]*Event, 0, len(out))
	for _, e := range out {
		list = append(list, e)
	}
	return list, nil
}

// create returns the room's create event.
func (s *Service) create(ctx context.Context, t tenant.ID, state State) (*event.Event, error) {
	e, err := s.StateEvent(ctx, t, state, event.Key{Type: "m.room.create"})
	if err != nil || e == nil {
		return nil, err
	}
	return e.Event, nil
}

// authState returns the part of a state that an event is authorised by, as the auth rules want it.
func (s *Service) authState(ctx context.Context, t tenant.ID, state State, keys []event.Key) (authrule.Map, error) {
	found, err := s.pick(ctx, t, state, append(keys, event.Key{Type: "m.room.create"}))
	if err != nil {
		return nil, err
	}
	out := authrule.Map{}
	for k, e := range found {
		out[k] = e.Event
	}
	return out, nil
}

// allowed checks an event against a state (engine: checks 5 and 6 of the specification's receipt).
func (s *Service) allowed(ctx context.Context, t tenant.ID, e *event.Event, state State) error {
	st, err := s.authState(ctx, t, state, authrule.Needed(e.Version(), e.Type(), e.StateKey(), e.Sender(), e.Content()))
	if err != nil {
		return err
	}
	return authrule.Allowed(e, st, st[event.Key{Type: "m.room.create"}])
}

// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
	"github.com/konsil-health/konsil/internal/matrix/stateres"
)

// resolve merges the states of several branches. extra is an event that is not stored yet and may be named by a state; it may be nil.
func (s *Service) resolve(ctx context.Context, t tenant.ID, r *Room, states []State, extra *event.Event) (State, error) {
	distinct := distinctStates(states)
	if len(distinct) == 1 {
		return distinct[0], nil
	}
	defer s.metrics.resolved(time.Now())
	src := &source{events: map[id.Event]*event.Event{}, rejected: map[id.Event]bool{}}
	if extra != nil {
		src.events[extra.ID()] = extra
	}
	sets := make([]map[event.Key]id.Event, len(distinct))
	for i, st := range distinct {
		sets[i] = st
	}
	if r.Version.StateResolution == roomversion.StateResolutionV1 { // it looks at no auth chains
		return s.untilLoaded(ctx, t, src, func() (State, error) { return stateres.Resolve(r.Version, sets, src) })
	}
	known, err := s.conflicted(ctx, t, r, sets, src)
	if err != nil {
		return nil, err
	}
	return s.untilLoaded(ctx, t, src, func() (State, error) { return stateres.ResolveKnown(r.Version, sets, known, src) })
}

// settled returns when what this node has built in a room so far is in the database, where the index is.
func (s *Service) settled(ctx context.Context, t tenant.ID, r *Room) error {
	sl, ok := s.heads.cache.Get(headKey{t, r.NID})
	if !ok || sl.flying.Load() == 0 {
		return nil
	}
	_, err := s.Committer.Commit(ctx, &stream.Plan{Tenant: t, Room: r.NID})
	return err
}

// conflicted finds by the index of the auth graph what a resolution is about.
func (s *Service) conflicted(ctx context.Context, t tenant.ID, r *Room, sets []map[event.Key]id.Event, src *source) (stateres.Known, error) {
	if err := s.settled(ctx, t, r); err != nil {
		return stateres.Known{}, err
	}
	if _, err := s.indexAuth(ctx, t, r.NID, math.MaxInt); err != nil {
		return stateres.Known{}, err
	}
	agreed, conflicted := stateres.Split(sets)
	c := newConflict(s, t, src, agreed)
	full, err := c.full(ctx, sets, conflicted, r.Version.StateResolution == roomversion.StateResolutionV21)
	return stateres.Known{Full: full, Mainline: func(top id.Event, of []id.Event) (map[id.Event]int, error) { return c.mainline(ctx, top, of) }}, err
}

// untilLoaded repeats a resolution until it lacks nothing.
func (s *Service) untilLoaded(ctx context.Context, t tenant.ID, src *source, resolve func() (State, error)) (State, error) {
	for {
		st, err := resolve()
		var missing *stateres.MissingError
		if !errors.As(err, &missing) {
			return st, err
		}
		if err := s.loadEvents(ctx, t, src, missing.IDs); err != nil {
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

// loadEvents reads those of the events that the source lacks.
func (s *Service) loadEvents(ctx context.Context, t tenant.ID, src *source, ids []id.Event) error {
	var ask []id.Event
	for _, eid := range ids {
		if src.events[eid] == nil {
			ask = append(ask, eid)
		}
	}
	found, err := s.Events(ctx, t, ask)
	if err != nil {
		return err
	}
	for _, eid := range ask {
		e := found[eid]
		if e == nil {
			return fmt.Errorf("state resolution needs event %s, which is not stored", eid)
		}
		src.events[eid], src.rejected[eid] = e.Event, e.Rejected
	}
	return nil
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

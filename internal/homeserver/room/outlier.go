// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"
	"fmt"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// storeOutliers stores events outside of the room's graph (state and auth chains), each authorised by its own auth events; those that are not
// allowed are stored as rejected. Events whose auth events are nowhere are left out. It takes no position (engine rule 2).
func (s *Service) storeOutliers(ctx context.Context, t *tenant.Tenant, r *Room, events []*event.Event) error {
	set := map[id.Event]*event.Event{}
	ids := make([]id.Event, 0, len(events))
	for _, e := range events {
		if e.Room() == r.ID {
			set[e.ID()] = e
			ids = append(ids, e.ID())
		}
	}
	stored, err := s.Events(ctx, t.ID, ids)
	if err != nil {
		return err
	}
	for eid := range stored {
		delete(set, eid)
	}
	ordered := authOrder(set)
	var outside []id.Event
	for _, e := range ordered {
		for _, a := range e.AuthEvents() {
			if set[a] == nil {
				outside = append(outside, a)
			}
		}
	}
	known, err := s.Events(ctx, t.ID, outside)
	if err != nil {
		return err
	}
	parsed := map[id.Event]*event.Event{}
	rejected := map[id.Event]bool{}
	for eid, k := range known {
		parsed[eid], rejected[eid] = k.Event, k.Rejected
	}
	var stmts []stream.Statement
	for _, e := range ordered {
		reason, complete, err := s.checkOutlier(ctx, t.ID, r, e, parsed, rejected)
		if err != nil {
			return err
		}
		if !complete {
			continue
		}
		parsed[e.ID()], rejected[e.ID()] = e, reason != ""
		stmts = append(stmts, outlierRows(t.ID, r, e, reason)...)
	}
	if err := s.ahead(ctx, stmts); err != nil {
		return fmt.Errorf("store outliers of %s: %w", r.ID, err)
	}
	return nil
}

// checkOutlier authorises an event by its auth events among parsed; complete is false when one of them is nowhere.
func (s *Service) checkOutlier(ctx context.Context, t tenant.ID, r *Room, e *event.Event, parsed map[id.Event]*event.Event, rejected map[id.Event]bool) (reason string, complete bool, err error) {
	if reason := unstorable(e); reason != "" {
		return reason, true, nil
	}
	state := authrule.Map{}
	var auth []*event.Event
	for _, a := range e.AuthEvents() {
		p := parsed[a]
		if p == nil {
			return "", false, nil
		}
		auth = append(auth, p)
		if p.IsState() {
			state[p.Key()] = p
		}
	}
	create := state[event.Key{Type: "m.room.create"}]
	if create == nil && e.Type() != "m.room.create" {
		if eid, ok := createID(r); ok {
			if create = parsed[eid]; create == nil {
				if create, err = s.roomCreate(ctx, t, r, state); err != nil {
					return "", false, nil //nolint:nilerr // a missing create event leaves the outlier out
				}
			}
		}
	}
	isRejected := func(eid id.Event) bool { return rejected[eid] }
	if err := authrule.CheckAuthEvents(e, auth, create, isRejected); err != nil {
		return err.Error(), true, nil
	}
	if err := authrule.Allowed(e, state, create); err != nil {
		return err.Error(), true, nil
	}
	return "", true, nil
}

// outlierRows stores one outlier; a row that another node stored meanwhile stays.
func outlierRows(t tenant.ID, r *Room, e *event.Event, reason string) []stream.Statement {
	nid := database.NewID()
	return []stream.Statement{
		{SQL: `INSERT INTO event (tenant, event, room, event_id, position, topological, type, sender, origin_ts, snapshot, snapshot_after,
			rejected, soft_failed, outlier, reason, rule_class, thread, redacted_by, txn_device, txn_id, json)
			SELECT $1, $2, $3, $4, 0, 0, $5, $6, $7, 0, 0, $8, FALSE, TRUE, $9, 0, '', '', '', '', $10
			WHERE NOT EXISTS (SELECT 1 FROM event_id WHERE tenant = $1 AND event_id = $4)`,
			Args: []any{int64(t), nid, r.NID, string(e.ID()), column(e.Type()), string(e.Sender()), e.Timestamp(), reason != "", reason, e.JSON()}},
		{SQL: "INSERT INTO event_id (tenant, event_id, room, event) VALUES ($1, $2, $3, $4) ON CONFLICT (tenant, event_id) DO NOTHING",
			Args: []any{int64(t), string(e.ID()), r.NID, nid}},
		pendingRow(t, r.NID, e),
	}
}

// authOrder sorts events so that each comes after its auth events in the set. Events on a cycle are left out.
func authOrder(set map[id.Event]*event.Event) []*event.Event {
	waits := map[id.Event]int{}
	needed := map[id.Event][]id.Event{}
	var ready []id.Event
	for eid, e := range set {
		for _, a := range e.AuthEvents() {
			if set[a] != nil {
				waits[eid]++
				needed[a] = append(needed[a], eid)
			}
		}
		if waits[eid] == 0 {
			ready = append(ready, eid)
		}
	}
	out := make([]*event.Event, 0, len(set))
	for len(ready) > 0 {
		eid := ready[0]
		ready = ready[1:]
		out = append(out, set[eid])
		for _, n := range needed[eid] {
			if waits[n]--; waits[n] == 0 {
				ready = append(ready, n)
			}
		}
	}
	// In version 12 everything rests on the create event without naming it.
	for i, e := range out {
		if e.Type() == "m.room.create" && i > 0 {
			copy(out[1:i+1], out[:i])
			out[0] = e
		}
	}
	return out
}

// fetchState asks the origin for the state before an event whose prev events we lack, and stores what we did not have as outliers.
func (s *Service) fetchState(ctx context.Context, t *tenant.Tenant, origin id.Server, r *Room, e *event.Event) (State, error) {
	if s.Remote == nil {
		return nil, errors.New("no federation")
	}
	stateIDs, authIDs, err := s.Remote.StateIDs(ctx, t, origin, r, e.ID())
	if err != nil {
		return nil, fmt.Errorf("state before %s: %w", e.ID(), err)
	}
	missing, err := s.unstored(ctx, t.ID, append(append([]id.Event{}, stateIDs...), authIDs...))
	if err != nil {
		return nil, err
	}
	switch {
	case len(missing) > 10:
		state, auth, err := s.Remote.State(ctx, t, origin, r, e.ID())
		if err != nil {
			return nil, err
		}
		if err := s.storeOutliers(ctx, t, r, append(state, auth...)); err != nil {
			return nil, err
		}
	case len(missing) > 0:
		var fetched []*event.Event
		for _, m := range missing {
			f, err := s.Remote.Event(ctx, t, origin, r, m)
			if errors.Is(err, ErrUnreachable) || ctx.Err() != nil {
				return nil, err // judged by half a state, the event would be rejected for good
			}
			if err != nil {
				s.Log.InfoContext(ctx, "state event could not be had", "event", m, "origin", origin, "error", err)
				continue
			}
			fetched = append(fetched, f)
		}
		if err := s.storeOutliers(ctx, t, r, fetched); err != nil {
			return nil, err
		}
	}
	found, err := s.Events(ctx, t.ID, stateIDs)
	if err != nil {
		return nil, err
	}
	st := State{}
	for _, f := range found {
		if f.IsState() && !f.Rejected && f.RoomNID == r.NID {
			st[f.Key()] = f.ID()
		}
	}
	if _, ok := st[event.Key{Type: "m.room.create"}]; !ok {
		return nil, mxerror.NotFound.With("The state before %s could not be had.", e.ID())
	}
	return st, nil
}

// whole returns the event as it is stored where that is more than what came. A server gives the state to whoever joins as it is, but of the history
// that nobody there might read only what redaction keeps: the room's name would be lost with it. In room versions 1 and 2 an id vouches for nothing.
func (s *Service) whole(ctx context.Context, t tenant.ID, r *Room, e *event.Event) (*event.Event, error) {
	if e.Version().EventIDs == roomversion.EventIDInEvent || !e.IsRedactedForm() || e.CheckHash() {
		return e, nil
	}
	found, err := s.Events(ctx, t, []id.Event{e.ID()})
	if err != nil {
		return nil, err
	}
	if stored := found[e.ID()]; stored != nil && stored.RoomNID == r.NID && stored.RedactedBy == "" && stored.CheckHash() {
		return stored.Event, nil
	}
	return e, nil
}

// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// selectEvent reads events; r is the room's version. Every use continues with a condition that begins with e.tenant.
const selectEvent = `SELECT e.event, e.room, e.event_id, e.position, e.topological, e.snapshot, e.snapshot_after, e.rejected, e.soft_failed, e.outlier,
	e.redacted_by, e.txn_device, e.txn_id, e.rule_class, e.thread, e.json, r.version FROM event e JOIN room r ON r.tenant = e.tenant AND r.room = e.room `

func scanEvent(rows *sql.Rows) (*Event, error) {
	var e Event
	var eid id.Event
	var raw []byte
	var version string
	err := rows.Scan(&e.NID, &e.RoomNID, &eid, &e.Position, &e.Topological, &e.Snapshot, &e.SnapshotAfter, &e.Rejected, &e.SoftFailed, &e.Outlier,
		&e.RedactedBy, &e.TxnDevice, &e.TxnID, &e.Class, &e.Thread, &raw, &version)
	if err != nil {
		return nil, err
	}
	v, ok := roomversion.Get(version)
	if !ok {
		return nil, fmt.Errorf("event %s: room version %s is not supported", eid, version)
	}
	e.Event, err = event.FromStored(v, eid, raw)
	if err != nil {
		return nil, fmt.Errorf("stored event %s: %w", eid, err)
	}
	return &e, nil
}

// Event finds an event by its id, rejected ones and outliers included; otherwise mxerror.NotFound. Whether somebody may see it is another
// question: see Visible.
func (s *Service) Event(ctx context.Context, t tenant.ID, eid id.Event) (*Event, error) {
	found, err := s.Events(ctx, t, []id.Event{eid})
	if err != nil {
		return nil, err
	}
	e, ok := found[eid]
	if !ok {
		return nil, mxerror.NotFound.With("This event is not known here.")
	}
	return e, nil
}

// Events finds events by their ids; those not known are absent from the answer.
func (s *Service) Events(ctx context.Context, t tenant.ID, ids []id.Event) (map[id.Event]*Event, error) {
	out := make(map[id.Event]*Event, len(ids))
	var missing []any
	marks := map[id.Event]uint64{}
	for _, eid := range ids {
		if _, done := out[eid]; done {
			continue
		}
		if e, ok := s.events.Get(eventKey{t, eid}); ok {
			out[eid] = e
			continue
		}
		missing = append(missing, string(eid))
		marks[eid] = s.events.Mark(eventKey{t, eid})
	}
	for len(missing) > 0 {
		n := min(len(missing), database.MaxMarks)
		found, err := s.readEvents(ctx, t, missing[:n])
		if err != nil {
			return nil, err
		}
		for _, e := range found {
			out[e.ID()] = e
			s.events.SetRead(eventKey{t, e.ID()}, e, marks[e.ID()])
		}
		missing = missing[n:]
	}
	return out, nil
}

// fewEvents is up to how many events are read in one step.
const fewEvents = 20

// readEvents reads events by their ids. Many of them are read in two steps, each of which has one index to go by: the plan that PostgreSQL once
// made for a table that was still empty otherwise compares every event with every id.
func (s *Service) readEvents(ctx context.Context, t tenant.ID, ids []any) ([]*Event, error) {
	args := append([]any{int64(t)}, ids...)
	if len(ids) <= fewEvents {
		rows, err := s.DB.Query(ctx, selectEvent+`JOIN event_id i ON i.tenant = e.tenant AND i.event = e.event
			WHERE e.tenant = $1 AND i.tenant = $1 AND i.event_id IN (`+database.Marks(2, len(ids))+")", args...)
		return database.All(rows, err, scanEvent)
	}
	rows, err := s.DB.Query(ctx, "SELECT event FROM event_id WHERE tenant = $1 AND event_id IN ("+database.Marks(2, len(ids))+")", args...)
	nids, err := database.All(rows, err, database.Column[int64])
	if err != nil || len(nids) == 0 {
		return nil, err
	}
	args = args[:1]
	for _, n := range nids {
		args = append(args, n)
	}
	rows, err = s.DB.Query(ctx, selectEvent+"WHERE e.tenant = $1 AND e.event IN ("+database.Marks(2, len(nids))+")", args...)
	return database.All(rows, err, scanEvent)
}

// known returns which of the events are stored as part of the room's graph, that is not as outliers and not in another room (engine rule 16).
func (s *Service) known(ctx context.Context, t tenant.ID, roomNID int64, ids []id.Event) (map[id.Event]*Event, error) {
	found, err := s.Events(ctx, t, ids)
	if err != nil {
		return nil, err
	}
	for eid, e := range found {
		if e.Outlier || e.RoomNID != roomNID {
			delete(found, eid)
		}
	}
	return found, nil
}

// errMissingState: a state names an event that nobody has. In a turn it means that the head was built by one whose commit has failed meanwhile, with
// the event (the same event came by another way, say): the turn is taken again on what is stored. Anywhere else it is damage.
var errMissingState = errors.New("is missing from the store")

// pick returns the parsed events of a state's keys, in no order; keys that the state lacks are absent.
func (s *Service) pick(ctx context.Context, t tenant.ID, state State, keys []event.Key) (map[event.Key]*Event, error) {
	var ids []id.Event
	for _, k := range keys {
		if eid, ok := state[k]; ok {
			ids = append(ids, eid)
		}
	}
	found, err := s.Events(ctx, t, ids)
	if err != nil {
		return nil, err
	}
	out := make(map[event.Key]*Event, len(ids))
	for _, k := range keys {
		if eid, ok := state[k]; ok {
			e, ok := found[eid]
			if !ok {
				return nil, fmt.Errorf("state event %s %w", eid, errMissingState)
			}
			out[k] = e
		}
	}
	return out, nil
}

// StateEvent returns the event of one key of a state, or nil.
func (s *Service) StateEvent(ctx context.Context, t tenant.ID, state State, key event.Key) (*Event, error) {
	found, err := s.pick(ctx, t, state, []event.Key{key})
	if err != nil {
		return nil, err
	}
	return found[key], nil
}

// StateEvents returns the events of a whole state, in no order.
func (s *Service) StateEvents(ctx context.Context, t tenant.ID, state State) ([]*Event, error) {
	ids := make([]id.Event, 0, len(state))
	for _, eid := range state {
		ids = append(ids, eid)
	}
	found, err := s.Events(ctx, t, ids)
	if err != nil {
		return nil, err
	}
	out := make([]*Event, 0, len(found))
	for _, e := range found {
		out = append(out, e)
	}
	return out, nil
}

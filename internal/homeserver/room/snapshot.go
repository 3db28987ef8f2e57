// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// State is the state of a room at some point: which event holds each key. It is never changed once handed out.
type State map[event.Key]id.Event

// maxChain is how many deltas may follow a full snapshot (engine rule 13).
const maxChain = 32

// errHeadMoved: what an event was to be built on was never committed. The event is built anew.
var errHeadMoved = errors.New("the room's head moved")

// StateAt returns a stored snapshot; number 0 is the empty state.
func (s *Service) StateAt(ctx context.Context, t tenant.ID, number int64) (State, error) {
	sn, err := s.loadSnapshot(ctx, t, number)
	return sn.state, err
}

// loadSnapshot returns a snapshot with its place in its chain.
func (s *Service) loadSnapshot(ctx context.Context, t tenant.ID, number int64) (snapshot, error) {
	if number == 0 {
		return snapshot{state: State{}}, nil
	}
	key := snapshotKey{t, number}
	if sn, ok := s.states.Get(key); ok {
		return sn, nil
	}
	rows, err := s.DB.Query(ctx, `WITH RECURSIVE chain (snapshot, parent, length) AS (
			SELECT snapshot, parent, length FROM snapshot WHERE tenant = $1 AND snapshot = $2
			UNION ALL SELECT p.snapshot, p.parent, p.length FROM snapshot p JOIN chain c ON p.snapshot = c.parent WHERE p.tenant = $1)
		SELECT c.length, e.type, e.state_key, e.event_id FROM chain c
		JOIN snapshot_entry e ON e.tenant = $1 AND e.snapshot = c.snapshot ORDER BY c.length`, int64(t), number)
	sn := snapshot{number: number, state: State{}}
	_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
		var k event.Key
		var eid id.Event
		if err := rows.Scan(&sn.length, &k.Type, &k.StateKey, &eid); err != nil {
			return struct{}{}, err
		}
		if eid == "" {
			delete(sn.state, k)
		} else {
			sn.state[k] = eid
		}
		return struct{}{}, nil
	})
	if err != nil {
		return snapshot{}, fmt.Errorf("snapshot %d: %w", number, err)
	}
	if len(sn.state) == 0 {
		return snapshot{}, fmt.Errorf("snapshot %d: %w", number, errHeadMoved)
	}
	s.states.Set(key, sn)
	return sn, nil
}

// StateBefore returns the state before an event of the room's graph.
func (s *Service) StateBefore(ctx context.Context, t tenant.ID, e *Event) (State, error) {
	return s.StateAt(ctx, t, e.Snapshot)
}

// StateAfter returns the state after an event of the room's graph.
func (s *Service) StateAfter(ctx context.Context, t tenant.ID, e *Event) (State, error) {
	return s.StateAt(ctx, t, e.SnapshotAfter)
}

// CurrentState returns the room's current state, resolved over its forward extremities.
func (s *Service) CurrentState(ctx context.Context, t tenant.ID, r *Room) (State, error) {
	h, err := s.peek(ctx, t, r)
	if err != nil {
		return nil, err
	}
	return s.StateAt(ctx, t, h.snapshot)
}

// snapshot is a state together with the number that it is or will be stored under.
type snapshot struct {
	number int64
	length int64 // deltas below it
	state  State
	// from is the snapshot that it was made of, and changed the keys in which it differs; 0 when that is not known.
	from    int64
	changed []event.Key
}

// with returns the snapshot after one key has changed and the statements that store it.
func (b snapshot) with(t tenant.ID, room int64, key event.Key, eid id.Event) (snapshot, []stream.Statement) {
	if b.state[key] == eid && b.number != 0 {
		return b, nil
	}
	st := make(State, len(b.state)+1)
	maps.Copy(st, b.state)
	st[key] = eid
	return b.store(t, room, st, State{key: eid})
}

// next returns the snapshot of another state of the room and the statements that store it: a delta on b, or a full one when the chain is
// long or the delta would not be smaller. The same state is the same snapshot.
func (b snapshot) next(t tenant.ID, room int64, st State) (snapshot, []stream.Statement) {
	delta := State{}
	for _, k := range diff(b.state, st) {
		delta[k] = st[k]
	}
	if len(delta) == 0 && b.number != 0 {
		return b, nil
	}
	return b.store(t, room, st, delta)
}

// store makes the snapshot of a state that differs from b's by delta, in which removed keys have no event.
func (b snapshot) store(t tenant.ID, room int64, st, delta State) (snapshot, []stream.Statement) {
	n := snapshot{number: database.NewID(), length: b.length + 1, state: st, from: b.number, changed: slices.Collect(maps.Keys(delta))}
	parent, entries := b.number, delta
	if b.number == 0 || n.length > maxChain || len(delta) >= len(st) {
		parent, n.length, entries = 0, 0, st
	}
	stmts := make([]stream.Statement, 0, len(entries)+1)
	stmts = append(stmts, stream.Statement{SQL: "INSERT INTO snapshot (tenant, snapshot, room, parent, length) VALUES ($1, $2, $3, $4, $5)",
		Args: []any{int64(t), n.number, room, parent, n.length}})
	for k, eid := range entries {
		stmts = append(stmts, stream.Statement{SQL: "INSERT INTO snapshot_entry (tenant, snapshot, type, state_key, event_id) VALUES ($1, $2, $3, $4, $5)",
			Args: []any{int64(t), n.number, k.Type, k.StateKey, string(eid)}})
	}
	return n, stmts
}

// since lists the keys in which a snapshot differs from another. What was made of that one knows it; a large room is not compared for each event.
func (b snapshot) since(before snapshot) []event.Key {
	if b.from != 0 && b.from == before.number {
		return b.changed
	}
	return diff(before.state, b.state)
}

// diff lists the keys in which two states differ.
func diff(before, after State) []event.Key {
	var keys []event.Key
	for k, eid := range after {
		if before[k] != eid {
			keys = append(keys, k)
		}
	}
	for k := range before {
		if _, ok := after[k]; !ok {
			keys = append(keys, k)
		}
	}
	return keys
}

// bulkStatements is how many snapshot statements ride in an event's own transaction; more go ahead in one of their own (engine rule 2).
const bulkStatements = 200

// ahead writes bulk rows in small transactions without a position.
func (s *Service) ahead(ctx context.Context, stmts []stream.Statement) error {
	for len(stmts) > 0 {
		n := min(len(stmts), 500)
		err := s.DB.Write(ctx, func(tx *database.Tx) error {
			for _, st := range stmts[:n] {
				if _, err := tx.Exec(ctx, st.SQL, st.Args...); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		stmts = stmts[n:]
	}
	return nil
}

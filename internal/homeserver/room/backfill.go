// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

const (
	// backfillServers is how many servers one backfill asks.
	backfillServers = 4
	// backfillLimit is how many events it asks for at most.
	backfillLimit = 100
)

// Backfill fetches history before the given events of a room from its other servers and stores it outside of the timeline (position 0), each
// event with the state before it, so that visibility can be decided (engine rules 6, 14, 15). It answers how many events it added.
func (s *Service) Backfill(ctx context.Context, t *tenant.Tenant, r *Room, citing []id.Event, limit int) (int, error) {
	if s.Remote == nil || len(citing) == 0 {
		return 0, nil
	}
	key := fmt.Sprintf("backfill %d %d", t.ID, r.NID)
	if err := s.joins.enter(ctx, key); err != nil {
		return 0, err
	}
	defer s.joins.leave(key)
	servers, err := s.elsewhere(ctx, t, r)
	if err != nil {
		return 0, err
	}
	for _, server := range servers[:min(len(servers), backfillServers)] {
		events, err := s.Remote.Backfill(ctx, t, server, r, citing, min(limit, backfillLimit))
		if err != nil {
			s.Log.InfoContext(ctx, "backfill", "room", r.NID, "server", server, "error", err)
			continue
		}
		n, err := s.takeHistory(ctx, t, server, r, events)
		if err != nil || n > 0 {
			return n, err
		}
	}
	return 0, nil
}

// takeHistory stores fetched history, oldest first.
func (s *Service) takeHistory(ctx context.Context, t *tenant.Tenant, server id.Server, r *Room, events []*event.Event) (int, error) {
	set := map[id.Event]*event.Event{}
	ids := make([]id.Event, 0, len(events))
	for _, e := range events {
		if e.Room() == r.ID {
			set[e.ID()] = e
			ids = append(ids, e.ID())
		}
	}
	known, err := s.known(ctx, t.ID, r.NID, ids)
	if err != nil {
		return 0, err
	}
	for eid := range known {
		delete(set, eid)
	}
	ordered := inOrder(set)
	order, err := s.backwardOrder(ctx, t.ID, r, ordered)
	if err != nil {
		return 0, err
	}
	stored := 0
	for _, e := range ordered {
		if err := s.storeHistory(ctx, t, server, r, e, order[e.ID()]); err != nil {
			s.Log.InfoContext(ctx, "an event of the history could not be taken", "room", r.NID, "event", e.ID(), "error", err)
			continue
		}
		stored++
	}
	return stored, nil
}

// backwardOrder numbers events that are reached backwards: one less than the smallest number of those that cite them.
func (s *Service) backwardOrder(ctx context.Context, t tenant.ID, r *Room, ordered []*event.Event) (map[id.Event]int64, error) {
	order := map[id.Event]int64{}
	lowest := int64(0)
	if err := s.DB.QueryRow(ctx, "SELECT COALESCE(MIN(topological), 0) FROM event WHERE tenant = $1 AND room = $2 AND NOT outlier", int64(t), r.NID).Scan(&lowest); err != nil {
		return nil, err
	}
	for i := len(ordered) - 1; i >= 0; i-- {
		e := ordered[i]
		var cited *int64
		err := s.DB.QueryRow(ctx, "SELECT MIN(topological) FROM event_gap WHERE tenant = $1 AND room = $2 AND missing_id = $3", int64(t), r.NID, string(e.ID())).Scan(&cited)
		if err != nil {
			return nil, err
		}
		n, found := int64(0), false
		if cited != nil {
			n, found = *cited-1, true
		}
		for _, later := range ordered[i+1:] {
			if slices.Contains(later.PrevEvents(), e.ID()) && (!found || order[later.ID()]-1 < n) {
				n, found = order[later.ID()]-1, true
			}
		}
		if !found {
			n = lowest - 1
		}
		order[e.ID()] = n
	}
	return order, nil
}

// storeHistory stores one event of the room's past.
func (s *Service) storeHistory(ctx context.Context, t *tenant.Tenant, server id.Server, r *Room, e *event.Event, topological int64) error {
	e, err := s.whole(ctx, t.ID, r, e)
	if err != nil {
		return err
	}
	rejected, err := s.checkAuthEvents(ctx, t, server, r, e)
	if err != nil {
		return err
	}
	st, missing, err := s.stateBefore(ctx, t, server, r, e)
	if err != nil {
		return err
	}
	if rejected == "" {
		if err := s.allowed(ctx, t.ID, e, st); err != nil {
			rejected = fmt.Sprintf("state before: %v", err)
		}
	}
	near, err := s.nearestSnapshot(ctx, t.ID, r, e)
	if err != nil {
		return err
	}
	before, stmts := near.next(t.ID, r.NID, st)
	after := before
	if e.IsState() && rejected == "" {
		var more []stream.Statement
		after, more = before.with(t.ID, r.NID, e.Key(), e.ID())
		stmts = append(stmts, more...)
	}
	if len(e.PrevEvents()) == 0 { // the create event: before it there is nothing
		before.number = 0
	}
	stored := &Event{Event: e, NID: -database.NewID(), RoomNID: r.NID, Topological: topological, Snapshot: before.number, SnapshotAfter: after.number, Rejected: rejected != ""}
	plan := &stream.Plan{Guard: &stream.Statement{}}
	if err := s.redactions(ctx, t, stored, rejected == "", false, plan); err != nil {
		return err
	}
	if err := s.ahead(ctx, stmts); err != nil {
		return err
	}
	if taken, err := s.writeHistory(ctx, t.ID, stored, s.historyRows(t.ID, stored, rejected, missing, plan.Rows)); err != nil || !taken {
		return err
	}
	s.states.Set(snapshotKey{t.ID, before.number}, before)
	s.states.Set(snapshotKey{t.ID, after.number}, after)
	s.events.Invalidate(eventKey{t.ID, e.ID()})
	return nil
}

// nearestSnapshot is a stored snapshot that the state before an event probably differs little from.
func (s *Service) nearestSnapshot(ctx context.Context, t tenant.ID, r *Room, e *event.Event) (snapshot, error) {
	known, err := s.known(ctx, t, r.NID, e.PrevEvents())
	if err != nil {
		return snapshot{}, err
	}
	for _, k := range known {
		return s.loadSnapshot(ctx, t, k.SnapshotAfter)
	}
	return snapshot{state: State{}}, nil
}

// writeHistory writes a backfilled event in one transaction, in place of an outlier of the same id. It answers false for one that has entered the room
// by another way meanwhile: a second row would show it twice.
func (s *Service) writeHistory(ctx context.Context, t tenant.ID, e *Event, stmts []stream.Statement) (taken bool, err error) {
	err = s.DB.Write(ctx, func(tx *database.Tx) error {
		if taken, err = takeID(ctx, tx, t, e); err != nil || !taken {
			return err
		}
		for _, st := range stmts {
			if _, err := tx.Exec(ctx, st.SQL, st.Args...); err != nil {
				return err
			}
		}
		return nil
	})
	return taken, err
}

// takeID gives an event's id to its new row, and drops the outlier that had it; false when it belongs to an event of the room already.
func takeID(ctx context.Context, tx *database.Tx, t tenant.ID, e *Event) (bool, error) {
	n, err := tx.Exec(ctx, "INSERT INTO event_id (tenant, event_id, room, event) VALUES ($1, $2, $3, $4) ON CONFLICT (tenant, event_id) DO NOTHING",
		int64(t), string(e.ID()), e.RoomNID, e.NID)
	if err != nil || n == 1 {
		return err == nil, err
	}
	var old int64
	err = tx.QueryRow(ctx, `SELECT e.event FROM event_id i JOIN event e ON e.tenant = i.tenant AND e.event = i.event
		WHERE i.tenant = $1 AND i.event_id = $2 AND e.outlier`, int64(t), string(e.ID())).Scan(&old)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	n, err = tx.Exec(ctx, "UPDATE event_id SET room = $3, event = $4 WHERE tenant = $1 AND event_id = $2 AND event = $5",
		int64(t), string(e.ID()), e.RoomNID, e.NID, old)
	if err != nil || n == 0 {
		return false, err
	}
	_, err = tx.Exec(ctx, "DELETE FROM event WHERE tenant = $1 AND event = $2", int64(t), old)
	return err == nil, err
}

// historyRows are the rows of a backfilled event, but for its id.
func (s *Service) historyRows(t tenant.ID, e *Event, rejected string, missing []id.Event, stmts []stream.Statement) []stream.Statement {
	relType, target := relation(e.Content())
	thread := ""
	if relType == "m.thread" {
		thread = string(target)
	}
	stmts = append(stmts,
		stream.Statement{SQL: insertEvent, Args: []any{int64(t), e.NID, e.RoomNID, string(e.ID()), int64(0), e.Topological, column(e.Type()), string(e.Sender()), e.Timestamp(),
			e.Snapshot, e.SnapshotAfter, e.Rejected, false, false, rejected, int64(0), thread, string(e.RedactedBy), "", "", e.JSON()}},
		stream.Statement{SQL: "DELETE FROM event_gap WHERE tenant = $1 AND room = $2 AND missing_id = $3", Args: []any{int64(t), e.RoomNID, string(e.ID())}})
	if e.IsState() {
		stmts = append(stmts, pendingRow(t, e.RoomNID, e.Event))
	}
	if target != "" {
		stmts = append(stmts, stream.Statement{SQL: "INSERT INTO event_relation (tenant, room, target_id, event, rel_type, type, sender) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant, target_id, event) DO NOTHING",
			Args: []any{int64(t), e.RoomNID, string(target), e.NID, relType, column(e.Type()), string(e.Sender())}})
	}
	for _, m := range missing {
		stmts = append(stmts, gapRow(t, e, m))
	}
	return stmts
}

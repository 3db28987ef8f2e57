// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"database/sql"
	"errors"
	"math"
	"slices"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// Cursor is a place between two events in the room's order (engine rule 14): after the event with these numbers when paging forwards,
// before it when paging backwards. Arrival is the event's nid.
type Cursor struct{ Topological, Arrival int64 }

// The ends of a room's history.
var (
	Start = Cursor{math.MinInt64, 0}
	End   = Cursor{math.MaxInt64, math.MaxInt64}
)

// At returns the place of an event.
func (e *Event) At() Cursor { return Cursor{e.Topological, e.NID} }

// The lower bound is cast because SQLite would otherwise plan the query anew for each value of it: it compares a bare parameter with the condition of
// the partial index.

// Timeline returns the newest events, at most limit, that entered the room's timeline with positions in (from, to], oldest first; limited says
// that there are more.
func (s *Service) Timeline(ctx context.Context, t tenant.ID, roomNID, from, to int64, limit int) (events []*Event, limited bool, err error) {
	rows, err := s.DB.Query(ctx, selectEvent+`WHERE e.tenant = $1 AND e.room = $2 AND e.position > CAST($3 AS BIGINT) AND e.position <= $4 AND e.position > 0
		ORDER BY e.position DESC LIMIT $5`, int64(t), roomNID, max(from, 0), to, limit+1)
	events, err = database.All(rows, err, scanEvent)
	if err != nil {
		return nil, false, err
	}
	if limited = len(events) > limit; limited {
		events = events[:limit]
	}
	slices.Reverse(events)
	return events, limited, nil
}

// Page returns up to limit events of the room's graph from a place on, in the direction of travel, the place where the next page begins, and
// whether there are more here. Rejected, soft-failed and outlying events are not history.
func (s *Service) Page(ctx context.Context, t tenant.ID, roomNID int64, from Cursor, backwards bool, limit int) (events []*Event, next Cursor, more bool, err error) {
	where, order := "(e.topological > $3 OR (e.topological = $3 AND e.event > $4))", "e.topological, e.event"
	if backwards {
		where, order = "(e.topological < $3 OR (e.topological = $3 AND e.event < $4))", "e.topological DESC, e.event DESC"
	}
	rows, err := s.DB.Query(ctx, selectEvent+`WHERE e.tenant = $1 AND e.room = $2 AND `+where+`
		AND NOT e.outlier AND NOT e.rejected AND NOT e.soft_failed ORDER BY `+order+" LIMIT $5", int64(t), roomNID, from.Topological, from.Arrival, limit+1)
	events, err = database.All(rows, err, scanEvent)
	if err != nil {
		return nil, from, false, err
	}
	if more = len(events) > limit; more {
		events = events[:limit]
	}
	next = from
	if len(events) > 0 {
		next = events[len(events)-1].At()
	}
	return events, next, more, nil
}

// CursorAt returns the place in the room's order that a sync position stands for: just after the newest event of the timeline up to it.
func (s *Service) CursorAt(ctx context.Context, t tenant.ID, roomNID, position int64) (Cursor, error) {
	var c Cursor
	err := s.DB.QueryRow(ctx, `SELECT topological, event FROM event WHERE tenant = $1 AND room = $2 AND position > 0 AND position <= $3
		ORDER BY position DESC LIMIT 1`, int64(t), roomNID, position).Scan(&c.Topological, &c.Arrival)
	if errors.Is(err, sql.ErrNoRows) {
		return Start, nil
	}
	return c, err
}

// StateDelta returns what changed in the room's current state with positions in (from, to]: for each key the event that holds it at the end,
// "" when none does.
func (s *Service) StateDelta(ctx context.Context, t tenant.ID, roomNID, from, to int64) (map[event.Key]id.Event, error) {
	rows, err := s.DB.Query(ctx, `SELECT type, state_key, new_id FROM state_delta WHERE tenant = $1 AND room = $2 AND position > $3 AND position <= $4
		ORDER BY position`, int64(t), roomNID, from, to)
	out := map[event.Key]id.Event{}
	_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
		var k event.Key
		var eid id.Event
		err := rows.Scan(&k.Type, &k.StateKey, &eid)
		out[k] = eid
		return struct{}{}, err
	})
	return out, err
}

// StateAtPosition returns the room's current state as it was at a position: today's with the later deltas undone.
func (s *Service) StateAtPosition(ctx context.Context, t tenant.ID, r *Room, position int64) (State, error) {
	current, err := s.CurrentState(ctx, t, r)
	if err != nil {
		return nil, err
	}
	rows, err := s.DB.Query(ctx, "SELECT type, state_key, old_id FROM state_delta WHERE tenant = $1 AND room = $2 AND position > $3 ORDER BY position DESC",
		int64(t), r.NID, position)
	st := State{}
	for k, eid := range current {
		st[k] = eid
	}
	_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
		var k event.Key
		var old id.Event
		err := rows.Scan(&k.Type, &k.StateKey, &old)
		if old == "" {
			delete(st, k)
		} else {
			st[k] = old
		}
		return struct{}{}, err
	})
	return st, err
}

// ChangedRooms returns which of the rooms have something in their timeline with a position in (from, to].
func (s *Service) ChangedRooms(ctx context.Context, t tenant.ID, rooms []int64, from, to int64) (map[int64]bool, error) {
	out := map[int64]bool{}
	for len(rooms) > 0 {
		n := min(len(rooms), database.MaxMarks)
		args := []any{int64(t), from, to}
		for _, r := range rooms[:n] {
			args = append(args, r)
		}
		rows, err := s.DB.Query(ctx, `SELECT DISTINCT room FROM event WHERE tenant = $1 AND position > $2 AND position <= $3 AND position > 0
			AND room IN (`+database.Marks(4, n)+")", args...)
		found, err := database.All(rows, err, database.Column[int64])
		if err != nil {
			return nil, err
		}
		for _, r := range found {
			out[r] = true
		}
		rooms = rooms[n:]
	}
	return out, nil
}

// Gaps returns the missing events that the given events of the room cite: where backfilling has to begin.
func (s *Service) Gaps(ctx context.Context, t tenant.ID, roomNID int64, from, to int64) (citing []id.Event, err error) {
	rows, err := s.DB.Query(ctx, `SELECT DISTINCT e.event_id FROM event_gap g JOIN event e ON e.tenant = g.tenant AND e.event = g.event
		WHERE g.tenant = $1 AND g.room = $2 AND g.topological >= $3 AND g.topological <= $4 LIMIT 20`, int64(t), roomNID, from, to)
	return database.All(rows, err, database.Column[id.Event])
}

// Local is a tenant's own event, for the federation sender.
type Local struct {
	Position int64
	Room     int64
	Event    *Event
}

// SentSince lists events made by the tenant's own users in the given rooms with positions in (from, to], oldest first, at most limit.
func (s *Service) SentSince(ctx context.Context, t *tenant.Tenant, rooms []int64, from, to int64, limit int) ([]*Event, error) {
	if len(rooms) == 0 {
		return nil, nil
	}
	var out []*Event
	for len(rooms) > 0 {
		n := min(len(rooms), database.MaxMarks)
		args := []any{int64(t.ID), from, to, "%:" + escapeLike(string(t.Name)), limit}
		for _, r := range rooms[:n] {
			args = append(args, r)
		}
		rows, err := s.DB.Query(ctx, selectEvent+`WHERE e.tenant = $1 AND e.position > $2 AND e.position <= $3 AND e.position > 0
			AND e.sender LIKE $4 ESCAPE '!' AND e.room IN (`+database.Marks(6, n)+") ORDER BY e.position LIMIT $5", args...)
		found, err := database.All(rows, err, scanEvent)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
		rooms = rooms[n:]
	}
	slices.SortFunc(out, func(a, b *Event) int { return int(a.Position - b.Position) })
	return out[:min(len(out), limit)], nil
}

// RoomsOfServer lists the tenant's rooms in which a user of the server is joined or was concerned by a membership change after position from
// (the last events before its users left, and invites to them, are still owed to it).
func (s *Service) RoomsOfServer(ctx context.Context, t tenant.ID, server id.Server, from int64) ([]int64, error) {
	rows, err := s.DB.Query(ctx, `SELECT DISTINCT room FROM membership WHERE tenant = $1 AND user_id LIKE $2 ESCAPE '!' AND (membership = 'join' OR position >= $3)`,
		int64(t), "%:"+escapeLike(string(server)), from)
	return database.All(rows, err, database.Column[int64])
}

// Extremities returns the room's forward extremities.
func (s *Service) Extremities(ctx context.Context, t tenant.ID, r *Room) ([]id.Event, error) {
	h, err := s.peek(ctx, t, r)
	if err != nil {
		return nil, err
	}
	return h.extremities, nil
}

// EventOf finds an event of one room; events of other rooms are not found.
func (s *Service) EventOf(ctx context.Context, t tenant.ID, roomNID int64, eid id.Event) (*Event, error) {
	e, err := s.Event(ctx, t, eid)
	if err != nil {
		return nil, err
	}
	if e.RoomNID != roomNID {
		return nil, mxerror.NotFound.With("This event is not known here.")
	}
	return e, nil
}

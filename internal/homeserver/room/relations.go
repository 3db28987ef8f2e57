// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"database/sql"
	"fmt"
	"math"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Relation is a child event that names a parent in m.relates_to.
type Relation struct {
	Room          int64 // the child's; a parent in another room is none
	Parent, Child id.Event
	Type          string
	EventType     string
	Sender        id.User
	Topological   int64
}

// maxChildren bounds what [Service.Children] returns for a chunk of parents.
const maxChildren = 5000

// Children returns the relations that name one of the given parents, in the order of their rooms. Children that are redacted, rejected or
// soft-failed are none.
func (s *Service) Children(ctx context.Context, t tenant.ID, parents []id.Event) ([]Relation, error) {
	var out []Relation
	for len(parents) > 0 {
		n := min(len(parents), database.MaxMarks)
		args := []any{int64(t), maxChildren}
		for _, p := range parents[:n] {
			args = append(args, string(p))
		}
		rows, err := s.DB.Query(ctx, `SELECT r.room, r.target_id, e.event_id, r.rel_type, r.type, r.sender, e.topological FROM event_relation r
			JOIN event e ON e.tenant = r.tenant AND e.event = r.event
			WHERE r.tenant = $1 AND NOT e.rejected AND NOT e.soft_failed AND NOT e.outlier AND r.target_id IN (`+database.Marks(3, n)+`)
			ORDER BY e.topological, e.event LIMIT $2`, args...)
		found, err := database.All(rows, err, func(rows *sql.Rows) (r Relation, err error) {
			return r, rows.Scan(&r.Room, &r.Parent, &r.Child, &r.Type, &r.EventType, &r.Sender, &r.Topological)
		})
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
		parents = parents[n:]
	}
	return out, nil
}

// RelationQuery narrows [Service.PageChildren]; empty fields do not.
type RelationQuery struct {
	Parents         []id.Event
	Type, EventType string
	Backwards       bool
}

// PageChildren returns up to limit events that name one of the parents, from a place on in the direction of travel, and the place where the
// next page begins.
func (s *Service) PageChildren(ctx context.Context, t tenant.ID, roomNID int64, q RelationQuery, from Cursor, limit int) (events []*Event, next Cursor, more bool, err error) {
	if len(q.Parents) == 0 || len(q.Parents) > database.MaxMarks {
		return nil, from, false, fmt.Errorf("%d parents", len(q.Parents))
	}
	where, order := "(e.topological > $3 OR (e.topological = $3 AND e.event > $4))", "e.topological, e.event"
	if q.Backwards {
		where, order = "(e.topological < $3 OR (e.topological = $3 AND e.event < $4))", "e.topological DESC, e.event DESC"
	}
	args := []any{int64(t), roomNID, from.Topological, from.Arrival, limit + 1}
	filter := ""
	if q.Type != "" {
		args = append(args, q.Type)
		filter += fmt.Sprintf(" AND x.rel_type = $%d", len(args))
	}
	if q.EventType != "" {
		args = append(args, q.EventType)
		filter += fmt.Sprintf(" AND x.type = $%d", len(args))
	}
	first := len(args) + 1
	for _, p := range q.Parents {
		args = append(args, string(p))
	}
	rows, err := s.DB.Query(ctx, selectEvent+`JOIN event_relation x ON x.tenant = e.tenant AND x.event = e.event
		WHERE e.tenant = $1 AND x.tenant = $1 AND e.room = $2 AND `+where+` AND NOT e.outlier AND NOT e.rejected AND NOT e.soft_failed`+filter+`
		AND x.target_id IN (`+database.Marks(first, len(q.Parents))+") ORDER BY "+order+" LIMIT $5", args...)
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

// Thread is a thread of a room: its root and the arrival number of its newest event.
type Thread struct {
	Root   id.Event
	Newest int64
}

// Threads lists the threads of a room, the one with the newest event first, from before an arrival number on (math.MaxInt64: all). With a
// participant only those in which that user has sent the root or an event.
func (s *Service) Threads(ctx context.Context, t tenant.ID, roomNID int64, participant id.User, before int64, limit int) ([]Thread, error) {
	if before == 0 {
		before = math.MaxInt64
	}
	args := []any{int64(t), roomNID, before, limit}
	filter := ""
	if participant != "" {
		args = append(args, string(participant))
		filter = ` AND (EXISTS (SELECT 1 FROM event_relation o WHERE o.tenant = $1 AND o.target_id = r.target_id AND o.rel_type = 'm.thread' AND o.sender = $5)
			OR EXISTS (SELECT 1 FROM event_id i JOIN event e ON e.tenant = i.tenant AND e.event = i.event WHERE i.tenant = $1 AND i.event_id = r.target_id AND e.sender = $5))`
	}
	rows, err := s.DB.Query(ctx, `SELECT r.target_id, MAX(r.event) FROM event_relation r WHERE r.tenant = $1 AND r.room = $2 AND r.rel_type = 'm.thread'`+filter+`
		GROUP BY r.target_id HAVING MAX(r.event) < $3 ORDER BY MAX(r.event) DESC LIMIT $4`, args...)
	return database.All(rows, err, func(rows *sql.Rows) (th Thread, err error) { return th, rows.Scan(&th.Root, &th.Newest) })
}

// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"database/sql"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Counted is what unread counts need to know of an event (engine rule 31).
type Counted struct {
	Position int64
	// Thread is the root of the event's thread, empty outside of threads.
	Thread id.Event
	Sender id.User
	// Class is what [Options.Class] said of the event.
	Class int64
	// Redaction says that the event is a redaction: what it redacts no longer counts.
	Redaction bool
}

// countScan is how many events of a room a count looks at, at most.
const countScan = 5000

// Counted lists the newest events, at most limit, with positions in (from, to] that have a class, are redactions, or are the user's own, newest
// first. Redacted events are left out.
func (s *Service) Counted(ctx context.Context, t tenant.ID, roomNID int64, user id.User, from, to int64, limit int) ([]Counted, error) {
	rows, err := s.DB.Query(ctx, `SELECT position, thread, sender, rule_class, type = 'm.room.redaction' FROM (
			SELECT position, thread, sender, rule_class, type, redacted_by FROM event
			WHERE tenant = $1 AND room = $2 AND position > CAST($3 AS BIGINT) AND position <= $4 AND position > 0 ORDER BY position DESC LIMIT $6) AS newest
		WHERE (rule_class > 0 AND redacted_by = '') OR sender = $5 OR type = 'm.room.redaction' ORDER BY position DESC LIMIT $7`,
		int64(t), roomNID, max(from, 0), to, string(user), countScan, limit)
	return database.All(rows, err, func(rows *sql.Rows) (c Counted, err error) {
		return c, rows.Scan(&c.Position, &c.Thread, &c.Sender, &c.Class, &c.Redaction)
	})
}

// CountedOf is Counted for some rooms, each from a position of its own on, by a few queries for all of them; of each room the newest countScan
// events are looked at.
func (s *Service) CountedOf(ctx context.Context, t tenant.ID, user id.User, from []Point, to int64) (map[int64][]Counted, error) {
	out := make(map[int64][]Counted, len(from))
	for len(from) > 0 {
		n := min(len(from), database.MaxMarks/2)
		args := []any{int64(t), string(user), to, countScan}
		for _, p := range from[:n] {
			args = append(args, p.Room, max(p.Position, 0))
		}
		rows, err := s.DB.Query(ctx, "WITH wanted (room, low) AS (VALUES "+pairs(5, n)+`), bounds (room, low) AS (
				SELECT w.room, COALESCE((SELECT x.position FROM event x WHERE x.tenant = $1 AND x.room = w.room AND x.position > 0 AND x.position > w.low AND x.position <= $3
				ORDER BY x.position DESC LIMIT 1 OFFSET $4), w.low) FROM wanted w)
			SELECT e.room, e.position, e.thread, e.sender, e.rule_class, e.type = 'm.room.redaction' FROM bounds b JOIN event e ON e.tenant = $1 AND e.room = b.room
			WHERE e.position > b.low AND e.position <= $3 AND e.position > 0 AND ((e.rule_class > 0 AND e.redacted_by = '') OR e.sender = $2 OR e.type = 'm.room.redaction')
			ORDER BY e.position DESC`, args...)
		_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
			var room int64
			var c Counted
			err := rows.Scan(&room, &c.Position, &c.Thread, &c.Sender, &c.Class, &c.Redaction)
			out[room] = append(out[room], c)
			return struct{}{}, err
		})
		if err != nil {
			return nil, err
		}
		from = from[n:]
	}
	return out, nil
}

// Newest lists the newest events of all of the tenant's timelines with positions in (from, to], newest first, at most limit.
func (s *Service) Newest(ctx context.Context, t tenant.ID, from, to int64, limit int) ([]*Event, error) {
	rows, err := s.DB.Query(ctx, selectEvent+`WHERE e.tenant = $1 AND e.position > $2 AND e.position <= $3 AND e.position > 0
		ORDER BY e.position DESC LIMIT $4`, int64(t), from, to, limit)
	return database.All(rows, err, scanEvent)
}

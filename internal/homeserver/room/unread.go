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

// Newest lists the newest timeline events of some rooms with positions in (from, to], newest first, at most limit.
func (s *Service) Newest(ctx context.Context, t tenant.ID, rooms []int64, from, to int64, limit int) ([]*Event, error) {
	if len(rooms) == 0 {
		return nil, nil
	}
	rows, err := s.DB.Query(ctx, selectEvent+`WHERE e.tenant = $1 AND e.position > $2 AND e.position <= $3 AND e.position > 0
		ORDER BY e.position DESC LIMIT $4`, int64(t), from, to, limit)
	found, err := database.All(rows, err, scanEvent)
	if err != nil {
		return nil, err
	}
	mine := make(map[int64]bool, len(rooms))
	for _, r := range rooms {
		mine[r] = true
	}
	out := found[:0]
	for _, e := range found {
		if mine[e.RoomNID] {
			out = append(out, e)
		}
	}
	return out, nil
}

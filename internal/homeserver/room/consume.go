// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"database/sql"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Stream returns the first events, at most limit, that entered any of the tenant's timelines with positions in (from, to], oldest first; more says
// that there are others. It is for consumers of the stream.
func (s *Service) Stream(ctx context.Context, t tenant.ID, from, to int64, limit int) (events []*Event, more bool, err error) {
	rows, err := s.DB.Query(ctx, selectEvent+`WHERE e.tenant = $1 AND e.position > $2 AND e.position <= $3 AND e.position > 0
		ORDER BY e.position LIMIT $4`, int64(t), from, to, limit+1)
	events, err = database.All(rows, err, scanEvent)
	if err != nil {
		return nil, false, err
	}
	if more = len(events) > limit; more {
		events = events[:limit]
	}
	return events, more, nil
}

// OutsideInvite is a local user's invitation to a room that the server is not in. The last event of the stripped state is the invitation.
type OutsideInvite struct {
	User     id.User
	Room     id.Room
	Position int64
	Stripped []jsontext.Value
}

// OutsideInvites lists the invitations with positions in (from, to] that stand in no timeline, oldest first.
func (s *Service) OutsideInvites(ctx context.Context, t tenant.ID, from, to int64) ([]OutsideInvite, error) {
	rows, err := s.DB.Query(ctx, `SELECT m.user_id, r.room_id, m.position, m.stripped FROM membership m
		JOIN room r ON r.tenant = m.tenant AND r.room = m.room
		WHERE m.tenant = $1 AND m.position > $2 AND m.position <= $3 AND m.membership = 'invite'
		AND NOT EXISTS (SELECT 1 FROM event_id i WHERE i.tenant = m.tenant AND i.event_id = m.event_id) ORDER BY m.position`, int64(t), from, to)
	return database.All(rows, err, func(rows *sql.Rows) (i OutsideInvite, err error) {
		var raw []byte
		if err := rows.Scan(&i.User, &i.Room, &i.Position, &raw); err != nil {
			return i, err
		}
		return i, json.Unmarshal(raw, &i.Stripped, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	})
}

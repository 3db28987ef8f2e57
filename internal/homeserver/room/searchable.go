// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Searchable returns events with readable text (messages, names and topics of rooms, nothing encrypted) with positions in (from, to], oldest first,
// at most limit.
func (s *Service) Searchable(ctx context.Context, t tenant.ID, from, to int64, limit int) ([]*Event, error) {
	rows, err := s.DB.Query(ctx, selectEvent+`WHERE e.tenant = $1 AND e.position > $2 AND e.position <= $3 AND e.position > 0
		AND e.type IN ('m.room.message', 'm.room.name', 'm.room.topic') ORDER BY e.position LIMIT $4`, int64(t), from, to, limit)
	return database.All(rows, err, scanEvent)
}

// MutualRooms returns the rooms that two users are both joined to.
func (s *Service) MutualRooms(ctx context.Context, t tenant.ID, a, b id.User) ([]id.Room, error) {
	rows, err := s.DB.Query(ctx, `SELECT r.room_id FROM membership m JOIN membership o ON o.tenant = m.tenant AND o.room = m.room
		JOIN room r ON r.tenant = m.tenant AND r.room = m.room WHERE m.tenant = $1 AND o.tenant = $1 AND r.tenant = $1
		AND m.user_id = $2 AND o.user_id = $3 AND m.membership = 'join' AND o.membership = 'join'`, int64(t), string(a), string(b))
	return database.All(rows, err, database.Column[id.Room])
}

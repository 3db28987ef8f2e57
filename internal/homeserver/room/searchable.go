// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
)

// Searchable returns events with readable text (messages, names and topics of rooms, nothing encrypted) with positions in (from, to], oldest first,
// at most limit.
func (s *Service) Searchable(ctx context.Context, t tenant.ID, from, to int64, limit int) ([]*Event, error) {
	rows, err := s.DB.Query(ctx, selectEvent+`WHERE e.tenant = $1 AND e.position > $2 AND e.position <= $3 AND e.position > 0
		AND e.type IN ('m.room.message', 'm.room.name', 'm.room.topic') ORDER BY e.position LIMIT $4`, int64(t), from, to, limit)
	return database.All(rows, err, scanEvent)
}

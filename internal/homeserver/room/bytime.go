// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"database/sql"
	"errors"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// ByTimestamp finds the event of a room's history that is closest to a time (ms), at or after it, or at or before it. M_NOT_FOUND when there
// is none. Whether the asker may see it is another question.
func (s *Service) ByTimestamp(ctx context.Context, t tenant.ID, roomNID, ts int64, backwards bool) (*Event, error) {
	query := "origin_ts >= $3 ORDER BY origin_ts, topological, event LIMIT 1"
	if backwards {
		query = "origin_ts <= $3 ORDER BY origin_ts DESC, topological DESC, event DESC LIMIT 1"
	}
	var eid id.Event
	err := s.DB.QueryRow(ctx, `SELECT event_id FROM event WHERE tenant = $1 AND room = $2 AND NOT outlier AND NOT rejected AND NOT soft_failed AND `+query,
		int64(t), roomNID, ts).Scan(&eid)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, mxerror.NotFound.With("There is no event at that time.")
	}
	if err != nil {
		return nil, err
	}
	return s.Event(ctx, t, eid)
}

// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"database/sql"
	"errors"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// SharesRoomWithServer says whether a user has a room in common with another server: both are in it, or on the way into it (invited, knocking).
// That is what lets the server see the user's device keys (engine rule 28).
func (s *Service) SharesRoomWithServer(ctx context.Context, t tenant.ID, user id.User, server id.Server) (bool, error) {
	var one int
	// A server name holds neither % nor _; a name with a port must not pass for a server named like the port.
	err := s.DB.QueryRow(ctx, `SELECT 1 FROM membership a JOIN membership b ON b.tenant = a.tenant AND b.room = a.room
		WHERE a.tenant = $1 AND a.user_id = $2 AND a.membership IN ('join', 'invite', 'knock')
		AND b.membership IN ('join', 'invite', 'knock') AND b.user_id LIKE $3 AND b.user_id NOT LIKE $4 LIMIT 1`,
		int64(t), string(user), "@%:"+string(server), "@%:%:"+string(server)).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

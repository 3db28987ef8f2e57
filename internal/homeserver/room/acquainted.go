// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"database/sql"
	"errors"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// SharesRoomWithServer says whether a user has a room in common with another server: both are in it, or on the way into it (invited, knocking), or
// somebody there has invited the user.
// That is what lets the server see the user's device keys (engine rule 28).
func (s *Service) SharesRoomWithServer(ctx context.Context, t tenant.ID, user id.User, server id.Server) (bool, error) {
	var one int
	// A server name holds neither % nor _; a name with a port must not pass for a server named like the port.
	err := s.DB.QueryRow(ctx, `SELECT 1 FROM membership a JOIN membership b ON b.tenant = a.tenant AND b.room = a.room
		WHERE a.tenant = $1 AND a.user_id = $2 AND a.membership IN ('join', 'invite', 'knock')
		AND b.membership IN ('join', 'invite', 'knock') AND b.user_id LIKE $3 AND b.user_id NOT LIKE $4 LIMIT 1`,
		int64(t), string(user), "@%:"+string(server), "@%:%:"+string(server)).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return s.invitedBy(ctx, t, user, server)
	}
	return err == nil, err
}

// invitedBy says whether somebody at another server has invited a user to a room of which nothing is known here but the invitation. Whoever invites
// may write before the invitation is accepted, and needs the invitee's keys for that.
func (s *Service) invitedBy(ctx context.Context, t tenant.ID, user id.User, server id.Server) (bool, error) {
	rows, err := s.DB.Query(ctx, `SELECT room FROM membership WHERE tenant = $1 AND user_id = $2 AND membership = 'invite' ORDER BY position DESC`, int64(t), string(user))
	rooms, err := database.All(rows, err, func(rows *sql.Rows) (nid int64, err error) { return nid, rows.Scan(&nid) })
	if err != nil {
		return false, err
	}
	for _, nid := range rooms {
		inviter, err := s.inviter(ctx, t, user, nid)
		if err != nil || inviter.Server() == server {
			return err == nil, err
		}
	}
	return false, nil
}

// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"database/sql"
	"errors"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// All lists every room that the tenant is or was in, by id, for administrators.
func (s *Service) All(ctx context.Context, t tenant.ID) ([]*Room, error) {
	rows, err := s.DB.Query(ctx, `SELECT r.room_id FROM room r JOIN room_head h ON h.tenant = r.tenant AND h.room = r.room
		WHERE r.tenant = $1 ORDER BY r.room_id`, int64(t))
	ids, err := database.All(rows, err, database.Column[id.Room])
	if err != nil {
		return nil, err
	}
	out := make([]*Room, 0, len(ids))
	for _, rid := range ids {
		r, err := s.Lookup(ctx, t, rid)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// Block keeps the tenant's users from joining a room, whether it is known here or not, or lets them again.
func (s *Service) Block(ctx context.Context, t tenant.ID, room id.Room, by id.User, on bool) error {
	if !on {
		_, err := s.DB.Exec(ctx, "DELETE FROM blocked_room WHERE tenant = $1 AND room_id = $2", int64(t), string(room))
		return err
	}
	_, err := s.DB.Exec(ctx, "INSERT INTO blocked_room (tenant, room_id, user_id) VALUES ($1, $2, $3) ON CONFLICT (tenant, room_id) DO NOTHING",
		int64(t), string(room), string(by))
	return err
}

// Blocked says whether a room is blocked, and by whom.
func (s *Service) Blocked(ctx context.Context, t tenant.ID, room id.Room) (by id.User, blocked bool, err error) {
	err = s.DB.QueryRow(ctx, "SELECT user_id FROM blocked_room WHERE tenant = $1 AND room_id = $2", int64(t), string(room)).Scan(&by)
	if errors.Is(err, sql.ErrNoRows) {
		return "", false, nil
	}
	return by, err == nil, err
}

// mayEnter refuses a blocked room and one that is being purged.
func (s *Service) mayEnter(ctx context.Context, t tenant.ID, room id.Room) error {
	_, blocked, err := s.Blocked(ctx, t, room)
	if err != nil {
		return err
	}
	if blocked {
		return mxerror.Forbidden.With("This room has been blocked on this server")
	}
	var purging int
	err = s.DB.QueryRow(ctx, "SELECT COUNT(*) FROM room_purge WHERE tenant = $1 AND room_id = $2", int64(t), string(room)).Scan(&purging)
	if err == nil && purging > 0 {
		err = errPurging
	}
	return err
}

// RemoveAliases takes all of the tenant's aliases of a room away, and the room out of its directory, for administrators.
func (s *Service) RemoveAliases(ctx context.Context, t tenant.ID, r *Room) ([]id.Alias, error) {
	aliases, err := s.Aliases(ctx, t, r.ID)
	if err != nil {
		return nil, err
	}
	if _, err := s.DB.Exec(ctx, "DELETE FROM room_alias WHERE tenant = $1 AND room_id = $2", int64(t), string(r.ID)); err != nil {
		return nil, err
	}
	return aliases, s.SetPublic(ctx, t, r.NID, false)
}

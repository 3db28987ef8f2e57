// SPDX-License-Identifier: Apache-2.0

package sweep

import (
	"context"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// orphan removes a room whose sole member ever is in it, when it is orphaned: it holds nothing but state, and its last event is old (A_28564-01). A space
// is made of nothing but state, and stays. It says when to look again where the last event is too young.
func (s *Service) orphan(ctx context.Context, t *tenant.Tenant, r *room.Room, creator id.User) (again time.Time, err error) {
	var messages, newest, last int64
	err = s.o.DB.QueryRow(ctx, `SELECT COALESCE(SUM(CASE WHEN snapshot = snapshot_after THEN 1 ELSE 0 END), 0), COALESCE(MAX(event), 0), COALESCE(MAX(origin_ts), 0) FROM event
		WHERE tenant = $1 AND room = $2 AND NOT outlier AND NOT rejected`, int64(t.ID), r.NID).Scan(&messages, &newest, &last)
	if err != nil || messages > 0 {
		return time.Time{}, err
	}
	// An event's own time may be invented: neither clock alone makes a room older than it is.
	cutoff := s.o.Now().Add(-s.o.Orphaned)
	if newest > database.IDAt(cutoff) {
		return s.o.Now().Add(min(s.o.Orphaned, 24*time.Hour)), nil
	}
	if age := time.UnixMilli(last); age.After(cutoff) {
		return age.Add(s.o.Orphaned), nil
	}
	space, err := s.isSpace(ctx, t.ID, r)
	if err != nil || space {
		return time.Time{}, err
	}
	if err := s.o.Rooms.Leave(ctx, t, creator, r.ID, ""); err != nil {
		return time.Time{}, err
	}
	s.o.Log.Info("an orphaned room is removed", "tenant", string(t.Name), "room", r.NID)
	return time.Time{}, s.o.Rooms.Purge(ctx, t, r)
}

func (s *Service) isSpace(ctx context.Context, t tenant.ID, r *room.Room) (bool, error) {
	state, err := s.o.Rooms.CurrentState(ctx, t, r)
	if err != nil {
		return false, err
	}
	create, err := s.o.Rooms.StateEvent(ctx, t, state, event.Key{Type: "m.room.create"})
	if err != nil || create == nil {
		return false, err
	}
	var c struct {
		Type string `json:"type"`
	}
	return json.Unmarshal(create.Content(), &c) == nil && c.Type == "m.space", nil
}

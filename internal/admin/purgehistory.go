// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"database/sql"
	"errors"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

type purgeRequest struct {
	Local bool     `json:"delete_local_events"`
	Event id.Event `json:"purge_up_to_event_id"`
	Time  *int64   `json:"purge_up_to_ts"` // ms
}

// purgeHistory removes what a room's timeline has before an event or a time; own users' events only when asked for. It answers at once and works on.
func (s *Service) purgeHistory(ctx context.Context, r *httpapi.Request) (any, error) {
	var q purgeRequest
	if err := r.DecodeOptional(&q); err != nil {
		return nil, err
	}
	in, err := s.find(ctx, r)
	if err != nil {
		return nil, err
	}
	if named := id.Event(r.Var("eventId")); named != "" {
		q.Event = named
	}
	before, err := s.bound(ctx, r.Tenant.ID, in, q)
	if err != nil {
		return nil, err
	}
	purgeID := httpapi.NewToken('x', r.Tenant.ID)[:32]
	_, err = s.o.DB.Exec(ctx, "INSERT INTO history_purge (tenant, purge_id, room_id, status, started) VALUES ($1, $2, $3, 'active', $4)",
		int64(r.Tenant.ID), purgeID, string(in.ID), s.o.Now().UnixMilli())
	if err != nil {
		return nil, err
	}
	t := r.Tenant
	s.work.Go(func() {
		status := "complete"
		if _, err := s.o.Rooms.PurgeHistory(s.background, t, in, before, !q.Local); err != nil {
			status = "failed"
			s.o.Log.Warn("a room's past was not purged", "tenant", string(t.Name), "error", err)
		}
		_, err := s.o.DB.Exec(context.WithoutCancel(s.background), "UPDATE history_purge SET status = $3 WHERE tenant = $1 AND purge_id = $2", int64(t.ID), purgeID, status)
		if err != nil {
			s.o.Log.Warn("the end of a purge was not stored", "tenant", string(t.Name), "error", err)
		}
	})
	return map[string]string{"purge_id": purgeID}, nil
}

// bound is the event before which everything goes.
func (s *Service) bound(ctx context.Context, t tenant.ID, in *room.Room, q purgeRequest) (*room.Event, error) {
	switch {
	case q.Event != "":
		e, err := s.o.Rooms.EventOf(ctx, t, in.NID, q.Event)
		if err != nil {
			return nil, err
		}
		if e.Outlier {
			return nil, mxerror.NotFound.With("This event is in no timeline here.")
		}
		return e, nil
	case q.Time != nil:
		return s.o.Rooms.ByTimestamp(ctx, t, in.NID, *q.Time, true)
	}
	return nil, mxerror.BadJSON.With("purge_up_to_event_id or purge_up_to_ts is missing")
}

func (s *Service) purgeStatus(ctx context.Context, r *httpapi.Request) (any, error) {
	var status string
	err := s.o.DB.QueryRow(ctx, "SELECT status FROM history_purge WHERE tenant = $1 AND purge_id = $2", int64(r.Tenant.ID), r.Var("purgeId")).Scan(&status)
	if errors.Is(err, sql.ErrNoRows) {
		err = mxerror.NotFound.With("purge id '%s' not found", r.Var("purgeId"))
	}
	return map[string]string{"status": status}, err
}

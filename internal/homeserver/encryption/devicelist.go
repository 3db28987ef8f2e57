// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"context"
	"database/sql"
	"maps"
	"slices"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// change is what happened to a local user's devices: to one device, or without a device to the cross-signing keys.
type change struct {
	device  id.Device
	deleted bool
}

// announce adds to a plan that devices or keys of a local user changed: the user's counter goes up, the change takes a position, those who share
// a room learn of it and so do their servers (engine rule 27).
func (s *Service) announce(ctx context.Context, t *tenant.Tenant, user id.User, plan *stream.Plan, changes ...change) error {
	local, servers, err := s.localAndServers(ctx, t, user)
	if err != nil {
		return err
	}
	for _, c := range changes {
		at := stream.At(len(plan.Changes))
		// Cross-signing keys travel in an EDU of their own, without a stream id: counting them would look like a gap.
		step := int64(1)
		if c.device == "" {
			step = 0
		}
		plan.Positioned = append(plan.Positioned, stream.Statement{
			SQL: `INSERT INTO device_list (tenant, user_id, stream_id, position, stale, dirty) VALUES ($1, $2, $3, $4, FALSE, 0)
				ON CONFLICT (tenant, user_id) DO UPDATE SET stream_id = device_list.stream_id + $3, position = excluded.position`,
			Args: []any{int64(t.ID), string(user), step, at},
		}, stream.Statement{
			SQL: `INSERT INTO device_list_change (tenant, user_id, device, stream_id, position, deleted)
				SELECT l.tenant, l.user_id, CAST($3 AS TEXT), l.stream_id, l.position, CAST($4 AS BOOLEAN) FROM device_list l WHERE l.tenant = $1 AND l.user_id = $2
				ON CONFLICT (tenant, user_id, device) DO UPDATE SET stream_id = excluded.stream_id, position = excluded.position, deleted = excluded.deleted`,
			Args: []any{int64(t.ID), string(user), string(c.device), c.deleted},
		})
		plan.Changes = append(plan.Changes, stream.Change{Kind: stream.DeviceList, Users: local})
	}
	plan.Outbox = append(plan.Outbox, servers...)
	return nil
}

// DevicesRemoved adds to the plan that removes devices everything that is kept of them here. Package account calls it.
func (s *Service) DevicesRemoved(ctx context.Context, t *tenant.Tenant, user id.User, devices []id.Device, plan *stream.Plan) error {
	rows, err := s.db.Query(ctx, "SELECT device FROM device_key WHERE tenant = $1 AND user_id = $2", int64(t.ID), string(user))
	published, err := database.All(rows, err, database.Column[id.Device])
	if err != nil {
		return err
	}
	var changes []change
	for _, d := range devices {
		for _, table := range []string{"device_key", "one_time_key", "fallback_key", "to_device", "to_device_txn", "dehydrated_device"} {
			plan.Rows = append(plan.Rows, stream.Statement{SQL: "DELETE FROM " + table + " WHERE tenant = $1 AND user_id = $2 AND device = $3",
				Args: []any{int64(t.ID), string(user), string(d)}})
		}
		plan.Rows = append(plan.Rows, stream.Statement{SQL: "DELETE FROM key_signature WHERE tenant = $1 AND user_id = $2 AND target = $3",
			Args: []any{int64(t.ID), string(user), string(d)}})
		if slices.Contains(published, d) {
			changes = append(changes, change{device: d, deleted: true})
		}
	}
	if len(changes) == 0 {
		return nil
	}
	return s.announce(ctx, t, user, plan, changes...)
}

// DeviceRenamed adds to the plan that renames a device that others see the new name. Package account calls it.
func (s *Service) DeviceRenamed(ctx context.Context, t *tenant.Tenant, user id.User, device id.Device, plan *stream.Plan) error {
	var n int64
	err := s.db.QueryRow(ctx, "SELECT COUNT(*) FROM device_key WHERE tenant = $1 AND user_id = $2 AND device = $3", int64(t.ID), string(user), string(device)).Scan(&n)
	if err != nil || n == 0 {
		return err
	}
	return s.announce(ctx, t, user, plan, change{device: device})
}

// DeviceForbidden says whether a device id is the public part of one of the user's cross-signing keys. Package account calls it.
func (s *Service) DeviceForbidden(ctx context.Context, t *tenant.Tenant, user id.User, device id.Device) (bool, error) {
	var n int64
	err := s.db.QueryRow(ctx, "SELECT COUNT(*) FROM cross_signing_key WHERE tenant = $1 AND user_id = $2 AND public = $3", int64(t.ID), string(user), string(device)).Scan(&n)
	return n > 0, err
}

// DeviceListChanges returns for the positions (from, to] whose devices or keys the user should fetch anew, and whom the user no longer shares
// a room with.
func (s *Service) DeviceListChanges(ctx context.Context, t tenant.ID, user id.User, from, to int64) (changed, left []id.User, err error) {
	if from >= to {
		return nil, nil, nil
	}
	updated, err := s.updatedLists(ctx, t, from, to)
	if err != nil {
		return nil, nil, err
	}
	joined, gone, err := s.o.Rooms.SharingSince(ctx, t, user, from, to)
	if err != nil {
		return nil, nil, err
	}
	out := map[id.User]struct{}{}
	if len(updated)+len(joined)+len(gone) > 0 {
		shared, err := s.o.Rooms.SharedUsers(ctx, t, user)
		if err != nil {
			return nil, nil, err
		}
		shared[user] = struct{}{}
		for _, u := range updated {
			if _, ok := shared[u]; ok {
				out[u] = struct{}{}
			}
		}
		for u := range joined {
			if _, ok := shared[u]; ok && u != user {
				out[u] = struct{}{}
			}
		}
		for u := range gone {
			if _, ok := shared[u]; !ok {
				left = append(left, u)
			}
		}
	}
	rows, err := s.db.Query(ctx, "SELECT DISTINCT user_id FROM key_signature WHERE tenant = $1 AND signer = $2 AND position > $3 AND position <= $4",
		int64(t), string(user), from, to)
	signed, err := database.All(rows, err, database.Column[id.User])
	if err != nil {
		return nil, nil, err
	}
	for _, u := range signed {
		out[u] = struct{}{}
	}
	slices.Sort(left)
	return slices.Sorted(maps.Keys(out)), left, nil
}

func (s *Service) updatedLists(ctx context.Context, t tenant.ID, from, to int64) ([]id.User, error) {
	rows, err := s.db.Query(ctx, "SELECT user_id FROM device_list WHERE tenant = $1 AND position > $2 AND position <= $3", int64(t), from, to)
	return database.All(rows, err, func(rows *sql.Rows) (u id.User, err error) { return u, rows.Scan(&u) })
}

type changesReply struct {
	Changed []id.User `json:"changed"`
	Left    []id.User `json:"left"`
}

func (s *Service) keyChanges(ctx context.Context, r *httpapi.Request) (any, error) {
	var bounds [2]int64
	for i, name := range []string{"from", "to"} {
		token := r.Query(name)
		if token == "" {
			return nil, mxerror.MissingParam.With("%s is missing", name)
		}
		if s.o.Position == nil {
			return nil, mxerror.InvalidParam.With("%s is no sync token", name)
		}
		var err error
		if bounds[i], err = s.o.Position(ctx, r.Tenant, token); err != nil {
			return nil, err
		}
	}
	changed, left, err := s.DeviceListChanges(ctx, r.Tenant.ID, r.Session.User, bounds[0], bounds[1])
	return changesReply{changed, left}, err
}

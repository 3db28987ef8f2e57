// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// maxRemoteDevices bounds the devices kept of one user of another server.
const maxRemoteDevices = 1000

// fresh says whether the copy of a remote user's devices can be answered from, fetching it first where a room is shared and it is missing or
// stale. false without an error: nobody shares a room, so nothing is kept. An error: it should be fetched but the server did not answer.
func (s *Service) fresh(ctx context.Context, t *tenant.Tenant, user id.User) (bool, error) {
	shared, err := s.shares(ctx, t, user)
	if err != nil {
		return false, err
	}
	l, err := s.list(ctx, t.ID, user)
	if err != nil {
		return false, err
	}
	if !shared {
		if l.exists {
			return false, s.forget(ctx, t.ID, user)
		}
		return false, nil
	}
	if l.exists && !l.stale {
		return true, nil
	}
	return true, s.resync(ctx, t, user)
}

// forget drops the copy of a user with whom no room is shared any more.
func (s *Service) forget(ctx context.Context, t tenant.ID, user id.User) error {
	return s.db.Write(ctx, func(tx *database.Tx) error {
		for _, table := range []string{"device_list", "device_key", "cross_signing_key"} {
			if _, err := tx.Exec(ctx, "DELETE FROM "+table+" WHERE tenant = $1 AND user_id = $2", int64(t), string(user)); err != nil {
				return err
			}
		}
		return nil
	})
}

// maxResyncTries bounds how often a fetch is repeated because a further update came while it ran.
const maxResyncTries = 3

// resync fetches a remote user's devices and replaces the copy. Callers for one user share one fetch.
func (s *Service) resync(ctx context.Context, t *tenant.Tenant, user id.User) error {
	done := s.fetches.DoChan(fmt.Sprintf("%d %s", t.ID, user), func() (any, error) {
		// The fetch outlives an impatient client: others may wait for it too.
		ctx, cancel := context.WithTimeout(tenant.With(s.work.Context(), t), maxPatience)
		defer cancel()
		var err error
		for range maxResyncTries {
			if err = s.fetchDevices(ctx, t, user); !errors.Is(err, stream.ErrStale) {
				break
			}
		}
		return nil, err
	})
	select {
	case r := <-done:
		return r.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fetchDevices asks once. It answers stream.ErrStale when the list was marked dirty again meanwhile.
func (s *Service) fetchDevices(ctx context.Context, t *tenant.Tenant, user id.User) error {
	if err := s.reachable(ctx, t, user.Server()); err != nil {
		return err
	}
	before, err := s.list(ctx, t.ID, user)
	if err != nil {
		return err
	}
	raw, err := s.o.Remote.UserDevices(ctx, t, user)
	if err != nil {
		return err
	}
	var got userDevices
	if err := json.Unmarshal(raw, &got); err != nil {
		return mxerror.New(502, "M_UNKNOWN", "the server's answer has the wrong form")
	}
	if got.User != user || len(got.Devices) > maxRemoteDevices {
		return mxerror.New(502, "M_UNKNOWN", "the server's answer has the wrong form")
	}
	plan := &stream.Plan{Tenant: t.ID}
	key := []any{int64(t.ID), string(user)}
	if before.exists {
		plan.Guard = &stream.Statement{SQL: "UPDATE device_list SET stream_id = $3, stale = FALSE WHERE tenant = $1 AND user_id = $2 AND dirty = $4",
			Args: append(key, got.StreamID, before.dirty)}
	} else {
		plan.Guard = &stream.Statement{SQL: `INSERT INTO device_list (tenant, user_id, stream_id, position, stale, dirty) VALUES ($1, $2, $3, 0, FALSE, 0)
			ON CONFLICT DO NOTHING`, Args: append(key, got.StreamID)}
	}
	changed, err := s.replaceCopy(ctx, t, user, &got, plan)
	if err != nil {
		return err
	}
	if changed {
		if err := s.tell(ctx, t, user, plan); err != nil {
			return err
		}
	}
	if _, err = s.o.Committer.Commit(ctx, plan); err != nil || before.exists {
		return err
	}
	// The last shared room may have ended before there was a row that could be marked.
	if shared, err := s.shares(ctx, t, user); err != nil || shared {
		return err
	}
	return s.forget(ctx, t.ID, user)
}

// replaceCopy adds to the plan what replaces the stored copy, and says whether that differs from what is stored.
func (s *Service) replaceCopy(ctx context.Context, t *tenant.Tenant, user id.User, got *userDevices, plan *stream.Plan) (changed bool, err error) {
	old, err := s.keysOf(ctx, t.ID, user, "")
	if err != nil {
		return false, err
	}
	devices := map[id.Device]storedDevice{}
	for _, d := range got.Devices {
		keys, _, err := readDeviceKeys(d.Keys, user, d.Device)
		if err != nil {
			continue // a device without usable keys is none to us
		}
		devices[d.Device] = storedDevice{keys, d.Name}
	}
	for device := range old.devices {
		if _, ok := devices[device]; !ok {
			plan.Rows = append(plan.Rows, deleteDevice(t.ID, user, device))
			changed = true
		}
	}
	for _, device := range slices.Sorted(maps.Keys(devices)) {
		d := devices[device]
		if was, ok := old.devices[device]; ok && string(was.keys) == string(d.keys) && was.name == d.name {
			continue
		}
		plan.Rows = append(plan.Rows, upsertDevice(t.ID, user, device, d))
		changed = true
	}
	for usage, raw := range map[string]jsontext.Value{usageMaster: got.Master, usageSelfSigning: got.SelfSigning} {
		k, err := readCrossKey(raw, user, usage)
		switch {
		case err != nil && old.cross[usage] == nil:
		case err != nil:
			plan.Rows = append(plan.Rows, stream.Statement{SQL: "DELETE FROM cross_signing_key WHERE tenant = $1 AND user_id = $2 AND usage = $3",
				Args: []any{int64(t.ID), string(user), usage}})
			changed = true
		case string(old.cross[usage]) != string(k.canonical):
			plan.Rows = append(plan.Rows, upsertCross(t.ID, user, usage, k))
			changed = true
		}
	}
	return changed, nil
}

func deleteDevice(t tenant.ID, user id.User, device id.Device) stream.Statement {
	return stream.Statement{SQL: "DELETE FROM device_key WHERE tenant = $1 AND user_id = $2 AND device = $3", Args: []any{int64(t), string(user), string(device)}}
}

func upsertDevice(t tenant.ID, user id.User, device id.Device, d storedDevice) stream.Statement {
	return stream.Statement{SQL: `INSERT INTO device_key (tenant, user_id, device, keys, display_name) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (tenant, user_id, device) DO UPDATE SET keys = excluded.keys, display_name = excluded.display_name`,
		Args: []any{int64(t), string(user), string(device), string(d.keys), d.name}}
}

func upsertCross(t tenant.ID, user id.User, usage string, k *crossKey) stream.Statement {
	return stream.Statement{SQL: `INSERT INTO cross_signing_key (tenant, user_id, usage, public, keys) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (tenant, user_id, usage) DO UPDATE SET public = excluded.public, keys = excluded.keys`,
		Args: []any{int64(t), string(user), usage, k.public, string(k.canonical)}}
}

// tell adds to the plan that the local users who share a room with a remote user learn of the change.
func (s *Service) tell(ctx context.Context, t *tenant.Tenant, user id.User, plan *stream.Plan) error {
	local, _, err := s.localAndServers(ctx, t, user)
	if err != nil {
		return err
	}
	plan.Positioned = append(plan.Positioned, stream.Statement{SQL: "UPDATE device_list SET position = $3 WHERE tenant = $1 AND user_id = $2",
		Args: []any{int64(t.ID), string(user), stream.At(len(plan.Changes))}})
	plan.Changes = append(plan.Changes, stream.Change{Kind: stream.DeviceList, Users: local})
	return nil
}

// deviceUpdate is the content of an m.device_list_update EDU.
type deviceUpdate struct {
	User     id.User        `json:"user_id"`
	Device   id.Device      `json:"device_id"`
	Name     string         `json:"device_display_name,omitempty"`
	StreamID int64          `json:"stream_id"`
	Previous []int64        `json:"prev_id,omitempty"`
	Deleted  bool           `json:"deleted,omitzero"`
	Keys     jsontext.Value `json:"keys,omitzero"`
}

// follows says whether an update is the next one after a stream id.
func (u *deviceUpdate) follows(known int64) bool {
	if u.StreamID <= known {
		return false
	}
	if len(u.Previous) == 0 {
		return known == 0 || u.StreamID == known+1
	}
	return slices.Max(u.Previous) == known
}

// ReceiveDeviceListUpdate takes an m.device_list_update EDU. One that does not follow on what is known marks the copy as stale and fetches it
// anew (engine rule 27). Of users with whom nobody shares a room nothing is kept.
func (s *Service) ReceiveDeviceListUpdate(ctx context.Context, t *tenant.Tenant, origin id.Server, content jsontext.Value) error {
	var u deviceUpdate
	if json.Unmarshal(content, &u) != nil || u.User.Server() != origin || u.Device == "" {
		return nil
	}
	shared, err := s.shares(ctx, t, u.User)
	if err != nil {
		return err
	}
	if !shared {
		return s.forget(ctx, t.ID, u.User)
	}
	l, err := s.list(ctx, t.ID, u.User)
	if err != nil {
		return err
	}
	if l.exists && !l.stale && l.streamID == u.StreamID {
		return nil // again
	}
	if l.exists && !l.stale && u.follows(l.streamID) {
		applied, err := s.applyUpdate(ctx, t, &u, l.streamID)
		if applied || err != nil {
			return err
		}
	}
	return s.markStale(ctx, t, u.User)
}

// applyUpdate changes one device of the copy; false when it could not, because the keys are unusable or another update came first.
func (s *Service) applyUpdate(ctx context.Context, t *tenant.Tenant, u *deviceUpdate, known int64) (bool, error) {
	plan := &stream.Plan{Tenant: t.ID, Unique: []string{"device_list:" + string(u.User)}}
	plan.Guard = &stream.Statement{SQL: "UPDATE device_list SET stream_id = $3 WHERE tenant = $1 AND user_id = $2 AND stream_id = $4 AND NOT stale",
		Args: []any{int64(t.ID), string(u.User), u.StreamID, known}}
	switch {
	case u.Deleted:
		plan.Rows = append(plan.Rows, deleteDevice(t.ID, u.User, u.Device))
	case len(u.Keys) == 0:
		return false, nil // some servers leave the keys out: the whole list tells
	default:
		keys, _, err := readDeviceKeys(u.Keys, u.User, u.Device)
		if err != nil {
			return false, nil
		}
		plan.Rows = append(plan.Rows, upsertDevice(t.ID, u.User, u.Device, storedDevice{keys, u.Name}))
	}
	if err := s.tell(ctx, t, u.User, plan); err != nil {
		return false, err
	}
	_, err := s.o.Committer.Commit(ctx, plan)
	if errors.Is(err, stream.ErrStale) {
		return false, nil
	}
	return err == nil, err
}

// markStale notes durably that the copy is out of date, tells clients, and begins to fetch it.
func (s *Service) markStale(ctx context.Context, t *tenant.Tenant, user id.User) error {
	plan := &stream.Plan{Tenant: t.ID, Rows: []stream.Statement{{
		SQL: `INSERT INTO device_list (tenant, user_id, stream_id, position, stale, dirty) VALUES ($1, $2, 0, 0, TRUE, 1)
			ON CONFLICT (tenant, user_id) DO UPDATE SET stale = TRUE, dirty = device_list.dirty + 1`,
		Args: []any{int64(t.ID), string(user)},
	}}}
	if err := s.tell(ctx, t, user, plan); err != nil {
		return err
	}
	if _, err := s.o.Committer.Commit(ctx, plan); err != nil {
		return err
	}
	s.resyncSoon(t, user)
	return nil
}

// resyncSoon fetches a list in the background. Where all places are taken the mark in the database is enough: a client's question fetches it.
func (s *Service) resyncSoon(t *tenant.Tenant, user id.User) {
	select {
	case s.resyncs <- struct{}{}:
	default:
		return
	}
	s.work.Go(func(ctx context.Context) {
		defer func() { <-s.resyncs }()
		if err := s.resync(ctx, t, user); err != nil && ctx.Err() == nil {
			s.o.Log.Info("device list not fetched", "tenant", string(t.Name), "server", string(user.Server()), "error", err)
		}
	})
}

// ReceiveSigningKeyUpdate takes an m.signing_key_update EDU.
func (s *Service) ReceiveSigningKeyUpdate(ctx context.Context, t *tenant.Tenant, origin id.Server, content jsontext.Value) error {
	var u struct {
		User        id.User        `json:"user_id"`
		Master      jsontext.Value `json:"master_key"`
		SelfSigning jsontext.Value `json:"self_signing_key"`
	}
	if json.Unmarshal(content, &u) != nil || u.User.Server() != origin {
		return nil
	}
	shared, err := s.shares(ctx, t, u.User)
	if err != nil {
		return err
	}
	if !shared {
		return s.forget(ctx, t.ID, u.User)
	}
	l, err := s.list(ctx, t.ID, u.User)
	if err != nil {
		return err
	}
	if !l.exists || l.stale {
		return s.markStale(ctx, t, u.User)
	}
	old, err := s.keysOf(ctx, t.ID, u.User, "")
	if err != nil {
		return err
	}
	plan := &stream.Plan{Tenant: t.ID}
	for usage, raw := range map[string]jsontext.Value{usageMaster: u.Master, usageSelfSigning: u.SelfSigning} {
		if k, err := readCrossKey(raw, u.User, usage); err == nil && string(k.canonical) != string(old.cross[usage]) {
			plan.Rows = append(plan.Rows, upsertCross(t.ID, u.User, usage, k))
		}
	}
	if len(plan.Rows) == 0 {
		return nil
	}
	if err := s.tell(ctx, t, u.User, plan); err != nil {
		return err
	}
	_, err = s.o.Committer.Commit(ctx, plan)
	return err
}

// MemberLeft adds to the plan of an event that somebody left a room: lists of other servers' users that may no longer be kept up to date, because
// their server sends updates only while a room is shared, become stale. The composition root lets room call it for every leave and ban.
func (s *Service) MemberLeft(ctx context.Context, t *tenant.Tenant, roomNID int64, user id.User, plan *stream.Plan) error {
	gone := []id.User{user}
	if user.Server() == t.Name {
		members, err := s.o.Rooms.JoinedUsers(ctx, t.ID, roomNID)
		if err != nil {
			return err
		}
		gone = nil
		for _, m := range members {
			if m == user {
				continue
			}
			if m.Server() == t.Name {
				return nil // the tenant stays in the room
			}
			gone = append(gone, m)
		}
	}
	for len(gone) > 0 {
		n := min(len(gone), database.MaxMarks)
		args := []any{int64(t.ID)}
		for _, u := range gone[:n] {
			args = append(args, string(u))
		}
		plan.Rows = append(plan.Rows, stream.Statement{
			SQL:  "UPDATE device_list SET stale = TRUE, dirty = dirty + 1 WHERE tenant = $1 AND user_id IN (" + database.Marks(2, n) + ")",
			Args: args,
		})
		gone = gone[n:]
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// Device is one of a user's sessions as the user sees it.
type Device struct {
	ID          id.Device `json:"device_id"`
	DisplayName string    `json:"display_name,omitempty"`
	LastSeenIP  string    `json:"last_seen_ip,omitempty"`
	LastSeen    int64     `json:"last_seen_ts,omitzero"` // ms since the epoch
}

const selectDevice = `SELECT device, display_name, last_seen_ip, last_seen FROM device `

func scanDevice(rows *sql.Rows) (Device, error) {
	var d Device
	err := rows.Scan(&d.ID, &d.DisplayName, &d.LastSeenIP, &d.LastSeen)
	return d, err
}

// Devices returns a user's devices in the order in which they were made.
func (s *Service) Devices(ctx context.Context, t tenant.ID, user id.User) ([]Device, error) {
	rows, err := s.db.Query(ctx, selectDevice+"WHERE tenant = $1 AND user_id = $2 ORDER BY created, device", int64(t), string(user))
	return database.All(rows, err, scanDevice)
}

func (s *Service) hasDevice(ctx context.Context, t tenant.ID, user id.User, device id.Device) (bool, error) {
	var one int
	err := s.db.QueryRow(ctx, "SELECT 1 FROM device WHERE tenant = $1 AND user_id = $2 AND device = $3", int64(t), string(user), string(device)).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

type devicesReply struct {
	Devices []Device `json:"devices"`
}

func (s *Service) getDevices(ctx context.Context, r *httpapi.Request) (any, error) {
	devices, err := s.Devices(ctx, r.Tenant.ID, r.Session.User)
	return devicesReply{devices}, err
}

func (s *Service) getDevice(ctx context.Context, r *httpapi.Request) (any, error) {
	rows, err := s.db.Query(ctx, selectDevice+"WHERE tenant = $1 AND user_id = $2 AND device = $3", int64(r.Tenant.ID), string(r.Session.User), r.Var("deviceId"))
	devices, err := database.All(rows, err, scanDevice)
	if err != nil {
		return nil, err
	}
	if len(devices) == 0 {
		return nil, mxerror.NotFound.With("you have no such device")
	}
	return devices[0], nil
}

func (s *Service) putDevice(ctx context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		DisplayName *string `json:"display_name"`
	}
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	device := id.Device(r.Var("deviceId"))
	known, err := s.hasDevice(ctx, r.Tenant.ID, r.Session.User, device)
	if err != nil {
		return nil, err
	}
	if !known {
		return s.createDevice(ctx, r, device, q.DisplayName)
	}
	if q.DisplayName == nil {
		return nil, nil
	}
	if !httpapi.IsText(*q.DisplayName) {
		return nil, mxerror.InvalidParam.With("the display name holds a null character")
	}
	if len([]rune(*q.DisplayName)) > maxDeviceName {
		return nil, mxerror.TooLarge.With("the display name is longer than %d characters", maxDeviceName)
	}
	plan := &stream.Plan{
		Tenant: r.Tenant.ID,
		Rows: []stream.Statement{{SQL: "UPDATE device SET display_name = $4 WHERE tenant = $1 AND user_id = $2 AND device = $3",
			Args: []any{int64(r.Tenant.ID), string(r.Session.User), string(device), *q.DisplayName}}},
		Changes: []stream.Change{{Kind: stream.Device, Users: []id.User{r.Session.User}}},
	}
	if s.o.DeviceRenamed != nil {
		if err := s.o.DeviceRenamed(ctx, r.Tenant, r.Session.User, device, plan); err != nil {
			return nil, err
		}
	}
	_, err = s.o.Committer.Commit(ctx, plan)
	return nil, err
}

// AddDevice makes a device that nobody is signed in on. Error: M_INVALID_PARAM when its id is taken or not allowed.
func (s *Service) AddDevice(ctx context.Context, t *tenant.Tenant, user id.User, device id.Device, name string) error {
	if err := s.checkDevice(ctx, t, user, device); err != nil {
		return err
	}
	n, err := s.db.Exec(ctx, `INSERT INTO device (tenant, user_id, device, display_name, last_seen, last_seen_ip, created)
		VALUES ($1, $2, $3, $4, $5, '', $5) ON CONFLICT DO NOTHING`, int64(t.ID), string(user), string(device), truncate(name, maxDeviceName), s.now())
	if err == nil && n == 0 {
		err = mxerror.InvalidParam.With("you have a device of this id already")
	}
	return err
}

// createDevice is for application services (since v1.17).
func (s *Service) createDevice(ctx context.Context, r *httpapi.Request, device id.Device, name *string) (any, error) {
	if r.Session.AppService == "" {
		return nil, mxerror.NotFound.With("you have no such device")
	}
	if err := s.checkDevice(ctx, r.Tenant, r.Session.User, device); err != nil {
		return nil, err
	}
	if name == nil {
		name = new(string)
	}
	_, err := s.db.Exec(ctx, `INSERT INTO device (tenant, user_id, device, display_name, last_seen, last_seen_ip, created)
		VALUES ($1, $2, $3, $4, $5, '', $5) ON CONFLICT DO NOTHING`,
		int64(r.Tenant.ID), string(r.Session.User), string(device), truncate(*name, maxDeviceName), s.now())
	return &httpapi.Reply{Status: 201, Body: struct{}{}}, err
}

func (s *Service) deleteDevice(ctx context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		Auth jsontext.Value `json:"auth"`
	}
	if err := r.DecodeOptional(&q); err != nil {
		return nil, err
	}
	device := id.Device(r.Var("deviceId"))
	if challenge, err := s.Confirm(ctx, r, "delete device "+string(device), q.Auth); challenge != nil || err != nil {
		return challenge, err
	}
	return nil, s.RemoveDevices(ctx, r.Tenant, r.Session.User, []id.Device{device})
}

func (s *Service) deleteDevices(ctx context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		Devices *[]string      `json:"devices"`
		Auth    jsontext.Value `json:"auth"`
	}
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if q.Devices == nil {
		return nil, mxerror.MissingParam.With("devices is missing")
	}
	names := slices.Compact(slices.Sorted(slices.Values(*q.Devices)))
	if challenge, err := s.Confirm(ctx, r, "delete devices "+strings.Join(names, "\x1f"), q.Auth); challenge != nil || err != nil {
		return challenge, err
	}
	devices := make([]id.Device, len(names))
	for i, n := range names {
		devices[i] = id.Device(n)
	}
	return nil, s.RemoveDevices(ctx, r.Tenant, r.Session.User, devices)
}

// RemoveDevices ends sessions and removes their devices with all that other slices keep of them, in one commit. Unknown devices are skipped.
func (s *Service) RemoveDevices(ctx context.Context, t *tenant.Tenant, user id.User, devices []id.Device) error {
	all, err := s.Devices(ctx, t.ID, user)
	if err != nil {
		return err
	}
	var gone []id.Device
	for _, d := range all {
		if slices.Contains(devices, d.ID) {
			gone = append(gone, d.ID)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	plan := &stream.Plan{Tenant: t.ID, Changes: []stream.Change{{Kind: stream.Device, Users: []id.User{user}}}}
	for _, d := range gone {
		for _, table := range []string{"access_token", "refresh_token", "oauth_session", "device"} {
			plan.Rows = append(plan.Rows, stream.Statement{
				SQL:  "DELETE FROM " + table + " WHERE tenant = $1 AND user_id = $2 AND device = $3",
				Args: []any{int64(t.ID), string(user), string(d)},
			})
		}
	}
	if s.o.DevicesRemoved != nil {
		if err := s.o.DevicesRemoved(ctx, t, user, gone, plan); err != nil {
			return err
		}
	}
	if _, err := s.o.Committer.Commit(ctx, plan); err != nil {
		return err
	}
	s.sessions.forget(t.ID, user)
	return nil
}

func (s *Service) logout(ctx context.Context, r *httpapi.Request) (any, error) {
	if r.Session.Device == "" {
		return nil, nil // an application service's token is not ended by logging out
	}
	return nil, s.RemoveDevices(ctx, r.Tenant, r.Session.User, []id.Device{r.Session.Device})
}

func (s *Service) logoutAll(ctx context.Context, r *httpapi.Request) (any, error) {
	if s.o.SignedOut != nil {
		if err := s.o.SignedOut(ctx, r.Tenant, r.Session.User); err != nil {
			return nil, err
		}
	}
	return nil, s.removeDevicesExcept(ctx, r.Tenant, r.Session.User, "")
}

func (s *Service) removeDevicesExcept(ctx context.Context, t *tenant.Tenant, user id.User, keep id.Device) error {
	all, err := s.Devices(ctx, t.ID, user)
	if err != nil {
		return err
	}
	var gone []id.Device
	for _, d := range all {
		if d.ID != keep {
			gone = append(gone, d.ID)
		}
	}
	return s.RemoveDevices(ctx, t, user, gone)
}

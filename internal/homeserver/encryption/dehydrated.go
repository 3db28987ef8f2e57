// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"context"
	"database/sql"
	"errors"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

const (
	// dehydratedPage is how many messages of a dehydrated device are answered at once.
	dehydratedPage = 100
	// maxDehydrated bounds the pickled device in bytes.
	maxDehydrated = 64 << 10
)

// dehydratedRequest is the body of PUT dehydrated_device (MSC3814).
type dehydratedRequest struct {
	Device      id.Device      `json:"device_id"`
	Data        jsontext.Value `json:"device_data"`
	DisplayName string         `json:"initial_device_display_name"`
	uploadRequest
}

type dehydratedReply struct {
	Device id.Device      `json:"device_id"`
	Data   jsontext.Value `json:"device_data,omitzero"`
}

// putDehydrated stores a user's dehydrated device with its keys; it takes the place of the one before.
func (s *Service) putDehydrated(ctx context.Context, r *httpapi.Request) (any, error) {
	var q dehydratedRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	switch {
	case q.Device == "" || q.Data == nil || q.DeviceKeys == nil:
		return nil, mxerror.MissingParam.With("device_id, device_data and device_keys are needed")
	case q.Data.Kind() != '{':
		return nil, mxerror.BadJSON.With("device_data must be an object")
	case len(q.Data) > maxDehydrated:
		return nil, mxerror.TooLarge.With("device_data is larger than %d bytes", maxDehydrated)
	}
	t, user := r.Tenant, r.Session.User
	if _, _, err := readDeviceKeys(q.DeviceKeys, user, q.Device); err != nil {
		return nil, err
	}
	oneTime, err := readKeys(q.OneTime)
	if err != nil {
		return nil, err
	}
	fallback, err := readKeys(q.Fallback)
	if err != nil {
		return nil, err
	}
	before, _, err := s.dehydrated(ctx, t.ID, user)
	if err != nil && !errors.Is(err, mxerror.NotFound) {
		return nil, err
	}
	fresh := q.Device != before
	if fresh {
		if err := s.o.Accounts.AddDevice(ctx, t, user, q.Device, q.DisplayName); err != nil {
			return nil, err
		}
	}
	if err := s.storeDehydrated(ctx, t, user, &q, oneTime, fallback); err != nil {
		if fresh { // a device without keys helps nobody
			err = errors.Join(err, s.o.Accounts.RemoveDevices(context.WithoutCancel(ctx), t, user, []id.Device{q.Device}))
		}
		return nil, err
	}
	if fresh && before != "" {
		if err := s.o.Accounts.RemoveDevices(ctx, t, user, []id.Device{before}); err != nil {
			return nil, err
		}
	}
	return dehydratedReply{Device: q.Device}, nil
}

func (s *Service) storeDehydrated(ctx context.Context, t *tenant.Tenant, user id.User, q *dehydratedRequest, oneTime, fallback []newKey) error {
	if err := s.uploadOneTime(ctx, t.ID, user, q.Device, oneTime, fallback); err != nil {
		return err
	}
	if err := s.uploadDeviceKeys(ctx, t, user, q.Device, q.DeviceKeys); err != nil {
		return err
	}
	_, err := s.db.Exec(ctx, `INSERT INTO dehydrated_device (tenant, user_id, device, data) VALUES ($1, $2, $3, $4)
		ON CONFLICT (tenant, user_id) DO UPDATE SET device = excluded.device, data = excluded.data`,
		int64(t.ID), string(user), string(q.Device), string(q.Data))
	return err
}

// dehydrated returns a user's dehydrated device, or M_NOT_FOUND.
func (s *Service) dehydrated(ctx context.Context, t tenant.ID, user id.User) (device id.Device, data string, err error) {
	err = s.db.QueryRow(ctx, "SELECT device, data FROM dehydrated_device WHERE tenant = $1 AND user_id = $2", int64(t), string(user)).Scan(&device, &data)
	if errors.Is(err, sql.ErrNoRows) {
		err = mxerror.NotFound.With("No dehydrated device available")
	}
	return device, data, err
}

func (s *Service) getDehydrated(ctx context.Context, r *httpapi.Request) (any, error) {
	device, data, err := s.dehydrated(ctx, r.Tenant.ID, r.Session.User)
	return dehydratedReply{device, jsontext.Value(data)}, err
}

func (s *Service) deleteDehydrated(ctx context.Context, r *httpapi.Request) (any, error) {
	device, _, err := s.dehydrated(ctx, r.Tenant.ID, r.Session.User)
	if err != nil {
		return nil, err
	}
	return dehydratedReply{Device: device}, s.o.Accounts.RemoveDevices(ctx, r.Tenant, r.Session.User, []id.Device{device})
}

type dehydratedEvents struct {
	Events []jsontext.Value `json:"events"`
	Next   string           `json:"next_batch"`
}

// dehydratedMessages pages through what waits for the dehydrated device. It stays until the device goes: a client may break off and begin anew.
func (s *Service) dehydratedMessages(ctx context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		Next string `json:"next_batch"`
	}
	if err := r.DecodeOptional(&q); err != nil {
		return nil, err
	}
	var after int64
	if q.Next != "" {
		var err error
		if after, err = strconv.ParseInt(q.Next, 36, 64); err != nil || after < 0 {
			return nil, mxerror.InvalidParam.With("next_batch is not a token of this endpoint")
		}
	}
	device, _, err := s.dehydrated(ctx, r.Tenant.ID, r.Session.User)
	if err != nil && !errors.Is(err, mxerror.NotFound) {
		return nil, err
	}
	if err != nil || device != id.Device(r.Var("deviceId")) {
		return nil, mxerror.Forbidden.With("You may only fetch messages for your dehydrated device")
	}
	upTo, err := s.o.Feed.Position(ctx, r.Tenant.ID)
	if err != nil {
		return nil, err
	}
	list, err := s.ToDevice(ctx, r.Tenant.ID, r.Session.User, device, after, upTo, dehydratedPage)
	if err != nil {
		return nil, err
	}
	reply := dehydratedEvents{Events: make([]jsontext.Value, len(list))}
	for i, m := range list {
		reply.Events[i], after = m.JSON, m.Position
	}
	reply.Next = strconv.FormatInt(after, 36)
	return reply, nil
}

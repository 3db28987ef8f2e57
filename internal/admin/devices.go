// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

type deviceReply struct {
	Device      id.Device `json:"device_id"`
	DisplayName *string   `json:"display_name"`
	IP          *string   `json:"last_seen_ip"`
	LastSeen    *int64    `json:"last_seen_ts"`
	User        id.User   `json:"user_id"`
}

func deviceOf(user id.User, d account.Device) deviceReply {
	reply := deviceReply{Device: d.ID, DisplayName: optional(d.DisplayName), IP: optional(d.LastSeenIP), User: user}
	if d.LastSeen > 0 {
		reply.LastSeen = &d.LastSeen
	}
	return reply
}

func (s *Service) devices(ctx context.Context, r *httpapi.Request) (any, error) {
	a, err := s.known(ctx, r)
	if err != nil {
		return nil, err
	}
	list, err := s.o.Accounts.Devices(ctx, r.Tenant.ID, a.User)
	out := make([]deviceReply, len(list))
	for i, d := range list {
		out[i] = deviceOf(a.User, d)
	}
	return map[string]any{"devices": out, "total": len(out)}, err
}

func (s *Service) createDevice(ctx context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		Device id.Device `json:"device_id"`
	}
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if q.Device == "" {
		return nil, mxerror.MissingParam.With("Missing device_id")
	}
	a, err := s.known(ctx, r)
	if err != nil {
		return nil, err
	}
	list, err := s.o.Accounts.Devices(ctx, r.Tenant.ID, a.User)
	if err != nil {
		return nil, err
	}
	for _, d := range list {
		if d.ID == q.Device {
			return &httpapi.Reply{Status: 201, Body: struct{}{}}, nil
		}
	}
	return &httpapi.Reply{Status: 201, Body: struct{}{}}, s.o.Accounts.AddDevice(ctx, r.Tenant, a.User, q.Device, "")
}

func (s *Service) getDevice(ctx context.Context, r *httpapi.Request) (any, error) {
	a, err := s.known(ctx, r)
	if err != nil {
		return nil, err
	}
	list, err := s.o.Accounts.Devices(ctx, r.Tenant.ID, a.User)
	if err != nil {
		return nil, err
	}
	for _, d := range list {
		if d.ID == id.Device(r.Var("deviceId")) {
			return deviceOf(a.User, d), nil
		}
	}
	return nil, mxerror.NotFound.With("No device found")
}

func (s *Service) putDevice(ctx context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		DisplayName *string `json:"display_name"`
	}
	if err := r.DecodeOptional(&q); err != nil {
		return nil, err
	}
	a, err := s.known(ctx, r)
	if err != nil || q.DisplayName == nil {
		return nil, err
	}
	return nil, s.o.Accounts.RenameDevice(ctx, r.Tenant, a.User, id.Device(r.Var("deviceId")), *q.DisplayName)
}

func (s *Service) deleteDevice(ctx context.Context, r *httpapi.Request) (any, error) {
	a, err := s.known(ctx, r)
	if err != nil {
		return nil, err
	}
	return nil, s.o.Accounts.RemoveDevices(ctx, r.Tenant, a.User, []id.Device{id.Device(r.Var("deviceId"))})
}

func (s *Service) deleteDevices(ctx context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		Devices *[]id.Device `json:"devices"`
	}
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if q.Devices == nil {
		return nil, mxerror.MissingParam.With("Missing devices")
	}
	a, err := s.known(ctx, r)
	if err != nil {
		return nil, err
	}
	return nil, s.o.Accounts.RemoveDevices(ctx, r.Tenant, a.User, *q.Devices)
}

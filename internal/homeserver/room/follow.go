// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// entered tells [Options.Replaced] when a local user has come into the replacement of a room that they are a member of. Their settings are a
// convenience: a failure is logged and the join stands.
func (s *Service) entered(ctx context.Context, t *tenant.Tenant, user id.User, room id.Room) {
	if s.Replaced == nil {
		return
	}
	old, err := s.predecessor(ctx, t.ID, user, room)
	if err == nil && old != "" {
		err = s.Replaced(ctx, t, user, old, room)
	}
	if err != nil {
		s.Log.WarnContext(ctx, "a user's settings did not follow into an upgraded room", "error", err)
	}
}

// predecessor is the room that another one replaces, if the user is joined to it; empty otherwise.
func (s *Service) predecessor(ctx context.Context, t tenant.ID, user id.User, room id.Room) (id.Room, error) {
	r, err := s.Lookup(ctx, t, room)
	if err != nil {
		return "", err
	}
	state, err := s.CurrentState(ctx, t, r)
	if err != nil {
		return "", err
	}
	create, err := s.create(ctx, t, state)
	if err != nil || create == nil {
		return "", err
	}
	var content struct {
		Predecessor struct {
			Room id.Room `json:"room_id"`
		} `json:"predecessor"`
	}
	if json.Unmarshal(create.Content(), &content) != nil || content.Predecessor.Room == "" {
		return "", nil
	}
	old, err := s.Lookup(ctx, t, content.Predecessor.Room)
	if errors.Is(err, mxerror.NotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	m, err := s.Membership(ctx, t, old.NID, user)
	if err != nil || m.Membership != "join" {
		return "", err
	}
	return old.ID, nil
}

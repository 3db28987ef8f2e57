// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"
	"maps"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// ProfileChanged carries a local user's new display name and avatar into the member events of its rooms (client-server API, "Events on change
// of profile information"). A room that refuses does not keep the others from learning it.
func (s *Service) ProfileChanged(ctx context.Context, t *tenant.Tenant, user id.User) error {
	rooms, err := s.JoinedRooms(ctx, t.ID, user)
	if err != nil {
		return err
	}
	fresh, err := s.memberContent(ctx, t, user, "join", "")
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range rooms {
		if err := s.refreshMember(ctx, t, r, user, fresh); err != nil && !errors.Is(err, mxerror.Forbidden) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// refreshMember repeats the user's join with the profile's fields renewed and everything else as it is.
func (s *Service) refreshMember(ctx context.Context, t *tenant.Tenant, r *Room, user id.User, fresh jsontext.Value) error {
	d := stateDraft("m.room.member", string(user), fresh)
	d.Room, d.Sender = r.ID, user
	_, err := s.append(ctx, t, r, d, func(state State, d *Draft) error {
		m, err := s.StateEvent(ctx, t.ID, state, memberKey(user))
		if err != nil {
			return err
		}
		if m == nil || m.Membership() != "join" {
			return mxerror.Forbidden.With("%s has left the room.", user)
		}
		content, renewed := map[string]jsontext.Value{}, map[string]jsontext.Value{}
		if err := errors.Join(json.Unmarshal(m.Content(), &content), json.Unmarshal(fresh, &renewed)); err != nil {
			return err
		}
		for _, field := range []string{"displayname", "avatar_url", "reason", "join_authorised_via_users_server"} {
			delete(content, field)
		}
		maps.Copy(content, renewed)
		d.Content, err = json.Marshal(content, json.Deterministic(true))
		return err
	})
	return err
}

// LeaveAll makes a user leave every room and refuse every invitation, for an account that is deactivated.
func (s *Service) LeaveAll(ctx context.Context, t *tenant.Tenant, user id.User) error {
	rooms, err := s.Memberships(ctx, t.ID, user)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range rooms {
		switch r.Membership {
		case "join", "invite", "knock":
			errs = append(errs, s.Leave(ctx, t, user, r.Room.ID, ""))
		}
	}
	return errors.Join(errs...)
}

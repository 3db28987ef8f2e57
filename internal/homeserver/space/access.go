// SPDX-License-Identifier: Apache-2.0

package space

import (
	"context"
	"errors"
	"slices"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// open says whether a room shows its summary to everybody: whoever likes may join it, ask to be let in, or read it.
func open(p *room.PublicRoom) bool {
	return p.WorldReadable || slices.Contains([]string{"public", "knock", "knock_restricted", ""}, p.JoinRule)
}

// here finds a room of which the tenant holds the present state, because a user of its own is in it; nil otherwise.
func (s *Service) here(ctx context.Context, t *tenant.Tenant, name id.Room) (*room.Room, error) {
	r, err := s.Rooms.Lookup(ctx, t.ID, name)
	if errors.Is(err, mxerror.NotFound) || errors.Is(err, mxerror.UnsupportedRoomVersion) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	in, err := s.Rooms.ServerInRoom(ctx, t.ID, r.NID, t.Name)
	if err != nil || !in {
		return nil, err
	}
	return r, nil
}

// membership is the user's in a room that the tenant knows, "" otherwise or for nobody.
func (s *Service) membership(ctx context.Context, t *tenant.Tenant, name id.Room, user id.User) (string, error) {
	if user == "" {
		return "", nil
	}
	r, err := s.Rooms.Lookup(ctx, t.ID, name)
	if errors.Is(err, mxerror.NotFound) || errors.Is(err, mxerror.UnsupportedRoomVersion) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	m, err := s.Rooms.Membership(ctx, t.ID, r.NID, user)
	return m.Membership, err
}

// userMaySee says whether a user may see a room's summary; user is empty for somebody who is not signed in. Members and invited people may,
// whoever could join or knock, and whoever is in a room that lets its members into this one. Who is banned may not.
func (s *Service) userMaySee(ctx context.Context, t *tenant.Tenant, user id.User, p *room.PublicRoom) (bool, error) {
	m, err := s.membership(ctx, t, p.RoomID, user)
	if err != nil {
		return false, err
	}
	switch {
	case m == "join" || m == "invite":
		return true, nil
	case m == "ban":
		return false, nil
	case open(p):
		return true, nil
	}
	if user == "" {
		return false, nil
	}
	for _, name := range p.AllowedRooms {
		if m, err = s.membership(ctx, t, id.Room(name), user); err != nil || m == "join" {
			return err == nil, err
		}
	}
	return false, nil
}

// Denied says whether a room's access control list denies the asking server; package federation gives it.
type Denied func(ctx context.Context, r *room.Room) (bool, error)

// serverMaySee says whether some user of another server could see a room of ours.
func (s *Service) serverMaySee(ctx context.Context, t *tenant.Tenant, origin id.Server, r *room.Room, p *room.PublicRoom, denied Denied) (bool, error) {
	if no, err := denied(ctx, r); err != nil || no {
		return false, err
	}
	if open(p) {
		return s.Rooms.Federates(ctx, t.ID, r)
	}
	for _, has := range []func(context.Context, tenant.ID, int64, id.Server) (bool, error){s.Rooms.ServerInRoom, s.Rooms.ServerInvited} {
		if ok, err := has(ctx, t.ID, r.NID, origin); err != nil || ok {
			return ok, err
		}
	}
	for _, name := range p.AllowedRooms {
		allowing, err := s.here(ctx, t, id.Room(name))
		if err != nil {
			return false, err
		}
		if allowing == nil {
			continue
		}
		if ok, err := s.Rooms.ServerInRoom(ctx, t.ID, allowing.NID, origin); err != nil || ok {
			return ok, err
		}
	}
	return false, nil
}

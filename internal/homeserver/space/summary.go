// SPDX-License-Identifier: Apache-2.0

package space

import (
	"context"
	"errors"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// summaryReply is the answer of GET /room_summary/{roomIdOrAlias}.
type summaryReply struct {
	room.PublicRoom
	// Membership is the asking user's; leave for somebody who never was in the room, absent for nobody.
	Membership string `json:"membership,omitzero"`
}

var errNoSummary = mxerror.NotFound.With("The room is not known, or you may not see it.")

func (s *Service) summary(ctx context.Context, r *httpapi.Request) (any, error) {
	return s.summarise(ctx, r)
}

// unstableSummary names the fields that came late as the proposal did, too.
func (s *Service) unstableSummary(ctx context.Context, r *httpapi.Request) (any, error) {
	found, err := s.summarise(ctx, r)
	if err != nil {
		return nil, err
	}
	return struct {
		*summaryReply
		Version    string `json:"im.nheko.summary.room_version,omitzero"`
		Older      string `json:"im.nheko.summary.version,omitzero"`
		Encryption string `json:"im.nheko.summary.encryption,omitzero"`
	}{found, found.RoomVersion, found.RoomVersion, found.Encryption}, nil
}

func (s *Service) summarise(ctx context.Context, r *httpapi.Request) (*summaryReply, error) {
	name, via, err := s.named(ctx, r)
	if err != nil {
		return nil, err
	}
	var user id.User
	if r.Session != nil {
		user = r.Session.User
	}
	found, err := s.find(ctx, r.Tenant, user, name, via)
	if err != nil {
		return nil, err
	}
	reply := &summaryReply{PublicRoom: *found}
	if user == "" {
		return reply, nil
	}
	if reply.Membership, err = s.membership(ctx, r.Tenant, name, user); reply.Membership == "" {
		reply.Membership = "leave"
	}
	return reply, err
}

// named reads which room is meant and the servers to ask for it.
func (s *Service) named(ctx context.Context, r *httpapi.Request) (id.Room, []id.Server, error) {
	given, via := r.Var("roomIdOrAlias"), servers(r)
	if !strings.HasPrefix(given, "#") {
		name, err := id.ParseRoom(given)
		if err != nil {
			return "", nil, mxerror.InvalidParam.With("%q is neither a room id nor an alias.", given)
		}
		return name, via, nil
	}
	alias, err := id.ParseAlias(given)
	if err != nil {
		return "", nil, mxerror.InvalidParam.With("%q is not a room alias.", given)
	}
	name, more, err := s.Rooms.ResolveAlias(ctx, r.Tenant, alias)
	return name, append(via, more...), err
}

// find looks for a room here, then at other servers, then in what came with an invite or the answer to a knock.
func (s *Service) find(ctx context.Context, t *tenant.Tenant, user id.User, name id.Room, via []id.Server) (*room.PublicRoom, error) {
	r, err := s.here(ctx, t, name)
	if err != nil {
		return nil, err
	}
	if r != nil {
		p, err := s.Rooms.Describe(ctx, t.ID, r)
		if err != nil {
			return nil, err
		}
		ok, err := s.userMaySee(ctx, t, user, &p)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, errNoSummary
		}
		return &p, nil
	}
	outside, via, err := s.outside(ctx, t, user, name, via)
	if err != nil {
		return nil, err
	}
	h, err := s.elsewhere(ctx, t, user, name, via, false)
	switch {
	case err != nil:
		return nil, err
	case h != nil:
		return &h.Room.PublicRoom, nil
	case outside != nil:
		return outside, nil
	}
	return nil, errNoSummary
}

// outside is what an invited or knocking user of the tenant was told about a room, and the servers that told it; nil without such a membership.
func (s *Service) outside(ctx context.Context, t *tenant.Tenant, user id.User, name id.Room, via []id.Server) (*room.PublicRoom, []id.Server, error) {
	if user == "" {
		return nil, via, nil
	}
	r, err := s.Rooms.Lookup(ctx, t.ID, name)
	if errors.Is(err, mxerror.NotFound) || errors.Is(err, mxerror.UnsupportedRoomVersion) {
		return nil, via, nil
	}
	if err != nil {
		return nil, nil, err
	}
	m, err := s.Rooms.Membership(ctx, t.ID, r.NID, user)
	if err != nil || m.Membership != "invite" && m.Membership != "knock" {
		return nil, via, err
	}
	entries, err := s.Rooms.InviteState(ctx, t.ID, user, r.NID)
	if err != nil {
		return nil, nil, err
	}
	p := room.DescribeStripped(name, r.Version.ID, entries)
	return &p, append(via, inviters(t, entries)...), nil
}

// SPDX-License-Identifier: Apache-2.0

package space

import (
	"context"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// ForServer answers another server's GET /hierarchy/{roomId}: the room and those of its children that the tenant holds, as far as users of
// that server could see them. Children that the tenant does not hold are left out; M_NOT_FOUND when the room itself is one of those, or hidden.
func (s *Service) ForServer(ctx context.Context, t *tenant.Tenant, origin id.Server, name id.Room, suggestedOnly bool, denied Denied) (*Hierarchy, error) {
	found, visible, err := s.forServer(ctx, t, origin, name, suggestedOnly, denied)
	if err != nil {
		return nil, err
	}
	if found == nil || !visible {
		return nil, mxerror.NotFound.With("The room is not known here, or users of your server may not see it.")
	}
	h := &Hierarchy{Room: *found, Children: []Room{}, Inaccessible: []id.Room{}}
	for _, c := range found.Children {
		child, visible, err := s.forServer(ctx, t, origin, id.Room(c.StateKey), suggestedOnly, denied)
		switch {
		case err != nil:
			return nil, err
		case child == nil:
		case visible:
			h.Children = append(h.Children, *child)
		default:
			h.Inaccessible = append(h.Inaccessible, child.RoomID)
		}
	}
	return h, nil
}

// forServer describes a room that the tenant holds; nil when it holds none of that name.
func (s *Service) forServer(ctx context.Context, t *tenant.Tenant, origin id.Server, name id.Room, suggestedOnly bool, denied Denied) (found *Room, visible bool, err error) {
	r, err := s.here(ctx, t, name)
	if err != nil || r == nil {
		return nil, false, err
	}
	described, err := s.describe(ctx, t.ID, r, suggestedOnly)
	if err != nil {
		return nil, false, err
	}
	visible, err = s.serverMaySee(ctx, t, origin, r, &described.PublicRoom, denied)
	return &described, visible, err
}

// askServers asks servers in turn for a room, until one knows it. It returns nil when none does: what is wrong with a server is the log's and
// the back-off's business, not that of somebody who looks at a space.
func (s *Service) askServers(ctx context.Context, t *tenant.Tenant, name id.Room, via []id.Server, suggestedOnly bool) (*Hierarchy, error) {
	if s.Remote == nil {
		return nil, nil
	}
	asked := 0
	for _, server := range withRoomServer(via, name) {
		if server == t.Name || asked == maxVia {
			continue
		}
		asked++
		key := answerKey{t.ID, server, name, suggestedOnly}
		if a, ok := s.answers.Get(key); ok && s.now().Before(a.until) {
			return a.Hierarchy, nil
		}
		h, err := s.Remote(ctx, t, server, name, suggestedOnly)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil || h.Room.RoomID != name {
			continue
		}
		tidy(h)
		s.answers.Set(key, answer{h, s.now().Add(answerKept)})
		return h, nil
	}
	return nil, nil
}

func withRoomServer(via []id.Server, name id.Room) []id.Server {
	if server, ok := name.Server(); ok && !slices.Contains(via, server) {
		return append(slices.Clone(via), server)
	}
	return via
}

// tidy takes out of another server's answer what the specification does not allow, or too much of it.
func tidy(h *Hierarchy) {
	clean := func(r *Room) {
		r.Children = sorted(r.Children, false)
		if r.RoomType != spaceType {
			r.Children = []Child{}
		}
		r.AllowedRooms = slices.DeleteFunc(r.AllowedRooms, func(name string) bool { _, err := id.ParseRoom(name); return err != nil })
	}
	clean(&h.Room)
	h.Children = slices.DeleteFunc(h.Children, func(r Room) bool { _, err := id.ParseRoom(string(r.RoomID)); return err != nil })
	h.Children = h.Children[:min(len(h.Children), maxChildren)]
	for i := range h.Children {
		clean(&h.Children[i])
	}
	h.Inaccessible = h.Inaccessible[:min(len(h.Inaccessible), maxChildren)]
}

// elsewhere looks for a room at other servers and says whether the user may see it.
func (s *Service) elsewhere(ctx context.Context, t *tenant.Tenant, user id.User, name id.Room, via []id.Server, suggestedOnly bool) (*Hierarchy, error) {
	h, err := s.askServers(ctx, t, name, via, suggestedOnly)
	if err != nil || h == nil {
		return nil, err
	}
	ok, err := s.userMaySee(ctx, t, user, &h.Room.PublicRoom)
	if err != nil || !ok {
		return nil, err
	}
	return h, nil
}

// inviters are the servers whose users made the stripped state of an invite: they may know the room.
func inviters(t *tenant.Tenant, entries []jsontext.Value) (out []id.Server) {
	for _, raw := range entries {
		sender, err := id.ParseUser(canonicaljson.GetString(raw, "sender"))
		if err == nil && sender.Server() != t.Name && !slices.Contains(out, sender.Server()) {
			out = append(out, sender.Server())
		}
	}
	return out
}

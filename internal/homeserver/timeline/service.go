// SPDX-License-Identifier: Apache-2.0

package timeline

import (
	"context"
	"errors"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// Options are what the service stands on; all are required.
type Options struct {
	Rooms    *room.Service
	Accounts *account.Service
	Tokens   *Tokens
}

// Service is the reading side of the rooms of a node. It is safe for concurrent use and keeps nothing.
type Service struct {
	rooms    *room.Service
	accounts *account.Service
	tokens   *Tokens
}

// New returns the service.
func New(o Options) *Service { return &Service{o.Rooms, o.Accounts, o.Tokens} }

// view is who reads which room.
type view struct {
	*room.Room
	t    *tenant.Tenant
	user *httpapi.Session
	// left is the event with which a former member left; nil for members and for visitors of a world-readable room.
	left *room.Event
	// joined says that the reader is a member now.
	joined bool
}

// enter admits to a room whoever is or was joined to it, and everybody to a world-readable one. Others get M_FORBIDDEN, whether the room exists
// or not.
func (s *Service) enter(ctx context.Context, r *httpapi.Request) (*view, error) {
	rid, err := r.Room()
	if err != nil {
		return nil, err
	}
	return s.enterRoom(ctx, r, rid)
}

// enterRoom is enter for a room that is not named in the path.
func (s *Service) enterRoom(ctx context.Context, r *httpapi.Request, rid id.Room) (*view, error) {
	refused := mxerror.Forbidden.With("You are not in this room.")
	found, err := s.rooms.Lookup(ctx, r.Tenant.ID, rid)
	if err != nil {
		if errors.Is(err, mxerror.NotFound) {
			err = refused
		}
		return nil, err
	}
	v := &view{Room: found, t: r.Tenant, user: r.Session}
	m, err := s.rooms.Membership(ctx, r.Tenant.ID, found.NID, r.Session.User)
	if err != nil {
		return nil, err
	}
	if v.joined = m.Membership == "join"; v.joined {
		return v, nil
	}
	if !m.Forgotten { // who has forgotten a room gets no history of it any more (client-server API, POST forget)
		if v.left, err = s.rooms.Departure(ctx, r.Tenant.ID, found.NID, r.Session.User); err != nil {
			return nil, err
		}
	}
	open, err := s.worldReadable(ctx, v)
	if err != nil {
		return nil, err
	}
	if open {
		v.left = nil
	}
	if v.left == nil && !open {
		return nil, refused
	}
	return v, nil
}

func (s *Service) worldReadable(ctx context.Context, v *view) (bool, error) {
	state, err := s.rooms.CurrentState(ctx, v.t.ID, v.Room)
	if errors.Is(err, mxerror.NotFound) { // known here only by an invite
		return false, nil
	}
	if err != nil {
		return false, err
	}
	e, err := s.rooms.StateEvent(ctx, v.t.ID, state, event.Key{Type: "m.room.history_visibility"})
	if err != nil || e == nil {
		return false, err
	}
	var c struct {
		Visibility string `json:"history_visibility"`
	}
	return json.Unmarshal(e.Content(), &c) == nil && c.Visibility == "world_readable", nil
}

// state is the room's state as the reader may see it: the present one, or that at the departure.
func (s *Service) state(ctx context.Context, v *view) (room.State, error) {
	if v.left != nil {
		return s.rooms.StateAfter(ctx, v.t.ID, v.left)
	}
	return s.rooms.CurrentState(ctx, v.t.ID, v.Room)
}

// seen finds an event of the room that the reader may see; M_NOT_FOUND otherwise, whatever the reason.
func (s *Service) seen(ctx context.Context, t tenant.ID, user id.User, r *room.Room, eid id.Event) (*room.Event, error) {
	e, err := s.rooms.EventOf(ctx, t, r.NID, eid)
	if err != nil {
		return nil, err
	}
	visible, err := s.rooms.Visible(ctx, t, user, r.NID, []*room.Event{e})
	if err != nil {
		return nil, err
	}
	if len(visible) == 0 {
		return nil, mxerror.NotFound.With("This event is not known here, or you may not see it.")
	}
	return visible[0], nil
}

// client converts events for the reader, with what the server aggregates of their children.
func (s *Service) client(ctx context.Context, v *view, events []*room.Event) ([]*room.ClientEvent, error) {
	list, err := s.rooms.ClientList(ctx, v.t.ID, v.Room, events, v.user)
	if err != nil {
		return nil, err
	}
	return list, s.Bundle(ctx, v.t.ID, v.user, []Chunk{{v.Room, list}})
}

// Ignored returns whom a user ignores (m.ignored_user_list).
func (s *Service) Ignored(ctx context.Context, t tenant.ID, user id.User) (map[id.User]bool, error) {
	content, ok, err := s.accounts.AccountDatum(ctx, t, user, "", "m.ignored_user_list")
	if err != nil || !ok {
		return nil, err
	}
	var list struct {
		Users map[id.User]struct{} `json:"ignored_users"`
	}
	if json.Unmarshal(content, &list) != nil {
		return nil, nil // a client may store what it likes; nonsense ignores nobody
	}
	delete(list.Users, user)
	out := make(map[id.User]bool, len(list.Users))
	for u := range list.Users {
		out[u] = true
	}
	return out, nil
}

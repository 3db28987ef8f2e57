// SPDX-License-Identifier: Apache-2.0

package timeline

import (
	"context"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// initialLimit is how many events of a room /initialSync shows when the client does not say.
const initialLimit = 10

// RoomSnapshot is a room as /initialSync shows it.
type RoomSnapshot struct {
	RoomID      id.Room             `json:"room_id"`
	Membership  string              `json:"membership,omitempty"`
	Messages    *InitialMessages    `json:"messages,omitempty"`
	State       []*room.ClientEvent `json:"state,omitempty"`
	Visibility  string              `json:"visibility,omitempty"`
	AccountData []AccountEvent      `json:"account_data"`
}

// InitialMessages are the newest events of a room; Start and End are tokens for paging from there.
type InitialMessages struct {
	Start string              `json:"start"`
	End   string              `json:"end"`
	Chunk []*room.ClientEvent `json:"chunk"`
}

// AccountEvent is account data as clients get it.
type AccountEvent struct {
	Type    string         `json:"type"`
	Content jsontext.Value `json:"content"`
}

// roomInitialSync is GET /rooms/{roomId}/initialSync: for members, former members, and everybody in world-readable rooms.
func (s *Service) roomInitialSync(ctx context.Context, r *httpapi.Request) (any, error) {
	limit, err := r.QueryInt("limit", initialLimit, maxPage)
	if err != nil {
		return nil, err
	}
	v, err := s.enter(ctx, r)
	if err != nil {
		return nil, err
	}
	return s.snapshot(ctx, v, limit)
}

// Snapshot is what /initialSync shows of one of the caller's rooms.
func (s *Service) Snapshot(ctx context.Context, r *httpapi.Request, in *room.Room, limit int) (*RoomSnapshot, error) {
	v := &view{Room: in, t: r.Tenant, user: r.Session}
	m, err := s.rooms.Membership(ctx, r.Tenant.ID, in.NID, r.Session.User)
	if err != nil {
		return nil, err
	}
	if v.joined = m.Membership == "join"; !v.joined {
		if v.left, err = s.rooms.Departure(ctx, r.Tenant.ID, in.NID, r.Session.User); err != nil {
			return nil, err
		}
		if v.left == nil {
			return &RoomSnapshot{RoomID: in.ID, Membership: m.Membership, AccountData: []AccountEvent{}}, nil
		}
	}
	return s.snapshot(ctx, v, limit)
}

func (s *Service) snapshot(ctx context.Context, v *view, limit int) (*RoomSnapshot, error) {
	out := &RoomSnapshot{RoomID: v.ID, AccountData: []AccountEvent{}, Visibility: "private"}
	m, err := s.rooms.Membership(ctx, v.t.ID, v.NID, v.user.User)
	if err != nil {
		return nil, err
	}
	out.Membership = m.Membership
	begin, err := s.begin(ctx, v, nil, true)
	if err != nil {
		return nil, err
	}
	ignored, err := s.Ignored(ctx, v.t.ID, v.user.User)
	if err != nil {
		return nil, err
	}
	events, start, _, err := s.pageOrNone(ctx, v, query{from: begin, backwards: true, limit: limit, ignored: ignored})
	if err != nil {
		return nil, err
	}
	slices.Reverse(events)
	out.Messages = &InitialMessages{Start: s.tokens.Place(v.t.ID, start), End: s.tokens.Place(v.t.ID, begin)}
	if out.Messages.Chunk, err = s.client(ctx, v, events); err != nil {
		return nil, err
	}
	state, err := s.state(ctx, v)
	if err != nil {
		return nil, err
	}
	if out.State, err = s.stateList(ctx, v, state); err != nil {
		return nil, err
	}
	public, err := s.rooms.IsPublic(ctx, v.t.ID, v.NID)
	if err != nil {
		return nil, err
	}
	if public {
		out.Visibility = "public"
	}
	position, err := s.rooms.Feed.Position(ctx, v.t.ID)
	if err != nil {
		return nil, err
	}
	data, err := s.accounts.AccountDataSince(ctx, v.t.ID, v.user.User, 0, position)
	for _, d := range data {
		if d.Room == v.ID {
			out.AccountData = append(out.AccountData, AccountEvent{d.Type, d.Content})
		}
	}
	return out, err
}

// pageOrNone is history without an empty page for a limit of zero.
func (s *Service) pageOrNone(ctx context.Context, v *view, q query) ([]*room.Event, Place, bool, error) {
	if q.limit == 0 {
		return nil, q.from, false, nil
	}
	return s.history(ctx, v, q)
}

// oldEvent is GET /events/{eventId}, which names no room.
func (s *Service) oldEvent(ctx context.Context, r *httpapi.Request) (any, error) {
	unknown := mxerror.NotFound.With("This event is not known here, or you may not see it.")
	e, err := s.rooms.Event(ctx, r.Tenant.ID, id.Event(r.Var("eventId")))
	if mxerror.From(err) != nil {
		return nil, unknown
	}
	if err != nil {
		return nil, err
	}
	found, err := s.rooms.ByNID(ctx, r.Tenant.ID, e.RoomNID)
	if err != nil {
		return nil, err
	}
	if e, err = s.seen(ctx, r.Tenant.ID, r.Session.User, found, e.ID()); err != nil {
		return nil, err
	}
	list, err := s.client(ctx, &view{Room: found, t: r.Tenant, user: r.Session}, []*room.Event{e})
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

// Peek admits the caller to the room of a request as [Service.Snapshot]'s readers are admitted: members, former members, and everybody in
// world-readable rooms. M_FORBIDDEN otherwise.
func (s *Service) Peek(ctx context.Context, r *httpapi.Request, rid id.Room) (*room.Room, error) {
	v, err := s.enterRoom(ctx, r, rid)
	if err != nil {
		return nil, err
	}
	return v.Room, nil
}

// Readable converts those of a room's events that the caller may see and wants to see.
func (s *Service) Readable(ctx context.Context, r *httpapi.Request, in *room.Room, events []*room.Event, ignored map[id.User]bool) ([]*room.Event, []*room.ClientEvent, error) {
	visible, err := s.rooms.Visible(ctx, r.Tenant.ID, r.Session.User, in.NID, events)
	if err != nil {
		return nil, nil, err
	}
	visible = slices.DeleteFunc(visible, func(e *room.Event) bool { return !e.IsState() && ignored[e.Sender()] })
	list, err := s.client(ctx, &view{Room: in, t: r.Tenant, user: r.Session}, visible)
	return visible, list, err
}

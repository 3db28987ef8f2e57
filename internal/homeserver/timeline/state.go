// SPDX-License-Identifier: Apache-2.0

package timeline

import (
	"cmp"
	"context"
	"math"
	"slices"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

func (s *Service) getState(ctx context.Context, r *httpapi.Request) (any, error) {
	v, err := s.enter(ctx, r)
	if err != nil {
		return nil, err
	}
	state, err := s.state(ctx, v)
	if err != nil {
		return nil, err
	}
	return s.stateList(ctx, v, state)
}

// stateList converts a state for the reader, in the order of the events' places in the room.
func (s *Service) stateList(ctx context.Context, v *view, state room.State) ([]*room.ClientEvent, error) {
	events, err := s.rooms.StateEvents(ctx, v.t.ID, state)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(events, byPlace)
	return s.rooms.ClientState(ctx, v.t.ID, v.Room, events)
}

func byPlace(a, b *room.Event) int {
	return cmp.Or(cmp.Compare(a.Topological, b.Topological), cmp.Compare(a.NID, b.NID))
}

func (s *Service) getStateEvent(ctx context.Context, r *httpapi.Request) (any, error) {
	whole := false
	switch r.Query("format") {
	case "", "content":
	case "event":
		whole = true
	default:
		return nil, mxerror.InvalidParam.With("format must be content or event")
	}
	v, err := s.enter(ctx, r)
	if err != nil {
		return nil, err
	}
	state, err := s.state(ctx, v)
	if err != nil {
		return nil, err
	}
	e, err := s.rooms.StateEvent(ctx, v.t.ID, state, event.Key{Type: r.Var("eventType"), StateKey: r.Var("stateKey")})
	if err != nil {
		return nil, err
	}
	if e == nil {
		return nil, mxerror.NotFound.With("The room has no such state.")
	}
	if whole {
		return s.rooms.Client(ctx, v.t.ID, v.Room, e, v.user)
	}
	return e.Content(), nil
}

type chunkReply struct {
	Chunk []*room.ClientEvent `json:"chunk"`
}

func (s *Service) members(ctx context.Context, r *httpapi.Request) (any, error) {
	is, isNot := r.Query("membership"), r.Query("not_membership")
	for _, m := range []string{is, isNot} {
		if m != "" && !slices.Contains([]string{"join", "invite", "knock", "leave", "ban"}, m) {
			return nil, mxerror.InvalidParam.With("%q is no membership", m)
		}
	}
	v, err := s.enter(ctx, r)
	if err != nil {
		return nil, err
	}
	state, err := s.stateAtToken(ctx, v, r.Query("at"))
	if err != nil {
		return nil, err
	}
	picked := room.State{}
	for k, eid := range state {
		if k.Type == "m.room.member" {
			picked[k] = eid
		}
	}
	list, err := s.stateList(ctx, v, picked)
	if err != nil {
		return nil, err
	}
	if is != "" || isNot != "" {
		list = slices.DeleteFunc(list, func(c *room.ClientEvent) bool {
			var content struct {
				Membership string `json:"membership"`
			}
			if json.Unmarshal(c.Content, &content) != nil {
				return true
			}
			return (is == "" || content.Membership != is) && (isNot == "" || content.Membership == isNot)
		})
	}
	return chunkReply{list}, nil
}

// stateAtToken is the state at a token's position, as far as the reader may know it.
func (s *Service) stateAtToken(ctx context.Context, v *view, token string) (room.State, error) {
	at, err := s.place(ctx, v, token, true)
	if err != nil {
		return nil, err
	}
	if at == nil || at.UpTo == math.MaxInt64 || (v.left != nil && at.UpTo >= v.left.Position) {
		return s.state(ctx, v)
	}
	state, err := s.rooms.StateAtPosition(ctx, v.t.ID, v.Room, at.UpTo)
	if err != nil {
		return nil, err
	}
	if len(state) == 0 { // before the server was in the room: nothing is known of then
		return s.state(ctx, v)
	}
	return state, nil
}

type profile struct {
	DisplayName *string `json:"display_name,omitzero"`
	AvatarURL   *string `json:"avatar_url,omitzero"`
}

type joinedMembersReply struct {
	Joined map[id.User]profile `json:"joined"`
}

func (s *Service) joinedMembers(ctx context.Context, r *httpapi.Request) (any, error) {
	v, err := s.enter(ctx, r)
	if err != nil {
		return nil, err
	}
	if !v.joined {
		return nil, mxerror.Forbidden.With("You are not in this room.")
	}
	members, err := s.rooms.Members(ctx, v.t.ID, v.NID, "join")
	if err != nil {
		return nil, err
	}
	ids := make([]id.Event, len(members))
	for i, m := range members {
		ids[i] = m.Event
	}
	events, err := s.rooms.Events(ctx, v.t.ID, ids)
	if err != nil {
		return nil, err
	}
	reply := joinedMembersReply{Joined: make(map[id.User]profile, len(members))}
	for _, m := range members {
		reply.Joined[m.User] = readProfile(events[m.Event])
	}
	return reply, nil
}

// readProfile reads name and avatar of a member event; values of another type count as absent.
func readProfile(e *room.Event) profile {
	var p profile
	if e == nil {
		return p
	}
	var c struct {
		DisplayName any `json:"displayname"`
		AvatarURL   any `json:"avatar_url"`
	}
	if json.Unmarshal(e.Content(), &c) != nil {
		return p
	}
	if name, ok := c.DisplayName.(string); ok {
		p.DisplayName = &name
	}
	if avatar, ok := c.AvatarURL.(string); ok {
		p.AvatarURL = &avatar
	}
	return p
}

type joinedRoomsReply struct {
	Rooms []id.Room `json:"joined_rooms"`
}

func (s *Service) joinedRooms(ctx context.Context, r *httpapi.Request) (any, error) {
	rooms, err := s.rooms.JoinedRooms(ctx, r.Tenant.ID, r.Session.User)
	if err != nil {
		return nil, err
	}
	reply := joinedRoomsReply{Rooms: make([]id.Room, len(rooms))}
	for i, found := range rooms {
		reply.Rooms[i] = found.ID
	}
	slices.Sort(reply.Rooms)
	return reply, nil
}

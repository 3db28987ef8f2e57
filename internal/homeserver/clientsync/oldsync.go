// SPDX-License-Identifier: Apache-2.0

package clientsync

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/homeserver/ephemeral"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/homeserver/timeline"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// What came before /sync is deprecated, but part of the specification, and /events with a room is how guests look into world-readable rooms.

const (
	// oldChunk is how many events of one room an answer of /events holds at most, the newest.
	oldChunk = 100
	// oldLimit is how many events of a room /initialSync shows when the client does not say, oldMax at most.
	oldLimit, oldMax = 10, 100
)

// oldRoutes lists /events and /initialSync.
func (s *Service) oldRoutes() []httpapi.Route {
	var routes []httpapi.Route
	for _, version := range []string{"v3", "r0"} {
		prefix := "/_matrix/client/" + version
		routes = append(routes,
			httpapi.Route{Method: "GET", Path: prefix + "/events", Access: httpapi.AnyUser, Rate: limit.Sync, Handle: s.oldEvents},
			httpapi.Route{Method: "GET", Path: prefix + "/initialSync", Access: httpapi.User, Rate: limit.Sync, Handle: s.initialSync})
	}
	return routes
}

type eventsReply struct {
	Start string              `json:"start"`
	End   string              `json:"end"`
	Chunk []*room.ClientEvent `json:"chunk"`
}

// oldToken seals a position as /sync would.
func (s *Service) oldToken(r *httpapi.Request, position int64) string {
	return s.o.Tokens.Stream(r.Tenant.ID, timeline.StreamToken{Epoch: r.Tenant.Epoch, Position: position, ToDevice: 0, Node: s.o.Tokens.Node(),
		Ephemeral: s.o.Feed.Ephemeral(), Device: timeline.DeviceSum(r.Session.User, r.Session.Device)})
}

// oldEvents waits for events of the caller's rooms, or of one room that the caller may look into.
func (s *Service) oldEvents(ctx context.Context, r *httpapi.Request) (any, error) {
	wait, err := r.QueryInt("timeout", 0, maxWait)
	if err != nil {
		return nil, err
	}
	position, err := s.o.Feed.Position(ctx, r.Tenant.ID)
	if err != nil {
		return nil, err
	}
	from := position
	if token := r.Query("from"); token != "" {
		st, err := s.o.Tokens.OpenStream(r.Tenant.ID, token)
		if err != nil {
			return nil, err
		}
		if st.Epoch == r.Tenant.Epoch {
			from = st.Position
		}
	}
	only, listener, err := s.peeked(ctx, r)
	if err != nil {
		return nil, err
	}
	timer := time.NewTimer(time.Duration(wait) * time.Millisecond)
	defer timer.Stop()
	for at := from; ; {
		ephemeral := s.o.Feed.Ephemeral()
		if position, err = s.o.Feed.Position(ctx, r.Tenant.ID); err != nil {
			return nil, err
		}
		position = max(position, at)
		chunk, err := s.newEvents(ctx, r, only, at, position)
		if err != nil {
			return nil, err
		}
		if len(chunk) == 0 && wait > 0 {
			at = position
			if s.o.Feed.WaitUntil(ctx, s.closing, timer.C, r.Tenant.ID, listener, position, ephemeral) == nil {
				continue
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
		return eventsReply{s.oldToken(r, from), s.oldToken(r, position), chunk}, nil
	}
}

// peeked is the one room that a request names, nil for all of the caller's, and whom to wait as: what happens in a room wakes its members.
func (s *Service) peeked(ctx context.Context, r *httpapi.Request) (*room.Room, id.User, error) {
	name := r.Query("room_id")
	if name == "" {
		if r.Session.Guest {
			return nil, "", mxerror.GuestAccessForbidden.With("guests name the room that they look into")
		}
		return nil, r.Session.User, nil
	}
	rid, err := id.ParseRoom(name)
	if err != nil {
		return nil, "", mxerror.InvalidParam.With("room_id is not a room id")
	}
	in, err := s.o.Timeline.Peek(ctx, r, rid)
	if err != nil {
		return nil, "", err
	}
	users, err := s.o.Rooms.JoinedUsers(ctx, r.Tenant.ID, in.NID)
	if err != nil {
		return nil, "", err
	}
	listener := r.Session.User
	if !slices.Contains(users, listener) {
		if i := slices.IndexFunc(users, func(u id.User) bool { return u.Server() == r.Tenant.Name }); i >= 0 {
			listener = users[i]
		}
	}
	return in, listener, nil
}

// newEvents are the events of the timeline with positions in (from, to], in their order.
func (s *Service) newEvents(ctx context.Context, r *httpapi.Request, only *room.Room, from, to int64) ([]*room.ClientEvent, error) {
	out := []*room.ClientEvent{}
	if from >= to {
		return out, nil
	}
	rooms := map[int64]*room.Room{}
	if only != nil {
		rooms[only.NID] = only
	} else if err := s.ownRooms(ctx, r, from, rooms); err != nil {
		return nil, err
	}
	nids := make([]int64, 0, len(rooms))
	for nid := range rooms {
		nids = append(nids, nid)
	}
	changed, err := s.o.Rooms.ChangedRooms(ctx, r.Tenant.ID, nids, from, to)
	if err != nil || len(changed) == 0 {
		return out, err
	}
	ignored, err := s.o.Timeline.Ignored(ctx, r.Tenant.ID, r.Session.User)
	if err != nil {
		return nil, err
	}
	type placed struct {
		position int64
		event    *room.ClientEvent
	}
	var all []placed
	for nid := range changed {
		events, _, err := s.o.Rooms.Timeline(ctx, r.Tenant.ID, nid, from, to, oldChunk)
		if err != nil {
			return nil, err
		}
		seen, list, err := s.o.Timeline.Readable(ctx, r, rooms[nid], events, ignored)
		if err != nil {
			return nil, err
		}
		for i, e := range seen {
			all = append(all, placed{e.Position, list[i]})
		}
	}
	slices.SortFunc(all, func(a, b placed) int { return cmp.Compare(a.position, b.position) })
	for _, p := range all {
		out = append(out, p.event)
	}
	return out, nil
}

// ownRooms adds the rooms that the user is in, and those left since a position.
func (s *Service) ownRooms(ctx context.Context, r *httpapi.Request, from int64, rooms map[int64]*room.Room) error {
	joined, err := s.o.Rooms.JoinedRooms(ctx, r.Tenant.ID, r.Session.User)
	if err != nil {
		return err
	}
	for _, j := range joined {
		rooms[j.NID] = j
	}
	changed, err := s.o.Rooms.MembershipsChanged(ctx, r.Tenant.ID, r.Session.User, from)
	for _, c := range changed {
		rooms[c.Room.NID] = c.Room
	}
	return err
}

type initialReply struct {
	End         string                    `json:"end"`
	Rooms       []any                     `json:"rooms"`
	Presence    []ephemeral.PresenceEvent `json:"presence"`
	AccountData []typed                   `json:"account_data"`
}

// invitedSnapshot is a room that the user is invited to.
type invitedSnapshot struct {
	RoomID     id.Room        `json:"room_id"`
	Membership string         `json:"membership"`
	Inviter    id.User        `json:"inviter,omitempty"`
	Invite     jsontext.Value `json:"invite,omitempty"`
}

// initialSync is GET /initialSync: all rooms with their latest events.
func (s *Service) initialSync(ctx context.Context, r *httpapi.Request) (any, error) {
	limit, err := r.QueryInt("limit", oldLimit, oldMax)
	if err != nil {
		return nil, err
	}
	archived, err := r.QueryBool("archived", false)
	if err != nil {
		return nil, err
	}
	position, err := s.o.Feed.Position(ctx, r.Tenant.ID)
	if err != nil {
		return nil, err
	}
	reply := initialReply{End: s.oldToken(r, position), Rooms: []any{}, AccountData: []typed{}}
	all, err := s.o.Rooms.Memberships(ctx, r.Tenant.ID, r.Session.User)
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		switch {
		case m.Membership == "invite":
			invite, err := s.invitation(ctx, r, m.Room)
			if err != nil {
				return nil, err
			}
			reply.Rooms = append(reply.Rooms, invite)
		case m.Membership == "join", archived && (m.Membership == "leave" || m.Membership == "ban"):
			snapshot, err := s.o.Timeline.Snapshot(ctx, r, m.Room, limit)
			if err != nil {
				return nil, err
			}
			reply.Rooms = append(reply.Rooms, snapshot)
		}
	}
	if reply.Presence, err = s.o.Ephemeral.PresenceSince(ctx, r.Tenant.ID, r.Session.User, 0); err != nil {
		return nil, err
	}
	data, err := s.o.Accounts.AllAccountData(ctx, r.Tenant, r.Session.User, position)
	for _, d := range data {
		if d.Room == "" {
			reply.AccountData = append(reply.AccountData, typed{d.Type, d.Content})
		}
	}
	return reply, err
}

func (s *Service) invitation(ctx context.Context, r *httpapi.Request, in *room.Room) (*invitedSnapshot, error) {
	state, err := s.o.Rooms.InviteState(ctx, r.Tenant.ID, r.Session.User, in.NID)
	if err != nil {
		return nil, err
	}
	out := &invitedSnapshot{RoomID: in.ID, Membership: "invite"}
	for _, raw := range state {
		if sender, key := memberOf(raw); key == r.Session.User {
			out.Inviter, out.Invite = sender, withRoom(raw, in.ID)
		}
	}
	return out, nil
}

// withRoom gives a stripped event the room that it is of.
func withRoom(raw jsontext.Value, rid id.Room) jsontext.Value {
	var e map[string]any
	if json.Unmarshal(raw, &e) != nil {
		return raw
	}
	e["room_id"] = rid
	out, err := json.Marshal(e, json.Deterministic(true))
	if err != nil {
		return raw
	}
	return out
}

// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// roomEntry is a room in a list; topic, avatar and devices are for one room alone.
type roomEntry struct {
	RoomID            id.Room  `json:"room_id"`
	Name              *string  `json:"name"`
	Alias             *string  `json:"canonical_alias"`
	Joined            int      `json:"joined_members"`
	JoinedLocal       int      `json:"joined_local_members"`
	Version           string   `json:"version"`
	Creator           *id.User `json:"creator"`
	Encryption        *string  `json:"encryption"`
	Federatable       bool     `json:"federatable"`
	Public            bool     `json:"public"`
	JoinRules         *string  `json:"join_rules"`
	GuestAccess       *string  `json:"guest_access"`
	HistoryVisibility *string  `json:"history_visibility"`
	StateEvents       int      `json:"state_events"`
	RoomType          *string  `json:"room_type"`
	*roomMore
}

type roomMore struct {
	Avatar    *string `json:"avatar"`
	Topic     *string `json:"topic"`
	Devices   int     `json:"joined_local_devices"`
	Forgotten bool    `json:"forgotten"`
	Tombstone bool    `json:"tombstoned"`
}

// find finds the room of the path.
func (s *Service) find(ctx context.Context, r *httpapi.Request) (*room.Room, error) {
	name, err := r.Room()
	if err != nil {
		return nil, mxerror.InvalidParam.With("%s is not a legal room ID", r.Var("roomId"))
	}
	in, err := s.o.Rooms.Lookup(ctx, r.Tenant.ID, name)
	if errors.Is(err, mxerror.NotFound) {
		return nil, mxerror.NotFound.With("Room not found")
	}
	return in, err
}

// describe reads what a room is; more is for one room alone.
func (s *Service) describe(ctx context.Context, r *httpapi.Request, in *room.Room, more bool) (*roomEntry, error) {
	t := r.Tenant
	state, err := s.o.Rooms.CurrentState(ctx, t.ID, in)
	if err != nil {
		return nil, err
	}
	e := &roomEntry{RoomID: in.ID, Version: in.Version.ID, StateEvents: len(state), Federatable: true}
	get := func(typ, name string) *string {
		found, stateErr := s.o.Rooms.StateEvent(ctx, t.ID, state, event.Key{Type: typ})
		if stateErr != nil || found == nil {
			err = cmp.Or(err, stateErr)
			return nil
		}
		var c map[string]jsontext.Value
		if json.Unmarshal(found.Content(), &c, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) != nil {
			return nil
		}
		return optional(text(c[name]))
	}
	e.Name, e.Alias = get("m.room.name", "name"), get("m.room.canonical_alias", "alias")
	e.Encryption, e.JoinRules = get("m.room.encryption", "algorithm"), get("m.room.join_rules", "join_rule")
	e.GuestAccess, e.HistoryVisibility = get("m.room.guest_access", "guest_access"), get("m.room.history_visibility", "history_visibility")
	e.RoomType = get("m.room.create", "type")
	if more {
		e.roomMore = &roomMore{Avatar: get("m.room.avatar", "url"), Topic: get("m.room.topic", "topic"), Tombstone: state[event.Key{Type: "m.room.tombstone"}] != ""}
	}
	if err != nil {
		return nil, err
	}
	create, err := s.o.Rooms.StateEvent(ctx, t.ID, state, event.Key{Type: "m.room.create"})
	if err != nil {
		return nil, err
	}
	if create != nil {
		var c struct {
			Federate *bool `json:"m.federate"`
		}
		if json.Unmarshal(create.Content(), &c, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) == nil && c.Federate != nil {
			e.Federatable = *c.Federate
		}
		sender := create.Sender()
		e.Creator = &sender
	}
	members, err := s.o.Rooms.JoinedUsers(ctx, t.ID, in.NID)
	if err != nil {
		return nil, err
	}
	e.Joined = len(members)
	for _, u := range members {
		if u.Server() != t.Name {
			continue
		}
		e.JoinedLocal++
		if e.roomMore != nil {
			devices, err := s.o.Accounts.Devices(ctx, t.ID, u)
			if err != nil {
				return nil, err
			}
			e.roomMore.Devices += len(devices)
		}
	}
	e.Public, err = s.o.Rooms.IsPublic(ctx, t.ID, in.NID)
	return e, err
}

func plainText(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// roomOrders compare rooms; what counts is greatest first, as the tools expect.
var roomOrders = map[string]func(a, b *roomEntry) int{
	"name": func(a, b *roomEntry) int {
		return strings.Compare(strings.ToLower(plainText(a.Name)), strings.ToLower(plainText(b.Name)))
	},
	"canonical_alias":      func(a, b *roomEntry) int { return strings.Compare(plainText(a.Alias), plainText(b.Alias)) },
	"joined_members":       func(a, b *roomEntry) int { return b.Joined - a.Joined },
	"joined_local_members": func(a, b *roomEntry) int { return b.JoinedLocal - a.JoinedLocal },
	"version":              func(a, b *roomEntry) int { return strings.Compare(b.Version, a.Version) },
	"creator":              func(a, b *roomEntry) int { return strings.Compare(creatorOf(a), creatorOf(b)) },
	"encryption":           func(a, b *roomEntry) int { return strings.Compare(plainText(a.Encryption), plainText(b.Encryption)) },
	"federatable":          func(a, b *roomEntry) int { return flagOrder(a.Federatable, b.Federatable) },
	"public":               func(a, b *roomEntry) int { return flagOrder(a.Public, b.Public) },
	"join_rules":           func(a, b *roomEntry) int { return strings.Compare(plainText(a.JoinRules), plainText(b.JoinRules)) },
	"guest_access":         func(a, b *roomEntry) int { return strings.Compare(plainText(a.GuestAccess), plainText(b.GuestAccess)) },
	"history_visibility": func(a, b *roomEntry) int {
		return strings.Compare(plainText(a.HistoryVisibility), plainText(b.HistoryVisibility))
	},
	"state_events": func(a, b *roomEntry) int { return b.StateEvents - a.StateEvents },
}

func creatorOf(e *roomEntry) string {
	if e.Creator == nil {
		return ""
	}
	return string(*e.Creator)
}

func flagOrder(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

type roomsReply struct {
	Rooms  []*roomEntry `json:"rooms"`
	Offset int          `json:"offset"`
	Total  int          `json:"total_rooms"`
	Next   *int         `json:"next_batch,omitzero"`
	Prev   *int         `json:"prev_batch,omitzero"`
}

func (s *Service) listRooms(ctx context.Context, r *httpapi.Request) (any, error) {
	from, err := r.QueryInt("from", 0, 1<<30)
	if err != nil {
		return nil, err
	}
	limit, err := r.QueryInt("limit", 100, 1000)
	if err != nil {
		return nil, err
	}
	back, err := backwards(r)
	if err != nil {
		return nil, err
	}
	order, ok := roomOrders[cmp.Or(r.Query("order_by"), "name")]
	if !ok {
		return nil, mxerror.InvalidParam.With("Unknown value for order_by: %s", r.Query("order_by"))
	}
	if r.Values().Has("search_term") && r.Query("search_term") == "" {
		return nil, mxerror.InvalidParam.With("search_term cannot be an empty string")
	}
	term := strings.ToLower(r.Query("search_term"))
	rooms, err := s.o.Rooms.All(ctx, r.Tenant.ID)
	if err != nil {
		return nil, err
	}
	var list []*roomEntry
	for _, in := range rooms {
		e, err := s.describe(ctx, r, in, false)
		if err != nil {
			return nil, err
		}
		if term == "" || strings.Contains(strings.ToLower(plainText(e.Name)), term) || strings.Contains(strings.ToLower(plainText(e.Alias)), term) || string(e.RoomID) == r.Query("search_term") {
			list = append(list, e)
		}
	}
	slices.SortStableFunc(list, func(a, b *roomEntry) int {
		n := cmp.Or(order(a, b), strings.Compare(string(a.RoomID), string(b.RoomID)))
		if back {
			return -n
		}
		return n
	})
	start, end := min(from, len(list)), min(from+limit, len(list))
	reply := roomsReply{Rooms: append([]*roomEntry{}, list[start:end]...), Offset: from, Total: len(list)}
	if end < len(list) {
		reply.Next = &end
	}
	if from > 0 {
		prev := max(from-limit, 0)
		reply.Prev = &prev
	}
	return reply, nil
}

func (s *Service) getRoom(ctx context.Context, r *httpapi.Request) (any, error) {
	in, err := s.find(ctx, r)
	if err != nil {
		return nil, err
	}
	return s.describe(ctx, r, in, true)
}

func (s *Service) members(ctx context.Context, r *httpapi.Request) (any, error) {
	in, err := s.find(ctx, r)
	if err != nil {
		return nil, err
	}
	users, err := s.o.Rooms.JoinedUsers(ctx, r.Tenant.ID, in.NID)
	if users == nil {
		users = []id.User{}
	}
	return map[string]any{"members": users, "total": len(users)}, err
}

func (s *Service) state(ctx context.Context, r *httpapi.Request) (any, error) {
	in, err := s.find(ctx, r)
	if err != nil {
		return nil, err
	}
	state, err := s.o.Rooms.CurrentState(ctx, r.Tenant.ID, in)
	if err != nil {
		return nil, err
	}
	events, err := s.o.Rooms.StateEvents(ctx, r.Tenant.ID, state)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(events, func(a, b *room.Event) int { return cmp.Compare(a.NID, b.NID) })
	list, err := s.o.Rooms.ClientState(ctx, r.Tenant.ID, in, events)
	return map[string]any{"state": list}, err
}

func (s *Service) getBlock(ctx context.Context, r *httpapi.Request) (any, error) {
	name, err := r.Room()
	if err != nil {
		return nil, err
	}
	by, blocked, err := s.o.Rooms.Blocked(ctx, r.Tenant.ID, name)
	reply := map[string]any{"block": blocked}
	if blocked {
		reply["user_id"] = by
	}
	return reply, err
}

func (s *Service) putBlock(ctx context.Context, r *httpapi.Request) (any, error) {
	name, err := r.Room()
	if err != nil {
		return nil, err
	}
	var q struct {
		Block *bool `json:"block"`
	}
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if q.Block == nil {
		return nil, mxerror.MissingParam.With("Missing block")
	}
	return map[string]bool{"block": *q.Block}, s.o.Rooms.Block(ctx, r.Tenant.ID, name, r.Session.User, *q.Block)
}

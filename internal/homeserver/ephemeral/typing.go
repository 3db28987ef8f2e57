// SPDX-License-Identifier: Apache-2.0

package ephemeral

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

const (
	// defaultTyping is how long somebody types who does not say; maxTyping bounds what is said; remoteTyping is for users of other servers,
	// whose EDUs name no time.
	defaultTyping = 30 * time.Second
	maxTyping     = 2 * time.Minute
	remoteTyping  = time.Minute
	// keepSilent is how long it stays known that a room fell silent, for clients that come back.
	keepSilent = 5 * time.Minute
)

// typing is who types where on this node. Only rooms in which somebody types, or did a moment ago, are in it; each has one timer.
type typing struct {
	mu    sync.Mutex
	rooms map[tenant.ID]map[int64]*typingRoom
}

type typingRoom struct {
	t   *tenant.Tenant
	id  id.Room
	nid int64
	// users are who types and until when.
	users map[id.User]time.Time
	// audience are the local members who are told.
	audience []id.User
	// changed is the node's counter at the last change.
	changed uint64
	stop    func() bool
}

func newTyping() *typing { return &typing{rooms: map[tenant.ID]map[int64]*typingRoom{}} }

func (y *typing) stop() {
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, rooms := range y.rooms {
		for _, r := range rooms {
			if r.stop != nil {
				r.stop()
			}
		}
	}
	clear(y.rooms)
}

func (s *Service) putTyping(ctx context.Context, r *httpapi.Request) (any, error) {
	var body struct {
		Typing  *bool  `json:"typing"`
		Timeout *int64 `json:"timeout"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Typing == nil {
		return nil, mxerror.MissingParam.With("typing is missing")
	}
	duration := defaultTyping
	if body.Timeout != nil {
		if *body.Timeout < 0 {
			return nil, mxerror.InvalidParam.With("timeout must not be negative")
		}
		duration = time.Duration(min(*body.Timeout, maxTyping.Milliseconds())) * time.Millisecond
	}
	if id.User(r.Var("userId")) != r.Session.User {
		return nil, mxerror.Forbidden.With("You can only say that you are typing yourself.")
	}
	found, err := s.joined(ctx, r)
	if err != nil {
		return nil, err
	}
	if !*body.Typing {
		duration = 0
	}
	audience, err := s.local(ctx, r.Tenant, found.NID)
	if err != nil {
		return nil, err
	}
	s.setTyping(&typingRoom{t: r.Tenant, id: found.ID, nid: found.NID, audience: audience}, r.Session.User, duration)
	return nil, s.sendTyping(ctx, r.Tenant, found.NID, found.ID, r.Session.User, *body.Typing)
}

// typingEDU is the content of an m.typing EDU.
type typingEDU struct {
	Room   id.Room `json:"room_id"`
	User   id.User `json:"user_id"`
	Typing bool    `json:"typing"`
}

func (s *Service) sendTyping(ctx context.Context, t *tenant.Tenant, nid int64, rid id.Room, user id.User, on bool) error {
	raw, err := json.Marshal(typingEDU{rid, user, on})
	if err != nil {
		return err
	}
	return s.send(ctx, t, nid, EDUTyping, string(rid)+" "+string(user), raw)
}

// ReceiveTyping takes an m.typing EDU. What does not fit is passed over.
func (s *Service) ReceiveTyping(ctx context.Context, t *tenant.Tenant, origin id.Server, content jsontext.Value) error {
	var edu typingEDU
	if json.Unmarshal(content, &edu) != nil || edu.User.Server() != origin {
		return nil
	}
	found, err := s.o.Rooms.Lookup(ctx, t.ID, edu.Room)
	if errors.Is(err, mxerror.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	m, err := s.o.Rooms.Membership(ctx, t.ID, found.NID, edu.User)
	if err != nil || m.Membership != "join" {
		return err
	}
	audience, err := s.local(ctx, t, found.NID)
	if err != nil || len(audience) == 0 {
		return err
	}
	duration := remoteTyping
	if !edu.Typing {
		duration = 0
	}
	s.setTyping(&typingRoom{t: t, id: found.ID, nid: found.NID, audience: audience}, edu.User, duration)
	return nil
}

// setTyping notes that a user types for a while (0: stops). like describes the room in case it is not there yet.
func (s *Service) setTyping(like *typingRoom, user id.User, duration time.Duration) {
	y := s.typing
	y.mu.Lock()
	defer y.mu.Unlock()
	rooms := y.rooms[like.t.ID]
	r := rooms[like.nid]
	if r == nil {
		if duration == 0 {
			return
		}
		if rooms == nil {
			rooms = map[int64]*typingRoom{}
			y.rooms[like.t.ID] = rooms
		}
		r = like
		r.users = map[id.User]time.Time{}
		rooms[r.nid] = r
	}
	r.audience = like.audience
	_, was := r.users[user]
	if duration > 0 {
		r.users[user] = s.o.Now().Add(duration)
	} else {
		delete(r.users, user)
	}
	if was != (duration > 0) {
		s.typed(r)
	}
	s.schedule(r)
}

// typed tells that who types in a room has changed. The caller holds the mutex.
func (s *Service) typed(r *typingRoom) {
	r.changed = s.o.Feed.WakeUsers(r.t.ID, r.audience...)
	if s.o.Typed != nil {
		s.o.Typed(r.t.ID, r.nid)
	}
}

// schedule sets the room's timer: to the end of the first who stops, or to its own end when nobody types. The caller holds the mutex.
func (s *Service) schedule(r *typingRoom) {
	if r.stop != nil {
		r.stop()
	}
	wait := keepSilent
	if len(r.users) > 0 {
		var first time.Time
		for _, until := range r.users {
			if first.IsZero() || until.Before(first) {
				first = until
			}
		}
		wait = max(first.Sub(s.o.Now()), 0)
	}
	r.stop = s.o.After(wait, func() { s.expire(r) })
}

// expire ends the typing of those whose time is over, and forgets a room that has long been silent.
func (s *Service) expire(r *typingRoom) {
	y := s.typing
	y.mu.Lock()
	if y.rooms[r.t.ID][r.nid] != r {
		y.mu.Unlock()
		return
	}
	if len(r.users) == 0 {
		delete(y.rooms[r.t.ID], r.nid)
		if len(y.rooms[r.t.ID]) == 0 {
			delete(y.rooms, r.t.ID)
		}
		y.mu.Unlock()
		return
	}
	now := s.o.Now()
	var ended []id.User
	for user, until := range r.users {
		if !until.After(now) {
			delete(r.users, user)
			ended = append(ended, user)
		}
	}
	if len(ended) > 0 {
		s.typed(r)
	}
	s.schedule(r)
	y.mu.Unlock()
	for _, user := range ended {
		if user.Server() != r.t.Name {
			continue
		}
		if err := s.sendTyping(context.Background(), r.t, r.nid, r.id, user, false); err != nil {
			s.o.Log.Warn("end of typing was not sent", "error", err)
		}
	}
}

// RoomTyping is who types in a room, sorted.
type RoomTyping struct {
	Room  int64
	Users []id.User
}

// TypingSince returns the user's rooms in which typing changed after a counter of this node; since 0 are all in which somebody types.
func (s *Service) TypingSince(t tenant.ID, user id.User, since uint64) []RoomTyping {
	y := s.typing
	y.mu.Lock()
	defer y.mu.Unlock()
	var out []RoomTyping
	for nid, r := range y.rooms[t] {
		if r.changed > since && (since > 0 || len(r.users) > 0) && slices.Contains(r.audience, user) {
			out = append(out, RoomTyping{nid, slices.Sorted(maps.Keys(r.users))})
		}
	}
	return out
}

// Typing returns who types in a room, sorted.
func (s *Service) Typing(t tenant.ID, roomNID int64) []id.User {
	y := s.typing
	y.mu.Lock()
	defer y.mu.Unlock()
	r := y.rooms[t][roomNID]
	if r == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(r.users))
}

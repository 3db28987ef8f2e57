// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/pushrule"
)

// justice is what rules need to know of a room, whoever they are of.
type justice struct {
	state   room.State
	members int
	levels  authrule.PowerLevels
}

// judge is what a user's rules need to know of a room, as it is now.
type judge struct {
	*justice
	name string
	// threads are those that the user is subscribed to; nil when the rules do not ask for them.
	threads map[id.Event]bool
}

// judge reads it for a user's rules; the room is as it was at a position or later.
func (s *Service) judge(ctx context.Context, t tenant.ID, in *room.Room, user id.User, rules *pushrule.Evaluator, at int64) (*judge, error) {
	jc, err := s.justice(ctx, t, in, at)
	if err != nil {
		return nil, err
	}
	j := &judge{justice: jc}
	member, err := s.o.Rooms.StateEvent(ctx, t, jc.state, event.Key{Type: event.TypeMember, StateKey: string(user)})
	if err != nil {
		return nil, err
	}
	var c struct {
		Name any `json:"displayname"`
	}
	if member != nil && json.Unmarshal(member.Content(), &c) == nil {
		j.name, _ = c.Name.(string)
	}
	if rules.AsksForThreads() {
		j.threads, err = s.subscribed(ctx, countKey{t, user, in.NID}, at)
	}
	return j, err
}

func (s *Service) justice(ctx context.Context, t tenant.ID, in *room.Room, at int64) (j *justice, err error) {
	key := roomKey{t, in.NID}
	if j, ok := s.recalls.justices.Get(t, key, at, func(c *stream.Change) bool { return c.Room == in.NID && (c.State || c.Kind == stream.StateDelta) }); ok {
		return j, nil
	}
	j = &justice{}
	if j.state, err = s.o.Rooms.CurrentState(ctx, t, in); err != nil {
		return nil, err
	}
	if j.levels, err = s.o.Rooms.PowerLevels(ctx, t, j.state); err != nil {
		return nil, err
	}
	members, err := s.o.Rooms.JoinedUsers(ctx, t, in.NID)
	if err != nil {
		return nil, err
	}
	j.members = len(members)
	s.recalls.justices.Set(key, at, j)
	return j, nil
}

// about is the context of one event.
func (j *judge) about(e *room.Event) pushrule.Context {
	return pushrule.Context{DisplayName: j.name, Members: j.members,
		Subscribed: func(root id.Event) bool { return j.threads[root] },
		MayNotify:  func(key string) bool { return j.levels.User(e.Sender()) >= j.levels.Notification(key) }}
}

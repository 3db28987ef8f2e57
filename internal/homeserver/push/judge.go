// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/pushrule"
)

// judge is what rules need to know of a room, as it is now.
type judge struct {
	members int
	name    string
	levels  authrule.PowerLevels
}

// judge reads it for a user.
func (s *Service) judge(ctx context.Context, t tenant.ID, in *room.Room, user id.User) (*judge, error) {
	state, err := s.o.Rooms.CurrentState(ctx, t, in)
	if err != nil {
		return nil, err
	}
	j := &judge{}
	if j.levels, err = s.o.Rooms.PowerLevels(ctx, t, state); err != nil {
		return nil, err
	}
	members, err := s.o.Rooms.JoinedUsers(ctx, t, in.NID)
	if err != nil {
		return nil, err
	}
	j.members = len(members)
	member, err := s.o.Rooms.StateEvent(ctx, t, state, event.Key{Type: event.TypeMember, StateKey: string(user)})
	if err != nil {
		return nil, err
	}
	var c struct {
		Name any `json:"displayname"`
	}
	if member != nil && json.Unmarshal(member.Content(), &c) == nil {
		j.name, _ = c.Name.(string)
	}
	return j, nil
}

// about is the context of one event.
func (j *judge) about(e *room.Event) pushrule.Context {
	return pushrule.Context{DisplayName: j.name, Members: j.members,
		MayNotify: func(key string) bool { return j.levels.User(e.Sender()) >= j.levels.Notification(key) }}
}

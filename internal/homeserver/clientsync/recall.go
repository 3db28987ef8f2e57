// SPDX-License-Identifier: Apache-2.0

package clientsync

import (
	"context"
	"slices"

	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// What the feed proves not to have changed is not asked for again (engine rule 29). The sizes are entries.
const (
	memberRecallSize = 100_000
	deviceRecallSize = 50_000
)

type userRoomKey struct {
	tenant tenant.ID
	user   id.User
	room   int64
}

// keyCounts are how many keys others can still claim from a device.
type keyCounts struct {
	oneTime  map[string]int64
	fallback []string
}

// recalls are what is remembered of users and devices.
type recalls struct {
	// members are memberships in rooms; one without a room is none.
	members *stream.Recall[userRoomKey, room.UserRoom]
	// empty says that a device's inbox has nothing up to a position; keys counts a device's keys in an epoch.
	empty *stream.Recall[deviceKey, struct{}]
	keys  *stream.Recall[epochKey, keyCounts]
}

type epochKey struct {
	deviceKey
	epoch int64
}

func newRecalls(f *stream.Feed) recalls {
	return recalls{stream.NewRecall[userRoomKey, room.UserRoom](f, memberRecallSize), stream.NewRecall[deviceKey, struct{}](f, deviceRecallSize),
		stream.NewRecall[epochKey, keyCounts](f, deviceRecallSize)}
}

// membershipsIn lists the user's memberships in some rooms as they are at a position or later, forgotten ones too.
func (s *Service) membershipsIn(ctx context.Context, q *query, nids []int64, at int64) ([]room.UserRoom, error) {
	concerns := func(c *stream.Change) bool {
		return (c.Kind == stream.Timeline || c.Kind == stream.StateDelta || c.Kind == stream.Membership) && slices.Contains(c.Users, q.user)
	}
	var out []room.UserRoom
	var unknown []int64
	for _, nid := range nids {
		u, ok := s.recalls.members.Get(q.t.ID, userRoomKey{q.t.ID, q.user, nid}, at, concerns)
		if !ok {
			unknown = append(unknown, nid)
		} else if u.Room != nil {
			out = append(out, u)
		}
	}
	if len(unknown) == 0 {
		return out, nil
	}
	found, err := s.o.Rooms.MembershipsIn(ctx, q.t.ID, q.user, unknown)
	if err != nil {
		return nil, err
	}
	for _, nid := range unknown {
		var u room.UserRoom
		if i := slices.IndexFunc(found, func(f room.UserRoom) bool { return f.Room.NID == nid }); i >= 0 {
			u = found[i]
			out = append(out, u)
		}
		s.recalls.members.Set(userRoomKey{q.t.ID, q.user, nid}, at, u)
	}
	return out, nil
}

// emptyInbox deletes what a device has shown to have received, unless nothing is there.
func (s *Service) emptyInbox(ctx context.Context, q *query, upTo int64) error {
	key := deviceKey{q.t.ID, q.user, q.device, ""}
	_, empty := s.recalls.empty.Get(q.t.ID, key, upTo, func(c *stream.Change) bool { return c.Kind == stream.ToDevice && slices.Contains(c.Users, q.user) })
	if empty {
		return nil
	}
	if err := s.o.Encryption.Acknowledge(ctx, q.t.ID, q.user, q.device, upTo); err != nil {
		return err
	}
	s.recalls.empty.Set(key, upTo, struct{}{})
	return nil
}

// keyCounts counts the device's keys as they are at a position or later.
func (s *Service) keyCounts(ctx context.Context, q *query, at int64) (keyCounts, error) {
	key := epochKey{deviceKey{q.t.ID, q.user, q.device, ""}, q.t.Epoch}
	k, ok := s.recalls.keys.Get(q.t.ID, key, at, func(c *stream.Change) bool { return c.Kind == stream.Keys && slices.Contains(c.Users, q.user) })
	if ok {
		return k, nil
	}
	var err error
	if k.oneTime, k.fallback, err = s.o.Encryption.KeyCounts(ctx, q.t.ID, q.user, q.device); err != nil {
		return k, err
	}
	if k.fallback == nil {
		k.fallback = []string{}
	}
	s.recalls.keys.Set(key, at, k)
	return k, nil
}

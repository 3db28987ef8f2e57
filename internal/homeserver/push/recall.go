// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"maps"
	"slices"
	"sync"

	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/pushrule"
)

// What notifying needs to know of users and rooms is remembered for as long as the feed proves that it has not changed. The sizes are entries.
const (
	userRecallSize = 20_000
	roomRecallSize = 20_000
)

type recalls struct {
	users    *stream.Recall[userKey, *userFacts]
	rooms    *stream.Recall[userKey, []room.UserRoom]
	justices *stream.Recall[roomKey, *justice]
	// threads are the threads in a room that a user is subscribed to.
	threads *stream.Recall[countKey, map[id.Event]bool]
	news    news
}

func newRecalls(f *stream.Feed) *recalls {
	return &recalls{users: stream.NewRecall[userKey, *userFacts](f, userRecallSize), rooms: stream.NewRecall[userKey, []room.UserRoom](f, userRecallSize),
		justices: stream.NewRecall[roomKey, *justice](f, roomRecallSize), threads: stream.NewRecall[countKey, map[id.Event]bool](f, userRecallSize)}
}

type roomKey struct {
	tenant tenant.ID
	room   int64
}

// userFacts are what a user's account data says about notifications.
type userFacts struct {
	rules   *pushrule.Evaluator
	ignored map[id.User]bool
	reader  *Reader
}

// facts returns what is true of a user at a position or later.
func (s *Service) facts(ctx context.Context, k userKey, at int64) (*userFacts, error) {
	f, ok := s.recalls.users.Get(k.tenant, k, at, func(c *stream.Change) bool { return c.Kind == stream.AccountData && slices.Contains(c.Users, k.user) })
	if ok {
		return f, nil
	}
	content, stored, err := s.o.Accounts.AccountDatum(ctx, k.tenant, k.user, "", ruleType)
	if err != nil {
		return nil, err
	}
	rules := readRules(content, stored, k.user)
	f = &userFacts{rules: pushrule.Compile(rules), reader: &Reader{s: s, t: k.tenant, user: k.user}}
	if stored && !rules.CountsAsDefault(k.user) {
		f.reader.own, f.reader.sum = f.rules, crc32.ChecksumIEEE(content)
		if f.rules.AsksForThreads() { // subscriptions tell versions of the rules apart too
			newest, err := s.newestSubscription(ctx, k.tenant, k.user)
			if err != nil {
				return nil, err
			}
			f.reader.sum = crc32.Update(f.reader.sum, crc32.IEEETable, binary.BigEndian.AppendUint64(nil, uint64(newest)))
		}
	}
	if s.o.Ignored != nil {
		if f.ignored, err = s.o.Ignored(ctx, k.tenant, k.user); err != nil {
			return nil, err
		}
	}
	s.recalls.users.Set(k, at, f)
	return f, nil
}

// moved is true of changes after which a user's memberships may be others.
func moved(user id.User) func(*stream.Change) bool {
	return func(c *stream.Change) bool {
		return (c.Kind == stream.Timeline || c.Kind == stream.StateDelta || c.Kind == stream.Membership) && slices.Contains(c.Users, user)
	}
}

// memberships lists a user's rooms as they are at a position or later. Their LastPosition means nothing.
func (s *Service) memberships(ctx context.Context, k userKey, at int64) ([]room.UserRoom, error) {
	if list, ok := s.recalls.rooms.Get(k.tenant, k, at, moved(k.user)); ok {
		return list, nil
	}
	list, err := s.o.Rooms.Memberships(ctx, k.tenant, k.user)
	if err == nil {
		s.recalls.rooms.Set(k, at, list)
	}
	return list, err
}

// readRooms lists the rooms in which the user has read something in (from, to].
func (s *Service) readRooms(ctx context.Context, k userKey, from, to int64) ([]int64, error) {
	if s.o.Feed.Quiet(k.tenant, from, to, func(c *stream.Change) bool { return c.Kind == stream.Receipt && slices.Contains(c.Users, k.user) }) {
		return nil, nil
	}
	return s.o.Ephemeral.OwnReceiptRooms(ctx, k.tenant, k.user, from, to)
}

// changedRooms says in which of some rooms the timeline went on in (from, to].
func (s *Service) changedRooms(ctx context.Context, k userKey, nids []int64, from, to int64) (map[int64]bool, error) {
	changes, known := s.o.Feed.Recent(k.tenant, from, to)
	if !known && from < to {
		return s.o.Rooms.ChangedRooms(ctx, k.tenant, nids, from, to)
	}
	out := map[int64]bool{}
	for _, c := range changes {
		if c.Kind == stream.Timeline {
			out[c.Room] = true
		}
	}
	return out, nil
}

// news are the newest events of one range of a tenant's stream: who is notified of a message asks for the same one at the same moment.
type news struct {
	mu       sync.Mutex
	tenant   tenant.ID
	from, to int64
	events   []*room.Event
}

// newest lists the newest events of the tenant's timelines with positions in (from, to], newest first, at most maxCatchUp.
func (s *Service) newest(ctx context.Context, t tenant.ID, from, to int64) ([]*room.Event, error) {
	n := &s.recalls.news
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.tenant == t && n.from == from && n.to == to {
		return n.events, nil
	}
	events, err := s.o.Rooms.Newest(ctx, t, from, to, maxCatchUp)
	if err == nil {
		n.tenant, n.from, n.to, n.events = t, from, to, events
	}
	return events, err
}

// byRoom sorts events, newest first, into their rooms, oldest first.
func byRoom(events []*room.Event) map[int64][]*room.Event {
	out := map[int64][]*room.Event{}
	for _, e := range slices.Backward(events) {
		out[e.RoomNID] = append(out[e.RoomNID], e)
	}
	return out
}

// joinedOf are the rooms among memberships that the user is joined to.
func joinedOf(list []room.UserRoom) map[int64]*room.Room {
	out := map[int64]*room.Room{}
	for _, m := range list {
		if m.Membership == "join" && m.Room.Version != nil {
			out[m.Room.NID] = m.Room
		}
	}
	return out
}

// nidsOf lists the numbers of rooms.
func nidsOf(rooms map[int64]*room.Room) []int64 { return slices.Sorted(maps.Keys(rooms)) }

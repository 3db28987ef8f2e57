// SPDX-License-Identifier: Apache-2.0

package clientsync

import (
	"hash/maphash"
	"maps"
	"sync"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/cache"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

const (
	// lazyDevices and lazyMembers bound what is remembered of lazily loading clients; who is forgotten gets member events again.
	lazyDevices = 2000
	lazyMembers = 500
	lazyFor     = time.Hour
)

// sentMembers remembers which member events a lazily loading client has, so that it is not told of every sender each time (client-server API,
// "Lazy-loading room members"). What an answer brought counts once the client comes back with that answer's token: one that comes with an
// earlier token has lost the answer. It is a cache, and forgetting is safe.
type sentMembers struct {
	devices cache.Cache[deviceKey, *deviceMembers]
	seed    maphash.Seed
}

type deviceKey struct {
	tenant tenant.ID
	user   id.User
	device id.Device
	// conn is the connection of sliding sync.
	conn string
}

// deviceMembers are what one device has: the position of the answer by member event.
type deviceMembers struct {
	mu   sync.Mutex
	sent map[uint64]int64
}

func newSentMembers() *sentMembers {
	return &sentMembers{seed: maphash.MakeSeed(), devices: cache.New(cache.Options[deviceKey, *deviceMembers]{Entries: lazyDevices,
		Read: lazyFor})}
}

// lazyKey is the client under which its member events are remembered; ok is false when it does not load lazily.
func (q *query) lazyKey() (key deviceKey, ok bool) {
	return deviceKey{q.t.ID, q.user, q.device, ""}, q.device != "" && q.filter.Room.State.LazyLoadMembers
}

// begin finds what a client has shown to have by coming back with a token of a position.
func (m *sentMembers) begin(key deviceKey, initial bool, position int64) map[uint64]int64 {
	if initial {
		m.devices.Invalidate(key)
		return nil
	}
	d, ok := m.devices.Get(key)
	if !ok {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.sent, func(_ uint64, at int64) bool { return at > position })
	return maps.Clone(d.sent)
}

// has says whether the client has a member event.
func (m *sentMembers) has(q *query, eid id.Event) bool {
	if q.sent == nil {
		return false
	}
	_, ok := q.sent[m.sum(eid)]
	return ok
}

func (m *sentMembers) sum(eid id.Event) uint64 { return maphash.String(m.seed, string(eid)) }

// recordMembers notes the member events of an answer that is about to be sent.
func (s *Service) recordMembers(q *query, a *answer) {
	key, ok := q.lazyKey()
	if !ok || a.Rooms == nil || a.to <= q.since.Position {
		return
	}
	var sums []uint64
	for _, j := range a.Rooms.Join {
		sums = s.members.sums(sums, j.Timeline.Events)
		sums = s.members.sums(sums, j.stateEvents())
	}
	s.members.record(key, sums, a.token.Position)
}

// sums adds the member events among a list.
func (m *sentMembers) sums(sums []uint64, events []any) []uint64 {
	for _, e := range events {
		if c, ok := e.(*room.ClientEvent); ok && c.Type == event.TypeMember && c.StateKey != nil {
			sums = append(sums, m.sum(c.EventID))
		}
	}
	return sums
}

// record notes what an answer of a position brings.
func (m *sentMembers) record(key deviceKey, sums []uint64, position int64) {
	if len(sums) == 0 {
		return
	}
	d, ok := m.devices.Get(key)
	if !ok {
		d, _ = m.devices.SetIfAbsent(key, &deviceMembers{sent: map[uint64]int64{}})
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.sent)+len(sums) > lazyMembers {
		clear(d.sent)
	}
	for _, s := range sums[:min(len(sums), lazyMembers)] {
		if _, ok := d.sent[s]; !ok {
			d.sent[s] = position
		}
	}
}

// stateEvents are the events of a section's state, in whichever form.
func (r *roomState) stateEvents() []any {
	for _, l := range []*list{r.State, r.StateAfter, r.UnstableAfter} {
		if l != nil {
			return l.Events
		}
	}
	return nil
}

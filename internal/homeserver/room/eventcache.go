// SPDX-License-Identifier: Apache-2.0

package room

import (
	"hash/maphash"
	"sync"

	"github.com/konsil-health/konsil/internal/foundation/cache"
)

// eventCache holds events that were used lately, and all that are under way: built, handed to the committer, and in no database yet. The next event builds
// on those, so that they must not go however full the cache is. It is safe for concurrent use.
type eventCache struct {
	lately cache.Cache[eventKey, *Event]
	// writes are counted by keys of a kind, so that what was read before a write is not kept after it.
	seed   maphash.Seed
	writes [256]writes

	mu       sync.RWMutex
	underWay map[eventKey]*Event
}

// writes counts how often what is remembered under some keys was replaced or dropped.
type writes struct {
	sync.Mutex
	n uint64
}

func newEventCache(bytes uint64) *eventCache {
	return &eventCache{seed: maphash.MakeSeed(), underWay: map[eventKey]*Event{}, lately: cache.New(cache.Options[eventKey, *Event]{Weight: bytes,
		Weigh: func(_ eventKey, e *Event) uint32 { return uint32(len(e.JSON()) + eventOverhead) }})}
}

// Get returns an event that memory has.
func (c *eventCache) Get(key eventKey) (*Event, bool) {
	if e, ok := c.lately.Get(key); ok {
		return e, true
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	e, ok := c.underWay[key]
	return e, ok
}

// Set keeps an event that the database has, as long as there is room.
func (c *eventCache) Set(key eventKey, e *Event) {
	w := c.of(key)
	w.Lock()
	defer w.Unlock()
	w.n++
	c.lately.Set(key, e)
}

// Mark is taken before an event is read from the database, for SetRead.
func (c *eventCache) Mark(key eventKey) uint64 {
	w := c.of(key)
	w.Lock()
	defer w.Unlock()
	return w.n
}

// SetRead is Set for an event that was read from the database: one that may have been written since its mark is not kept, since another one may
// stand there now (an outlier has entered the room's history, an event has been redacted).
func (c *eventCache) SetRead(key eventKey, e *Event, mark uint64) {
	w := c.of(key)
	w.Lock()
	defer w.Unlock()
	if w.n == mark {
		c.lately.Set(key, e)
	}
}

func (c *eventCache) of(key eventKey) *writes {
	return &c.writes[maphash.Comparable(c.seed, key)%uint64(len(c.writes))]
}

// Invalidate drops what is remembered of an event; one that is under way stays.
func (c *eventCache) Invalidate(key eventKey) {
	w := c.of(key)
	w.Lock()
	defer w.Unlock()
	w.n++
	c.lately.Invalidate(key)
}

// begin keeps an event until end.
func (c *eventCache) begin(key eventKey, e *Event) {
	c.mu.Lock()
	c.underWay[key] = e
	c.mu.Unlock()
	c.Set(key, e)
}

// end is called when an event's commit is known: it is in the database now, or comes again. Another try of the same event may be under way.
func (c *eventCache) end(key eventKey, e *Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.underWay[key] == e {
		delete(c.underWay, key)
	}
}

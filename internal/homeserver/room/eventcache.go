// SPDX-License-Identifier: Apache-2.0

package room

import (
	"sync"

	"github.com/konsil-health/konsil/internal/foundation/cache"
)

// eventCache holds events that were used lately, and all that are under way: built, handed to the committer, and in no database yet. The next event builds
// on those, so that they must not go however full the cache is. It is safe for concurrent use.
type eventCache struct {
	lately cache.Cache[eventKey, *Event]

	mu       sync.RWMutex
	underWay map[eventKey]*Event
}

func newEventCache(bytes uint64) *eventCache {
	return &eventCache{underWay: map[eventKey]*Event{}, lately: cache.New(cache.Options[eventKey, *Event]{Weight: bytes,
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
func (c *eventCache) Set(key eventKey, e *Event) { c.lately.Set(key, e) }

// Invalidate drops what is remembered of an event; one that is under way stays.
func (c *eventCache) Invalidate(key eventKey) { c.lately.Invalidate(key) }

// begin keeps an event until end.
func (c *eventCache) begin(key eventKey, e *Event) {
	c.mu.Lock()
	c.underWay[key] = e
	c.mu.Unlock()
	c.lately.Set(key, e)
}

// end is called when an event's commit is known: it is in the database now, or comes again. Another try of the same event may be under way.
func (c *eventCache) end(key eventKey, e *Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.underWay[key] == e {
		delete(c.underWay, key)
	}
}

// SPDX-License-Identifier: Apache-2.0

package room

import (
	"container/list"
	"sync"

	"github.com/konsil-health/konsil/internal/foundation/cache"
)

// Bounds of the cache of states, in entries of state: those of small states together, of large ones together, and from where on a state is large.
const (
	stateCacheEntries = 1 << 18
	largeStateEntries = 1 << 19
	largeState        = 1 << 10
)

// stateCache keeps states by their snapshot. The small ones are kept by how often they are used. Of a large room every new state would begin as one that
// was never used and be let go at once, while the room is busy and needs just that one; so the large ones are kept by when they were used.
type stateCache struct {
	small cache.Cache[snapshotKey, snapshot]

	mu     sync.Mutex
	byKey  map[snapshotKey]*list.Element
	recent list.List // of largeEntry, the latest used in front
	size   int
}

type largeEntry struct {
	key snapshotKey
	sn  snapshot
}

func newStateCache() *stateCache {
	return &stateCache{byKey: map[snapshotKey]*list.Element{}, small: cache.New(cache.Options[snapshotKey, snapshot]{Weight: stateCacheEntries,
		Weigh: func(_ snapshotKey, sn snapshot) uint32 { return uint32(len(sn.state) + 1) }})}
}

// Get returns the state of a snapshot, if it is there.
func (c *stateCache) Get(key snapshotKey) (snapshot, bool) {
	if sn, ok := c.small.Get(key); ok {
		return sn, true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byKey[key]
	if !ok {
		return snapshot{}, false
	}
	c.recent.MoveToFront(e)
	return e.Value.(largeEntry).sn, true
}

// Set keeps a state. A snapshot never changes, so that one that is there already stays.
func (c *stateCache) Set(key snapshotKey, sn snapshot) {
	if len(sn.state) < largeState {
		c.small.Set(key, sn)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.byKey[key]; ok {
		c.recent.MoveToFront(e)
		return
	}
	c.byKey[key] = c.recent.PushFront(largeEntry{key, sn})
	c.size += len(sn.state)
	for c.size > largeStateEntries && c.recent.Len() > 1 { // the newest stays, however large
		c.drop(c.recent.Back())
	}
}

// Invalidate forgets a snapshot.
func (c *stateCache) Invalidate(key snapshotKey) {
	c.small.Invalidate(key)
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.byKey[key]; ok {
		c.drop(e)
	}
}

func (c *stateCache) drop(e *list.Element) {
	entry := c.recent.Remove(e).(largeEntry)
	delete(c.byKey, entry.key)
	c.size -= len(entry.sn.state)
}

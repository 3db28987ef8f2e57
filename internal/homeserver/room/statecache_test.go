// SPDX-License-Identifier: Apache-2.0

package room

import (
	"strconv"
	"testing"

	"github.com/konsil-health/konsil/internal/matrix/event"
)

// TestStateCacheKeepsTheNewestOfLargeRooms: a busy large room finds its latest states, whatever was used before, and the bound holds.
func TestStateCacheKeepsTheNewestOfLargeRooms(t *testing.T) {
	t.Parallel()
	c, state := newStateCache(), State{}
	for i := range 5000 {
		state[event.Key{Type: "m.room.member", StateKey: strconv.Itoa(i)}] = "$x"
	}
	small := snapshotKey{1, -1}
	c.Set(small, snapshot{number: -1, state: State{event.Key{Type: "m.room.create"}: "$c"}})
	for n := range int64(500) {
		for range 3 { // the older ones have been used more often
			c.Get(snapshotKey{1, 0})
		}
		c.Set(snapshotKey{1, n}, snapshot{number: n, state: state})
		for _, latest := range []int64{n, max(0, n-1)} {
			if sn, ok := c.Get(snapshotKey{1, latest}); !ok || sn.number != latest {
				t.Fatalf("state %d of %d is gone", latest, n)
			}
		}
	}
	if c.size > largeStateEntries || c.size != c.recent.Len()*len(state) || c.recent.Len() != len(c.byKey) {
		t.Errorf("%d entries in %d states, %d by key", c.size, c.recent.Len(), len(c.byKey))
	}
	if _, ok := c.Get(small); !ok {
		t.Error("a small state had to go")
	}
	c.Invalidate(snapshotKey{1, 499})
	if _, ok := c.Get(snapshotKey{1, 499}); ok {
		t.Error("an invalidated state is there")
	}
}

// SPDX-License-Identifier: Apache-2.0

package room

import (
	"testing"

	"github.com/konsil-health/konsil/internal/matrix/event"
)

// TestEventCacheKeepsNoStaleRead: an event that was read before a write and comes into the cache after it is not kept, neither after a replacement nor
// after a removal. Kept, an outlier would be taken for one after it has entered the history, and a redacted event would be shown whole.
func TestEventCacheKeepsNoStaleRead(t *testing.T) {
	t.Parallel()
	c, key := newEventCache(eventCacheBytes), eventKey{1, "$e"}
	outlier, promoted := &Event{Event: &event.Event{}, Outlier: true}, &Event{Event: &event.Event{}}

	mark := c.Mark(key)
	c.Invalidate(key)
	c.SetRead(key, outlier, mark)
	if e, ok := c.Get(key); ok {
		t.Errorf("what was read before the removal is kept: %+v", e)
	}
	mark = c.Mark(key)
	c.Set(key, promoted)
	c.SetRead(key, outlier, mark)
	if e, _ := c.Get(key); e != promoted {
		t.Errorf("what was read before the write has replaced it: %+v", e)
	}
	c.Invalidate(key)
	c.SetRead(key, promoted, c.Mark(key))
	if e, _ := c.Get(key); e != promoted {
		t.Error("what was read in peace is not kept")
	}
}

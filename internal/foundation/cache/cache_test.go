// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"testing"
	"time"
)

func TestCache(t *testing.T) {
	t.Parallel()
	type key struct{ a, b int64 }
	c := New(Options[key, string]{Entries: 100, Written: time.Hour})
	if v, ok := c.Get(key{1, 2}); ok || v != "" {
		t.Errorf("an empty cache has %q", v)
	}
	c.Set(key{1, 2}, "x")
	c.Set(key{1, 2}, "y")
	if v, ok := c.Get(key{1, 2}); !ok || v != "y" {
		t.Errorf("got %q, %v", v, ok)
	}
	if now, fresh := c.SetIfAbsent(key{1, 2}, "z"); fresh || now != "y" {
		t.Errorf("got %q, %v", now, fresh)
	}
	if now, fresh := c.SetIfAbsent(key{2, 1}, "z"); !fresh || now != "z" {
		t.Errorf("got %q, %v", now, fresh)
	}
	c.Invalidate(key{1, 2})
	if _, ok := c.Get(key{1, 2}); ok {
		t.Error("a dropped value is still there")
	}
}

func TestNilValues(t *testing.T) {
	t.Parallel()
	c := New(Options[string, *int]{Entries: 10})
	c.Set("gone", nil)
	if v, ok := c.Get("gone"); !ok || v != nil {
		t.Errorf("got %v, %v", v, ok)
	}
}

func TestUnboundedIsRefused(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("a cache without a bound was made")
		}
	}()
	New(Options[string, string]{})
}

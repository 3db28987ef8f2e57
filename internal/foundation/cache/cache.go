// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"time"

	"github.com/maypok86/otter/v2"
)

// Options bound a cache: by number of entries or by weight, one of the two.
type Options[K comparable, V any] struct {
	// Entries is the greatest number of entries.
	Entries int
	// Weight is the greatest sum of what Weigh says of the entries.
	Weight uint64
	Weigh  func(K, V) uint32
	// Written drops an entry so long after it was set, Read so long after it was last read; 0 is never.
	Written, Read time.Duration
}

// Cache maps keys to values and forgets what is used least. It is safe for concurrent use. Make one with [New].
type Cache[K comparable, V any] struct{ kept store }

// store is otter for any key and value. It is an interface with one implementation so that those who hold a cache need not know otter's types.
type store interface {
	get(key any) (any, bool)
	set(key, value any)
	setIfAbsent(key, value any) (any, bool)
	invalidate(key any)
	close()
}

type otterStore struct{ c *otter.Cache[any, any] }

func (s *otterStore) get(key any) (any, bool)                { return s.c.GetIfPresent(key) }
func (s *otterStore) set(key, value any)                     { s.c.Set(key, value) }
func (s *otterStore) setIfAbsent(key, value any) (any, bool) { return s.c.SetIfAbsent(key, value) }
func (s *otterStore) invalidate(key any)                     { s.c.Invalidate(key) }
func (s *otterStore) close()                                 { s.c.StopAllGoroutines() }

// New makes an empty cache. It panics on options that bound nothing, which is a mistake of the program.
func New[K comparable, V any](o Options[K, V]) Cache[K, V] {
	var weigh func(key, value any) uint32
	if o.Weigh != nil {
		weigh = func(key, value any) uint32 { return o.Weigh(key.(K), value.(V)) }
	}
	return Cache[K, V]{newStore(o.Entries, o.Weight, weigh, o.Written, o.Read)}
}

// newStore is not inlined: whoever gets its body compiles otter.
//
//go:noinline
func newStore(entries int, weight uint64, weigh func(key, value any) uint32, written, read time.Duration) store {
	o := &otter.Options[any, any]{MaximumSize: entries, MaximumWeight: weight, Weigher: weigh}
	switch {
	case entries == 0 && weight == 0:
		panic("cache: without a bound")
	case written > 0:
		o.ExpiryCalculator = otter.ExpiryWriting[any, any](written)
	case read > 0:
		o.ExpiryCalculator = otter.ExpiryAccessing[any, any](read)
	}
	return &otterStore{otter.Must(o)}
}

// Get returns a key's value, and whether there is one.
func (c Cache[K, V]) Get(key K) (value V, ok bool) {
	if found, there := c.kept.get(key); there {
		return found.(V), true
	}
	return value, false
}

// Set puts a value in place of an earlier one.
func (c Cache[K, V]) Set(key K, value V) { c.kept.set(key, value) }

// SetIfAbsent puts a value where there is none, and returns the one that is there now; fresh says that it is the new one.
func (c Cache[K, V]) SetIfAbsent(key K, value V) (now V, fresh bool) {
	found, fresh := c.kept.setIfAbsent(key, value)
	return found.(V), fresh
}

// Invalidate drops a key's value.
func (c Cache[K, V]) Invalidate(key K) { c.kept.invalidate(key) }

// Close ends the goroutine that drops expired entries, which a cache with Written or Read has. The cache goes on working, but for that.
func (c Cache[K, V]) Close() { c.kept.close() }

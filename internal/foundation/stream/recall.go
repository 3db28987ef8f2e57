// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"sync/atomic"

	"github.com/konsil-health/konsil/internal/foundation/cache"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
)

// Quiet says that memory holds all changes with positions in (after, upTo] and that concerns is true for none of them. It is false when memory
// does not reach back that far: then nothing is known. concerns runs under the feed's lock.
func (f *Feed) Quiet(t tenant.ID, after, upTo int64, concerns func(*Change) bool) bool {
	if after >= upTo {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	tl, found := f.tails[t]
	if !found || !tl.loaded || after < tl.floor || upTo > tl.position {
		return false
	}
	recent := tl.recent[after-tl.floor : upTo-tl.floor]
	for i := range recent {
		if concerns(&recent[i].Change) {
			return false
		}
	}
	return true
}

// Recall keeps what was read from the database for as long as the feed proves that no change concerned it since. It is safe for concurrent use.
type Recall[K comparable, V any] struct {
	feed  *Feed
	known cache.Cache[K, *recalled[V]]
}

// recalled is a value with the position up to which it is known to be true.
type recalled[V any] struct {
	at    atomic.Int64
	value V
}

// NewRecall returns an empty memory of at most so many values.
func NewRecall[K comparable, V any](feed *Feed, entries int) *Recall[K, V] {
	return &Recall[K, V]{feed, cache.New(cache.Options[K, *recalled[V]]{Entries: entries})}
}

// Get returns a value that is true at a position, if it is known. concerns says which changes put the value in doubt.
func (r *Recall[K, V]) Get(t tenant.ID, key K, at int64, concerns func(*Change) bool) (value V, ok bool) {
	k, found := r.known.Get(key)
	if !found {
		return value, false
	}
	was := k.at.Load()
	if at <= was {
		return k.value, true
	}
	if !r.feed.Quiet(t, was, at, concerns) {
		return value, false
	}
	k.at.CompareAndSwap(was, at)
	return k.value, true
}

// Set remembers a value. It was read after the feed had shown the position, so that it is true there or later.
func (r *Recall[K, V]) Set(key K, at int64, value V) {
	k := &recalled[V]{value: value}
	k.at.Store(at)
	r.known.Set(key, k)
}

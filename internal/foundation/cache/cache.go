// SPDX-License-Identifier: Apache-2.0

package cache

// Cache is what package otter's caches do, as far as we use it. It is an interface although there is one implementation, because of the compiler: a
// struct with a field of otter's generic type makes every package that needs to describe that struct compile the whole of otter again for those type
// arguments, which came to more than half of a build.
type Cache[K comparable, V any] interface {
	// GetIfPresent returns the value, and whether there is one.
	GetIfPresent(key K) (V, bool)
	// Set puts a value in place of an earlier one, which it returns with false; with true, there was none.
	Set(key K, value V) (V, bool)
	// SetIfAbsent leaves an earlier value in place and returns it with false.
	SetIfAbsent(key K, value V) (V, bool)
	// Invalidate drops a value and returns it.
	Invalidate(key K) (V, bool)
}

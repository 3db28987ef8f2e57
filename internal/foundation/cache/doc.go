// SPDX-License-Identifier: Apache-2.0

// Package cache keeps values in memory within a bound. What is in a cache can be read from the database again and may be dropped at any instant.
//
// It stands before package otter, which does the work, for the compiler's sake: otter is generic through and through, and every package that holds
// or merely describes one of its caches would compile all of it once more for its own types, which came to more than half of a build. Here it is
// compiled once, for keys and values as interfaces.
package cache

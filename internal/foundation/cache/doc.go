// SPDX-License-Identifier: Apache-2.0

// Package cache names what a bounded cache in memory does. Whoever holds one holds it as [Cache] and makes it with otter; what is in it can be read
// from the database again, and may be dropped at any instant. The package stores nothing itself.
package cache

// SPDX-License-Identifier: Apache-2.0

// Package limit owns the token buckets that bound how often a user, an address or a peer may ask. A bucket belongs to (class, tenant, key), so
// that one tenant's bot never slows its neighbours. The edge (httpapi) asks once per request by the route's class; a slice asks where it knows
// a better key, such as the account that somebody tries to sign in to. The package never waits, starts no goroutine, and its memory is bounded.
package limit

// SPDX-License-Identifier: Apache-2.0

// Package clientsync answers /sync and simplified sliding sync (MSC4186): what changed for a user since a position of the tenant's stream (engine
// rules 7, 8 and 28 to 30). It fixes the upper bound first, asks the feed what changed, and reads only that from the slices that own it; a sync that
// finds nothing waits for the feed. It writes nothing but the connections of sliding sync, and deletes the to-device messages that the device has
// shown to have received.
package clientsync

// SPDX-License-Identifier: Apache-2.0

// Package stream owns time in a tenant: the committer, which groups what many rooms, users and tenants wait for into one transaction and
// gives each durable change the tenant's next position; the recent changes kept in memory; and the wake-ups of waiting syncs and consumers.
// Slices hand it a [Plan] of what one request changes; it never reads or interprets their rows. Engine rules 1–8 are its law, commit.md its
// measured procedure.
package stream

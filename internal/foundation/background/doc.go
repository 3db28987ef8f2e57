// SPDX-License-Identifier: Apache-2.0

// Package background runs what a service does beside requests, and ends it with the service. The slices of the homeserver and of telematik use it. It
// starts nothing by itself, keeps nothing and retries nothing: what must survive a stop is in the database.
package background

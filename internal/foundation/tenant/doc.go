// SPDX-License-Identifier: Apache-2.0

// Package tenant owns the first key of every table: a tenant is a server, one organisation's server name with its own users, rooms, keys and
// stream position. It maps hosts to tenants (engine rule 19), creates tenants and carries the tenant of a request in its context. The edge
// (httpapi) and the composition root call it; it never touches a slice's table, and position and epoch are written by package stream alone.
package tenant

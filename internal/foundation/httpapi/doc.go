// SPDX-License-Identifier: Apache-2.0

// Package httpapi is the edge: one route table for every API of a node, and everything that is true of every request. It finds the tenant
// (engine rule 19), the route, the caller (by asking account or federation through small interfaces), applies rate and size limits and the
// policy's word on the route, decodes, encodes, turns errors into the standard ones, adds CORS and writes the access log, which names neither
// content nor tokens nor users. [Router.Dispatch] is the same edge without a socket, for tenants of one cell that talk with each other (engine
// rule 18). Slices give it their routes; it never touches a table of theirs and knows nothing of rooms.
package httpapi

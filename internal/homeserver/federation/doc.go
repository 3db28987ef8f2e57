// SPDX-License-Identifier: Apache-2.0

// Package federation is the server-server API of every tenant, in both directions: it finds other servers, signs and authenticates requests,
// fetches and publishes keys, verifies the signatures of events, answers inbound routes and delivers what the outbox says is pending.
//
// Room work belongs to package room: federation implements room's Remote interface and calls room's inbound functions; it never decides
// whether an event is allowed and never writes a room's table. Between two tenants of one cell the transport is a function call instead of
// HTTP, and nothing above the transport knows the difference (engine rule 18). Every durable fact that the sender needs (what is pending, the
// transaction under way, back-off) is a row; memory holds only what may be lost.
package federation

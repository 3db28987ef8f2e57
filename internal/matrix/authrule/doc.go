// SPDX-License-Identifier: Apache-2.0

// Package authrule decides whether an event is allowed by a given state: the authorisation rules of each room
// version, and which state an event has to name as its auth_events.
//
// Room asks it three times for an event on receipt (against auth_events, against the state before, against the
// current state), state resolution once more. It never checks signatures of events and never looks state up.
// Specification: "Room Versions", "Authorisation rules" of each version; server-server API, "Auth events selection".
package authrule

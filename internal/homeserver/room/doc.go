// SPDX-License-Identifier: Apache-2.0

// Package room is the one door for events: whatever becomes part of a room, sent by a local client, another server or an application
// service, is authorised, signed, resolved into the state, committed and announced here (design rule 3). It owns rooms, their heads, events,
// state snapshots, memberships, aliases and the staging of incoming PDUs, per tenant: two tenants in the same room keep two copies that meet
// over federation. Slices above read rooms through it. It talks to other servers only through [Remote] and never holds a room's turn while it
// does (engine rule 2).
package room

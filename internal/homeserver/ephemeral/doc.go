// SPDX-License-Identifier: Apache-2.0

// Package ephemeral owns what passes: read receipts and read markers (durable, with a position), typing (memory) and presence (memory, off unless
// configured). It serves the client routes, takes the EDUs of other servers and hands its own to a function that the composition root joins to
// federation. It never changes a room.
package ephemeral

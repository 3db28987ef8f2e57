// SPDX-License-Identifier: Apache-2.0

// Package retention removes messages that are older than their room lets them be: the room's own m.room.retention (MSC1763) within the limits of the
// server, or the server's default. It never touches state, and leaves a room's last message where it is, because the next one is built on it.
//
// room_retention holds a row for each room that is to be looked at, with the time when. A room without a policy on a server without a default has none,
// and costs nothing. Whichever node is first moves the row's time on and does the work.
package retention

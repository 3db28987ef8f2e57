// SPDX-License-Identifier: Apache-2.0

// Package timeline is how clients read rooms: history, context, single events, state, members, relations and threads, always through what the
// reader may see (engine rule 15). It owns the tokens that clients hold: places in a room's history and positions in the tenant's stream, sealed
// so that they tell nothing (engine rule 7), and the event filters of the client-server API. It changes nothing but what backfilling brings.
package timeline

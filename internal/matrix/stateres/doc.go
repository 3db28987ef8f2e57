// SPDX-License-Identifier: Apache-2.0

// Package stateres merges the states of a room's forks into one: state resolution version 1 of room
// version 1, 2 of versions 2 to 11, and 2.1 of version 12, chosen by the room version's trait.
//
// Room calls it with states and a Source of the events in memory. It loads nothing: what it lacks it names in a
// MissingError. The result does not depend on the order of the states, of map iteration or of arrival; the work is
// iterative and its memory is proportional to the events reached.
//
// Two readings of the text, both those of the servers that rooms are shared with, because servers that disagree
// split rooms: a power event of type m.room.power_levels or m.room.join_rules has an empty state key; and the auth
// chain that is ordered with a power event is followed within the full conflicted set. In version 2.1 the second
// makes no difference (the conflicted state subgraph closes every such gap).
//
// Version 1 leaves open what stands in a place for which no event is allowed: it is the one of the least depth, as the
// servers that rooms of that version are shared with have it.
//
// Specification: "Room Versions", "State resolution" of versions 1, 2 and 12.
package stateres

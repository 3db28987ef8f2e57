// SPDX-License-Identifier: Apache-2.0

// Package event is the persistent data unit of Matrix rooms: parse, build, hash, redact, sign, verify.
//
// An Event is immutable, safe for concurrent use, and keeps its canonical bytes exactly; changing one makes a new
// one. Room, federation and the other core packages use it. It never decides whether an event is allowed
// (authrule), which keys are trusted (federation), or what clients see (room).
// Specification: server-server API, "PDUs" and "Signing Events"; "Room Versions", "Event format" of each version.
package event

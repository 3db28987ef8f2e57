// SPDX-License-Identifier: Apache-2.0

// Package roomversion is the table of what differs between room versions.
//
// A row is a Version: traits that event, authrule and stateres ask instead of comparing version names. A new room
// version is a new row, and perhaps a new trait. The package decides nothing else.
// Specification: "Room Versions".
package roomversion

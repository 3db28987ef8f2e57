// SPDX-License-Identifier: Apache-2.0

// Package id gives each kind of Matrix identifier a string type of its own and parses it once, at the edge.
//
// Everybody imports it; it imports nothing of the project. A value converted from a string without parsing
// is trusted (it came out of our database or out of a parsed event); accessors never panic on a bad one, they
// return empty parts. Specification: appendices, "Identifier Grammar".
package id

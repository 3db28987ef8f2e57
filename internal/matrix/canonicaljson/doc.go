// SPDX-License-Identifier: Apache-2.0

// Package canonicaljson makes the canonical form that Matrix hashes and signs, and reads raw JSON objects
// without building trees of them.
//
// It works on bytes: what it does not have to change stays as it was, so numbers and strings never pass through
// floats or maps. It decides what is valid JSON for events; what the members mean is event's and authrule's
// business. Specification: appendices, "Canonical JSON".
package canonicaljson

// SPDX-License-Identifier: Apache-2.0

// Package signing signs and checks JSON objects with ed25519: server keys, device keys, cross-signing,
// third-party invites, X-Matrix requests.
//
// Events are signed over their redacted form and belong to package event, which shares the pieces here. The
// package holds no keys and finds none. Specification: appendices, "Signing JSON".
package signing

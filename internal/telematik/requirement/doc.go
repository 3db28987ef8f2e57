// SPDX-License-Identifier: Apache-2.0

// Package requirement traces gematik's requirements: one line each, what of it holds and which tests show it. It owns that table and
// docs/requirements.md, which is written from it; nothing at run time reads it. Only its own test and "make docs" call it, and it decides nothing.
package requirement

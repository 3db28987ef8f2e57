// SPDX-License-Identifier: Apache-2.0

// Package authority is a small private certificate authority for TLS between servers of the demonstration and of tests, where no public one
// can issue anything. The composition root and the harness use it; it has nothing to do with cards, and a node in production refuses its roots.
package authority

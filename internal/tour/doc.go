// SPDX-License-Identifier: Apache-2.0

// Package tour is one consultation from beginning to end, with real clients and real encryption, in the demonstration network: an institution registers
// with its card, a physician finds a colleague in the directory and invites her, they prove who they are, exchange messages and a file, a stranger is
// refused, a provider restarts in the middle, and nothing is lost or doubled. `konsil demo --tour` prints its steps; TestConsultation runs the same ones.
// It is built with the tag goolm (docs/decisions/0005).
package tour

// SPDX-License-Identifier: Apache-2.0

// Package demo is a small country in one process: central services (directory, test PKI of the cards, federation list, registration) and two
// providers, each a cell of its own with its own database, that federate with each other over real HTTPS on loopback. `konsil demo` starts it, the
// tour and tests walk through it. It is composition only: every part is the one that production runs. Its roots and cards are worth nothing
// elsewhere, and a node in production refuses them.
package demo

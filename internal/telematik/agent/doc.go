// SPDX-License-Identifier: Apache-2.0

// Package agent is the authenticator on a user's own machine, in the place of gematik's: a page on loopback that shows who wants to know who the user
// is, asks for the card's PIN, signs the identity provider's challenge and sends the browser back. [Agent] gets its cards through one small interface
// and knows one identity provider; it fetches nothing from elsewhere and signs for nobody else. `konsil card agent` and tests use it. It keeps nothing.
package agent

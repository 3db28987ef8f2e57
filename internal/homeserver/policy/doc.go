// SPDX-License-Identifier: Apache-2.0

// Package policy is what may be decided about a homeserver from outside: allow, refuse with a code, or rewrite a request, per route and per
// class of event. The homeserver's slices ask it; telematik/permission answers for the TI-Messenger and [Open] for an ordinary homeserver.
// It holds no rule of the homeserver itself: what the Matrix specification demands is checked by the slices, whatever the policy says.
package policy

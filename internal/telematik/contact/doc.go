// SPDX-License-Identifier: Apache-2.0

// Package contact is contact management for older clients (gematik, I_TiMessengerContactManagement 1.0.3, of the line 1.x): a user keeps a list of
// whom to be invited by, each for a time. Clients of today write a permission configuration instead, which package permission knows; who has both gets
// the invitation that either allows, unless the configuration names the inviter. The module is off unless the configuration switches it on.
package contact

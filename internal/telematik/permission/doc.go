// SPDX-License-Identifier: Apache-2.0

// Package permission is who may do what with whom in the TI-Messenger, in terms of release V3 (Basis 1.2, Pro 1.1, ePA 1.2): stage 1, both
// domains on the federation list, between neighbours of a cell as between strangers; the user's own permission configuration, enforced by the
// server; insured people never among themselves; and what rooms and events may be. It implements homeserver/policy and is asked through it.
// It keeps nothing itself: the list comes from fedlist, the configuration from the user's account data.
package permission

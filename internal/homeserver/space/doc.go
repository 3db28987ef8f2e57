// SPDX-License-Identifier: Apache-2.0

// Package space shows rooms to people who are not in them: the tree of a space, walked room by room and across servers, and the summary of a
// single room (client-server API, "Spaces" and "Room summary"). It decides who may see such a summary, for users and for other servers; what
// other servers know it asks through a function that package federation gives. It keeps nothing but caches.
package space

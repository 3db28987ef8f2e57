// SPDX-License-Identifier: Apache-2.0

// Package encryption owns the public side of end-to-end encryption: device and cross-signing keys, one-time and fallback keys, the list of each
// user's devices and who is told of its changes, messages from device to device, and key backup. It sees no private key and no content.
// clientsync reads inboxes, counts and changed lists through it; federation reads what other servers ask for, hands over what they send, and
// implements [Remote]. It tracks the devices of other servers' users while a room is shared. It never writes a room and never decides who
// may join one. Engine rules 26–28 are its law.
package encryption

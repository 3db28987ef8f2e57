// SPDX-License-Identifier: Apache-2.0

// Package delayed keeps events that clients have handed over to be sent later, unless they are held up again: what lets a call end for somebody
// whose client is gone (MSC4140). The rows are the timers; a node has one timer in memory, for the next of them, and none when there is nothing.
package delayed

// SPDX-License-Identifier: Apache-2.0

// Package bench measures a running Konsil from outside: it boots the program as a process of its own, speaks HTTP to it, reads its metrics,
// and sets what it reached beside what the bare database, disk and signature do in the same run (package limits). Everything is bounded in
// count and time, stays on loopback, and leaves nothing behind. It imports nothing of internal/; `konsil bench` prints what it returns.
package bench

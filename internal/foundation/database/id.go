// SPDX-License-Identifier: Apache-2.0

package database

import (
	"math/rand/v2"
	"sync"
	"time"
)

// idEpoch is 2025-01-01 in ms: what NewID counts from, so that 41 bits last until 2094.
const idEpoch = 1735689600000

var ids = struct {
	sync.Mutex
	last int64
	node int64
}{node: rand.Int64N(1 << 10)}

// NewID returns a new numeric key (nid) of a row: unique in the cell, positive, growing with time so that indexes fill from one end. It is
// 41 bits of milliseconds, 12 bits of sequence and 10 random bits of this process; no round trip to the database is needed.
func NewID() int64 {
	now := (time.Now().UnixMilli() - idEpoch) << 12
	ids.Lock()
	defer ids.Unlock()
	ids.last = max(ids.last+1, now)
	return ids.last<<10 | ids.node
}

// IDAt is the least number that [NewID] can have returned at a time or later: what is less is older.
func IDAt(at time.Time) int64 { return max(0, (at.UnixMilli()-idEpoch)<<12<<10) }

// SPDX-License-Identifier: Apache-2.0

package room_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/homeserver/room"
)

// TestSnapshotChains: engine rule 13. A state is never more than 32 deltas away from a full one; a delta is one row, and messages write none.
func TestSnapshotChains(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		h := open(t, db)
		ctx, empty := context.Background(), ""
		r := h.create(t, "12")
		for i := range 80 {
			_, err := h.Send(ctx, h.t, room.Draft{Room: r.ID, Sender: anna, Type: "m.room.topic", StateKey: &empty, Content: jsontext.Value(fmt.Sprintf(`{"topic":"%d"}`, i))})
			if err != nil {
				t.Fatal(err)
			}
		}
		parents := map[int64]int64{}
		entries := map[int64]int{}
		read := func() {
			t.Helper()
			rows, err := db.Query(ctx, `SELECT s.snapshot, s.parent, (SELECT COUNT(*) FROM snapshot_entry e WHERE e.tenant = s.tenant AND e.snapshot = s.snapshot)
				FROM snapshot s WHERE s.tenant = $1 AND s.room = $2`, int64(h.t.ID), r.NID)
			_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
				var snapshot, parent int64
				var n int
				err := rows.Scan(&snapshot, &parent, &n)
				parents[snapshot], entries[snapshot] = parent, n
				return struct{}{}, err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		read()
		if len(parents) < 80 {
			t.Fatalf("%d snapshots of 80 topics", len(parents))
		}
		longest, full := 0, 0
		for snapshot, parent := range parents {
			deltas := 0
			for at := parent; at != 0; at = parents[at] {
				deltas++
			}
			longest = max(longest, deltas)
			if parent == 0 {
				full++
			} else if entries[snapshot] != 1 {
				t.Errorf("one topic is a delta of %d rows", entries[snapshot])
			}
		}
		if longest != 32 || full < 3 {
			t.Errorf("the longest chain has %d deltas, %d snapshots are full", longest, full)
		}
		before := len(parents)
		for i := range 5 {
			if _, err := h.send(r, anna, fmt.Sprint(i), nil); err != nil {
				t.Fatal(err)
			}
		}
		if read(); len(parents) != before {
			t.Errorf("5 messages made %d snapshots", len(parents)-before)
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package room_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/homeserver/room"
)

func (h *house) txns(t *testing.T) (n int) {
	t.Helper()
	if err := h.db.QueryRow(context.Background(), "SELECT COUNT(*) FROM txn").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestTransactionIDsAreForgotten: engine rule 5. A transaction id is good for 24 hours on any node, then its row goes; many go a chunk at a time.
func TestTransactionIDsAreForgotten(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		ctx := context.Background()
		h := open(t, db)
		r := h.create(t, "11")
		txn := &room.Txn{Device: "D", Scope: "send", ID: "1"}
		first, err := h.send(r, anna, "once", txn)
		if err != nil {
			t.Fatal(err)
		}
		in := func(after time.Duration) *house {
			later := open(t, db)
			later.SetNow(func() time.Time { return time.Now().Add(after) })
			return later
		}
		early := in(23 * time.Hour)
		if more, err := early.ForgetTxns(ctx); more || err != nil {
			t.Fatalf("something was forgotten after 23 hours: %v, %v", more, err)
		}
		if again, err := early.send(r, anna, "once", txn); err != nil || again != first {
			t.Fatalf("repeated after 23 hours: %s, %v, want %s", again, err, first)
		}
		if again, err := open(t, db).send(r, anna, "once", txn); err != nil || again != first {
			t.Fatalf("repeated on another node: %s, %v, want %s", again, err, first)
		}
		for i := range 2*room.TxnChunk + 10 { // of several tenants, older than the one above
			if _, err := db.Exec(ctx, "INSERT INTO txn (tenant, user_id, device, scope, txn_id, event_id, created) VALUES ($1, '@x:y', 'D', 's', $2, '$e', $3)",
				int64(h.t.ID)+int64(i%3), fmt.Sprint(i), int64(i)); err != nil {
				t.Fatal(err)
			}
		}
		late := in(25 * time.Hour)
		for _, left := range []int{room.TxnChunk + 11, 11, 0} {
			if more, err := late.ForgetTxns(ctx); !more || err != nil {
				t.Fatalf("more %v, %v", more, err)
			}
			if n := late.txns(t); n != left {
				t.Fatalf("%d transaction ids are left, want %d", n, left)
			}
		}
		if more, err := late.ForgetTxns(ctx); more || err != nil {
			t.Fatalf("there is nothing left, but %v, %v", more, err)
		}
		if again, err := late.send(r, anna, "once", txn); err != nil || again == first {
			t.Errorf("an id of two days ago is a new one's: %s, %v", again, err)
		}
	})
}

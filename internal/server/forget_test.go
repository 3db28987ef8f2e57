// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"testing"
	"time"
)

// TestAServerForgetsTransactionIDs: engine rule 5. Nobody has to ask for it.
func TestAServerForgetsTransactionIDs(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *Server) {
		alice := signUp(t, s, "alice")
		room := alice.room()
		alice.send(room, "new")
		ctx := context.Background()
		if _, err := s.node.db.Exec(ctx, "UPDATE txn SET created = 1"); err != nil {
			t.Fatal(err)
		}
		s.node.rooms.Start() // as after a restart
		for end := time.Now().Add(30 * time.Second); rows(t, s.node.db)["txn"] > 0; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the transaction id is still there")
			}
		}
	})
}

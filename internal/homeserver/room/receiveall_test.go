// SPDX-License-Identifier: Apache-2.0

package room_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/konsil-health/konsil/internal/matrix/event"
)

// TestTransactionLeavesNoGap: the events of a transaction are committed together, each citing the one before. None of them is missing for the next.
func TestTransactionLeavesNoGap(t *testing.T) {
	withPeer(t, "12", func(t *testing.T, p *peer) {
		ctx := context.Background()
		for round := range 5 {
			on := p.heads()
			var chain []*event.Event
			for i := range 20 {
				e := p.message(on, fmt.Sprint(round, " ", i))
				on, chain = []*event.Event{e}, append(chain, e)
			}
			for i, err := range p.h.ReceiveAll(ctx, p.h.t, "b.example", chain) {
				if err != nil {
					t.Fatalf("event %d: %v", i, err)
				}
			}
			citing, err := p.h.Citing(ctx, p.h.t.ID, []int64{p.r.NID})
			if err != nil || len(citing) > 0 {
				t.Fatalf("round %d: gaps before %v, %v", round, citing, err)
			}
		}
	})
}

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

// TestFullCache: events that are being committed are there for the next ones even when the cache has no room for them.
func TestFullCache(t *testing.T) {
	withPeer(t, "12", func(t *testing.T, p *peer) {
		ctx := context.Background()
		p.h.Forgetful()
		on := p.heads()
		var chain []*event.Event
		for i := range 50 {
			e := p.message(on, fmt.Sprint(i))
			on, chain = []*event.Event{e}, append(chain, e)
			p.hidden[e.ID()] = true // it cannot be had again
		}
		for i, err := range p.h.ReceiveAll(ctx, p.h.t, "b.example", chain) {
			if err != nil {
				t.Fatalf("event %d: %v", i, err)
			}
		}
		if p.count("missing")+p.count("state")+p.count("event") != 0 {
			t.Error("the peer was asked for what it had just sent")
		}
		if now := p.heads(); len(now) != 1 || now[0].ID() != on[0].ID() {
			t.Errorf("%d ends of the graph", len(now))
		}
	})
}

// TestTransactionAsksOnce: what events that nobody knows yet cost in queries does not grow with their number.
func TestTransactionAsksOnce(t *testing.T) {
	withPeer(t, "11", func(t *testing.T, p *peer) {
		ctx := context.Background()
		on := p.heads()
		var chain []*event.Event
		for i := range 40 {
			e := p.message(on, fmt.Sprint(i))
			on, chain = []*event.Event{e}, append(chain, e)
		}
		before := p.h.DB.Counters().Queries
		for i, err := range p.h.ReceiveAll(ctx, p.h.t, "b.example", chain) {
			if err != nil {
				t.Fatalf("event %d: %v", i, err)
			}
		}
		if n := p.h.DB.Counters().Queries - before; n > 10 {
			t.Errorf("%d queries for %d events", n, len(chain))
		}
	})
}

// TestRedactionComesFirst: a redaction that comes before its event, even in one transaction with it, takes effect when the event comes.
func TestRedactionComesFirst(t *testing.T) {
	withPeer(t, "11", func(t *testing.T, p *peer) {
		ctx := context.Background()
		on := p.heads()
		regretted := p.message(on, "regretted")
		redaction := p.make(on, ben2, "m.room.redaction", noKey, fmt.Sprintf(`{"redacts":%q}`, regretted.ID()))
		for i, err := range p.h.ReceiveAll(ctx, p.h.t, "b.example", []*event.Event{redaction, regretted}) {
			if err != nil {
				t.Fatalf("event %d: %v", i, err)
			}
		}
		got, err := p.h.Event(ctx, p.h.t.ID, regretted.ID())
		if err != nil || got.RedactedBy != redaction.ID() {
			t.Errorf("redacted by %q, %v, want %s", got.RedactedBy, err, redaction.ID())
		}
	})
}

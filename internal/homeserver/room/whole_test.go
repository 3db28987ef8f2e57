// SPDX-License-Identifier: Apache-2.0

package room_test

import (
	"context"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// TestStateStaysWhole: state that is here in full keeps its content when the same event comes again with only what redaction keeps, as news or as
// history: that is how a server hands out what its counterpart's people might not read when it was said.
func TestStateStaysWhole(t *testing.T) {
	for _, way := range []string{"news", "history"} {
		t.Run(way, func(t *testing.T) {
			withPeer(t, "10", func(t *testing.T, p *peer) {
				join := p.make(p.heads(), eva, event.TypeMember, string(eva), `{"displayname":"Eva","membership":"join"}`)
				uses := p.make([]*event.Event{join}, eva, "m.room.message", noKey, `{"body":"x","msgtype":"m.text"}`, func(d *event.Draft) { d.AuthEvents = append(d.AuthEvents, join.ID()) })
				p.states[uses.ID()] = append(p.states[uses.ID()], join.ID())
				p.hideFrom("missing", join.ID())
				p.accept(uses)
				if e := p.stored(join.ID()); !e.Outlier {
					t.Fatalf("%+v", e)
				}
				bare, err := join.Redact()
				if err != nil {
					t.Fatal(err)
				}
				p.events[join.ID()] = bare
				if way == "news" {
					p.accept(bare)
				} else if n, err := p.h.Backfill(context.Background(), p.h.t, p.r, []id.Event{join.ID()}, 1); err != nil || n != 1 {
					t.Fatalf("%d, %v", n, err)
				}
				if e := p.stored(join.ID()); e.Outlier || e.Rejected || !strings.Contains(string(e.Content()), "Eva") {
					t.Errorf("%+v: %s", e, e.Content())
				}
			})
		})
	}
}

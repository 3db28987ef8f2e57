// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"testing"

	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// TestClosestEvent: who came late asks the others what was said at a time, and has the event then.
func TestClosestEvent(t *testing.T) {
	everyWay(t, func(t *testing.T, p pair) {
		ctx := t.Context()
		anna, ben := p.a.user("anna"), p.b.user("ben")
		r := p.a.create(anna, policy.CreateRoom{Preset: "public_chat", RoomVersion: "11"})
		const day = int64(86_400_000)
		var said []id.Event
		for i := range int64(12) {
			said = append(said, p.a.sayAt(r, anna, i*day))
		}
		if err := p.b.rooms.Join(ctx, p.b.me, ben, r, []id.Server{nameA}, ""); err != nil {
			t.Fatal(err)
		}
		rb, err := p.b.rooms.Lookup(ctx, p.b.me.ID, r)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			ts        int64
			backwards bool
			want      id.Event
		}{{3*day + 2, true, said[3]}, {3*day + 2, false, said[4]}, {8*day + 1, false, said[8]}, {8*day + 1, true, said[8]}} {
			e, err := p.b.rooms.Closest(ctx, p.b.me, rb, ben, c.ts, c.backwards)
			if err != nil || e.ID() != c.want {
				t.Errorf("closest to %d, backwards %v: %v, %v", c.ts, c.backwards, e, err)
			}
		}
		_, err = p.b.rooms.Closest(ctx, p.b.me, rb, ben, -day, true)
		hasCode(t, err, mxerror.NotFound)
		_, err = p.b.rooms.Closest(ctx, p.b.me, rb, ben, 1<<52, false)
		hasCode(t, err, mxerror.NotFound)
	})
}

// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"slices"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// succeedsMost bounds how many events without a place in the room are looked behind for one event.
const succeedsMost = 200

// succeeds returns what a live event makes inner nodes of the graph: the events that it cites and, where one of those is rejected or soft-failed and
// thus never was an end of the graph itself, those behind it. Without it, what others built on an event that we do not show would leave an end
// behind for ever.
func (s *Service) succeeds(ctx context.Context, t tenant.ID, r *Room, h *head, e *event.Event) ([]id.Event, error) {
	out := slices.Clone(e.PrevEvents())
	isEnd := func(eid id.Event) bool { return slices.Contains(h.extremities, eid) }
	front := slices.DeleteFunc(slices.Clone(out), isEnd)
	for len(front) > 0 && len(out) < succeedsMost {
		known, err := s.known(ctx, t, r.NID, front)
		if err != nil {
			return nil, err
		}
		front = nil
		for _, k := range known {
			if !k.Rejected && !k.SoftFailed {
				continue
			}
			for _, p := range k.PrevEvents() {
				if slices.Contains(out, p) {
					continue
				}
				out = append(out, p)
				if !isEnd(p) {
					front = append(front, p)
				}
			}
		}
	}
	return out, nil
}

// SPDX-License-Identifier: Apache-2.0

package stateres

import (
	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/event"
)

// apply is the iterative auth checks algorithm: each event that the state so far allows becomes part of it.
func (r *resolver) apply(sorted []int32) {
	view := &stateView{r: r}
	for _, n := range sorted {
		view.of = n
		ev := r.nodes[n].ev
		if authrule.Allowed(ev, view, r.create) == nil {
			r.state[ev.Key()] = n
		}
	}
}

// stateView is the state against which one event is judged: what is resolved so far, then the unconflicted state
// (not in version 2.1, which starts from nothing), then the event's own auth events that were not rejected.
type stateView struct {
	r  *resolver
	of int32
}

// Get implements authrule.State.
func (s *stateView) Get(k event.Key) *event.Event {
	r := s.r
	if n, ok := r.state[k]; ok {
		return r.nodes[n].ev
	}
	if !r.emptyStart {
		if eid, ok := r.base[k]; ok {
			return r.nodes[r.at(eid)].ev
		}
	}
	for _, a := range r.auth(s.of) {
		ev := r.nodes[a].ev
		if ev != nil && ev.Type() == k.Type && ev.StateKeyIs(k.StateKey) && !r.src.Rejected(ev.ID()) {
			return ev
		}
	}
	return nil
}

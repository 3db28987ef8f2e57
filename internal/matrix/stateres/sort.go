// SPDX-License-Identifier: Apache-2.0

package stateres

import (
	"cmp"
	"container/heap"
	"math"
	"slices"

	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// isPower reports whether an event may take somebody's power to do something.
func isPower(ev *event.Event) bool {
	switch ev.Type() {
	case event.TypePowerLevels, event.TypeJoinRules:
		return ev.StateKeyIs("")
	case event.TypeMember:
		m := ev.Membership()
		return (m == "leave" || m == "ban") && !ev.StateKeyIs(string(ev.Sender()))
	}
	return false
}

// splitPower divides the full conflicted set into the power events, each with what of its auth chain is in the set,
// and the rest.
func (r *resolver) splitPower(full []int32) (power, rest []int32) {
	r.stack = r.stack[:0]
	for _, n := range full {
		if isPower(r.nodes[n].ev) && !r.nodes[n].sorted {
			r.nodes[n].sorted = true
			r.stack = append(r.stack, n)
		}
	}
	for len(r.stack) > 0 {
		n := r.stack[len(r.stack)-1]
		r.stack = r.stack[:len(r.stack)-1]
		for _, a := range r.auth(n) {
			if x := &r.nodes[a]; x.full && !x.sorted && x.ev.IsState() {
				x.sorted = true
				r.stack = append(r.stack, a)
			}
		}
	}
	for _, n := range full {
		if r.nodes[n].sorted {
			power = append(power, n)
		} else {
			rest = append(rest, n)
		}
	}
	return power, rest
}

// sortByPower is the reverse topological power ordering: Kahn's algorithm over the auth events within the set, taking
// the sender with the most power first, then the earliest, then the least id.
func (r *resolver) sortByPower(set []int32) []int32 {
	dependents := make(map[int32][]int32, len(set))
	queue := &powerQueue{r: r}
	for _, n := range set {
		x := &r.nodes[n]
		x.power = r.senderPower(n)
		auth := r.auth(n)
		for i, a := range auth {
			if r.nodes[a].sorted && !slices.Contains(auth[:i], a) {
				x.pending++
				dependents[a] = append(dependents[a], n)
			}
		}
		if x.pending == 0 {
			queue.heap = append(queue.heap, n)
		}
	}
	heap.Init(queue)
	out := make([]int32, 0, len(set))
	for queue.Len() > 0 {
		n := heap.Pop(queue).(int32)
		out = append(out, n)
		for _, d := range dependents[n] {
			x := &r.nodes[d]
			if x.pending--; x.pending == 0 {
				heap.Push(queue, d)
			}
		}
	}
	return out
}

// senderPower is the level of an event's sender by the power levels and the create event among its own auth events.
func (r *resolver) senderPower(n int32) int64 {
	var pl *event.Event
	create := r.create
	for _, a := range r.auth(n) {
		ev := r.nodes[a].ev
		if ev == nil || !ev.StateKeyIs("") {
			continue
		}
		switch ev.Type() {
		case event.TypePowerLevels:
			pl = ev
		case event.TypeCreate:
			create = ev
		}
	}
	// An event with senseless levels counts for what of it makes sense, so the error is not one here.
	levels, _ := authrule.ReadPowerLevels(r.version, pl, create)
	return levels.User(r.nodes[n].ev.Sender())
}

// powerQueue is a heap of nodes, the next one of the ordering first.
type powerQueue struct {
	r    *resolver
	heap []int32
}

func (q *powerQueue) Len() int { return len(q.heap) }

func (q *powerQueue) Less(i, j int) bool {
	x, y := &q.r.nodes[q.heap[i]], &q.r.nodes[q.heap[j]]
	if x.power != y.power {
		return x.power > y.power
	}
	return compareAge(x.ev, y.ev) < 0
}

func (q *powerQueue) Swap(i, j int) { q.heap[i], q.heap[j] = q.heap[j], q.heap[i] }
func (q *powerQueue) Push(x any)    { q.heap = append(q.heap, x.(int32)) }
func (q *powerQueue) Pop() any {
	last := q.heap[len(q.heap)-1]
	q.heap = q.heap[:len(q.heap)-1]
	return last
}

func compareAge(x, y *event.Event) int {
	return cmp.Or(cmp.Compare(x.Timestamp(), y.Timestamp()), cmp.Compare(x.ID(), y.ID()))
}

// noMainline is the position of events without a power levels event on the mainline: before all others.
const noMainline = math.MaxInt32

// sortByMainline is the mainline ordering based on the power levels of the partially resolved state.
func (r *resolver) sortByMainline(set []int32) ([]int32, error) {
	pl, ok := r.state[event.Key{Type: event.TypePowerLevels}]
	if !ok && !r.emptyStart {
		if eid, found := r.base[event.Key{Type: event.TypePowerLevels}]; found {
			pl, ok = r.at(eid), true
		}
	}
	position, err := r.positions(set, pl, ok)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(set, func(a, b int32) int {
		return cmp.Or(cmp.Compare(position[b], position[a]), compareAge(r.nodes[a].ev, r.nodes[b].ev))
	})
	return set, nil
}

// positions returns the place of each event on the mainline behind the power levels event pl, if there is one.
func (r *resolver) positions(set []int32, pl int32, ok bool) (map[int32]int32, error) {
	if r.known != nil {
		return r.knownPositions(set, pl, ok)
	}
	for i := int32(0); ok && !r.nodes[pl].done; i++ {
		r.nodes[pl].mainline, r.nodes[pl].done = i, true
		pl, ok = r.powerLevelsOf(pl)
	}
	position := make(map[int32]int32, len(set))
	for _, n := range set {
		position[n] = r.mainlinePosition(n)
	}
	return position, nil
}

func (r *resolver) knownPositions(set []int32, top int32, ok bool) (map[int32]int32, error) {
	position := make(map[int32]int32, len(set))
	behind := make(map[int32]id.Event, len(set))
	var ids []id.Event
	for _, n := range set {
		position[n] = noMainline
		if pl, has := r.powerLevelsOf(n); has {
			behind[n] = r.nodes[pl].ev.ID()
			ids = append(ids, behind[n])
		}
	}
	if !ok || len(ids) == 0 || r.nodes[top].ev == nil {
		return position, nil
	}
	slices.Sort(ids)
	steps, err := r.known.Mainline(r.nodes[top].ev.ID(), slices.Compact(ids))
	if err != nil {
		return nil, err
	}
	for n, pl := range behind {
		if i, on := steps[pl]; on {
			position[n] = int32(i)
		}
	}
	return position, nil
}

// powerLevelsOf finds the power levels event among an event's auth events.
func (r *resolver) powerLevelsOf(n int32) (int32, bool) {
	for _, a := range r.auth(n) {
		if ev := r.nodes[a].ev; ev != nil && ev.Type() == event.TypePowerLevels && ev.StateKeyIs("") {
			return a, true
		}
	}
	return 0, false
}

// mainlinePosition follows the power levels events behind n to the mainline and remembers the position for all of
// them, so that a long chain is walked once.
func (r *resolver) mainlinePosition(n int32) int32 {
	r.stack = r.stack[:0]
	position := int32(noMainline)
	for {
		pl, ok := r.powerLevelsOf(n)
		if !ok {
			break
		}
		if r.nodes[pl].done {
			position = r.nodes[pl].mainline
			break
		}
		r.nodes[pl].mainline, r.nodes[pl].done = noMainline, true
		r.stack = append(r.stack, pl)
		n = pl
	}
	for _, pl := range r.stack {
		r.nodes[pl].mainline = position
	}
	return position
}

// SPDX-License-Identifier: Apache-2.0

package stateres

import (
	"fmt"
	"maps"
	"slices"

	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// Source hands out events from memory. Both methods are called often and must be cheap.
type Source interface {
	// Event returns nil for an event that is not in memory.
	Event(id.Event) *event.Event
	// Rejected reports whether the event failed the authorisation rules when it was received.
	Rejected(id.Event) bool
}

// MissingError names events that the resolution needs and the source did not have: members of the states or of
// their auth chains. The caller loads them, and better their auth chains as well, and repeats.
type MissingError struct {
	IDs []id.Event // sorted, without duplicates
}

// Error implements error.
func (e *MissingError) Error() string {
	return fmt.Sprintf("state resolution lacks %d events, first %s", len(e.IDs), e.IDs[0])
}

// Known is what the caller has found out about the auth graph from an index of it, so that no auth chain has to be walked.
type Known struct {
	// Full is the full conflicted set without what is no state event: the conflicted events, the auth difference and, in version 2.1, the conflicted
	// state subgraph.
	Full []id.Event
	// Mainline returns how many steps behind top the closest event of top's mainline is that is or precedes each of the power levels events. Those
	// from which no step leads to the mainline are absent.
	Mainline func(top id.Event, of []id.Event) (map[id.Event]int, error)
}

// Split divides states into what all agree on and the events of everything else.
func Split(sets []map[event.Key]id.Event) (agreed map[event.Key]id.Event, conflicted map[id.Event]struct{}) {
	return split(sets)
}

// ResolveKnown is Resolve of versions 2 and 2.1 without the walk: of the source it needs the full conflicted set, its auth events, and what of the
// agreed state authorises them.
func ResolveKnown(v *roomversion.Version, sets []map[event.Key]id.Event, known Known, src Source) (map[event.Key]id.Event, error) {
	return resolve(v, sets, &known, src)
}

// Resolve merges the states. The arguments are not changed and the result is a new map.
func Resolve(v *roomversion.Version, sets []map[event.Key]id.Event, src Source) (map[event.Key]id.Event, error) {
	return resolve(v, sets, nil, src)
}

func resolve(v *roomversion.Version, sets []map[event.Key]id.Event, known *Known, src Source) (map[event.Key]id.Event, error) {
	switch len(sets) {
	case 0:
		return map[event.Key]id.Event{}, nil
	case 1:
		return maps.Clone(sets[0]), nil
	}
	if v.StateResolution == roomversion.StateResolutionV1 {
		return resolveV1(sets, src)
	}
	unconflicted, conflicted := split(sets)
	if len(conflicted) == 0 {
		return unconflicted, nil
	}
	r := &resolver{
		version: v, src: src, known: known, emptyStart: v.StateResolution == roomversion.StateResolutionV21,
		index: make(map[id.Event]int32, 4*len(conflicted)), base: unconflicted,
		state: make(map[event.Key]int32, len(conflicted)),
	}
	var full []int32
	if known != nil {
		full = r.given(known.Full)
	} else {
		full = r.fullConflictedSet(sets, conflicted)
	}
	r.findCreate()
	if err := r.lacks(); err != nil {
		return nil, err
	}
	power, rest := r.splitPower(full)
	r.apply(r.sortByPower(power))
	if err := r.lacks(); err != nil {
		return nil, err
	}
	rest, err := r.sortByMainline(rest)
	if err != nil {
		return nil, err
	}
	r.apply(rest)
	if err := r.lacks(); err != nil {
		return nil, err
	}
	result := make(map[event.Key]id.Event, len(unconflicted)+len(r.state))
	for k, n := range r.state {
		result[k] = r.nodes[n].ev.ID()
	}
	maps.Copy(result, unconflicted)
	return result, nil
}

// lacks returns the MissingError of what has been missed so far, or nil.
func (r *resolver) lacks() error {
	if len(r.missing) == 0 {
		return nil
	}
	slices.Sort(r.missing)
	return &MissingError{IDs: slices.Compact(r.missing)}
}

func split(sets []map[event.Key]id.Event) (unconflicted map[event.Key]id.Event, conflicted map[id.Event]struct{}) {
	unconflicted = make(map[event.Key]id.Event, len(sets[0]))
	conflicted = make(map[id.Event]struct{})
	for k, v := range sets[0] {
		agreed := true
		for _, s := range sets[1:] {
			if other, ok := s[k]; !ok || other != v {
				agreed = false
				break
			}
		}
		if agreed {
			unconflicted[k] = v
		} else {
			conflicted[v] = struct{}{}
		}
	}
	for _, s := range sets[1:] {
		for k, v := range s {
			if _, ok := unconflicted[k]; !ok {
				conflicted[v] = struct{}{}
			}
		}
	}
	return unconflicted, conflicted
}

// resolver is one run. Events are numbered in the order in which they are met; all sets are flags and counters by
// that number.
type resolver struct {
	version    *roomversion.Version
	src        Source
	known      *Known // nil: the auth chains are walked
	emptyStart bool   // version 2.1
	index      map[id.Event]int32
	nodes      []node
	edges      []int32 // auth events of all nodes, one after the other
	missing    []id.Event
	create     *event.Event
	base       map[event.Key]id.Event // the unconflicted state
	state      map[event.Key]int32    // the partially resolved state, over base in version 2
	stack      []int32
}

// node is one event of the auth graph.
type node struct {
	ev         *event.Event // nil when missing
	authFrom   int32        // into edges; authTo < 0: not read yet
	authTo     int32
	stamp      int32 // the last walk that came by
	chains     int32 // number of states whose full auth chain has it
	power      int64 // level of the sender by the event's own auth events
	mainline   int32
	pending    int32 // Kahn: auth events within the sorted set that are not out yet
	everywhere bool  // in the full auth chain of every state
	conflicted bool
	full       bool // in the full conflicted set
	sorted     bool // in the set that is ordered by power
	reaches    bool // a conflicted event is among it and its auth chain
	done       bool // mainline known
}

// at returns the number of an event, reading it from the source at first sight.
func (r *resolver) at(eid id.Event) int32 {
	if n, ok := r.index[eid]; ok {
		return n
	}
	n := int32(len(r.nodes))
	r.index[eid] = n
	ev := r.src.Event(eid)
	if ev == nil {
		r.missing = append(r.missing, eid)
	}
	r.nodes = append(r.nodes, node{ev: ev, authTo: -1})
	return n
}

// auth returns the numbers of an event's auth events. The slice is valid until the next call.
func (r *resolver) auth(n int32) []int32 {
	if x := &r.nodes[n]; x.authTo >= 0 {
		return r.edges[x.authFrom:x.authTo]
	}
	from := int32(len(r.edges))
	if ev := r.nodes[n].ev; ev != nil {
		for _, a := range ev.AuthEvents() {
			r.edges = append(r.edges, r.at(a))
		}
	}
	x := &r.nodes[n] // at may have moved the nodes
	x.authFrom, x.authTo = from, int32(len(r.edges))
	return r.edges[from:x.authTo]
}

// walk visits the auth chains of the given events, not the events themselves unless one is in another's chain. enter
// is called once per event and decides whether the walk goes on behind it.
func (r *resolver) walk(stamp int32, from []int32, enter func(n int32) bool) {
	r.stack = append(r.stack[:0], from...)
	for len(r.stack) > 0 {
		n := r.stack[len(r.stack)-1]
		r.stack = r.stack[:len(r.stack)-1]
		for _, a := range r.auth(n) {
			if r.nodes[a].stamp == stamp {
				continue
			}
			r.nodes[a].stamp = stamp
			if enter(a) {
				r.stack = append(r.stack, a)
			}
		}
	}
}

// fullConflictedSet is the conflicted state set with the auth difference and, in version 2.1, the conflicted state
// subgraph. Only state events count.
func (r *resolver) fullConflictedSet(sets []map[event.Key]id.Event, conflicted map[id.Event]struct{}) []int32 {
	start := make([]int32, 0, len(conflicted))
	for eid := range conflicted {
		n := r.at(eid)
		r.nodes[n].conflicted, r.nodes[n].full = true, true
		start = append(start, n)
	}
	// What stands in the auth chain of an unconflicted event stands in every chain.
	agreed := make([]int32, 0, len(r.base))
	for _, eid := range r.base {
		agreed = append(agreed, r.at(eid))
	}
	r.walk(1, agreed, func(n int32) bool {
		r.nodes[n].everywhere = true
		return true
	})
	stamp := int32(1)
	own := make([]int32, 0, len(start))
	for _, s := range sets {
		own = own[:0]
		for k, eid := range s {
			if _, ok := r.base[k]; !ok {
				own = append(own, r.at(eid))
			}
		}
		stamp++
		r.walk(stamp, own, func(n int32) bool {
			r.nodes[n].chains++
			return !r.nodes[n].everywhere
		})
	}
	for n := range r.nodes {
		x := &r.nodes[n]
		if !x.everywhere && x.chains > 0 && int(x.chains) < len(sets) {
			x.full = true
		}
	}
	if r.emptyStart {
		r.addSubgraph(stamp+1, start)
	}
	var full []int32
	for n := range r.nodes {
		if x := &r.nodes[n]; x.full && x.ev != nil && x.ev.IsState() {
			full = append(full, int32(n))
		}
	}
	return full
}

// given takes a full conflicted set that the caller knows, and reads what judges it: its auth events and what of the agreed state it needs.
func (r *resolver) given(ids []id.Event) []int32 {
	full := make([]int32, 0, len(ids))
	for _, eid := range ids {
		n := r.at(eid)
		r.auth(n)
		x := &r.nodes[n]
		if x.ev == nil || !x.ev.IsState() || x.full {
			continue
		}
		x.full = true
		full = append(full, n)
		if r.emptyStart {
			continue
		}
		for _, k := range authrule.NeededBy(x.ev) {
			if agreed, ok := r.base[k]; ok {
				r.at(agreed)
			}
		}
	}
	return full
}

// addSubgraph marks every event on a path of auth events from one conflicted event to another: those that are
// reached from a conflicted event and reach one. It walks depth first and decides on the way back.
func (r *resolver) addSubgraph(stamp int32, start []int32) {
	type frame struct{ n, next int32 }
	var stack []frame
	enter := func(n int32) {
		r.nodes[n].stamp = stamp
		r.nodes[n].reaches = r.nodes[n].conflicted
		r.auth(n)
		stack = append(stack, frame{n: n})
	}
	for _, s := range start {
		if r.nodes[s].stamp != stamp {
			enter(s)
		}
		for len(stack) > 0 {
			f := &stack[len(stack)-1]
			auth := r.auth(f.n)
			if int(f.next) < len(auth) {
				a := auth[f.next]
				f.next++
				if r.nodes[a].stamp != stamp {
					enter(a)
				} else if r.nodes[a].reaches {
					r.nodes[f.n].reaches = true
				}
				continue
			}
			n := f.n
			stack = stack[:len(stack)-1]
			if r.nodes[n].reaches {
				r.nodes[n].full = true
				if len(stack) > 0 {
					r.nodes[stack[len(stack)-1].n].reaches = true
				}
			}
		}
	}
}

// findCreate looks up the create event of rooms whose id names it; in earlier versions it is among the auth events.
func (r *resolver) findCreate() {
	if !r.version.RoomIDIsHash {
		return
	}
	for n := range r.nodes {
		ev := r.nodes[n].ev
		if ev == nil {
			continue
		}
		if eid, ok := event.CreateEventID(r.version, ev.Room()); ok {
			r.create = r.nodes[r.at(eid)].ev
		}
		return
	}
}

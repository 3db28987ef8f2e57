// SPDX-License-Identifier: Apache-2.0

package stateres_test

import (
	"crypto/sha1"
	"fmt"
	"math"
	"sort"

	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
	"github.com/konsil-health/konsil/internal/matrix/stateres"
)

// literal follows the specification's text sentence by sentence, with sets of ids and no care for speed. It is what
// the real implementation is compared with.
type literal struct {
	v   *roomversion.Version
	src stateres.Source
}

type set map[id.Event]bool

type state = map[event.Key]id.Event

func (l literal) ev(e id.Event) *event.Event { return l.src.Event(e) }

// Auth chain: all events reachable by walking the auth_events links.
func (l literal) authChain(e id.Event) set {
	chain := set{}
	for _, a := range l.ev(e).AuthEvents() {
		chain[a] = true
		for b := range l.authChain(a) {
			chain[b] = true
		}
	}
	return chain
}

func (l literal) fullAuthChain(s state) set {
	c := set{}
	for _, e := range s {
		for a := range l.authChain(e) {
			c[a] = true
		}
	}
	return c
}

func (l literal) conflict(sets []state) (unconflicted state, conflicted set) {
	unconflicted, conflicted = state{}, set{}
	for _, s := range sets {
		for k, v := range s {
			inAll := true
			for _, t := range sets {
				if w, ok := t[k]; !ok || w != v {
					inAll = false
				}
			}
			if inAll {
				unconflicted[k] = v
			} else {
				conflicted[v] = true
			}
		}
	}
	return unconflicted, conflicted
}

func (l literal) authDifference(sets []state) set {
	count := map[id.Event]int{}
	for _, s := range sets {
		for e := range l.fullAuthChain(s) {
			count[e]++
		}
	}
	diff := set{}
	for e, n := range count {
		if n < len(sets) {
			diff[e] = true
		}
	}
	return diff
}

// Conflicted state subgraph: the union of all paths of auth_events between any pair of conflicted events. An event
// is on such a path when it is in the auth chain of one (or is one) and has one in its own (or is one).
func (l literal) subgraph(conflicted set) set {
	sub := set{}
	for c := range conflicted {
		sub[c] = true
		for e := range l.authChain(c) {
			for a := range l.authChain(e) {
				if conflicted[a] {
					sub[e] = true
				}
			}
		}
	}
	return sub
}

func (l literal) isPower(e *event.Event) bool {
	switch e.Type() {
	case "m.room.power_levels", "m.room.join_rules":
		return e.IsState()
	case "m.room.member":
		return e.IsState() && (e.Membership() == "leave" || e.Membership() == "ban") && string(e.Sender()) != *e.StateKey()
	}
	return false
}

func (l literal) createOf(e *event.Event) *event.Event {
	for _, a := range e.AuthEvents() {
		if l.ev(a).Type() == "m.room.create" {
			return l.ev(a)
		}
	}
	if eid, ok := event.CreateEventID(l.v, e.Room()); ok {
		return l.ev(eid)
	}
	return nil
}

func (l literal) powerLevelsIn(e *event.Event) *event.Event {
	for _, a := range e.AuthEvents() {
		if l.ev(a).Type() == "m.room.power_levels" {
			return l.ev(a)
		}
	}
	return nil
}

func (l literal) senderLevel(e *event.Event) int64 {
	p, _ := authrule.ReadPowerLevels(l.v, l.powerLevelsIn(e), l.createOf(e))
	return p.User(e.Sender())
}

func (l literal) reverseTopologicalPower(x set) []id.Event {
	left := set{}
	for e := range x {
		left[e] = true
	}
	var out []id.Event
	for len(left) > 0 {
		var candidates []*event.Event
		for e := range left {
			free := true
			for a := range l.authChain(e) {
				if left[a] {
					free = false
				}
			}
			if free {
				candidates = append(candidates, l.ev(e))
			}
		}
		sort.Slice(candidates, func(i, j int) bool {
			x, y := candidates[i], candidates[j]
			if a, b := l.senderLevel(x), l.senderLevel(y); a != b {
				return a > b
			}
			if x.Timestamp() != y.Timestamp() {
				return x.Timestamp() < y.Timestamp()
			}
			return x.ID() < y.ID()
		})
		out = append(out, candidates[0].ID())
		delete(left, candidates[0].ID())
	}
	return out
}

func (l literal) mainlineOrder(p *event.Event, rest set) []id.Event {
	var mainline []id.Event
	for ; p != nil; p = l.powerLevelsIn(p) {
		mainline = append(mainline, p.ID())
	}
	position := func(e *event.Event) int {
		for e = l.powerLevelsIn(e); e != nil; e = l.powerLevelsIn(e) {
			for i, m := range mainline {
				if m == e.ID() {
					return i
				}
			}
		}
		return math.MaxInt
	}
	var list []*event.Event
	for e := range rest {
		list = append(list, l.ev(e))
	}
	sort.Slice(list, func(i, j int) bool {
		x, y := list[i], list[j]
		if a, b := position(x), position(y); a != b {
			return a > b
		}
		if x.Timestamp() != y.Timestamp() {
			return x.Timestamp() < y.Timestamp()
		}
		return x.ID() < y.ID()
	})
	var out []id.Event
	for _, e := range list {
		out = append(out, e.ID())
	}
	return out
}

func (l literal) iterativeAuthChecks(start state, list []id.Event) state {
	current := state{}
	for k, v := range start {
		current[k] = v
	}
	for _, eid := range list {
		e := l.ev(eid)
		s := authrule.Map{}
		for _, k := range authrule.NeededBy(e) {
			if have, ok := current[k]; ok {
				s[k] = l.ev(have)
				continue
			}
			for _, a := range e.AuthEvents() {
				if ae := l.ev(a); ae.IsState() && ae.Key() == k && !l.src.Rejected(a) {
					s[k] = ae
				}
			}
		}
		if authrule.Allowed(e, s, l.createOf(e)) == nil {
			current[e.Key()] = eid
		}
	}
	return current
}

// resolveV1 is the text of room version 1.
func (l literal) resolveV1(sets []state) state {
	values := map[event.Key]set{}
	for _, s := range sets {
		for k, v := range s {
			if values[k] == nil {
				values[k] = set{}
			}
			values[k][v] = true
		}
	}
	// Start by setting R to the union of the states to be resolved, excluding any conflicting events.
	r := state{}
	for k, ids := range values {
		if len(ids) == 1 {
			for v := range ids {
				r[k] = v
			}
			delete(values, k)
		}
	}
	allowed := func(e *event.Event, r state) bool {
		s := authrule.Map{}
		for k, v := range r {
			s[k] = l.ev(v)
		}
		return authrule.Allowed(e, s, nil) == nil
	}
	for _, typ := range []string{"m.room.power_levels", "m.room.join_rules", "m.room.member"} {
		chosen := state{}
		for k, ids := range values {
			if k.Type != typ || typ == "m.room.power_levels" && k.StateKey != "" {
				continue
			}
			list := l.byDepth(ids)
			trial := state{}
			for key, v := range r {
				trial[key] = v
			}
			trial[k] = list[0].ID()
			for _, e := range list[1:] {
				if !allowed(e, trial) {
					break
				}
				trial[k] = e.ID()
			}
			chosen[k] = trial[k]
			delete(values, k)
		}
		for k, v := range chosen {
			r[k] = v
		}
	}
	chosen := state{}
	for k, ids := range values {
		list := l.byDepth(ids)
		chosen[k] = list[0].ID()
		for i := len(list) - 1; i >= 0; i-- {
			if allowed(list[i], r) {
				chosen[k] = list[i].ID()
				break
			}
		}
	}
	for k, v := range chosen {
		r[k] = v
	}
	return r
}

// byDepth: ascending depth, then descending sha1(event_id).
func (l literal) byDepth(ids set) []*event.Event {
	var list []*event.Event
	for e := range ids {
		list = append(list, l.ev(e))
	}
	sort.Slice(list, func(i, j int) bool {
		if list[i].Depth() != list[j].Depth() {
			return list[i].Depth() < list[j].Depth()
		}
		return fmt.Sprintf("%x", sha1.Sum([]byte(list[i].ID()))) > fmt.Sprintf("%x", sha1.Sum([]byte(list[j].ID())))
	})
	return list
}

func (l literal) resolve(sets []state) state {
	if l.v.StateResolution == roomversion.StateResolutionV1 {
		return l.resolveV1(sets)
	}
	unconflicted, conflicted := l.conflict(sets)
	full := set{}
	add := func(s set) {
		for e := range s {
			full[e] = true
		}
	}
	add(conflicted)
	add(l.authDifference(sets))
	start := unconflicted
	if l.v.StateResolution == roomversion.StateResolutionV21 {
		add(l.subgraph(conflicted))
		start = state{}
	}
	// 1
	x := set{}
	for e := range full {
		if !l.isPower(l.ev(e)) {
			continue
		}
		x[e] = true
		for a := range l.authChain(e) {
			if full[a] {
				x[a] = true
			}
		}
	}
	// 2
	partial := l.iterativeAuthChecks(start, l.reverseTopologicalPower(x))
	// 3
	rest := set{}
	for e := range full {
		if !x[e] {
			rest[e] = true
		}
	}
	var pl *event.Event
	if eid, ok := partial[event.Key{Type: "m.room.power_levels"}]; ok {
		pl = l.ev(eid)
	}
	order := l.mainlineOrder(pl, rest)
	// 4
	result := l.iterativeAuthChecks(partial, order)
	// 5
	for k, v := range unconflicted {
		result[k] = v
	}
	return result
}

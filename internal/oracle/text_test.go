// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"cmp"
	"slices"
	"testing"

	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/matrixtest"
)

type (
	state = map[event.Key]id.Event
	set   = map[id.Event]bool
)

// deviation is one thing that gomatrixserverlib does otherwise than the text of state resolution version 2 says.
type deviation uint

const (
	ownRules       deviation = 1 << iota // its authorisation rules, see gmslDiffers
	selfAsAuth                           // for state that is missing it takes the event itself, not the auth event that it found
	conflictedOnly                       // auth chains of power events: only the conflicted state set; nothing that is in the agreed state
	backwards                            // power ordering: Kahn's algorithm from the newest event, taking the last of the candidates
	noCreatorLevel                       // power ordering: a creator without power levels counts 0, not 100
	steps                                // mainline: none counts as the oldest, and the number of steps to it before the time
	allDeviations  = 1<<iota - 1
)

var deviationNames = map[deviation]string{
	0: "none", ownRules: "own authorisation rules", selfAsAuth: "the event itself for missing state", conflictedOnly: "auth chains in the conflicted set only",
	backwards: "power ordering from the newest", noCreatorLevel: "creator without power levels", steps: "steps to the mainline",
	allDeviations: "several",
}

// text resolves by the text of version 2, with chosen deviations. It is slow and plain.
type text struct {
	t    *testing.T
	room *matrixtest.Room
	g    *gmsl
	d    deviation
}

func (x text) has(d deviation) bool { return x.d&d != 0 }

func (x text) ev(e id.Event) *event.Event { return x.room.Event(e) }

func (x text) chain(e id.Event, into set) {
	for _, a := range x.ev(e).AuthEvents() {
		if !into[a] {
			into[a] = true
			x.chain(a, into)
		}
	}
}

func (x text) conflict(sets []state) (agreed state, conflicted set) {
	agreed, conflicted = state{}, set{}
	for _, s := range sets {
		for k, v := range s {
			if slices.ContainsFunc(sets, func(o state) bool { w, ok := o[k]; return !ok || w != v }) {
				conflicted[v] = true
			} else {
				agreed[k] = v
			}
		}
	}
	return agreed, conflicted
}

func (x text) difference(sets []state) set {
	count, diff := map[id.Event]int{}, set{}
	for _, s := range sets {
		c := set{}
		for _, e := range s {
			x.chain(e, c)
		}
		for e := range c {
			count[e]++
		}
	}
	for e, n := range count {
		if n < len(sets) {
			diff[e] = true
		}
	}
	return diff
}

func isPower(e *event.Event) bool {
	switch e.Type() {
	case event.TypePowerLevels, event.TypeJoinRules:
		return e.StateKeyIs("")
	case event.TypeMember:
		return (e.Membership() == "leave" || e.Membership() == "ban") && !e.StateKeyIs(string(e.Sender()))
	}
	return false
}

func (x text) levelsOf(e id.Event) id.Event {
	for _, a := range x.ev(e).AuthEvents() {
		if x.ev(a).Type() == event.TypePowerLevels && x.ev(a).StateKeyIs("") {
			return a
		}
	}
	return ""
}

func (x text) power(e id.Event) int64 {
	pl := x.levelsOf(e)
	if pl == "" && x.has(noCreatorLevel) {
		return 0
	}
	p, _ := authrule.ReadPowerLevels(x.room.Version, x.room.Event(pl), x.room.Create)
	return p.User(x.ev(e).Sender())
}

func (x text) byAge(a, b id.Event) int {
	return cmp.Or(cmp.Compare(x.ev(a).Timestamp(), x.ev(b).Timestamp()), cmp.Compare(a, b))
}

func (x text) byPower(a, b id.Event) int {
	return cmp.Or(cmp.Compare(x.power(b), x.power(a)), x.byAge(a, b))
}

// powerSet is the power events of the full conflicted set with their auth chains in it; an event may occur twice with
// conflictedOnly, as it does there.
func (x text) powerSet(full, conflicted, difference set) []id.Event {
	var list []id.Event
	if x.has(conflictedOnly) {
		visited := set{}
		var pull func(e id.Event)
		pull = func(e id.Event) {
			list = append(list, e)
			for _, a := range x.ev(e).AuthEvents() {
				if !visited[a] {
					if conflicted[a] {
						pull(a)
					}
					visited[a] = true
				}
			}
		}
		for _, part := range []set{conflicted, difference} { // an event of both comes twice
			for e := range part {
				if full[e] && isPower(x.ev(e)) {
					pull(e)
				}
			}
		}
		return list
	}
	seen := set{}
	var pull func(e id.Event)
	pull = func(e id.Event) {
		if full[e] && !seen[e] {
			seen[e] = true
			list = append(list, e)
			for _, a := range x.ev(e).AuthEvents() {
				pull(a)
			}
		}
	}
	for e := range full {
		if isPower(x.ev(e)) {
			pull(e)
		}
	}
	return list
}

func (x text) powerOrder(list []id.Event) []id.Event {
	if x.has(backwards) {
		return x.powerOrderBackwards(list)
	}
	left := set{}
	for _, e := range list {
		left[e] = true
	}
	var out []id.Event
	for len(left) > 0 {
		var free []id.Event
		for e := range left {
			if !slices.ContainsFunc(x.ev(e).AuthEvents(), func(a id.Event) bool { return left[a] }) {
				free = append(free, e)
			}
		}
		next := slices.MinFunc(free, x.byPower)
		out = append(out, next)
		delete(left, next)
	}
	return out
}

func (x text) powerOrderBackwards(list []id.Event) []id.Event {
	left, cited := set{}, map[id.Event]int{}
	for _, e := range list {
		left[e] = true
		for _, a := range x.ev(e).AuthEvents() {
			cited[a]++
		}
	}
	var free, out []id.Event
	for e := range left {
		if cited[e] == 0 {
			free = append(free, e)
			delete(left, e)
		}
	}
	for len(free) > 0 {
		slices.SortFunc(free, x.byPower)
		last := free[len(free)-1]
		free = free[:len(free)-1]
		out = append([]id.Event{last}, out...)
		for _, a := range x.ev(last).AuthEvents() {
			if cited[a]--; cited[a] == 0 && left[a] {
				free = append(free, a)
				delete(left, a)
			}
		}
	}
	var rest []id.Event
	for e := range left {
		rest = append(rest, e)
	}
	slices.SortFunc(rest, x.byPower)
	return append(rest, out...)
}

func (x text) mainlineOrder(pl id.Event, rest []id.Event) []id.Event {
	var mainline []id.Event // newest first
	for ; pl != ""; pl = x.levelsOf(pl) {
		mainline = append(mainline, pl)
	}
	position := func(e id.Event) (pos, step int) {
		for p := x.levelsOf(e); p != ""; p = x.levelsOf(p) {
			if i := slices.Index(mainline, p); i >= 0 {
				return i, step
			}
			step++
		}
		if x.has(steps) {
			return len(mainline) - 1, step
		}
		return 1 << 30, step
	}
	slices.SortFunc(rest, func(a, b id.Event) int {
		p, s := position(a)
		q, u := position(b)
		if !x.has(steps) {
			s, u = 0, 0
		}
		return cmp.Or(cmp.Compare(q, p), cmp.Compare(s, u), x.byAge(a, b))
	})
	return rest
}

func (x text) check(current state, list []id.Event) {
	for _, eid := range list {
		e := x.ev(eid)
		s := authrule.Map{}
		for _, k := range authrule.NeededBy(e) {
			if have, ok := current[k]; ok {
				s[k] = x.ev(have)
				continue
			}
			for _, a := range e.AuthEvents() {
				if ae := x.ev(a); ae.IsState() && ae.Key() == k && !x.room.Rejected(a) {
					if x.has(selfAsAuth) {
						s[e.Key()] = e
					} else {
						s[k] = ae
					}
				}
			}
		}
		allowed := authrule.Allowed(e, s, x.room.Create) == nil
		if x.has(ownRules) {
			allowed = x.g.allowed(x.t, e, s) == nil
		}
		if allowed {
			current[e.Key()] = eid
		}
	}
}

func (x text) resolve(sets []state) state {
	agreed, conflicted := x.conflict(sets)
	difference, full := x.difference(sets), set{}
	for _, part := range []set{conflicted, difference} {
		for e := range part {
			full[e] = true
		}
	}
	if x.has(conflictedOnly) {
		for _, e := range agreed {
			delete(full, e)
		}
	}
	power := x.powerSet(full, conflicted, difference)
	current := state{}
	for k, v := range agreed {
		current[k] = v
	}
	x.check(current, x.powerOrder(power))
	var rest []id.Event
	for e := range full {
		if !slices.Contains(power, e) {
			rest = append(rest, e)
		}
	}
	x.check(current, x.mainlineOrder(current[event.Key{Type: event.TypePowerLevels}], rest))
	for k, v := range agreed {
		current[k] = v
	}
	return current
}

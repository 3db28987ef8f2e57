// SPDX-License-Identifier: Apache-2.0

package stateres

import (
	"bytes"
	"cmp"
	"crypto/sha1" //nolint:gosec // an order that all servers share, not a protection
	"slices"

	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// resolveV1 is the algorithm of room version 1: what nobody contradicts is taken over; conflicts of power levels, then
// of join rules, then of members go by depth as long as each event allows the next one; all others by the deepest
// event that is allowed.
func resolveV1(sets []map[event.Key]id.Event, src Source) (map[event.Key]id.Event, error) {
	agreed, conflicted := splitV1(sets)
	if len(conflicted) == 0 {
		return agreed, nil
	}
	r := v1{src: src, resolved: agreed}
	blocks, err := r.blocks(conflicted)
	if err != nil {
		return nil, err
	}
	for _, typ := range []string{event.TypePowerLevels, event.TypeJoinRules, event.TypeMember} {
		chosen := map[event.Key]*event.Event{}
		for k, block := range blocks {
			if k.Type == typ && (typ != event.TypePowerLevels || k.StateKey == "") {
				chosen[k] = r.chain(block)
				delete(blocks, k)
			}
		}
		r.add(chosen) // together, so that no order of keys matters
	}
	chosen := map[event.Key]*event.Event{}
	for k, block := range blocks {
		chosen[k] = r.deepest(block)
	}
	r.add(chosen)
	return r.resolved, nil
}

// splitV1 divides the states. A key that some states lack is no conflict in version 1.
func splitV1(sets []map[event.Key]id.Event) (agreed map[event.Key]id.Event, conflicted map[event.Key][]id.Event) {
	agreed, conflicted = make(map[event.Key]id.Event, len(sets[0])), map[event.Key][]id.Event{}
	for _, s := range sets {
		for k, eid := range s {
			have, ok := agreed[k]
			switch {
			case len(conflicted[k]) > 0:
				if !slices.Contains(conflicted[k], eid) {
					conflicted[k] = append(conflicted[k], eid)
				}
			case !ok:
				agreed[k] = eid
			case have != eid:
				conflicted[k] = []id.Event{have, eid}
				delete(agreed, k)
			}
		}
	}
	return agreed, conflicted
}

// v1 is one run. It is the state of which the events are judged: what is resolved so far.
type v1 struct {
	src      Source
	resolved map[event.Key]id.Event
	// trial stands over resolved while a block is judged.
	trial *event.Event
}

// Get implements authrule.State.
func (r *v1) Get(k event.Key) *event.Event {
	if r.trial != nil && r.trial.Key() == k {
		return r.trial
	}
	if eid, ok := r.resolved[k]; ok {
		return r.src.Event(eid)
	}
	return nil
}

func (r *v1) allowed(e *event.Event) bool { return authrule.Allowed(e, r, nil) == nil }

func (r *v1) add(chosen map[event.Key]*event.Event) {
	for k, e := range chosen {
		r.resolved[k] = e.ID()
	}
}

// blocks loads the conflicting events of each key, the least depth first, and names what is missing of them and of the
// agreed state on which they are judged.
func (r *v1) blocks(conflicted map[event.Key][]id.Event) (map[event.Key][]*event.Event, error) {
	var missing []id.Event
	load := func(eid id.Event) *event.Event {
		e := r.src.Event(eid)
		if e == nil {
			missing = append(missing, eid)
		}
		return e
	}
	blocks := make(map[event.Key][]*event.Event, len(conflicted))
	for k, ids := range conflicted {
		for _, eid := range ids {
			e := load(eid)
			if e == nil {
				continue
			}
			blocks[k] = append(blocks[k], e)
			for _, need := range authrule.NeededBy(e) {
				if on, ok := r.resolved[need]; ok {
					load(on)
				}
			}
		}
		slices.SortFunc(blocks[k], byDepth)
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return nil, &MissingError{IDs: slices.Compact(missing)}
	}
	return blocks, nil
}

// byDepth orders by ascending depth, then by descending SHA-1 of the id.
func byDepth(a, b *event.Event) int {
	if c := cmp.Compare(a.Depth(), b.Depth()); c != 0 {
		return c
	}
	x, y := sha1.Sum([]byte(a.ID())), sha1.Sum([]byte(b.ID())) //nolint:gosec // see above
	return bytes.Compare(y[:], x[:])
}

// chain goes from the least depth on for as long as each event is allowed with the one before it in its place.
func (r *v1) chain(block []*event.Event) *event.Event {
	defer func() { r.trial = nil }()
	r.trial = block[0]
	for _, e := range block[1:] {
		if !r.allowed(e) {
			break
		}
		r.trial = e
	}
	return r.trial
}

// deepest is the deepest event that is allowed, or the least deep one.
func (r *v1) deepest(block []*event.Event) *event.Event {
	for _, e := range slices.Backward(block) {
		if r.allowed(e) {
			return e
		}
	}
	return block[0]
}

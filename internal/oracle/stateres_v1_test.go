// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"bytes"
	"cmp"
	"crypto/sha1"
	"maps"
	"slices"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"

	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/matrixtest"
	"github.com/konsil-health/konsil/internal/matrix/stateres"
)

// TestGMSLResolutionV1 compares the resolution of version 1 with gomatrixserverlib's. What differs must be what the
// text gives under its authorisation rules and its blocks (third-party invites before members).
func TestGMSLResolutionV1(t *testing.T) {
	t.Parallel()
	differ, own := 0, 0
	for seed := range 4 * rooms(t) {
		room := grow("1", seed)
		g := newGMSL(t, room)
		for n := 2; n <= 5; n++ {
			sets := room.Forks(n)
			ours, err := stateres.Resolve(room.Version, sets, room)
			if err != nil {
				t.Fatal(err)
			}
			agreed, conflicted := splitV1(sets)
			if want := (textV1{room: room}).resolve(agreed, conflicted); !maps.Equal(ours, want) {
				t.Errorf("differs from the text:%s", unlike(room, ours, want))
			}
			theirs := g.resolveV1(t, agreed, conflicted)
			if maps.Equal(ours, theirs) {
				continue
			}
			if differ++; maps.Equal(theirs, (textV1{room: room, g: g, t: t}).resolve(agreed, conflicted)) {
				own++
			} else if !restricted(room, sets) {
				t.Errorf("not explained:%s", unlike(room, ours, theirs))
			}
		}
	}
	t.Log(differ, "differences,", own, "by its own rules")
}

// splitV1: a conflict is between different events of one key; a key that some states lack is none.
func splitV1(sets []state) (agreed state, conflicted map[event.Key][]id.Event) {
	all := map[event.Key][]id.Event{}
	for _, s := range sets {
		for k, e := range s {
			if !slices.Contains(all[k], e) {
				all[k] = append(all[k], e)
			}
		}
	}
	agreed, conflicted = state{}, map[event.Key][]id.Event{}
	for k, ids := range all {
		if len(ids) == 1 {
			agreed[k] = ids[0]
		} else {
			conflicted[k] = ids
		}
	}
	return agreed, conflicted
}

func (g *gmsl) resolveV1(t *testing.T, agreed state, conflicted map[event.Key][]id.Event) state {
	t.Helper()
	pdus := func(ids []id.Event) (out []gomatrixserverlib.PDU) {
		for _, e := range ids {
			p, err := g.pdu(g.room.Event(e))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, p)
		}
		return out
	}
	var in []gomatrixserverlib.PDU
	for _, ids := range conflicted {
		in = append(in, pdus(ids)...)
	}
	out := maps.Clone(agreed)
	for _, p := range gomatrixserverlib.ResolveStateConflicts(in, pdus(slices.Collect(maps.Values(agreed))), userID) {
		out[event.Key{Type: p.Type(), StateKey: *p.StateKey()}] = id.Event(p.EventID())
	}
	return out
}

// textV1 is the text of version 1; with g under gomatrixserverlib's rules and blocks.
type textV1 struct {
	t    *testing.T
	room *matrixtest.Room
	g    *gmsl
}

func (x textV1) allowed(e *event.Event, r state) bool {
	s := x.room.State(r)
	if x.g != nil {
		return x.g.allowed(x.t, e, s) == nil
	}
	return authrule.Allowed(e, s, nil) == nil
}

func (x textV1) ordered(ids []id.Event) []*event.Event {
	var list []*event.Event
	for _, e := range ids {
		list = append(list, x.room.Event(e))
	}
	slices.SortFunc(list, func(a, b *event.Event) int {
		p, q := sha1.Sum([]byte(a.ID())), sha1.Sum([]byte(b.ID()))
		return cmp.Or(cmp.Compare(a.Depth(), b.Depth()), bytes.Compare(q[:], p[:]))
	})
	return list
}

func (x textV1) resolve(agreed state, conflicted map[event.Key][]id.Event) state {
	r := maps.Clone(agreed)
	blocks := []string{event.TypePowerLevels, event.TypeJoinRules, event.TypeMember}
	if x.g != nil {
		blocks = []string{event.TypeCreate, event.TypePowerLevels, event.TypeJoinRules, event.TypeThirdPartyInvite, event.TypeMember}
	}
	done := state{}
	for _, typ := range blocks {
		chosen := state{}
		for k, ids := range conflicted {
			if k.Type != typ || k.StateKey != "" && typ == event.TypePowerLevels {
				continue
			}
			list := x.ordered(ids)
			trial := maps.Clone(r)
			trial[k] = list[0].ID()
			for _, e := range list[1:] {
				if !x.allowed(e, trial) {
					break
				}
				trial[k] = e.ID()
			}
			chosen[k], done[k] = trial[k], trial[k]
		}
		maps.Copy(r, chosen)
	}
	chosen := state{}
	for k, ids := range conflicted {
		if _, ok := done[k]; ok {
			continue
		}
		list := x.ordered(ids)
		chosen[k] = list[0].ID()
		for _, e := range slices.Backward(list) {
			if x.allowed(e, r) {
				chosen[k] = e.ID()
				break
			}
		}
	}
	maps.Copy(r, chosen)
	return r
}

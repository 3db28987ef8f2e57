// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/matrixtest"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
	"github.com/konsil-health/konsil/internal/matrix/stateres"
)

// TestGMSLResolution compares resolution with gomatrixserverlib's, and both with the text. Where gomatrixserverlib
// differs from the text, the same text with its deviations should give its result, so that differences are accounted
// for; a few, where several deviations meet, are only counted.
//
// Version 12 is left out: its resolution starts from an empty state, in which gomatrixserverlib looks for the create
// event and panics, and for missing state it takes the event itself (deviation selfAsAuth), which there happens to
// every event. Version 2.1 is compared with the text in package stateres.
func TestGMSLResolution(t *testing.T) {
	t.Parallel()
	for _, ver := range roomversion.Supported() {
		if v, _ := roomversion.Get(ver); v.StateResolution != roomversion.StateResolutionV2 {
			continue
		}
		t.Run(ver, func(t *testing.T) {
			c := comparison{reasons: map[string]int{}}
			for seed := range rooms(t) {
				room := grow(ver, seed) // it grows on, so it is not shared
				g := newGMSL(t, room)
				for n := 2; n <= 4; n++ {
					c.compare(t, room, g, room.Forks(n))
				}
				for range 5 {
					base := room.Heads(1)[0]
					a, b := room.AppendLikely(base), room.AppendLikely(base)
					if a != nil && b != nil {
						c.compare(t, room, g, []state{a.After, b.After})
					}
				}
			}
			for reason, n := range c.reasons {
				t.Logf("%d times: %s", n, reason)
			}
			if c.open*20 > c.all {
				t.Errorf("%d of %d differences are not explained", c.open, c.all)
			}
		})
	}
}

type comparison struct {
	reasons   map[string]int
	all, open int
}

func (c *comparison) compare(t *testing.T, room *matrixtest.Room, g *gmsl, sets []state) {
	t.Helper()
	ours, err := stateres.Resolve(room.Version, sets, room)
	if err != nil {
		t.Fatal(err)
	}
	if want := (text{t: t, room: room}).resolve(sets); !maps.Equal(ours, want) {
		t.Errorf("differs from the text:%s", unlike(room, ours, want))
	}
	c.all++
	theirs := g.resolve(t, sets)
	if maps.Equal(ours, theirs) {
		c.reasons["no difference"]++
		return
	}
	for _, d := range []deviation{ownRules, selfAsAuth, conflictedOnly, backwards, noCreatorLevel, steps, allDeviations} {
		if maps.Equal(theirs, text{t: t, room: room, g: g, d: d}.resolve(sets)) {
			c.reasons["deviation: "+deviationNames[d]]++
			return
		}
	}
	if restricted(room, sets) {
		c.reasons["a restricted join that it judges changes the join rule for all events after it"]++
		return
	}
	c.open++
	t.Logf("not explained:%s", unlike(room, ours, theirs))
}

// restricted: somewhere in the states joins are restricted. gomatrixserverlib, having judged a join under such a
// rule, keeps "public" or "invite" in its place for what it judges next (membershipAllowedSelfForRestrictedJoin).
func restricted(room *matrixtest.Room, sets []state) bool {
	for _, s := range sets {
		for _, e := range s {
			for c := range chainOf(room, e) {
				rule := canonicaljson.GetString(room.Event(c).Content(), "join_rule")
				if rule == "restricted" || rule == "knock_restricted" {
					return true
				}
			}
		}
	}
	return false
}

func chainOf(room *matrixtest.Room, e id.Event) set {
	c := set{e: true}
	text{room: room}.chain(e, c)
	return c
}

// unlike lists what two states disagree about.
func unlike(room *matrixtest.Room, a, b state) string {
	var out strings.Builder
	for i, s := range []state{a, b} {
		for k, e := range s {
			if a[k] != b[k] {
				fmt.Fprintf(&out, "\n  %s %s %q by %s %s", []string{"ours", "theirs"}[i], k.Type, k.StateKey, room.Event(e).Sender(), room.Event(e).Content())
			}
		}
	}
	return out.String()
}

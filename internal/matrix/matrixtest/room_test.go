// SPDX-License-Identifier: Apache-2.0

package matrixtest

import (
	"bytes"
	"testing"

	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// TestVariety keeps the generator honest: rooms are reproducible, and enough of everything happens in them.
func TestVariety(t *testing.T) {
	t.Parallel()
	for _, ver := range roomversion.Supported() {
		t.Run(ver, func(t *testing.T) {
			t.Parallel()
			var accepted, list, byAuth, byState, onlyState, merges int
			members := map[string]int{}
			for seed := range uint64(6) {
				r, again := New(ver, seed), New(ver, seed)
				r.Grow(100)
				again.Grow(100)
				for i, v := range r.Log {
					if !bytes.Equal(v.Event.JSON(), again.Log[i].Event.JSON()) {
						t.Fatalf("seed %d: event %d is not reproducible", seed, i)
					}
					switch {
					case !v.Rejected:
						accepted++
						if v.Event.Membership() != "" {
							members[v.Event.Membership()]++
						}
					case v.AuthList == nil && v.ByAuth == nil:
						onlyState++
					}
					if v.AuthList != nil {
						list++
					}
					if v.ByAuth != nil {
						byAuth++
					}
					if v.ByState != nil {
						byState++
					}
					if len(v.Event.PrevEvents()) > 1 {
						merges++
					}
				}
			}
			t.Log("accepted", accepted, "list", list, "auth", byAuth, "state", byState, "only state", onlyState, "merges", merges, members)
			if v, _ := roomversion.Get(ver); (members["knock"] > 0) != v.Knock {
				t.Error(members["knock"], "knocks")
			}
			for _, n := range []int{accepted, list, byAuth, byState, onlyState, merges, members["ban"], members["invite"], members["leave"]} {
				if n == 0 {
					t.Error("something never happens")
				}
			}
		})
	}
}

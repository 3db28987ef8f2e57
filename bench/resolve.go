// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"

	"github.com/konsil-health/konsil/bench/limits"
)

// resolveSizes are the conflicted sets that bench resolve compares.
var resolveSizes = []int{100, 1_000, 10_000}

// resolve measures state resolution by the size of the conflicted set: algorithms 1, 2 and 2.1, for a room where people come and go and for the
// worst case, a fight over power levels.
func resolve(ctx context.Context, o Options, r *Report) error {
	each := o.Duration / 20
	for _, c := range []struct {
		name, version string
		every         int
	}{{"v1", "1", 50}, {"v2", "10", 50}, {"v2.1", "12", 50}, {"v2 power fight", "10", 1}, {"v2.1 power fight", "12", 1}} {
		perEvent := map[int]float64{}
		for _, size := range resolveSizes {
			f, err := limits.NewFork(c.version, size, c.every)
			if err != nil {
				return err
			}
			o.Progress(fmt.Sprintf("%s, %d conflicted events", c.name, f.Conflicted))
			took, err := f.Resolve(ctx, each)
			if err != nil {
				return err
			}
			r.Figures[fmt.Sprintf("%s, %d conflicted events, ms", c.name, size)] = round(took.Seconds() * 1000)
			perEvent[size] = took.Seconds() / float64(size)
		}
		first, last := resolveSizes[0], resolveSizes[len(resolveSizes)-1]
		r.Ratios[fmt.Sprintf("%s: time per event at %d / at %d (1 is linear)", c.name, last, first)] = round(perEvent[last] / perEvent[first])
	}
	return nil
}

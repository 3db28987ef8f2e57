// SPDX-License-Identifier: Apache-2.0

package bench_test

import (
	"testing"
	"time"

	"github.com/konsil-health/konsil/bench"
)

// TestResolve: each algorithm has a figure for each size; how long it took is not judged.
func TestResolve(t *testing.T) {
	t.Parallel()
	r := measure(t, "resolve", bench.Options{Database: "sqlite", Duration: time.Millisecond})
	if len(r.Figures) != 15 || len(r.Ratios) != 5 {
		t.Errorf("%+v", r)
	}
	for name, ms := range r.Figures {
		if ms <= 0 {
			t.Errorf("%s: %v", name, ms)
		}
	}
}

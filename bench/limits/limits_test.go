// SPDX-License-Identifier: Apache-2.0

package limits_test

import (
	"testing"
	"time"

	"github.com/konsil-health/konsil/bench/limits"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
)

// TestLimits: every limit is measured and is something. How much depends on the machine.
func TestLimits(t *testing.T) {
	t.Parallel()
	const moment = 50 * time.Millisecond
	flush, err := limits.Disk(t.Context(), t.TempDir(), moment)
	if err != nil || flush.P50 <= 0 || flush.P99 < flush.P50 {
		t.Errorf("disk: %+v, %v", flush, err)
	}
	if s := limits.Signature(moment); s <= 0 {
		t.Errorf("signature: %v", s)
	}
	databasetest.EachURL(t, func(t *testing.T, url string) {
		for _, group := range []int{1, 8} {
			w, err := limits.Database(t.Context(), url, group, 1000, moment)
			if err != nil || w.PerSecond <= 0 || w.P50 <= 0 {
				t.Errorf("groups of %d: %+v, %v", group, w, err)
			}
		}
	})
}

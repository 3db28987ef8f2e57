// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
)

// TestBackOffIsCapped: engine rule 21. However long a server stays away, it is tried again after an hour at the latest; the first failure after it was
// back costs a moment again.
func TestBackOffIsCapped(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		config, now := Config{}.withDefaults(), time.Now()
		r := newReach(db, &config, func() time.Time { return now })
		var last time.Duration
		for i := range 200 {
			pause, err := r.failure(t.Context(), "gone.example")
			if err != nil {
				t.Fatal(err)
			}
			if pause < last || pause > time.Hour || i == 0 && pause > time.Minute {
				t.Fatalf("failure %d: a pause of %v after one of %v", i+1, pause, last)
			}
			last, now = pause, now.Add(pause)
		}
		if last != time.Hour {
			t.Errorf("after 200 failures it is tried again after %v", last)
		}
		if pause := config.pause(1 << 40); pause != time.Hour {
			t.Errorf("a refusing server is tried again after %v", pause)
		}
		if recovered, err := r.success(t.Context(), "gone.example"); !recovered || err != nil {
			t.Fatal(recovered, err)
		}
		if pause, err := r.failure(t.Context(), "gone.example"); pause > time.Minute || err != nil {
			t.Errorf("after it was back: %v, %v", pause, err)
		}
	})
}

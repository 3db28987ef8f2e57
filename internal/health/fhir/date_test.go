// SPDX-License-Identifier: Apache-2.0

package fhir_test

import (
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/health/fhir"
)

func TestDates(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 25, 10, 30, 15, 250e6, time.UTC)
	for value, want := range map[string]bool{
		"2026": true, "2025": false, "2026-11": true, "2026-11-25": true, "eq2026-11-26": false, "2026-11-25T10:30Z": true, "2026-11-25T10:30:15Z": true, "2026-11-25T10:30:15.250Z": true,
		"2026-11-25T10:30:15.251Z": false, "2026-11-25T11:30:15+01:00": true, "2026-11-25T11:30:15 01:00": true, "2026-11-25T10:30:15": true, "ne2026": false, "ne2026-10": true,
		"gt2026-11-25": false, "gt2026-11-24": true, "ge2026-11-25": true, "ge2026-11-26": false, "lt2026-11-25": false, "lt2026-11-25T10:31Z": true, "le2026-11-25": true, "le2026-11-24": false,
		"sa2025": true, "eb2027": true, "eb2026": false,
	} {
		if d, ok := fhir.ParseDate(value); !ok || d.Holds(at) != want {
			t.Errorf("%s: %+v %v", value, d, ok)
		}
	}
	for _, value := range []string{"", "ge", "ap2026", "25.11.2026", "2026-13", "2026-11-25T", "xx2026", "2026-11-25T25:00Z"} {
		if d, ok := fhir.ParseDate(value); ok {
			t.Errorf("%s: %+v", value, d)
		}
	}
}

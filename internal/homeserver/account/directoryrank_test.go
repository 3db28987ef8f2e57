// SPDX-License-Identifier: Apache-2.0

package account

import "testing"

func TestEdits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"anna", "anna", 0}, {"anna", "ana", 1}, {"ana", "anna", 1}, {"anna", "enna", 1}, {"shcmidt", "schmidt", 1}, {"müller", "muller", 1}, {"anna", "berta", 3}, {"abcdef", "a", 3}} {
		if got := edits([]rune(c.a), []rune(c.b), 2); got != c.want {
			t.Errorf("edits(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

func TestWordDistance(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		word, name string
		want       int
	}{
		{"anna", "anna", 0}, {"ann", "anna", atStart}, {"nna", "anna", within}, {"amna", "anna", perSlip}, {"ama", "anna", unfit},
		{"schmit", "schmidt", perSlip}, {"shcmidt", "schmidt", perSlip}, {"shcmid", "schmidtberger", perSlip}, {"hofmannsthall", "hoffmannsthal", 2 * perSlip}, {"meier", "schulz", unfit},
	} {
		if got := wordDistance(c.word, c.name); got != c.want {
			t.Errorf("wordDistance(%q, %q) = %d, want %d", c.word, c.name, got, c.want)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package testdriver_test

import (
	"strings"
	"testing"
)

// TestFill reads annotations as gematik writes them and looks at the rows that they allow.
func TestFill(t *testing.T) {
	t.Parallel()
	apis := []*api{{name: "p1", homeserver: "x", tags: []string{"pro"}}, {name: "p2", homeserver: "y", tags: []string{"pro"}}, {name: "a1", homeserver: "x", tags: []string{"admin"}}, {name: "h2", homeserver: "y", tags: []string{"pro", "hba"}}}
	for name, c := range map[string]struct{ tags, want string }{
		"one column":         {`@Filter(A.hasTag("pro"))`, "p1"},
		"both ways":          {`@AllowSelfCombine(true) @Filter(A.hasTag("pro")) @Filter(B.hasTag("pro"))`, "p1 p1, p1 p2"},
		"not with itself":    {`@AllowSelfCombine(false) @Filter(A.hasTag("pro")) @Filter(B.hasTag("pro"))`, "p2 h2, p1 p2"},
		"one server":         {`@EqualProperty(homeserver) @AllowSelfCombine(true) @Filter(A.hasTag("admin")) @Filter(B.hasTag("pro"))`, "a1 p1"},
		"several":            {`@DistinctProperty(homeserver) @AllowSelfCombine(false) @Filter(A.hasTag("pro")) @Filter(B.hasTag("hba"))`, "p1 h2"},
		"compared":           {`@AllowSelfCombine(false) @Filter(!B.properties["homeserver"].equals(A.properties["homeserver"])) @Filter(A.hasTag("pro")) @Filter(B.hasTag("pro"))`, "p1 p2"},
		"alternatives":       {`@Filter(A.hasTag("none")||(A.hasTag("pro")&&A.hasTag("hba")))`, "h2"},
		"each server once":   {`@MaxSameColumnProperty(A,homeserver,1) @AllowSelfCombine(true) @Filter(A.hasTag("admin")) @Filter(B.hasTag("pro"))`, "a1 p1"},
		"nobody":             {`@Filter(A.hasTag("epa"))`, ""},
		"unknown annotation": {`@Other(1)`, "error"},
		"unknown filter":     {`@Filter(A.size()>1)`, "error"},
	} {
		columns := []string{"A"}
		if strings.Contains(c.tags, "B.") {
			columns = append(columns, "B")
		}
		got := "error"
		if r, err := parseRules(strings.Fields(c.tags)); err == nil {
			var rows []string
			for _, filled := range r.fill(columns, apis) {
				var cells []string
				for _, a := range filled {
					cells = append(cells, a.name)
				}
				rows = append(rows, strings.Join(cells, " "))
			}
			got = strings.Join(rows, ", ")
		}
		if got != c.want {
			t.Errorf("%s: %q instead of %q", name, got, c.want)
		}
	}
}

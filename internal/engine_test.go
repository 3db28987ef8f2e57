// SPDX-License-Identifier: Apache-2.0

package internal_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/telematik/requirement/requirementtest"
)

// engineRules is how many rules docs/engine-rules.md has to have.
const engineRules = 35

// TestEngineRules: every rule of docs/engine-rules.md has its line and names tests that exist, or says why nothing shows it yet.
func TestEngineRules(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "docs", "engine-rules.md"))
	if err != nil {
		t.Fatal(err)
	}
	tests := requirementtest.Tests{Root: "."}
	line := regexp.MustCompile(`(?m)^\| (\d+) \|(.*)\|(.*)\|(.*)\|$`)
	name := regexp.MustCompile("`([a-z./]+: Test[A-Za-z0-9]+)`")
	rule := 0
	for _, m := range line.FindAllStringSubmatch(string(text), -1) {
		if rule++; m[1] != strconv.Itoa(rule) {
			t.Fatalf("rule %s stands where rule %d should", m[1], rule)
		}
		named := name.FindAllStringSubmatch(m[4], -1)
		if len(named) == 0 && !strings.Contains(m[4], "not yet:") {
			t.Errorf("rule %d names no test and does not say why", rule)
		}
		for _, n := range named {
			if _, there := tests.Comment(t, n[1]); !there {
				t.Errorf("rule %d: there is no %s", rule, n[1])
			}
		}
	}
	if rule != engineRules {
		t.Errorf("%d rules, want %d", rule, engineRules)
	}
}

// SPDX-License-Identifier: Apache-2.0

package requirement

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/telematik/requirement/requirementtest"
)

var writeTable = flag.Bool("write-requirements", false, "write docs/requirements.md instead of comparing it (make docs)")

// TestDocument holds docs/requirements.md equal to the table.
func TestDocument(t *testing.T) {
	t.Parallel()
	file := filepath.Join("..", "..", "..", "docs", "requirements.md")
	if *writeTable {
		if err := os.WriteFile(file, Markdown(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, Markdown()) {
		t.Error("docs/requirements.md is not what the table says: run make docs")
	}
}

// TestLines: what is met or partly met names tests, what is not wholly met says why, and no requirement stands twice.
func TestLines(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, l := range table {
		if seen[l.ID] {
			t.Errorf("%s stands twice", l.ID)
		}
		seen[l.ID] = true
		shown := l.State == Met || l.State == Partly
		if shown != (len(l.Tests) > 0) {
			t.Errorf("%s is %s with %d tests", l.ID, l.State, len(l.Tests))
		}
		if (l.State == Partly || l.State == Not) && l.Note == "" {
			t.Errorf("%s is %s and does not say why", l.ID, l.State)
		}
		if !strings.HasSuffix(l.Says, ".") {
			t.Errorf("%s: %q is no sentence", l.ID, l.Says)
		}
	}
}

// TestTestsExist: every test that a line names is there and carries the requirement's number in its comment.
func TestTestsExist(t *testing.T) {
	t.Parallel()
	tests := requirementtest.Tests{Root: filepath.Join("..", "..")}
	for _, l := range table {
		for _, name := range l.Tests {
			comment, there := tests.Comment(t, name)
			if !there {
				t.Errorf("%s: there is no %s", l.ID, name)
			} else if !regexp.MustCompile(regexp.QuoteMeta(l.ID) + `\b`).MatchString(comment) {
				t.Errorf("%s: the comment of %s does not carry the number", l.ID, name)
			}
		}
	}
}

// TestDossierIsCovered: every requirement that the project's dossier names, where it is at hand, has a line, in this version or a later one.
func TestDossierIsCovered(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "shared", "ti-messenger.md"))
	if err != nil {
		t.Skip("the dossier is not beside this checkout")
	}
	base := func(id string) string { return strings.SplitN(id, "-0", 2)[0] }
	var have []string
	for _, l := range table {
		have = append(have, base(l.ID))
	}
	for _, id := range regexp.MustCompile(`\b(AF?_[0-9]{5}|ML-[0-9]{6})(-[0-9]{2})?\b`).FindAllString(string(text), -1) {
		if !slices.Contains(have, base(id)) {
			t.Errorf("%s has no line", id)
			have = append(have, base(id))
		}
	}
}

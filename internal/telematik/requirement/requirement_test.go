// SPDX-License-Identifier: Apache-2.0

package requirement

import (
	"bytes"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
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
	known := map[string]map[string]string{}
	for _, l := range table {
		for _, name := range l.Tests {
			folder, test, ok := strings.Cut(name, ": ")
			if !ok {
				t.Fatalf("%s: %q is not folder: TestName", l.ID, name)
			}
			if known[folder] == nil {
				known[folder] = testsIn(t, folder)
			}
			comment, there := known[folder][test]
			if !there {
				t.Errorf("%s: there is no %s", l.ID, name)
			} else if !regexp.MustCompile(regexp.QuoteMeta(l.ID) + `\b`).MatchString(comment) {
				t.Errorf("%s: the comment of %s does not carry the number", l.ID, name)
			}
		}
	}
}

// testsIn returns the comments of the test functions of a folder below internal.
func testsIn(t *testing.T, folder string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "..", filepath.FromSlash(folder), "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, file := range files {
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range tree.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Test") {
				found[f.Name.Name] = f.Doc.Text()
			}
		}
	}
	return found
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

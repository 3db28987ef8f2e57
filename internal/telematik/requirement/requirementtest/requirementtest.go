// SPDX-License-Identifier: Apache-2.0

// Package requirementtest finds the tests that documents name, so that a line about a rule cannot outlive the test that shows it. Only tests import it.
package requirementtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// Tests knows the test functions of the folders below a root; each folder is read once.
type Tests struct {
	// Root is the path of the folder internal.
	Root  string
	known map[string]map[string]string
}

// Comment returns the comment of a test named "folder below internal: TestName"; ok is false when there is none of that name.
func (x *Tests) Comment(t *testing.T, name string) (comment string, ok bool) {
	t.Helper()
	folder, test, cut := strings.Cut(name, ": ")
	if !cut {
		t.Fatalf("%q is not folder: TestName", name)
	}
	if x.known == nil {
		x.known = map[string]map[string]string{}
	}
	if x.known[folder] == nil {
		x.known[folder] = testsIn(t, filepath.Join(x.Root, filepath.FromSlash(folder)))
	}
	comment, ok = x.known[folder][test]
	return comment, ok
}

// testsIn returns the comments of the test functions of a folder.
func testsIn(t *testing.T, folder string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
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

// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/httpapi/spectest"
)

var writeSupport = flag.Bool("write-support", false, "write docs/matrix-support.md instead of comparing it (make docs)")

// supportFile is the table of endpoints for readers.
var supportFile = filepath.Join("..", "..", "docs", "matrix-support.md")

// operation is one method on one path of the specification.
type operation struct {
	module, method, path string
	deprecated           bool
}

// referenceFolder is where the specification's OpenAPI files of the client-server API lie; the test is skipped without them.
func referenceFolder(t *testing.T) string {
	t.Helper()
	dir, err := spectest.Folder()
	if err != nil {
		t.Skip("skipped: ", err)
	}
	return filepath.Join(dir, "client-server")
}

// operations reads what the specification asks for.
func operations(t *testing.T, dir string) []operation {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var all []operation
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var api struct {
			Servers []struct {
				Variables struct {
					BasePath struct {
						Default string `yaml:"default"`
					} `yaml:"basePath"`
				} `yaml:"variables"`
			} `yaml:"servers"`
			Paths map[string]map[string]yaml.Node `yaml:"paths"`
		}
		if err := yaml.Unmarshal(text, &api); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for path, methods := range api.Paths {
			for method, node := range methods {
				var about struct {
					Deprecated bool `yaml:"deprecated"`
				}
				if !slices.Contains([]string{"get", "put", "post", "delete"}, method) {
					continue
				}
				if err := node.Decode(&about); err != nil {
					t.Fatalf("%s: %v", file, err)
				}
				module := strings.TrimSuffix(filepath.Base(file), ".yaml")
				all = append(all, operation{module, strings.ToUpper(method), api.Servers[0].Variables.BasePath.Default + strings.TrimSpace(path), about.Deprecated})
			}
		}
	}
	slices.SortFunc(all, func(a, b operation) int {
		return cmp.Or(cmp.Compare(a.module, b.module), cmp.Compare(a.path, b.path), cmp.Compare(a.method, b.method))
	})
	return all
}

// shape is a path without the names of its variables and without a trailing slash.
func shape(method, path string) string {
	segments := strings.Split(strings.TrimSuffix(path, "/"), "/")
	for i, s := range segments {
		if strings.HasPrefix(s, "{") {
			segments[i] = "{}"
		}
	}
	return method + " " + strings.Join(segments, "/")
}

// registered are the routes of a node with everything that can be switched on.
func registered(t *testing.T) []httpapi.Route {
	t.Helper()
	s, err := New(t.Context(), configure(t, "tenants: [hs1]\nlisteners: {client: [\"127.0.0.1:0\"]}\n"), Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	return s.Routes()
}

// TestMatrixSupport compares the specification's operations with the routes of a real server, and docs/matrix-support.md with both.
//
// Requirements: A_22810, A_25641-01.
func TestMatrixSupport(t *testing.T) {
	t.Parallel()
	wanted := operations(t, referenceFolder(t))
	if len(wanted) < 160 {
		t.Fatalf("only %d operations found in the reference data", len(wanted))
	}
	served := map[string]bool{}
	for _, r := range registered(t) {
		served[shape(r.Method, r.Path)] = true
	}
	missing := 0
	for _, o := range wanted {
		if !served[shape(o.method, o.path)] {
			missing++
			t.Errorf("missing: %s %s", o.method, o.path)
		}
	}
	t.Logf("%d of %d operations are served", len(wanted)-missing, len(wanted))
	document := supportDocument(wanted, registered(t), served)
	if *writeSupport {
		if err := os.WriteFile(supportFile, document, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(supportFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, document) {
		t.Error("docs/matrix-support.md is not current: run make docs")
	}
}

// supportDocument writes the table: the specification's operations in its order, then what is served beyond them.
func supportDocument(wanted []operation, routes []httpapi.Route, served map[string]bool) []byte {
	var b bytes.Buffer
	b.WriteString(`# Matrix: what is served

<!-- Written from the routes of a running server and the specification's OpenAPI files by "make docs". Do not edit. -->

Every operation of the client-server API v1.19, by the specification's modules. A test compares this page with a running server. Paths of ` + "`v3`" + `
are served under ` + "`r0`" + ` too. What a policy forbids answers with its error all the same: ` + "`policy: ti`" + ` closes what the network closes.

| module | operation | |
|---|---|---|
`)
	known := map[string]bool{}
	for _, o := range wanted {
		known[shape(o.method, o.path)] = true
		state := "**missing**"
		if served[shape(o.method, o.path)] {
			state = "yes"
		}
		if o.deprecated {
			state += ", deprecated"
		}
		fmt.Fprintf(&b, "| %s | `%s %s` | %s |\n", o.module, o.method, o.path, state)
	}
	b.WriteString("\n## Beyond the client-server API\n\nUnstable paths that today's clients call, and the conventions of the field:\n\n")
	var beyond []string
	for _, r := range routes {
		switch {
		case known[shape(r.Method, r.Path)], strings.HasPrefix(r.Path, "/_matrix/client/r0/"), strings.HasPrefix(r.Path, "/_matrix/federation/"),
			strings.HasPrefix(r.Path, "/_matrix/key/"):
		default:
			beyond = append(beyond, fmt.Sprintf("- `%s %s`\n", r.Method, r.Path))
		}
	}
	slices.Sort(beyond)
	for _, line := range slices.Compact(beyond) {
		b.WriteString(line)
	}
	return b.Bytes()
}

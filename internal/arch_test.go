// SPDX-License-Identifier: Apache-2.0

package internal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const (
	module  = "github.com/konsil-health/konsil/"
	maxLine = 1000
)

// order is the house of DESIGN.md: a package imports only what stands above it. A line that ends with a slash stands for the whole folder,
// whose packages may import each other.
var order = []string{
	"internal/matrix/mxerror",
	"internal/matrix/id",
	"internal/matrix/canonicaljson",
	"internal/matrix/signing",
	"internal/matrix/roomversion",
	"internal/matrix/event",
	"internal/matrix/authrule",
	"internal/matrix/stateres",
	"internal/matrix/pushrule",
	"internal/health/brainpool",
	"internal/health/jose",
	"internal/health/certificate",
	"internal/health/ocsp",
	"internal/health/fhir",
	"internal/foundation/config",
	"internal/foundation/observe",
	"internal/foundation/database",
	"internal/foundation/cache",
	"internal/foundation/tenant",
	"internal/foundation/keyring",
	"internal/foundation/stream",
	"internal/foundation/background",
	"internal/foundation/limit",
	"internal/foundation/mail",
	"internal/foundation/httpapi",
	"internal/foundation/webpage",
	"internal/homeserver/policy",
	"internal/homeserver/account",
	"internal/homeserver/oauth",
	"internal/homeserver/room",
	"internal/homeserver/space",
	"internal/homeserver/delayed",
	"internal/homeserver/retention",
	"internal/homeserver/timeline",
	"internal/homeserver/ephemeral",
	"internal/homeserver/encryption",
	"internal/homeserver/media",
	"internal/homeserver/push",
	"internal/homeserver/clientsync",
	"internal/homeserver/federation",
	"internal/homeserver/appservice",
	"internal/telematik/trust",
	"internal/telematik/card",
	"internal/telematik/idp",
	"internal/telematik/agent",
	"internal/telematik/directory",
	"internal/telematik/fedlist",
	"internal/telematik/permission",
	"internal/telematik/contact",
	"internal/telematik/sweep",
	"internal/telematik/registration",
	"internal/telematik/proxy",
	"internal/telematik/requirement",
	"internal/call/",
	"internal/pushgateway/",
	"internal/admin/",
	"internal/browser",
	"internal/server",
	"internal/demo",
	"internal/tour/",
	"internal/testdriver",
	"cmd/konsil",
	"cmd/konsil-testdriver",
}

// exceptions are imports against the order, each with its reason. Key: "importer → imported".
var exceptions = map[string]string{}

// forTests says whether only tests may import a package: its name ends with test.
func forTests(path string) bool { return strings.HasSuffix(path, "test") }

// pureForbids is what the pure packages (matrix, health) may not import: they get events and give verdicts, without I/O and without a clock.
var pureForbids = []string{"net/http", "net", "database/sql", "os", "os/exec", "log", "log/slog", "syscall", "io/ioutil", "math/rand", "math/rand/v2"}

// pkg is what `go list` says of a package of this module.
type pkg struct {
	ImportPath, Dir, Doc           string
	GoFiles, TestGoFiles, CgoFiles []string
	Imports, TestImports           []string
}

func (p pkg) path() string { return strings.TrimPrefix(p.ImportPath, module) }

// packages lists the module once for all tests.
var packages = sync.OnceValues(func() ([]pkg, error) {
	cmd := exec.Command("go", "list", "-tags", "goolm", "-json=ImportPath,Dir,Doc,GoFiles,TestGoFiles,CgoFiles,Imports,TestImports", "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = errors.New(string(exit.Stderr))
		}
		return nil, err
	}
	var all []pkg
	d := json.NewDecoder(bytes.NewReader(out))
	for {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
})

func list(t *testing.T) []pkg {
	t.Helper()
	all, err := packages()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("only %d packages found", len(all))
	}
	return all
}

// rank is a package's place in the order, -1 for none.
func rank(path string) int {
	best, length := -1, 0
	for i, o := range order {
		if folder, ok := strings.CutSuffix(o, "/"); ok {
			if (path == folder || strings.HasPrefix(path, o)) && len(o) > length {
				best, length = i, len(o)
			}
			continue
		}
		if (path == o || strings.HasPrefix(path, o+"/")) && len(o) > length {
			best, length = i, len(o)
		}
	}
	return best
}

func TestImportsFollowTheHouse(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	for _, p := range list(t) {
		from := p.path()
		if forTests(from) {
			continue
		}
		mine := rank(from)
		if mine < 0 && inHouse(from) {
			t.Errorf("%s has no place in the order of arch_test.go", from)
			continue
		}
		for _, imp := range p.Imports {
			to, ok := strings.CutPrefix(imp, module)
			if !ok {
				continue
			}
			if forTests(to) {
				t.Errorf("%s imports %s, which is for tests", from, to)
			}
			if edge := from + " → " + to; exceptions[edge] != "" {
				used[edge] = true
				continue
			}
			if inHouse(from) && rank(to) > mine {
				t.Errorf("%s imports %s, which stands below it", from, to)
			}
		}
	}
	for edge, reason := range exceptions {
		if !used[edge] {
			t.Errorf("the exception %q (%s) is not needed any more", edge, reason)
		}
	}
}

// inHouse says whether the order speaks of a package: bench, certify and web are black boxes of their own.
func inHouse(path string) bool {
	return strings.HasPrefix(path, "internal/") || strings.HasPrefix(path, "cmd/")
}

func TestPureCore(t *testing.T) {
	t.Parallel()
	for _, p := range list(t) {
		path := p.path()
		if forTests(path) || !strings.HasPrefix(path, "internal/matrix/") && !strings.HasPrefix(path, "internal/health/") {
			continue
		}
		for _, imp := range p.Imports {
			if slices.Contains(pureForbids, imp) {
				t.Errorf("%s imports %s", path, imp)
			}
		}
		for _, f := range p.GoFiles {
			text, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			for _, clock := range []string{"time.Now(", "time.Since(", "time.After(", "time.Sleep("} {
				if bytes.Contains(text, []byte(clock)) {
					t.Errorf("%s/%s uses %s): time is an input there", path, f, clock)
				}
			}
		}
	}
}

func TestPackagesAreExplained(t *testing.T) {
	t.Parallel()
	for _, p := range list(t) {
		if len(p.GoFiles) == 0 {
			continue
		}
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.path())
		}
		if inHouse(p.path()) && strings.HasPrefix(p.path(), "internal/") && !slices.Contains(p.GoFiles, "doc.go") && !forTests(p.path()) {
			t.Errorf("%s has no doc.go", p.path())
		}
	}
}

// sources walks all Go files of the repository, those of nested modules too.
func sources(t *testing.T, f func(path string, text []byte)) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == "dist" || path != ".." && strings.HasPrefix(d.Name(), ".")) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f(path, text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestFiles(t *testing.T) {
	t.Parallel()
	sources(t, func(path string, text []byte) {
		if !bytes.HasPrefix(text, []byte("// SPDX-License-Identifier: Apache-2.0\n")) {
			t.Errorf("%s does not begin with the SPDX line", path)
		}
		if n := bytes.Count(text, []byte("\n")); n > maxLine {
			t.Errorf("%s has %d lines, at most %d", path, n, maxLine)
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, text, parser.ImportsOnly)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			return
		}
		for _, part := range strings.Split(filepath.ToSlash(filepath.Dir(path)), "/") {
			if slices.Contains([]string{"utils", "util", "common", "types", "helpers", "misc"}, part) {
				t.Errorf("%s lies in a drawer named %s", path, part)
			}
		}
		for _, imp := range file.Imports {
			if imp.Path.Value == `"C"` {
				t.Errorf("%s uses cgo", path)
			}
			if imp.Path.Value == `"github.com/maypok86/otter/v2"` && filepath.ToSlash(filepath.Dir(path)) != "../internal/foundation/cache" {
				t.Errorf("%s imports otter: make a cache.Cache, package cache says why", path)
			}
			if imp.Path.Value == `"encoding/json"` && !strings.HasSuffix(path, "_test.go") && !forTests(filepath.ToSlash(filepath.Dir(path))) {
				t.Errorf("%s imports encoding/json, which drops what Matrix needs (duplicate keys, numbers): use go-json-experiment/json", path)
			}
		}
	})
}

// TestNoCgo looks at everything the program is made of.
func TestNoCgo(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("go", "list", "-deps", "-tags", "goolm", "-f", "{{if not .Standard}}{{if .CgoFiles}}{{.ImportPath}}{{end}}{{end}}", "./cmd/...")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1") // otherwise such files would only be left out of sight
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if found := strings.Fields(string(out)); len(found) > 0 {
		t.Errorf("cgo in %v", found)
	}
}

// TestDriverStandsApart: gematik's test driver is in no product, and has nothing of the server in it: it speaks to what it tests over the network
// only (ML-124877, ML-124878).
//
// Requirements: ML-124877, ML-124878.
func TestDriverStandsApart(t *testing.T) {
	t.Parallel()
	const driver = "internal/testdriver"
	for _, c := range []struct {
		program string
		allowed func(path string) bool
	}{
		{"cmd/konsil", func(path string) bool { return path != driver }},
		{"cmd/konsil-testdriver", func(path string) bool {
			return slices.Contains([]string{driver, "internal/tour/messenger", "cmd/konsil-testdriver"}, path)
		}},
	} {
		cmd := exec.Command("go", "list", "-deps", "-tags", "goolm", "./"+c.program)
		cmd.Dir = ".."
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, dep := range strings.Fields(string(out)) {
			if path, ours := strings.CutPrefix(dep, module); ours && !c.allowed(path) {
				t.Errorf("%s contains %s", c.program, path)
			}
		}
	}
}

// TestDependenciesHaveReasons holds docs/dependencies.md equal to the direct dependencies of go.mod.
func TestDependenciesHaveReasons(t *testing.T) {
	t.Parallel()
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("../docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mod)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || !strings.HasPrefix(fields[1], "v") || strings.Contains(line, "// indirect") || !strings.Contains(fields[0], ".") {
			continue
		}
		if !bytes.Contains(doc, []byte("`"+fields[0]+"`")) {
			t.Errorf("docs/dependencies.md gives no reason for %s", fields[0])
		}
	}
}

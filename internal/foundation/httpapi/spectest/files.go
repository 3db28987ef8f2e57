// SPDX-License-Identifier: Apache-2.0

package spectest

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Variable names the environment variable that says where the reference data lies.
const Variable = "KONSIL_REFERENCE"

// Folder is the folder api of the specification's data, or an error that says what is missing.
func Folder() (string, error) {
	dir := os.Getenv(Variable)
	if dir == "" {
		here, err := os.Getwd() // tests run in their package's folder
		if err != nil {
			return "", err
		}
		dir = beside(here)
	}
	dir = filepath.Join(dir, "matrix", "api")
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("the specification's OpenAPI files are not here: set %s to the folder of reference data", Variable)
	}
	return dir, nil
}

// beside finds shared/reference beside the checkout that a path belongs to.
func beside(path string) string {
	for dir := path; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(filepath.Dir(dir), "shared", "reference")
		}
	}
	return "nowhere"
}

// spec is what the files say.
type spec struct {
	mu         sync.Mutex // the compiler is for one at a time
	compiler   *jsonschema.Compiler
	operations map[string][]*operation // by method and number of segments
}

// operation is one method on one path.
type operation struct {
	file     string
	pointer  []string // where it stands in its file
	method   string
	segments []string
	node     map[string]any
	document map[string]any

	mu      sync.Mutex
	schemas map[string]*jsonschema.Schema // by pointer; nil where there is none
}

// name is how an operation is called in messages and in [exceptions].
func (o *operation) name() string { return o.method + " /" + strings.Join(o.segments, "/") }

// read reads the files once for all tests of a package.
var read = sync.OnceValues(func() (*spec, error) {
	dir, err := Folder()
	if err != nil {
		return nil, err
	}
	s := newSpec()
	for _, api := range []string{"client-server", "server-server", "application-service", "push-gateway"} {
		files, err := filepath.Glob(filepath.Join(dir, api, "*.yaml"))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			if err := s.add(file); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
})

func newSpec() *spec {
	s := &spec{compiler: jsonschema.NewCompiler(), operations: map[string][]*operation{}}
	s.compiler.DefaultDraft(jsonschema.Draft2020)
	s.compiler.UseLoader(loader{})
	s.compiler.AssertFormat()
	for _, f := range formats {
		s.compiler.RegisterFormat(f)
	}
	return s
}

var methods = []string{"get", "put", "post", "delete"}

func (s *spec) add(file string) error {
	v, err := loader{}.Load("file://" + file)
	if err != nil {
		return err
	}
	document, _ := v.(map[string]any)
	base, _ := at(document, "servers", 0, "variables", "basePath", "default").(string)
	paths, _ := document["paths"].(map[string]any)
	for path, v := range paths {
		for method, node := range v.(map[string]any) {
			if !slices.Contains(methods, method) {
				continue
			}
			// A space at the end tells two operations of one path apart.
			o := &operation{file: file, pointer: []string{"paths", path, method}, method: strings.ToUpper(method), document: document,
				segments: split(base + strings.TrimSpace(path)), schemas: map[string]*jsonschema.Schema{}}
			o.node, _ = node.(map[string]any)
			key := fmt.Sprint(o.method, len(o.segments))
			s.operations[key] = append(s.operations[key], o)
		}
	}
	return nil
}

func split(path string) []string { return strings.Split(strings.Trim(path, "/"), "/") }

// at walks down a document.
func at(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[p]
		case int:
			l, _ := v.([]any)
			if p >= len(l) {
				return nil
			}
			v = l[p]
		}
	}
	return v
}

// find returns the operations of a request: more than one where the specification describes a path twice. Fixed segments win over variables.
func (s *spec) find(method, path string) []*operation {
	got := split(path)
	best, found := -1, []*operation(nil)
	for _, o := range s.operations[fmt.Sprint(method, len(got))] {
		fixed := 0
		for i, want := range o.segments {
			if strings.HasPrefix(want, "{") {
				continue
			}
			if want != got[i] {
				fixed = -1
				break
			}
			fixed++
		}
		switch {
		case fixed < 0 || fixed < best:
		case fixed > best:
			best, found = fixed, []*operation{o}
		default:
			found = append(found, o)
		}
	}
	return found
}

// Operations are the names of all operations of one API ("server-server"), as [Name] gives them; an error says that the files are missing.
func Operations(api string) ([]string, error) {
	s, err := read()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, list := range s.operations {
		for _, o := range list {
			if filepath.Base(filepath.Dir(o.file)) == api {
				names = append(names, o.name())
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Name is the operation that a request is, by method and path template; empty for one that the specification does not describe.
func Name(method, path string) string {
	s, err := read()
	if err != nil {
		return ""
	}
	found := s.find(method, path)
	if len(found) == 0 {
		return ""
	}
	return found[0].name()
}

// resolve follows references to other parts of the same file, and says where the node stands.
func (o *operation) resolve(node any, pointer []string) (map[string]any, []string) {
	m, _ := node.(map[string]any)
	for {
		ref, _ := m["$ref"].(string)
		local, ok := strings.CutPrefix(ref, "#/")
		if !ok {
			return m, pointer
		}
		pointer = strings.Split(local, "/")
		var v any = o.document
		for _, p := range pointer {
			v = at(v, p)
		}
		m, _ = v.(map[string]any)
	}
}

var escape = strings.NewReplacer("~", "~0", "/", "~1")

// schema compiles the JSON schema at a place of the operation's file.
func (s *spec) schema(o *operation, pointer []string) (*jsonschema.Schema, error) {
	var b strings.Builder
	for _, p := range pointer {
		b.WriteString("/" + url.PathEscape(escape.Replace(p)))
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if known, ok := o.schemas[b.String()]; ok {
		return known, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	compiled, err := s.compiler.Compile("file://" + o.file + "#" + b.String())
	if err != nil {
		return nil, err
	}
	o.schemas[b.String()] = compiled
	return compiled, nil
}

// loader reads the specification's files for the compiler of schemas.
type loader struct{}

// Load implements jsonschema.URLLoader.
func (loader) Load(location string) (any, error) {
	u, err := url.Parse(location)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(u.Path)
	if err != nil {
		return nil, err
	}
	var v any
	if err := yaml.Unmarshal(text, &v); err != nil { // JSON is YAML
		return nil, fmt.Errorf("%s: %w", u.Path, err)
	}
	return plain(v), nil
}

// plain gives a YAML value the types of JSON.
func plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			v[k] = plain(e)
		}
		return v
	case map[any]any:
		m := make(map[string]any, len(v))
		for k, e := range v {
			m[fmt.Sprint(k)] = plain(e)
		}
		return m
	case []any:
		for i, e := range v {
			v[i] = plain(e)
		}
		return v
	case nil, string, bool, int, int64, float64:
		return v
	}
	return fmt.Sprint(v)
}

var base64Text = regexp.MustCompile(`^[A-Za-z0-9+/_-]*$`)

// formats are the specification's own formats of strings.
var formats = []*jsonschema.Format{
	parsed("mx-user-id", func(s string) error { _, err := id.ParseUser(s); return err }),
	parsed("mx-room-id", func(s string) error { _, err := id.ParseRoom(s); return err }),
	parsed("mx-event-id", func(s string) error { _, err := id.ParseEvent(s); return err }),
	parsed("mx-room-alias", func(s string) error { _, err := id.ParseAlias(s); return err }),
	parsed("mx-server-name", func(s string) error { _, err := id.ParseServer(s); return err }),
	parsed("mx-mxc-uri", func(s string) error {
		if !strings.HasPrefix(s, "mxc://") {
			return errors.New("no mxc:// address")
		}
		return nil
	}),
	parsed("mx-unpadded-base64", unpadded),
	parsed("mx-urlsafe-unpadded-base64", unpadded),
}

func unpadded(s string) error {
	if !base64Text.MatchString(s) {
		return errors.New("no unpadded base64")
	}
	return nil
}

func parsed(name string, parse func(string) error) *jsonschema.Format {
	return &jsonschema.Format{Name: name, Validate: func(v any) error {
		s, ok := v.(string)
		if !ok {
			return nil
		}
		return parse(s)
	}}
}

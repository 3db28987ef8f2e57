// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/v2"
	"go.yaml.in/yaml/v3"
)

// Source says where a configuration comes from. Later sources win over earlier ones: defaults, file, environment, flags.
type Source struct {
	// File is the path of a YAML file; empty for none.
	File string
	// Text is used instead of File's content when it is not nil (tests, generated configurations).
	Text []byte
	// Environ is a list of NAME=value (nil: the process's). The variable of a key is KONSIL_ and the key in capitals, with _ for dots. Lists are
	// separated by commas; lists of objects and maps are written as YAML.
	Environ []string
	// Flags are KEY=VALUE of the command line, values as in the environment.
	Flags []string
}

// delimiter separates the parts of keys inside koanf. Server names are keys of federation.resolve and hold dots, so it is none.
const delimiter = "/"

// Load reads, merges and checks a configuration. The error lists everything that is wrong, each with its key and place.
func Load(s Source) (*Config, error) {
	l := &loader{k: koanf.New(delimiter), origin: map[string]string{}}
	if err := l.defaults(); err != nil {
		return nil, err
	}
	if err := l.file(s); err != nil {
		return nil, err
	}
	c := &Config{}
	if err := l.environment(s, c); err != nil {
		return nil, err
	}
	if err := l.flags(s.Flags); err != nil {
		return nil, err
	}
	if err := l.decode(c); err != nil {
		return nil, err
	}
	if err := l.check(c); err != nil {
		return nil, err
	}
	return c, nil
}

// loader merges the sources in koanf and remembers where each key's value came from.
type loader struct {
	k      *koanf.Koanf
	name   string            // of the file
	nodes  map[string]int    // key of the file → line
	origin map[string]string // top key set by environment or flag → its name
	errs   []error
}

// mapProvider gives koanf a map that is already there.
type mapProvider map[string]any

func (m mapProvider) Read() (map[string]any, error) { return m, nil }
func (m mapProvider) ReadBytes() ([]byte, error)    { return nil, errors.New("not a file") }

func (l *loader) defaults() error {
	m := map[string]any{}
	for _, k := range keys {
		if k.Default == "" || strings.Contains(k.Path, "[]") || strings.Contains(k.Path, "*") {
			continue
		}
		var v any
		if err := yaml.Unmarshal([]byte(k.Default), &v); err != nil {
			return fmt.Errorf("default of %s: %w", k.Path, err)
		}
		put(m, strings.Split(k.Path, "."), v)
	}
	return l.k.Load(mapProvider(m), nil)
}

func put(m map[string]any, path []string, v any) {
	for _, p := range path[:len(path)-1] {
		next, ok := m[p].(map[string]any)
		if !ok {
			next = map[string]any{}
			m[p] = next
		}
		m = next
	}
	m[path[len(path)-1]] = v
}

func (l *loader) file(s Source) error {
	l.name = s.File
	text := s.Text
	if text == nil {
		if s.File == "" {
			return nil
		}
		var err error
		if text, err = os.ReadFile(s.File); err != nil {
			return fmt.Errorf("configuration: %w", err)
		}
	}
	if l.name == "" {
		l.name = "configuration"
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return fmt.Errorf("%s: %s", l.name, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if len(doc.Content) == 0 {
		return nil
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return fmt.Errorf("%s:%d: expected keys and values", l.name, root.Line)
	}
	m := map[string]any{}
	if err := doc.Decode(&m); err != nil { // before the walk: it refuses anchors that hold themselves
		return fmt.Errorf("%s: %s", l.name, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	l.nodes = map[string]int{}
	l.walk(root, "", "")
	dropNull(m)
	return l.k.Load(mapProvider(m), nil)
}

// dropNull lets a key without a value keep its default.
func dropNull(m map[string]any) {
	for k, v := range m {
		switch v := v.(type) {
		case nil:
			delete(m, k)
		case map[string]any:
			dropNull(v)
		}
	}
}

// walk notes the line of every key and finds unknown ones. pattern is the path as the table writes it.
func (l *loader) walk(n *yaml.Node, path, pattern string) {
	switch n.Kind {
	case yaml.AliasNode:
		l.walk(n.Alias, path, pattern)
	case yaml.SequenceNode:
		for i, item := range n.Content {
			p := fmt.Sprintf("%s[%d]", path, i)
			l.nodes[p] = item.Line
			l.walk(item, p, pattern+"[]")
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			name := n.Content[i]
			p, pat := join(path, name.Value), join(pattern, name.Value)
			if pattern == "federation.resolve" {
				pat = "federation.resolve.*"
			}
			l.nodes[p] = name.Line
			if !known(pat) {
				l.errs = append(l.errs, fmt.Errorf("%s:%d: unknown key %s%s", l.name, name.Line, p, similar(pat)))
				continue
			}
			l.walk(n.Content[i+1], p, pat)
		}
	}
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "." + b
}

func known(pattern string) bool {
	for _, k := range keys {
		if k.Path == pattern || strings.HasPrefix(k.Path, pattern+".") || strings.HasPrefix(k.Path, pattern+"[]") {
			return true
		}
	}
	return false
}

// similar offers the key that somebody probably meant.
func similar(pattern string) string {
	last := pattern[strings.LastIndexByte(pattern, '.')+1:]
	for _, k := range keys {
		if k.Path == last || strings.HasSuffix(k.Path, "."+last) || strings.ReplaceAll(k.Path, "_", "") == strings.ReplaceAll(pattern, "_", "") {
			return fmt.Sprintf(" (did you mean %s?)", k.Path)
		}
	}
	return ""
}

// Variable returns the environment variable of a key.
func Variable(path string) string {
	return "KONSIL_" + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}

// settable says whether a key can be set by one variable or flag: not the keys inside lists and maps.
func (k key) settable() bool { return !strings.ContainsAny(k.Path, "[*") }

func (l *loader) environment(s Source, c *Config) error {
	byVariable := map[string]string{}
	for _, k := range keys {
		if k.settable() {
			byVariable[Variable(k.Path)] = k.Path
		}
	}
	var errs []error
	environ := s.Environ
	if environ == nil {
		environ = os.Environ()
	}
	provider := env.Provider(delimiter, env.Opt{
		Prefix:      "KONSIL_",
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(name, text string) (string, any) {
			path, ok := byVariable[name]
			if !ok {
				if !strings.HasPrefix(name, "KONSIL_TEST_") {
					c.Ignored = append(c.Ignored, name)
				}
				return "", nil
			}
			v, err := parse(path, text)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %s: %w", name, path, err))
				return "", nil
			}
			l.origin[path] = name
			return strings.ReplaceAll(path, ".", delimiter), v
		},
	})
	if err := l.k.Load(provider, nil); err != nil {
		return fmt.Errorf("environment: %w", err)
	}
	slices.Sort(c.Ignored)
	return errors.Join(errs...)
}

func (l *loader) flags(flags []string) error {
	m := map[string]any{}
	for _, f := range flags {
		path, text, ok := strings.Cut(f, "=")
		if !ok {
			return fmt.Errorf("--set %s: expected KEY=VALUE", f)
		}
		if i := slices.IndexFunc(keys, func(k key) bool { return k.Path == path && k.settable() }); i < 0 {
			return fmt.Errorf("--set %s: unknown key %s%s", f, path, similar(path))
		}
		v, err := parse(path, text)
		if err != nil {
			return fmt.Errorf("--set %s: %w", path, err)
		}
		l.origin[path] = "--set " + path
		put(m, strings.Split(path, "."), v)
	}
	return l.k.Load(mapProvider(m), nil)
}

// parse reads a value of the environment or command line. Scalars stay text, so that a password of digits is one.
func parse(path, text string) (any, error) {
	list := slices.ContainsFunc(keys, func(k key) bool { return k.Path == path && strings.HasPrefix(k.Default, "[") })
	object := slices.ContainsFunc(keys, func(k key) bool { return k.Path == path && strings.HasPrefix(k.Default, "{") })
	switch {
	case object, list && strings.HasPrefix(strings.TrimSpace(text), "["):
		var v any
		if err := yaml.Unmarshal([]byte(text), &v); err != nil {
			return nil, fmt.Errorf("no YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
		}
		return v, nil
	case list:
		items := []any{}
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item != "" {
				items = append(items, item)
			}
		}
		return items, nil
	}
	return text, nil
}

// place says where the value of a key stands: file and line, variable or flag.
func (l *loader) place(path string) string {
	for p := path; p != ""; p = parent(p) {
		if o, ok := l.origin[p]; ok {
			return o
		}
	}
	for p := path; p != ""; p = parent(p) {
		if line, ok := l.nodes[p]; ok {
			return fmt.Sprintf("%s:%d", l.name, line)
		}
	}
	if l.name != "" {
		return l.name
	}
	return "configuration"
}

func parent(path string) string {
	if i := strings.LastIndexAny(path, ".["); i >= 0 {
		return path[:i]
	}
	return ""
}

// fail notes that a key's value is wrong.
func (l *loader) fail(path, format string, args ...any) {
	l.errs = append(l.errs, fmt.Errorf("%s: %s: %w", l.place(path), path, fmt.Errorf(format, args...)))
}

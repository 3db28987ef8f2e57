// SPDX-License-Identifier: Apache-2.0

package fhir

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxIssues bounds what is said about one resource.
const maxIssues = 50

// Validate checks a resource against the directory's profile of its type: every element with its cardinality, datatype, codes and references, the
// published extensions and the rules between elements. It answers no issue for a good one; each issue names where it is as a FHIRPath expression.
func Validate(r *Resource) []Issue {
	if !slices.Contains(validated, r.Type()) {
		return []Issue{{Severity: "error", Code: CodeNotSupported, Diagnostics: "the directory has no " + r.Type(), Expression: []string{r.Type()}}}
	}
	c := &checker{}
	c.object(r.Type(), r.tree, r.Type(), slices.Concat(rules()["Resource"], rules()[r.Type()]))
	c.profile(r)
	slices.SortStableFunc(c.issues, func(a, b Issue) int {
		return strings.Compare(a.Expression[0]+a.Diagnostics, b.Expression[0]+b.Diagnostics)
	})
	return c.issues[:min(len(c.issues), maxIssues)]
}

var validated = []string{Practitioner, PractitionerRole, Organization, HealthcareService, Location, Endpoint}

// ConnectionTypes are the codes of EndpointDirectoryConnectionType.
var ConnectionTypes = codeSystems()[SystemConnectionType]

// checker collects what is wrong.
type checker struct{ issues []Issue }

func (c *checker) report(code, path, format string, a ...any) {
	c.issues = append(c.issues, Issue{Severity: "error", Code: code, Diagnostics: fmt.Sprintf(format, a...), Expression: []string{path}})
}

// object checks the members of an object of a type.
func (c *checker) object(kind string, m map[string]any, path string, known []rule) {
	resource := !strings.Contains(path, ".")
	for _, name := range slices.Sorted(maps.Keys(m)) {
		plain := strings.TrimPrefix(name, "_")
		at := slices.IndexFunc(known, func(r rule) bool { return r.name == plain })
		switch {
		case name == "resourceType" && resource, at >= 0 && plain == name:
		case at >= 0: // _name: id and extensions of a primitive element
			if !primitive(known[at].kind) {
				c.report(CodeStructure, path+"."+name, "only primitive elements have a sibling with an underscore")
			}
			c.siblings(m[name], path+"."+plain)
		case !resource && name == "id":
			if s, ok := m[name].(string); !ok || s == "" {
				c.report(CodeStructure, path+".id", "must be a text")
			}
		case !resource && name == "extension":
			c.extensions(m[name], path, path+".extension")
		case !resource && name == "modifierExtension" && strings.Contains(kind, "."):
			c.extensions(m[name], path, path+".modifierExtension")
		default:
			c.report(CodeStructure, path+"."+name, "unknown element")
		}
	}
	for _, r := range known {
		c.element(r, m, path)
	}
}

// siblings checks the extensions beside primitive values.
func (c *checker) siblings(v any, path string) {
	list, isList := v.([]any)
	if !isList {
		list = []any{v}
	}
	for _, item := range list {
		m, ok := item.(map[string]any)
		if !ok {
			if item != nil || !isList {
				c.report(CodeStructure, path, "an underscore member is an object with id or extension")
			}
			continue
		}
		for name := range m {
			switch name {
			case "id":
			case "extension":
				c.extensions(m[name], path, path+".extension")
			default:
				c.report(CodeStructure, path+"."+name, "unknown element")
			}
		}
	}
}

// element checks how often an element is there and each value of it.
func (c *checker) element(r rule, m map[string]any, parent string) {
	v, there := m[r.name]
	path := parent + "." + r.name
	if !there {
		if _, sibling := m["_"+r.name]; r.min > 0 && !sibling {
			c.report(CodeRequired, path, "is required")
		}
		return
	}
	if r.max == 0 {
		c.report(CodeStructure, path, "is not allowed here")
		return
	}
	if r.name == "extension" || r.name == "modifierExtension" {
		c.extensions(v, parent, path)
		return
	}
	list, isList := v.([]any)
	switch {
	case isList != r.list && r.list:
		c.report(CodeStructure, path, "must be a list")
		return
	case isList != r.list:
		c.report(CodeStructure, path, "must not be a list")
		return
	case !isList:
		c.value(r, v, path)
		return
	case len(list) == 0:
		c.report(CodeStructure, path, "a list must not be empty")
		return
	case r.max > 0 && len(list) > r.max:
		c.report(CodeStructure, path, "at most %d allowed", r.max)
	}
	for i, item := range list {
		if _, sibling := m["_"+r.name]; item == nil && sibling {
			continue
		}
		c.value(r, item, path+"["+strconv.Itoa(i)+"]")
	}
}

// value checks one value of an element.
func (c *checker) value(r rule, v any, path string) {
	if v == nil {
		c.report(CodeStructure, path, "must not be null")
		return
	}
	if primitive(r.kind) {
		if reason := primitiveFault(r.kind, v); reason != "" {
			c.report(CodeValue, path, "%s", reason)
			return
		}
		if s, _ := v.(string); len(r.codes) > 0 && !slices.Contains(r.codes, s) {
			c.report(CodeCodeInvalid, path, "must be one of %q", r.codes)
		}
		return
	}
	m, ok := v.(map[string]any)
	if !ok {
		c.report(CodeStructure, path, "must be an object (%s)", r.kind)
		return
	}
	if len(m) == 0 {
		c.report(CodeStructure, path, "must not be empty")
		return
	}
	c.object(r.kind, m, path, rules()[r.kind])
	switch r.kind {
	case "Reference":
		c.reference(r, m, path)
	case "Coding":
		if r.set != "" && !codingIn(r.set, m) {
			c.report(CodeCodeInvalid, path, "must be a code of the value set %s", r.set)
		}
	case "CodeableConcept":
		c.concept(r, m, path)
	}
}

// reference checks what is referred to: "Type/id", of a type that may be meant.
func (c *checker) reference(r rule, m map[string]any, path string) {
	ref, ok := m["reference"].(string)
	if !ok {
		if _, extended := m["extension"]; !extended && m["identifier"] == nil {
			c.report(CodeRequired, path, "refers to nothing")
		}
		return
	}
	kind, _, _ := strings.Cut(ref, "/")
	if !IsReference(ref) {
		c.report(CodeValue, path, "must be a reference of the form Type/id")
	} else if !slices.Contains(r.targets, kind) {
		c.report(CodeValue, path, "must refer to %s", strings.Join(r.targets, " or "))
	}
}

// concept checks a required binding: one of the codings is of the set.
func (c *checker) concept(r rule, m map[string]any, path string) {
	if r.set == "" {
		return
	}
	codings, _ := m["coding"].([]any)
	for _, v := range codings {
		if coding, ok := v.(map[string]any); ok && codingIn(r.set, coding) {
			return
		}
	}
	c.report(CodeCodeInvalid, path, "needs a code of the value set %s", r.set)
}

func codingIn(set string, m map[string]any) bool {
	c := coding(m)
	return inSet(set, c.System, c.Code)
}

var indexes = regexp.MustCompile(`\[\d+\]`)

// extensions checks a list of extensions of the element at a path.
func (c *checker) extensions(v any, of, path string) {
	list, ok := v.([]any)
	if !ok || len(list) == 0 {
		c.report(CodeStructure, path, "must be a list that is not empty")
		return
	}
	for i, item := range list {
		at := path + "[" + strconv.Itoa(i) + "]"
		m, ok := item.(map[string]any)
		url, _ := m["url"].(string)
		if !ok || url == "" {
			c.report(CodeRequired, at+".url", "is required")
			continue
		}
		published, known := extensionRules[url]
		if known && published.contexts != nil && !slices.Contains(published.contexts, indexes.ReplaceAllString(of, "")) {
			c.report(CodeStructure, at, "the extension %s does not belong here", url)
		}
		c.extension(m, published, known, at)
	}
}

// extension checks one of any origin: it has one value or parts. A published one has what its definition says.
func (c *checker) extension(m map[string]any, published extensionRule, known bool, path string) {
	values := 0
	for _, name := range slices.Sorted(maps.Keys(m)) {
		kind, isValue := strings.CutPrefix(name, "value")
		switch {
		case name == "url", name == "id":
		case name == "extension":
			values++
			c.parts(m[name], published, known, path+".extension")
		case isValue:
			values++
			c.extensionValue(kind, m[name], published, known, path+"."+name)
		default:
			c.report(CodeStructure, path+"."+name, "unknown element")
		}
	}
	if values != 1 {
		c.report(CodeStructure, path, "an extension has either one value or extensions")
	}
}

func (c *checker) extensionValue(kind string, v any, published extensionRule, known bool, path string) {
	simple := strings.ToLower(kind[:min(1, len(kind))]) + kind[min(1, len(kind)):]
	_, complexKind := rules()[kind]
	if !primitive(simple) && !complexKind || strings.Contains(kind, ".") || slices.Contains(validated, kind) {
		c.report(CodeStructure, path, "unknown element")
		return
	}
	if primitive(simple) {
		kind = simple
	}
	if known && kind != published.value {
		c.report(CodeStructure, path, "must be %s", cmpOr(published.value, "extensions instead of a value"))
		return
	}
	c.value(rule{kind: kind, set: published.set}, v, path)
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// parts checks the inner extensions; a published one has each of its parts exactly once.
func (c *checker) parts(v any, published extensionRule, known bool, path string) {
	list, ok := v.([]any)
	if !ok || len(list) == 0 {
		c.report(CodeStructure, path, "must be a list that is not empty")
		return
	}
	if known && published.parts == nil {
		c.report(CodeStructure, path, "this extension has a value only")
		return
	}
	seen := map[string]int{}
	for i, item := range list {
		at := path + "[" + strconv.Itoa(i) + "]"
		m, ok := item.(map[string]any)
		url, _ := m["url"].(string)
		if !ok || url == "" {
			c.report(CodeRequired, at+".url", "is required")
			continue
		}
		seen[url]++
		part, expected := published.parts[url]
		if known && !expected {
			continue // open slicing: others may stand beside
		}
		c.extension(m, part, expected, at)
	}
	for _, name := range slices.Sorted(maps.Keys(published.parts)) {
		if seen[name] != 1 {
			c.report(CodeRequired, path, "needs exactly one %s", name)
		}
	}
}

// The forms of primitive types (FHIR R4, 2.24.0.1).
var forms = map[string]*regexp.Regexp{
	"code":         regexp.MustCompile(`^[^\s]+(\s[^\s]+)*$`),
	"id":           idPattern,
	"uri":          regexp.MustCompile(`^\S+$`),
	"url":          regexp.MustCompile(`^\S+$`),
	"canonical":    regexp.MustCompile(`^\S+$`),
	"date":         regexp.MustCompile(`^\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?)?$`),
	"dateTime":     regexp.MustCompile(`^\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01])(T([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?(Z|[+-]((0\d|1[0-3]):[0-5]\d|14:00)))?)?)?$`),
	"instant":      regexp.MustCompile(`^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?(Z|[+-]((0\d|1[0-3]):[0-5]\d|14:00))$`),
	"time":         regexp.MustCompile(`^([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?$`),
	"base64Binary": regexp.MustCompile(`^(\s*[0-9a-zA-Z+/=]{4}\s*)+$`),
	"string":       regexp.MustCompile(`\S`),
	"markdown":     regexp.MustCompile(`\S`),
}

func primitive(kind string) bool {
	return forms[kind] != nil || slices.Contains([]string{"boolean", "decimal", "integer", "positiveInt", "unsignedInt"}, kind)
}

// primitiveFault says what is wrong with a primitive value, nothing if it is good.
func primitiveFault(kind string, v any) string {
	switch kind {
	case "boolean":
		if _, ok := v.(bool); !ok {
			return "must be true or false"
		}
		return ""
	case "decimal", "integer", "positiveInt", "unsignedInt":
		n, ok := v.(float64)
		switch {
		case !ok:
			return "must be a number"
		case kind != "decimal" && n != float64(int32(n)):
			return "must be a whole number"
		case kind == "positiveInt" && n < 1, kind == "unsignedInt" && n < 0:
			return "is too small"
		}
		return ""
	}
	s, ok := v.(string)
	switch {
	case !ok:
		return "must be a text (" + kind + ")"
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\r' && r != '\t' }):
		return "must not hold control characters"
	case !forms[kind].MatchString(s):
		return "is no " + kind
	}
	return ""
}

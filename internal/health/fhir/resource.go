// SPDX-License-Identifier: Apache-2.0

package fhir

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// MaxResource bounds a resource in bytes.
const MaxResource = 256 << 10

// The resource types of the directory.
const (
	Practitioner      = "Practitioner"
	PractitionerRole  = "PractitionerRole"
	Organization      = "Organization"
	HealthcareService = "HealthcareService"
	Location          = "Location"
	Endpoint          = "Endpoint"
)

// Code systems and extensions of the directory's profiles (package de.gematik.fhir.directory).
const (
	SystemTelematikID           = "https://gematik.de/fhir/sid/telematik-id"
	SystemOrigin                = "https://gematik.de/fhir/directory/CodeSystem/Origin"
	SystemOrganizationOID       = "https://gematik.de/fhir/directory/CodeSystem/OrganizationProfessionOID"
	SystemPractitionerOID       = "https://gematik.de/fhir/directory/CodeSystem/PractitionerProfessionOID"
	SystemConnectionType        = "https://gematik.de/fhir/directory/CodeSystem/EndpointDirectoryConnectionType"
	SystemPayloadType           = "https://gematik.de/fhir/directory/CodeSystem/EndpointDirectoryPayloadType"
	SystemEndpointVisibility    = "https://gematik.de/fhir/directory/CodeSystem/EndpointVisibilityCS"
	SystemSpecialty             = "urn:oid:1.3.6.1.4.1.19376.3.276.1.5.4"
	ExtensionEndpointVisible    = "https://gematik.de/fhir/directory/StructureDefinition/EndpointVisibility"
	ExtensionOwnerTelematikID   = "https://gematik.de/fhir/directory/StructureDefinition/OwnerTelematikIdEx"
	ExtensionHolderID           = "https://gematik.de/fhir/directory/StructureDefinition/holder-id-ex"
	ExtensionCoveragePostalCode = "https://gematik.de/fhir/directory/StructureDefinition/ServiceCoveragePostalCode"
	ExtensionNCPeHCountry       = "https://gematik.de/fhir/ti/StructureDefinition/ncpeh-country-extension"
	ExtensionOrganizationHides  = "https://gematik.de/fhir/directory/StructureDefinition/OrganizationVisibility"
)

// ErrFormat is wrapped by errors about a resource's JSON.
var ErrFormat = errors.New("malformed FHIR resource")

var (
	typePattern = regexp.MustCompile(`^[A-Z][A-Za-z]{1,63}$`)
	idPattern   = regexp.MustCompile(`^[A-Za-z0-9.-]{1,64}$`)
)

// IsID says whether a text has the form of a logical id (FHIR datatype id).
func IsID(s string) bool { return idPattern.MatchString(s) }

// IsReference says whether a text has the form "Type/id".
func IsReference(s string) bool {
	kind, id, ok := strings.Cut(s, "/")
	return ok && typePattern.MatchString(kind) && IsID(id)
}

// Resource is one resource: its bytes as they came and the tree they hold. It is immutable and safe for concurrent use.
type Resource struct {
	raw  jsontext.Value
	tree map[string]any
}

// Coding is a code of a code system, or an identifier of a naming system.
type Coding struct {
	System, Code, Display string
}

// Parse reads a resource: one JSON object with a resourceType and, if any, an id of the right form.
func Parse(raw []byte) (*Resource, error) {
	if len(raw) > MaxResource {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrFormat, MaxResource)
	}
	r := &Resource{raw: bytes.Clone(raw)}
	if err := json.Unmarshal(r.raw, &r.tree); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if !typePattern.MatchString(r.Type()) {
		return nil, fmt.Errorf("%w: no resourceType", ErrFormat)
	}
	if v, ok := r.tree["id"]; ok {
		if s, ok := v.(string); !ok || !IsID(s) {
			return nil, fmt.Errorf("%w: id", ErrFormat)
		}
	}
	if err := r.raw.Compact(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return r, nil
}

// New makes a resource of a tree of JSON values.
func New(tree map[string]any) (*Resource, error) {
	raw, err := json.Marshal(tree, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return Parse(raw)
}

// JSON returns the compact bytes, which must not be changed.
func (r *Resource) JSON() jsontext.Value { return r.raw }

// MarshalJSONTo writes the resource as it is.
func (r *Resource) MarshalJSONTo(e *jsontext.Encoder) error { return e.WriteValue(r.raw) }

// Type returns the resourceType.
func (r *Resource) Type() string { return r.text("resourceType") }

// ID returns the logical id, empty for a resource that was not stored yet.
func (r *Resource) ID() string { return r.text("id") }

// Reference returns how others refer to the resource: "Type/id".
func (r *Resource) Reference() string { return r.Type() + "/" + r.ID() }

func (r *Resource) text(name string) string {
	s, ok := r.tree[name].(string)
	if !ok {
		return ""
	}
	return s
}

// With returns a copy with top-level elements replaced; a nil value removes one.
func (r *Resource) With(elements map[string]any) (*Resource, error) {
	tree := maps.Clone(r.tree)
	for name, value := range elements {
		if value == nil {
			delete(tree, name)
			continue
		}
		tree[name] = value
	}
	return New(tree)
}

// WithMeta returns a copy with another meta, which holds nothing but what JSON gives: texts, numbers, truth values, []any and map[string]any. The rest of
// the text stays as it is, which is several times faster than [Resource.With].
func (r *Resource) WithMeta(meta map[string]any) (*Resource, error) {
	text, err := json.Marshal(meta, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	out := &Resource{raw: make(jsontext.Value, 0, len(r.raw)+len(text)+16), tree: maps.Clone(r.tree)}
	out.tree["meta"] = meta
	d := jsontext.NewDecoder(bytes.NewBuffer(r.raw))
	if _, err := d.ReadToken(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	out.raw = append(append(out.raw, `{"meta":`...), text...)
	for d.PeekKind() == '"' {
		name, err := d.ReadToken()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFormat, err)
		}
		isMeta := name.String() == "meta" // however it is escaped
		if !isMeta {
			if out.raw, err = jsontext.AppendQuote(append(out.raw, ','), name.String()); err != nil {
				return nil, fmt.Errorf("%w: %w", ErrFormat, err)
			}
			out.raw = append(out.raw, ':')
		}
		value, err := d.ReadValue()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFormat, err)
		}
		if !isMeta {
			out.raw = append(out.raw, value...)
		}
	}
	out.raw = append(out.raw, '}')
	return out, nil
}

// Has says whether a top-level element is there.
func (r *Resource) Has(name string) bool {
	_, ok := r.tree[name]
	return ok
}

// Bool returns a boolean element; def where it is absent.
func (r *Resource) Bool(name string, def bool) bool {
	b, ok := r.tree[name].(bool)
	if !ok {
		return def
	}
	return b
}

// At walks down a path of element names, through every entry of the lists on its way, and returns what it finds.
func (r *Resource) At(path ...string) []any { return walk(r.tree, path) }

func walk(v any, path []string) []any {
	switch v := v.(type) {
	case []any:
		var found []any
		for _, e := range v {
			found = append(found, walk(e, path)...)
		}
		return found
	case map[string]any:
		if len(path) > 0 {
			next, ok := v[path[0]]
			if !ok {
				return nil
			}
			return walk(next, path[1:])
		}
	}
	if len(path) > 0 || v == nil {
		return nil
	}
	return []any{v}
}

// Strings returns the texts at a path.
func (r *Resource) Strings(path ...string) []string {
	var all []string
	for _, v := range r.At(path...) {
		if s, ok := v.(string); ok {
			all = append(all, s)
		}
	}
	return all
}

// Numbers returns the numbers at a path.
func (r *Resource) Numbers(path ...string) []float64 {
	var all []float64
	for _, v := range r.At(path...) {
		if n, ok := v.(float64); ok {
			all = append(all, n)
		}
	}
	return all
}

// Codings returns the Coding, CodeableConcept or Identifier values at a path.
func (r *Resource) Codings(path ...string) []Coding {
	var all []Coding
	for _, v := range r.At(path...) {
		m, ok := v.(map[string]any)
		if !ok {
			continue
		}
		if inner, ok := m["coding"]; ok {
			for _, v := range walk(inner, nil) {
				if m, ok := v.(map[string]any); ok {
					all = append(all, coding(m))
				}
			}
			continue
		}
		all = append(all, coding(m))
	}
	return all
}

func coding(m map[string]any) Coding {
	get := func(name string) string {
		s, ok := m[name].(string)
		if !ok {
			return ""
		}
		return s
	}
	c := Coding{System: get("system"), Code: get("code"), Display: get("display")}
	if c.Code == "" {
		c.Code = get("value")
	}
	return c
}

// Identifier returns the first identifier of a naming system, such as the Telematik-ID.
func (r *Resource) Identifier(system string) string {
	for _, c := range r.Codings("identifier") {
		if c.System == system {
			return c.Code
		}
	}
	return ""
}

// References returns the local references ("Type/id") of an element.
func (r *Resource) References(element string) []string {
	var all []string
	for _, s := range r.Strings(element, "reference") {
		if IsReference(s) {
			all = append(all, s)
		}
	}
	return all
}

// Extensions returns the values of the extensions with a url; a value is the only member besides url.
func (r *Resource) Extensions(url string) []any {
	var all []any
	for _, v := range r.At("extension") {
		m, ok := v.(map[string]any)
		if !ok || m["url"] != url {
			continue
		}
		for name, value := range m {
			if strings.HasPrefix(name, "value") {
				all = append(all, value)
			}
		}
	}
	return all
}

// HiddenFromInsured says whether an Endpoint is marked hide-versicherte (A_25681-01).
func (r *Resource) HiddenFromInsured() bool {
	for _, url := range []string{ExtensionEndpointVisible, ExtensionOrganizationHides} {
		for _, v := range r.Extensions(url) {
			if m, ok := v.(map[string]any); ok && m["code"] == "hide-versicherte" {
				return true
			}
		}
	}
	return false
}

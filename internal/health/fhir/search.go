// SPDX-License-Identifier: Apache-2.0

package fhir

import (
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds of a query.
const (
	maxQuery      = 8 << 10
	maxParameters = 50
	maxValues     = 100

	// DefaultCount and MaxCount are the page sizes; a search shows at most [MaxResults] (gemSpec_VZD_FHIR_Directory 1.2.0, 4.1.3).
	DefaultCount = 10
	MaxCount     = 100
	MaxResults   = 100
)

// badRequest is the status of a query that is not understood.
const badRequest = 400

var parameterName = regexp.MustCompile(`^_?[A-Za-z][A-Za-z0-9_-]{0,63}$`)

// Query is a parsed search: what to look for and how to show it.
type Query struct {
	Filters []Filter // all must match
	// Has are the reverse chains, all of which must match.
	Has []Has
	// Text is the value of _text, empty where there is none. ComplexText is _complexSearch=true.
	Text        string
	ComplexText bool
	Includes    []Include
	// RevIncludes ask for resources that refer to a match.
	RevIncludes []Include
	Count       int
	Offset      int
	// OnlyCount is _summary=count: the total without entries.
	OnlyCount bool
	// Other holds the pairs that only the page's links need: the query without _offset.
	Other []Pair
}

// Pair is a parameter as it came, decoded.
type Pair struct{ Key, Value string }

// Filter is one search parameter: chained parts, a modifier and alternatives, one of which must match.
type Filter struct {
	// Path is the chain, such as ["practitioner", "name"].
	Path     []string
	Modifier string // contains, exact, text, not, missing … without the colon
	Values   []Value
}

// Has asks for resources that another one refers to and that matches a filter: _has:Type:Reference:filter.
type Has struct {
	Type, Reference string
	Filter          Filter
}

// Name is the chain as it is written.
func (f Filter) Name() string { return strings.Join(f.Path, ".") }

// Value is one alternative, cut at unescaped bars: ["code"], ["system", "code"], ["48.1", "11.5", "10", "km"].
type Value struct {
	Parts []string
}

// Text returns the value in one piece.
func (v Value) Text() string { return strings.Join(v.Parts, "|") }

// Include asks for resources that a match refers to: "PractitionerRole:practitioner", or "*" for all.
type Include struct {
	Type, Parameter string
}

// ParseQuery reads the query part of a search (FHIR R4, 3.1.1). Unknown modifiers and parameters are for the caller to refuse: which exist
// depends on the resource type.
func ParseQuery(raw string) (*Query, error) {
	if len(raw) > maxQuery {
		return nil, Refuse(badRequest, CodeTooCostly, "query of more than %d bytes", maxQuery)
	}
	q := &Query{Count: DefaultCount}
	n := 0
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		if n++; n > maxParameters {
			return nil, Refuse(badRequest, CodeTooCostly, "more than %d parameters", maxParameters)
		}
		key, value, _ := strings.Cut(pair, "=")
		key, err := url.QueryUnescape(key)
		if err != nil {
			return nil, Refuse(badRequest, CodeInvalid, "parameter is not percent-encoded")
		}
		value, err = url.QueryUnescape(value)
		if err != nil {
			return nil, Refuse(badRequest, CodeInvalid, "value of %.64q is not percent-encoded", key)
		}
		if !utf8.ValidString(value) || strings.ContainsRune(value, 0) {
			return nil, Refuse(badRequest, CodeInvalid, "value of %.64q is no text", key)
		}
		if err := q.add(key, value); err != nil {
			return nil, err
		}
		if key != "_offset" {
			q.Other = append(q.Other, Pair{key, value})
		}
	}
	return q, nil
}

// add takes one parameter.
func (q *Query) add(key, value string) error {
	switch key {
	case "_count":
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 {
			return Refuse(badRequest, CodeValue, "_count is not a number: %.40q", value)
		}
		if n == 0 { // FHIR: the same as _summary=count
			q.OnlyCount = true
		}
		q.Count = min(n, MaxCount)
	case "_offset":
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 || n > MaxResults {
			return Refuse(badRequest, CodeValue, "_offset is not a number up to %d: %.40q", MaxResults, value)
		}
		q.Offset = n
	case "_summary":
		switch value {
		case "count":
			q.OnlyCount = true
		case "false":
		default:
			return Refuse(badRequest, CodeNotSupported, "_summary knows count and false, not %.40q", value)
		}
	case "_format":
		if !slices.Contains([]string{"json", "application/json", "application/fhir+json"}, value) {
			return Refuse(badRequest, CodeNotSupported, "the directory answers in JSON only")
		}
	case "_pretty":
	case "_total":
		if value != "none" && value != "estimate" && value != "accurate" {
			return Refuse(badRequest, CodeValue, "_total is none, estimate or accurate, not %.40q", value)
		}
	case "_complexSearch":
		if value != "true" && value != "false" {
			return Refuse(badRequest, CodeValue, "_complexSearch is true or false, not %.40q", value)
		}
		q.ComplexText = value == "true"
	case "_text":
		if q.Text != "" {
			return Refuse(badRequest, CodeInvalid, "_text twice")
		}
		q.Text = value
	case "_include":
		if value == "*" {
			q.Includes = append(q.Includes, Include{Parameter: "*"})
			return nil
		}
		include, err := parseInclude(key, value)
		if err != nil {
			return err
		}
		q.Includes = append(q.Includes, include)
	case "_revinclude":
		include, err := parseInclude(key, value)
		if err != nil {
			return err
		}
		q.RevIncludes = append(q.RevIncludes, include)
	default:
		if chain, ok := strings.CutPrefix(key, "_has:"); ok {
			return q.has(chain, value)
		}
		f, err := parseFilter(key, value)
		if err != nil {
			return err
		}
		q.Filters = append(q.Filters, f)
	}
	return nil
}

// parseInclude reads "Type:parameter"; the target's type may follow.
func parseInclude(key, value string) (Include, error) {
	kind, parameter, ok := strings.Cut(value, ":")
	parameter, _, _ = strings.Cut(parameter, ":")
	if !ok || !typePattern.MatchString(kind) || parameter != "*" && !parameterName.MatchString(parameter) {
		return Include{}, Refuse(badRequest, CodeValue, "%s is Type:parameter, not %.64q", key, value)
	}
	return Include{Type: kind, Parameter: parameter}, nil
}

// has reads what stands behind "_has:".
func (q *Query) has(chain, value string) error {
	parts := strings.SplitN(chain, ":", 3)
	if len(parts) != 3 || !typePattern.MatchString(parts[0]) || !parameterName.MatchString(parts[1]) {
		return Refuse(badRequest, CodeValue, "_has is _has:Type:reference:parameter, not %.64q", chain)
	}
	f, err := parseFilter(parts[2], value)
	if err != nil {
		return err
	}
	q.Has = append(q.Has, Has{Type: parts[0], Reference: parts[1], Filter: f})
	return nil
}

// parseFilter reads "practitioner:Practitioner.name:contains" = "a,b".
func parseFilter(key, value string) (Filter, error) {
	var f Filter
	links := strings.Split(key, ".")
	if len(links) > 4 {
		return f, Refuse(badRequest, CodeTooCostly, "chain of more than 4 parts")
	}
	for i, link := range links {
		name, suffix, colon := strings.Cut(link, ":")
		if !parameterName.MatchString(name) {
			return f, Refuse(badRequest, CodeInvalid, "not a search parameter: %.64q", key)
		}
		if i == len(links)-1 {
			if colon && !parameterName.MatchString(suffix) {
				return f, Refuse(badRequest, CodeInvalid, "not a modifier: %.64q", key)
			}
			f.Modifier = suffix
		} else if colon && !typePattern.MatchString(suffix) {
			return f, Refuse(badRequest, CodeInvalid, "not a resource type: %.64q", key)
		}
		f.Path = append(f.Path, name)
	}
	for _, alternative := range splitEscaped(value, ',') {
		if len(f.Values) == maxValues {
			return f, Refuse(badRequest, CodeTooCostly, "more than %d values of %s", maxValues, f.Name())
		}
		if alternative == "" {
			continue
		}
		var v Value
		for _, part := range splitEscaped(alternative, '|') {
			v.Parts = append(v.Parts, unescape(part))
		}
		f.Values = append(f.Values, v)
	}
	if len(f.Values) == 0 {
		return f, Refuse(badRequest, CodeValue, "%.64s has no value", key)
	}
	return f, nil
}

// splitEscaped cuts at a separator that no backslash precedes (FHIR R4, 3.1.1.4.1).
func splitEscaped(s string, separator byte) []string {
	var parts []string
	start := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case separator:
			parts = append(parts, s[start:i])
			start = i + 1
		}
	}
	return append(parts, s[start:])
}

func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) && strings.IndexByte(`\,|$`, s[i+1]) >= 0 {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Encode writes the query of another page.
func (q *Query) Encode(offset int) string {
	var b strings.Builder
	for _, p := range q.Other {
		b.WriteString(url.QueryEscape(p.Key) + "=" + url.QueryEscape(p.Value) + "&")
	}
	b.WriteString("_offset=" + strconv.Itoa(offset))
	return b.String()
}

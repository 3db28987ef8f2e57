// SPDX-License-Identifier: Apache-2.0

package clientsync

import (
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// trim keeps of each event of the rooms the fields that the client asked for (event_fields of a filter).
func (a *answer) trim(fields []string) {
	if fields == nil || a.Rooms == nil {
		return
	}
	paths := make([][]string, len(fields))
	for i, f := range fields {
		paths[i] = fieldPath(f)
	}
	keep := func(events []any) {
		for i, e := range events {
			if raw, err := json.Marshal(e); err == nil {
				events[i] = keepFields(raw, paths)
			}
		}
	}
	for _, j := range a.Rooms.Join {
		keep(j.Timeline.Events)
		keep(j.stateEvents())
	}
	for _, l := range a.Rooms.Leave {
		keep(l.Timeline.Events)
		keep(l.stateEvents())
	}
}

// fieldPath splits a dot-separated path; a backslash takes the meaning from a dot or a backslash.
func fieldPath(s string) []string {
	var path []string
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && (s[i+1] == '.' || s[i+1] == '\\'):
			i++
			b.WriteByte(s[i])
		case s[i] == '.':
			path = append(path, b.String())
			b.Reset()
		default:
			b.WriteByte(s[i])
		}
	}
	return append(path, b.String())
}

// keepFields reduces a JSON object to the given paths; anything but an object is kept as it is.
func keepFields(raw jsontext.Value, paths [][]string) jsontext.Value {
	var object map[string]jsontext.Value
	if raw.Kind() != '{' || json.Unmarshal(raw, &object, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) != nil {
		return raw
	}
	inner := map[string][][]string{}
	for _, p := range paths {
		inner[p[0]] = append(inner[p[0]], p[1:])
	}
	out := map[string]jsontext.Value{}
	for name, below := range inner {
		value, ok := object[name]
		switch {
		case !ok:
		case slices.ContainsFunc(below, func(p []string) bool { return len(p) == 0 }):
			out[name] = value
		case value.Kind() == '{':
			out[name] = keepFields(value, below)
		}
	}
	kept, err := json.Marshal(out, json.Deterministic(true))
	if err != nil {
		return raw
	}
	return kept
}

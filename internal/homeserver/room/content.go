// SPDX-License-Identifier: Apache-2.0

package room

import (
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// relation reads m.relates_to of an event's content; both are empty when there is none.
func relation(content jsontext.Value) (relType string, target id.Event) {
	relatesTo := canonicaljson.Get(content, "m.relates_to")
	relType = canonicaljson.GetString(relatesTo, "rel_type")
	if relType == "" {
		return "", ""
	}
	target, err := id.ParseEvent(canonicaljson.GetString(relatesTo, "event_id"))
	if err != nil || strings.Contains(relType, "\x00") { // no column holds NUL, and no event has such an id
		return "", ""
	}
	return relType, target
}

// notFederated reads m.federate of a create event's content.
func notFederated(create jsontext.Value) bool {
	var c struct {
		Federate *bool `json:"m.federate"`
	}
	return json.Unmarshal(create, &c) == nil && c.Federate != nil && !*c.Federate
}

// stringField reads a string of an event's content; "" when it is absent or of another type.
func stringField(content jsontext.Value, name string) string {
	var c map[string]jsontext.Value
	var s string
	if json.Unmarshal(content, &c) != nil || json.Unmarshal(c[name], &s) != nil {
		return ""
	}
	return s
}

// object writes a JSON object from Go values that always encode.
func object(m map[string]any) jsontext.Value {
	b, err := json.Marshal(m, json.Deterministic(true))
	if err != nil {
		panic(err) // a programming error: the callers pass strings, numbers, lists and raw values that were parsed
	}
	return b
}

func replaceOnce(s, old, new string) string { return strings.Replace(s, old, new, 1) }

// column makes a text of an event fit for a column: PostgreSQL stores no NUL. The event itself keeps it.
func column(s string) string { return strings.ReplaceAll(s, "\x00", "\uFFFD") }

// unstorable says why an event cannot take its place in a state: no database of ours has NUL in a key (see column). Its room goes on without it.
func unstorable(e *event.Event) string {
	if strings.Contains(e.Type(), "\x00") || e.IsState() && strings.Contains(*e.StateKey(), "\x00") {
		return "type or state key holds NUL"
	}
	return ""
}

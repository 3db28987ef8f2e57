// SPDX-License-Identifier: Apache-2.0

package timeline

import (
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// EventFilter is EventFilter and RoomEventFilter of the client-server API. A nil list admits everything, an empty one nothing.
type EventFilter struct {
	// Limit is how many events are wanted; nil when the client does not say.
	Limit      *int      `json:"limit"`
	Types      []string  `json:"types"`
	NotTypes   []string  `json:"not_types"`
	Senders    []id.User `json:"senders"`
	NotSenders []id.User `json:"not_senders"`
	Rooms      []id.Room `json:"rooms"`
	NotRooms   []id.Room `json:"not_rooms"`
	// ContainsURL wants events with (true) or without (false) url in their content.
	ContainsURL             *bool `json:"contains_url"`
	LazyLoadMembers         bool  `json:"lazy_load_members"`
	IncludeRedundantMembers bool  `json:"include_redundant_members"`
	UnreadThreads           bool  `json:"unread_thread_notifications"`
}

// ParseFilter reads a RoomEventFilter of a query parameter; an empty text is no filter.
func ParseFilter(text string) (EventFilter, error) {
	var f EventFilter
	if text == "" {
		return f, nil
	}
	if err := httpapi.DecodeJSON([]byte(text), &f); err != nil {
		return f, err
	}
	if f.Limit != nil && *f.Limit < 0 {
		return f, mxerror.InvalidParam.With("a filter's limit must not be negative")
	}
	return f, nil
}

// LimitOr returns the wanted number of events: def when none is given, at most max.
func (f *EventFilter) LimitOr(def, max int) int {
	if f.Limit == nil {
		return def
	}
	return min(*f.Limit, max)
}

// Room says whether events of a room may pass.
func (f *EventFilter) Room(r id.Room) bool {
	return (f.Rooms == nil || slices.Contains(f.Rooms, r)) && !slices.Contains(f.NotRooms, r)
}

// Type says whether events of a type may pass.
func (f *EventFilter) Type(typ string) bool {
	return (f.Types == nil || anyType(f.Types, typ)) && !anyType(f.NotTypes, typ)
}

// Sender says whether events of a sender may pass.
func (f *EventFilter) Sender(u id.User) bool {
	return (f.Senders == nil || slices.Contains(f.Senders, u)) && !slices.Contains(f.NotSenders, u)
}

// Event says whether an event passes, its room aside.
func (f *EventFilter) Event(typ string, sender id.User, content jsontext.Value) bool {
	if !f.Type(typ) || !f.Sender(sender) {
		return false
	}
	return f.ContainsURL == nil || *f.ContainsURL == hasURL(content)
}

// Everything says whether every event of an admitted room passes.
func (f *EventFilter) Everything() bool {
	return f.Types == nil && f.NotTypes == nil && f.Senders == nil && f.NotSenders == nil && f.ContainsURL == nil
}

func hasURL(content jsontext.Value) bool {
	var c map[string]jsontext.Value
	if json.Unmarshal(content, &c, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) != nil {
		return false
	}
	return c["url"].Kind() == '"'
}

func anyType(patterns []string, typ string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return wildcard(p, typ) })
}

// wildcard matches a pattern in which * stands for any text.
func wildcard(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == text
	}
	text, ok := strings.CutPrefix(text, parts[0])
	if !ok {
		return false
	}
	for _, part := range parts[1 : len(parts)-1] {
		_, rest, found := strings.Cut(text, part)
		if !found {
			return false
		}
		text = rest
	}
	return strings.HasSuffix(text, parts[len(parts)-1])
}

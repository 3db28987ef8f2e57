// SPDX-License-Identifier: Apache-2.0

package pushrule

import (
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Context is what a verdict depends on beside the event.
type Context struct {
	// DisplayName is the user's name in the room, for the legacy condition contains_display_name.
	DisplayName string
	// Members is the number of joined members of the room.
	Members int
	// MayNotify says whether the event's sender has the level for a key of the power levels' notifications; nil means no.
	MayNotify func(key string) bool
	// Subscribed says whether the user is subscribed to the thread under a root (MSC4306); nil when that is not known, and then no condition about it holds.
	Subscribed func(root id.Event) bool
}

// Verdict is what a rule set says about an event.
type Verdict struct {
	Notify, Highlight bool
	// Sound is the value of the sound tweak, empty for none.
	Sound string
	// Rule is the rule that decided, empty when none matched; Actions are its actions.
	Rule    string
	Actions []jsontext.Value
}

// Evaluator is a rule set ready to judge many events. It is safe for concurrent use.
type Evaluator struct {
	rules         []compiled
	asksForThread bool
}

// AsksForThreads says whether a verdict may depend on [Context.Subscribed].
func (ev *Evaluator) AsksForThreads() bool { return ev.asksForThread }

type compiled struct {
	rule   *Rule
	checks []check
}

// check is one condition; false means no match.
type check func(*Subject, *Context) bool

// Compile prepares a rule set. Disabled rules and those with unknown or malformed conditions never match and are left out.
func Compile(rs Ruleset) *Evaluator {
	ev := &Evaluator{}
	for _, k := range Kinds {
		list := *rs.Of(k)
		for i := range list {
			if !list[i].Enabled {
				continue
			}
			if checks, ok := compile(k, &list[i]); ok {
				ev.rules = append(ev.rules, compiled{&list[i], checks})
				ev.asksForThread = ev.asksForThread || slices.ContainsFunc(list[i].Conditions, asksForThread)
			}
		}
	}
	return ev
}

func compile(k Kind, r *Rule) ([]check, bool) {
	switch k {
	case Content:
		if r.Pattern == nil {
			return nil, false
		}
		return []check{bodyMatches(*r.Pattern)}, true
	case Room:
		room := r.ID
		return []check{func(s *Subject, _ *Context) bool { return string(s.e.Room()) == room }}, true
	case Sender:
		sender := r.ID
		return []check{func(s *Subject, _ *Context) bool { return string(s.e.Sender()) == sender }}, true
	}
	var checks []check
	for _, raw := range r.Conditions {
		c, ok := compileCondition(raw)
		if !ok {
			return nil, false
		}
		checks = append(checks, c)
	}
	return checks, true
}

// threadSubscription is the kind of the condition about subscriptions to threads.
const threadSubscription = "io.element.msc4306.thread_subscription"

type condition struct {
	Kind       string         `json:"kind"`
	Key        *string        `json:"key"`
	Pattern    *string        `json:"pattern"`
	Value      jsontext.Value `json:"value"`
	Is         string         `json:"is"`
	Subscribed *bool          `json:"subscribed"`
}

func readCondition(raw jsontext.Value) (c condition, ok bool) {
	return c, json.Unmarshal(raw, &c, jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true)) == nil
}

func asksForThread(raw jsontext.Value) bool {
	c, ok := readCondition(raw)
	return ok && c.Kind == threadSubscription
}

func compileCondition(raw jsontext.Value) (check, bool) {
	c, ok := readCondition(raw)
	if !ok {
		return nil, false
	}
	switch c.Kind {
	case "event_match":
		if c.Key == nil || c.Pattern == nil {
			return nil, false
		}
		if *c.Key == "content.body" {
			return bodyMatches(*c.Pattern), true
		}
		return valueMatches(*c.Key, *c.Pattern), true
	case "event_property_is", "event_property_contains":
		var want any
		if c.Key == nil || c.Value == nil || json.Unmarshal(c.Value, &want) != nil || !simple(want) {
			return nil, false
		}
		if c.Kind == "event_property_is" {
			return propertyIs(*c.Key, want), true
		}
		return propertyContains(*c.Key, want), true
	case "contains_display_name":
		return containsDisplayName, true
	case "room_member_count":
		return memberCount(c.Is)
	case "sender_notification_permission":
		if c.Key == nil {
			return nil, false
		}
		key := *c.Key
		return func(_ *Subject, ctx *Context) bool { return ctx.MayNotify != nil && ctx.MayNotify(key) }, true
	case threadSubscription:
		if c.Subscribed == nil {
			return nil, false
		}
		want := *c.Subscribed
		return func(s *Subject, ctx *Context) bool {
			root, ok := s.thread()
			return ok && ctx.Subscribed != nil && ctx.Subscribed(root) == want
		}, true
	}
	return nil, false
}

// Evaluate returns the verdict about an event: that of the first rule that matches, or silence. The caller leaves out the user's own events.
func (ev *Evaluator) Evaluate(s *Subject, ctx Context) Verdict {
	for _, c := range ev.rules {
		if !c.matches(s, &ctx) {
			continue
		}
		v := readActions(c.rule.Actions)
		v.Rule, v.Actions = c.rule.ID, c.rule.Actions
		return v
	}
	return Verdict{}
}

func (c compiled) matches(s *Subject, ctx *Context) bool {
	for _, check := range c.checks {
		if !check(s, ctx) {
			return false
		}
	}
	return true
}

// readActions interprets a list of actions; unknown ones and the historical dont_notify and coalesce mean nothing.
func readActions(actions []jsontext.Value) (v Verdict) {
	for _, raw := range actions {
		if raw.Kind() == '"' {
			v.Notify = v.Notify || string(raw) == notify
			continue
		}
		var tweak struct {
			Name  string `json:"set_tweak"`
			Value any    `json:"value"`
		}
		if json.Unmarshal(raw, &tweak) != nil {
			continue
		}
		switch tweak.Name {
		case "highlight":
			on, isBool := tweak.Value.(bool)
			v.Highlight = on || !isBool
		case "sound":
			v.Sound, _ = tweak.Value.(string)
		}
	}
	return v
}

// memberCount compiles the "is" of room_member_count.
func memberCount(is string) (check, bool) {
	compare := func(n, want int) bool { return n == want }
	for _, op := range []struct {
		sign    string
		compare func(n, want int) bool
	}{
		{"==", compare},
		{">=", func(n, want int) bool { return n >= want }},
		{"<=", func(n, want int) bool { return n <= want }},
		{">", func(n, want int) bool { return n > want }},
		{"<", func(n, want int) bool { return n < want }},
	} {
		if rest, ok := strings.CutPrefix(is, op.sign); ok {
			is, compare = rest, op.compare
			break
		}
	}
	want, err := strconv.Atoi(is)
	if err != nil || want < 0 {
		return nil, false
	}
	return func(_ *Subject, ctx *Context) bool { return compare(ctx.Members, want) }, true
}

// Subject is an event under judgement: its content is parsed once for all rules and users.
type Subject struct {
	e      *event.Event
	parsed bool
	tree   map[string]any
}

// About prepares an event. A Subject belongs to one goroutine.
func About(e *event.Event) *Subject { return &Subject{e: e} }

// thread returns the root of the thread that the event is part of.
func (s *Subject) thread() (root id.Event, ok bool) {
	if kind, _ := s.property([]string{"content", "m.relates_to", "rel_type"}); kind != "m.thread" {
		return "", false
	}
	v, _ := s.property([]string{"content", "m.relates_to", "event_id"})
	text, ok := v.(string)
	return id.Event(text), ok
}

// property returns the value at a path; ok is false where there is none.
func (s *Subject) property(path []string) (any, bool) {
	if !s.parsed {
		s.parsed = true
		s.tree = map[string]any{"type": s.e.Type(), "sender": string(s.e.Sender()), "room_id": string(s.e.Room()), "event_id": string(s.e.ID()),
			"origin_server_ts": float64(s.e.Timestamp())}
		if k := s.e.StateKey(); k != nil {
			s.tree["state_key"] = *k
		}
		var content any
		if json.Unmarshal(s.e.Content(), &content, jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true)) == nil {
			s.tree["content"] = content
		}
	}
	var v any = s.tree
	for _, name := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = m[name]; !ok {
			return nil, false
		}
	}
	return v, true
}

// SPDX-License-Identifier: Apache-2.0

package pushrule

import (
	"regexp"
	"strings"
)

// splitPath takes a dot-separated property path apart (appendices, "Dot-separated property paths"): a backslash escapes a dot or a backslash
// and stands for itself before anything else.
func splitPath(key string) []string {
	var path []string
	var name strings.Builder
	for i := 0; i < len(key); i++ {
		switch c := key[i]; {
		case c == '\\' && i+1 < len(key) && (key[i+1] == '.' || key[i+1] == '\\'):
			i++
			name.WriteByte(key[i])
		case c == '.':
			path = append(path, name.String())
			name.Reset()
		default:
			name.WriteByte(c)
		}
	}
	return append(path, name.String())
}

// glob turns a glob pattern into the text of a regular expression.
func glob(pattern string) string {
	var b strings.Builder
	for _, r := range pattern {
		switch r {
		case '*':
			b.WriteString(".*?")
		case '?':
			b.WriteByte('.')
		default:
			b.WriteString(regexp.QuoteMeta(string(r)))
		}
	}
	return b.String()
}

// valueMatches is event_match: the whole string value, without regard to case.
func valueMatches(key, pattern string) check {
	path := splitPath(key)
	if !strings.ContainsAny(pattern, "*?") {
		return func(s *Subject, _ *Context) bool {
			v, _ := s.property(path)
			text, ok := v.(string)
			return ok && strings.EqualFold(text, pattern)
		}
	}
	re, err := regexp.Compile(`(?is)\A` + glob(pattern) + `\z`)
	if err != nil {
		return never
	}
	return func(s *Subject, _ *Context) bool {
		v, _ := s.property(path)
		text, ok := v.(string)
		return ok && re.MatchString(text)
	}
}

// bodyMatches is event_match on content.body and the condition of content rules: some part of the body between word boundaries.
func bodyMatches(pattern string) check {
	re, err := words(glob(pattern))
	if err != nil {
		return never
	}
	return func(s *Subject, _ *Context) bool {
		v, _ := s.property(bodyPath)
		body, ok := v.(string)
		return ok && re.MatchString(body)
	}
}

var bodyPath = []string{"content", "body"}

// words finds an expression that begins and ends at word boundaries; \W is everything but [A-Za-z0-9_].
func words(expression string) (*regexp.Regexp, error) {
	return regexp.Compile(`(?is)(?:\A|\W)` + expression + `(?:\W|\z)`)
}

func never(*Subject, *Context) bool { return false }

// containsDisplayName is the legacy condition of the same name.
func containsDisplayName(s *Subject, ctx *Context) bool {
	if ctx.DisplayName == "" {
		return false
	}
	v, _ := s.property(bodyPath)
	body, ok := v.(string)
	if !ok {
		return false
	}
	re, err := words(regexp.QuoteMeta(ctx.DisplayName))
	return err == nil && re.MatchString(body)
}

// simple says whether a value can be compared exactly: a string, number, boolean or null.
func simple(v any) bool {
	switch v := v.(type) {
	case nil, string, bool:
		return true
	case float64:
		return v == float64(int64(v)) && v < 1<<53 && v > -1<<53
	}
	return false
}

func propertyIs(key string, want any) check {
	path := splitPath(key)
	return func(s *Subject, _ *Context) bool {
		v, ok := s.property(path)
		return ok && simple(v) && v == want
	}
}

func propertyContains(key string, want any) check {
	path := splitPath(key)
	return func(s *Subject, _ *Context) bool {
		v, _ := s.property(path)
		list, ok := v.([]any)
		if !ok {
			return false
		}
		for _, item := range list {
			if simple(item) && item == want {
				return true
			}
		}
		return false
	}
}

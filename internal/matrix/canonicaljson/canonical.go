// SPDX-License-Identifier: Apache-2.0

package canonicaljson

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json"
)

var (
	// ErrSyntax: the bytes are not JSON in valid UTF-8, or nest deeper than MaxDepth.
	ErrSyntax = errors.New("not valid JSON")
	// ErrForm: it is JSON, but has no canonical form: a float, an exponent, "-0", an integer beyond ±(2^53-1),
	// a member name that occurs twice.
	ErrForm = errors.New("JSON without canonical form")
)

// MaxDepth is how deep arrays and objects may nest. Nobody nests that deep; the bound keeps hostile input from
// costing more than its length.
const MaxDepth = 1000

// MaxInt is the greatest integer that canonical JSON may hold; the smallest is -MaxInt.
const MaxInt = 1<<53 - 1

// Canonical returns the canonical form of raw in new memory: no white space, member names in order of their code
// points, shortest strings, integers within ±(2^53-1). Anything else is ErrForm or ErrSyntax.
// Room versions 6 and later demand it of events.
func Canonical(raw []byte) ([]byte, error) { return canonical(raw, false) }

// CanonicalLax is Canonical for what was signed before the rules were strict (events of room versions 1 to 5,
// federation requests that carry such): numbers of any size keep their text, except that "-0" becomes "0" and a
// plain exponent of an integer ("1e10") is written out, as in the specification's example.
func CanonicalLax(raw []byte) ([]byte, error) { return canonical(raw, true) }

// Marshal encodes v and returns its canonical form.
func Marshal(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("canonical JSON: %w", err)
	}
	return Canonical(b)
}

func canonical(raw []byte, lax bool) ([]byte, error) {
	w := writer{src: raw, dst: make([]byte, 0, len(raw)), lax: lax}
	w.space()
	if err := w.value(0); err != nil {
		return nil, err
	}
	w.space()
	if w.pos != len(w.src) {
		return nil, w.syntax("text behind the value")
	}
	return w.dst, nil
}

// writer reads src once and appends the canonical form to dst. An object's members are written as they come and
// put in order when it closes, if they were not already.
type writer struct {
	src     []byte
	pos     int
	dst     []byte
	lax     bool
	members []member // of all open objects, innermost last
	scratch []byte
}

// member is one written `"name":value`, without commas.
type member struct {
	name       []byte // unescaped
	start, end int    // in dst
}

func (w *writer) syntax(why string) error {
	return fmt.Errorf("%w: %s at byte %d", ErrSyntax, why, w.pos)
}

func (w *writer) form(why string) error {
	return fmt.Errorf("%w: %s at byte %d", ErrForm, why, w.pos)
}

func (w *writer) space() {
	for w.pos < len(w.src) && isSpace(w.src[w.pos]) {
		w.pos++
	}
}

func (w *writer) value(depth int) error {
	if w.pos >= len(w.src) {
		return w.syntax("unexpected end")
	}
	switch c := w.src[w.pos]; {
	case c == '{':
		return w.object(depth + 1)
	case c == '[':
		return w.array(depth + 1)
	case c == '"':
		_, err := w.string()
		return err
	case c == '-' || c >= '0' && c <= '9':
		return w.number()
	case c == 't':
		return w.literal("true")
	case c == 'f':
		return w.literal("false")
	case c == 'n':
		return w.literal("null")
	}
	return w.syntax("unexpected character")
}

func (w *writer) literal(s string) error {
	if !bytes.HasPrefix(w.src[w.pos:], []byte(s)) {
		return w.syntax("unexpected character")
	}
	w.pos += len(s)
	w.dst = append(w.dst, s...)
	return nil
}

func (w *writer) array(depth int) error {
	if depth > MaxDepth {
		return w.syntax("nested too deep")
	}
	w.pos++
	w.dst = append(w.dst, '[')
	w.space()
	if w.pos < len(w.src) && w.src[w.pos] == ']' {
		w.pos++
		w.dst = append(w.dst, ']')
		return nil
	}
	for {
		w.space()
		if err := w.value(depth); err != nil {
			return err
		}
		w.space()
		if w.pos >= len(w.src) {
			return w.syntax("unexpected end")
		}
		c := w.src[w.pos]
		if c != ',' && c != ']' {
			return w.syntax("want ',' or ']'")
		}
		w.pos++
		w.dst = append(w.dst, c)
		if c == ']' {
			return nil
		}
	}
}

func (w *writer) object(depth int) error {
	if depth > MaxDepth {
		return w.syntax("nested too deep")
	}
	w.pos++
	w.dst = append(w.dst, '{')
	w.space()
	if w.pos < len(w.src) && w.src[w.pos] == '}' {
		w.pos++
		w.dst = append(w.dst, '}')
		return nil
	}
	first := len(w.members)
	sorted := true
	for {
		w.space()
		if w.pos >= len(w.src) || w.src[w.pos] != '"' {
			return w.syntax("want a member name")
		}
		m := member{start: len(w.dst)}
		var err error
		if m.name, err = w.string(); err != nil {
			return err
		}
		w.space()
		if w.pos >= len(w.src) || w.src[w.pos] != ':' {
			return w.syntax("want ':'")
		}
		w.pos++
		w.dst = append(w.dst, ':')
		w.space()
		if err := w.value(depth); err != nil {
			return err
		}
		m.end = len(w.dst)
		if n := len(w.members); n > first && bytes.Compare(w.members[n-1].name, m.name) >= 0 {
			sorted = false
		}
		w.members = append(w.members, m)
		w.space()
		if w.pos >= len(w.src) {
			return w.syntax("unexpected end")
		}
		c := w.src[w.pos]
		if c != ',' && c != '}' {
			return w.syntax("want ',' or '}'")
		}
		w.pos++
		w.dst = append(w.dst, c)
		if c == ',' {
			continue
		}
		if !sorted {
			if err := w.sort(w.members[first:]); err != nil {
				return err
			}
		}
		w.members = w.members[:first]
		return nil
	}
}

// sort rewrites the members at the end of dst in the order of their names. UTF-8 sorts as its code points do.
func (w *writer) sort(members []member) error {
	from := members[0].start
	slices.SortFunc(members, func(a, b member) int { return bytes.Compare(a.name, b.name) })
	for i := 1; i < len(members); i++ {
		if bytes.Equal(members[i-1].name, members[i].name) {
			return w.form("member name " + strconv.Quote(string(members[i].name)) + " twice")
		}
	}
	w.scratch = append(w.scratch[:0], w.dst[from:]...)
	out := w.dst[:from]
	for i, m := range members {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, w.scratch[m.start-from:m.end-from]...)
	}
	w.dst = append(out, '}')
	return nil
}

func (w *writer) number() error {
	start := w.pos
	neg := w.src[w.pos] == '-'
	if neg {
		w.pos++
	}
	intStart := w.pos
	if !w.digits() {
		return w.syntax("want a digit")
	}
	integer := w.src[intStart:w.pos]
	if len(integer) > 1 && integer[0] == '0' {
		return w.syntax("leading zero")
	}
	var fraction, exponent []byte
	if w.pos < len(w.src) && w.src[w.pos] == '.' {
		w.pos++
		at := w.pos
		if !w.digits() {
			return w.syntax("want a digit")
		}
		fraction = w.src[at:w.pos]
	}
	if w.pos < len(w.src) && (w.src[w.pos] == 'e' || w.src[w.pos] == 'E') {
		w.pos++
		at := w.pos
		if w.pos < len(w.src) && (w.src[w.pos] == '+' || w.src[w.pos] == '-') {
			w.pos++
		}
		if !w.digits() {
			return w.syntax("want a digit")
		}
		exponent = w.src[at:w.pos]
	}
	text := w.src[start:w.pos]
	if !w.lax {
		switch {
		case fraction != nil || exponent != nil:
			return w.form("float " + shorten(text))
		case neg && integer[0] == '0':
			return w.form("negative zero")
		case len(integer) > 16 || len(integer) == 16 && string(integer) > "9007199254740991":
			return w.form("integer out of range " + shorten(text))
		}
		w.dst = append(w.dst, text...)
		return nil
	}
	if fraction == nil && exponent == nil && neg && integer[0] == '0' {
		text = integer
	}
	if fraction == nil && exponent != nil && exponent[0] >= '0' && exponent[0] <= '9' {
		if v, err := strconv.ParseFloat(string(text), 64); err == nil && v >= -MaxInt && v <= MaxInt {
			w.dst = strconv.AppendInt(w.dst, int64(v), 10)
			return nil
		}
	}
	w.dst = append(w.dst, text...)
	return nil
}

func (w *writer) digits() bool {
	start := w.pos
	for w.pos < len(w.src) && w.src[w.pos] >= '0' && w.src[w.pos] <= '9' {
		w.pos++
	}
	return w.pos > start
}

func shorten(b []byte) string {
	if len(b) > 32 {
		return string(b[:32]) + "…"
	}
	return string(b)
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

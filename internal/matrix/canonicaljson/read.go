// SPDX-License-Identifier: Apache-2.0

package canonicaljson

import (
	"bytes"
	"iter"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// Members yields the members of a valid JSON object in their order: the name unescaped, the value raw and
// aliasing obj. Anything that is not an object yields nothing; of broken JSON it yields what it can read, so
// callers validate first where it matters.
func Members(obj []byte) iter.Seq2[[]byte, jsontext.Value] {
	return func(yield func([]byte, jsontext.Value) bool) {
		i := skipSpace(obj, 0)
		if i >= len(obj) || obj[i] != '{' {
			return
		}
		i++
		for {
			i = skipSpace(obj, i)
			if i >= len(obj) || obj[i] != '"' {
				return
			}
			end := skipString(obj, i)
			name := obj[i+1 : max(i+1, end-1)]
			if bytes.IndexByte(name, '\\') >= 0 {
				var err error
				if name, err = jsontext.AppendUnquote(nil, obj[i:end]); err != nil {
					return
				}
			}
			i = skipSpace(obj, end)
			if i >= len(obj) || obj[i] != ':' {
				return
			}
			i = skipSpace(obj, i+1)
			end = skipValue(obj, i)
			if end == i || !yield(name, jsontext.Value(obj[i:end])) {
				return
			}
			i = skipSpace(obj, end)
			if i >= len(obj) || obj[i] != ',' {
				return
			}
			i++
		}
	}
}

// Elements yields the raw elements of a valid JSON array; anything else yields nothing.
func Elements(arr []byte) iter.Seq[jsontext.Value] {
	return func(yield func(jsontext.Value) bool) {
		i := skipSpace(arr, 0)
		if i >= len(arr) || arr[i] != '[' {
			return
		}
		i++
		for {
			i = skipSpace(arr, i)
			end := skipValue(arr, i)
			if end == i || !yield(jsontext.Value(arr[i:end])) {
				return
			}
			i = skipSpace(arr, end)
			if i >= len(arr) || arr[i] != ',' {
				return
			}
			i++
		}
	}
}

// Get follows member names from obj inwards and returns the raw value there, nil when one is missing.
func Get(obj []byte, path ...string) jsontext.Value {
	v := jsontext.Value(obj)
	for _, p := range path {
		var found jsontext.Value
		for name, value := range Members(v) {
			if string(name) == p {
				found = value
				break
			}
		}
		if found == nil {
			return nil
		}
		v = found
	}
	return v
}

// IsObject reports whether v is a JSON object.
func IsObject(v jsontext.Value) bool { return v.Kind() == '{' }

// String returns v's text when v is a JSON string.
func String(v jsontext.Value) (string, bool) {
	if len(v) < 2 || v[0] != '"' {
		return "", false
	}
	if bytes.IndexByte(v, '\\') < 0 {
		return string(v[1 : len(v)-1]), true
	}
	b, err := jsontext.AppendUnquote(nil, v)
	return string(b), err == nil
}

// GetString is String of Get: the text at the path, "" when there is none.
func GetString(obj []byte, path ...string) string {
	s, _ := String(Get(obj, path...))
	return s
}

// Int returns v's value when v is a JSON integer (no fraction, no exponent) that fits.
func Int(v jsontext.Value) (int64, bool) {
	if len(v) == 0 || len(v) > 20 || v[0] != '-' && (v[0] < '0' || v[0] > '9') {
		return 0, false
	}
	n, err := strconv.ParseInt(string(v), 10, 64)
	return n, err == nil
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && isSpace(b[i]) {
		i++
	}
	return i
}

// skipString returns the index behind the string that begins at i.
func skipString(b []byte, i int) int {
	for i++; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(b)
}

// skipValue returns the index behind the value that begins at i; i itself when none begins there.
func skipValue(b []byte, i int) int {
	if i >= len(b) {
		return i
	}
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		depth := 0
		for i < len(b) {
			switch b[i] {
			case '"':
				i = skipString(b, i)
				continue
			case '{', '[':
				depth++
			case '}', ']':
				depth--
			}
			i++
			if depth == 0 {
				return i
			}
		}
		return i
	}
	for i < len(b) && b[i] != ',' && b[i] != '}' && b[i] != ']' && b[i] != ':' && !isSpace(b[i]) {
		i++
	}
	return i
}

// SPDX-License-Identifier: Apache-2.0

package canonicaljson

import (
	"unicode/utf16"
	"unicode/utf8"
)

// string copies the string at pos and returns its content unescaped. The content aliases src where it had no
// escapes, so it stays valid when dst moves.
func (w *writer) string() ([]byte, error) {
	start := w.pos + 1
	i := start
	ascii := true
	for i < len(w.src) {
		c := w.src[i]
		if c == '"' {
			body := w.src[start:i]
			if !ascii && !utf8.Valid(body) {
				return nil, w.syntax("invalid UTF-8")
			}
			w.dst = append(w.dst, w.src[w.pos:i+1]...)
			w.pos = i + 1
			return body, nil
		}
		if c == '\\' {
			return w.escapedString(start, i)
		}
		if c < 0x20 {
			w.pos = i
			return nil, w.syntax("control character in a string")
		}
		if c >= utf8.RuneSelf {
			ascii = false
		}
		i++
	}
	w.pos = i
	return nil, w.syntax("string without end")
}

// escapedString goes on at the first backslash of a string whose content begins at start.
func (w *writer) escapedString(start, i int) ([]byte, error) {
	body := append([]byte(nil), w.src[start:i]...)
	for i < len(w.src) {
		c := w.src[i]
		switch {
		case c == '"':
			if !utf8.Valid(body) {
				return nil, w.syntax("invalid UTF-8")
			}
			w.pos = i + 1
			w.dst = AppendString(w.dst, body)
			return body, nil
		case c < 0x20:
			w.pos = i
			return nil, w.syntax("control character in a string")
		case c != '\\':
			body = append(body, c)
			i++
			continue
		}
		i++
		if i >= len(w.src) {
			break
		}
		if w.src[i] != 'u' {
			u, ok := unescape(w.src[i])
			if !ok {
				w.pos = i
				return nil, w.syntax("unknown escape")
			}
			body = append(body, u)
			i++
			continue
		}
		r, ok := hex4(w.src, i+1)
		if !ok {
			w.pos = i
			return nil, w.syntax("bad \\u escape")
		}
		i += 5
		if utf16.IsSurrogate(r) {
			var low rune
			if i+1 < len(w.src) && w.src[i] == '\\' && w.src[i+1] == 'u' {
				low, _ = hex4(w.src, i+2)
			}
			if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
				w.pos = i
				return nil, w.syntax("unpaired surrogate")
			}
			i += 6
		}
		body = utf8.AppendRune(body, r)
	}
	w.pos = len(w.src)
	return nil, w.syntax("string without end")
}

func unescape(c byte) (byte, bool) {
	switch c {
	case '"', '\\', '/':
		return c, true
	case 'b':
		return '\b', true
	case 'f':
		return '\f', true
	case 'n':
		return '\n', true
	case 'r':
		return '\r', true
	case 't':
		return '\t', true
	}
	return 0, false
}

func hex4(b []byte, at int) (rune, bool) {
	if at+4 > len(b) {
		return 0, false
	}
	var r rune
	for _, c := range b[at : at+4] {
		r <<= 4
		switch {
		case c >= '0' && c <= '9':
			r |= rune(c - '0')
		case c >= 'a' && c <= 'f':
			r |= rune(c-'a') + 10
		case c >= 'A' && c <= 'F':
			r |= rune(c-'A') + 10
		default:
			return 0, false
		}
	}
	return r, true
}

// AppendString appends s as a canonical JSON string. s must be valid UTF-8.
func AppendString[S ~string | ~[]byte](dst []byte, s S) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	from := 0
	for i := range len(s) {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\f':
			dst = append(dst, '\\', 'f')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}

// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// maxFolded bounds a word and what entries are sorted by, in bytes.
const maxFolded = 120

// fold makes texts comparable: lower case, no accents, ß as ss, everything else than letters and digits as one space.
func fold(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	if foldASCII(&b, s) {
		return b.String()
	}
	b.Reset()
	space := false
	for _, r := range norm.NFD.String(strings.ReplaceAll(strings.ToLower(s), "ß", "ss")) {
		switch {
		case unicode.Is(unicode.Mn, r): // what is left of an accent
		case unicode.IsLetter(r) || unicode.IsDigit(r):
			if space && b.Len() > 0 {
				b.WriteByte(' ')
			}
			b.WriteRune(r)
			space = false
		default:
			space = true
		}
	}
	return b.String()
}

// foldASCII is fold for the many texts that hold nothing else; it answers false for the others.
func foldASCII(b *strings.Builder, s string) bool {
	space := false
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 0x80:
			return false
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
		default:
			space = true
			continue
		}
		if space && b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteByte(c)
		space = false
	}
	return true
}

var (
	spellUmlauts = strings.NewReplacer("ä", "ae", "ö", "oe", "ü", "ue")
	foldUmlauts  = strings.NewReplacer("ae", "a", "oe", "o", "ue", "u")
)

// spellings returns the folded forms under which a value may stand in the index: Müller is found as Mueller and the other way round.
func spellings(s string) []string {
	plain := fold(s)
	all := []string{plain}
	for _, other := range []string{fold(spellUmlauts.Replace(norm.NFC.String(strings.ToLower(s)))), foldUmlauts.Replace(plain)} {
		if other != "" && other != plain {
			all = append(all, other)
		}
	}
	return all
}

func cut(s string) string { return cutAt(s, maxFolded) }

func cutAt(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}

// after returns the first value that does not begin with a prefix, for a range over bytes.
func after(prefix string) []byte {
	b := []byte(prefix)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] < 0xff {
			b[i]++
			return b[:i+1]
		}
	}
	return []byte{0xff, 0xff}
}

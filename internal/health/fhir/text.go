// SPDX-License-Identifier: Apache-2.0

package fhir

import "strings"

// TextKind says how a term of a full-text search compares with words.
type TextKind uint8

// The kinds of terms.
const (
	WordStart TextKind = iota // the beginning of a word
	WordExact                 // a whole word, or several in a row
	WordFuzzy                 // a word that is nearly the same
	Nothing                   // characters that no index holds: finds nothing
)

// TextTerm is one condition of a full-text search.
type TextTerm struct {
	Text string
	Kind TextKind
	Not  bool
	// Distance is how many letters may differ, for WordFuzzy.
	Distance int
}

// maxTextTerms bounds a full-text search.
const maxTextTerms = 30

// ParseText reads the value of _text into alternatives, in each of which all terms must hold. In the simple form every word begins a word of the
// entry; "-" and "," are blanks. The complex form (_complexSearch=true) knows + and blank for AND, "," (even inside quotation marks) and | for OR,
// a leading - for NOT, quotation marks, * and ~N (FHIR_VZD_HOWTO_Search, "Full-text search").
func ParseText(value string, complexForm bool) ([][]TextTerm, error) {
	if !complexForm {
		var terms []TextTerm
		for word := range strings.FieldsSeq(strings.NewReplacer("-", " ", ",", " ").Replace(value)) {
			terms = append(terms, TextTerm{Text: word})
		}
		if len(terms) > maxTextTerms {
			return nil, tooManyTerms()
		}
		return [][]TextTerm{terms}, nil
	}
	p := textParser{exact: strings.Contains(value, `"`)}
	for part := range strings.SplitSeq(value, ",") {
		p.part(part)
		p.endAlternative()
	}
	n := 0
	for _, a := range p.alternatives {
		n += len(a)
	}
	if n > maxTextTerms {
		return nil, tooManyTerms()
	}
	return p.alternatives, nil
}

func tooManyTerms() error {
	return Refuse(badRequest, CodeTooCostly, "_text has more than %d terms", maxTextTerms)
}

// textParser reads the complex form. One pair of quotation marks makes all words without * exact.
type textParser struct {
	exact        bool
	current      []TextTerm
	alternatives [][]TextTerm
}

func (p *textParser) endAlternative() {
	if len(p.current) > 0 {
		p.alternatives = append(p.alternatives, p.current)
	}
	p.current = nil
}

// part reads what stands between commas; a quotation that is not closed ends with it.
func (p *textParser) part(s string) {
	for s != "" {
		not := false
		switch s[0] {
		case ' ', '+', '\t', '\\':
			s = s[1:]
			continue
		case '|':
			p.endAlternative()
			s = s[1:]
			continue
		case '-':
			not, s = true, s[1:]
		}
		if quoted, ok := strings.CutPrefix(s, `"`); ok {
			text, rest, _ := strings.Cut(quoted, `"`)
			s = rest
			if strings.TrimSpace(text) != "" {
				p.current = append(p.current, TextTerm{Text: text, Kind: starless(text), Not: not})
			}
			continue
		}
		end := strings.IndexAny(s, " +|\t\\\"")
		if end < 0 {
			end = len(s)
		}
		if end > 0 {
			p.current = append(p.current, p.word(s[:end], not))
		}
		s = s[end:]
	}
}

// starless: a star between quotation marks is no wildcard, and no index holds stars.
func starless(text string) TextKind {
	if strings.Contains(text, "*") {
		return Nothing
	}
	return WordExact
}

// word reads an unquoted one.
func (p *textParser) word(s string, not bool) TextTerm {
	t := TextTerm{Text: s, Not: not}
	if p.exact {
		t.Kind = WordExact
	}
	if bare, ok := strings.CutSuffix(s, "*"); ok {
		t.Text, t.Kind = bare, WordStart
	} else if bare, distance, ok := strings.Cut(s, "~"); ok {
		t.Text, t.Kind, t.Distance = bare, WordFuzzy, 2
		switch distance {
		case "0":
			t.Kind = WordExact
		case "1":
			t.Distance = 1
		}
	}
	if strings.ContainsAny(t.Text, ".-*") { // characters with a meaning of their own are in no word
		t.Kind = Nothing
	}
	return t
}

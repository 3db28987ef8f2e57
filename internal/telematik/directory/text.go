// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"strings"

	"github.com/konsil-health/konsil/internal/health/fhir"
)

// text turns _text into conditions on the full-text index of the entries.
func (s *Store) text(ctx context.Context, b *builder, q *fhir.Query) ([]condition, error) {
	if strings.TrimSpace(q.Text) == "" {
		return nil, nil
	}
	alternatives, err := fhir.ParseText(q.Text, q.ComplexText)
	if err != nil {
		return nil, err
	}
	var all [][]condition
	for _, terms := range alternatives {
		var conditions []condition
		for _, t := range terms {
			more, err := s.term(ctx, b, t)
			if err != nil {
				return nil, err
			}
			conditions = append(conditions, more...)
		}
		if len(conditions) > 0 {
			all = append(all, conditions)
		}
	}
	switch len(all) {
	case 0: // nothing but punctuation
		b.where = append(b.where, "1 = 0")
		return nil, nil
	case 1:
		return all[0], nil
	}
	var any []string
	for _, conditions := range all {
		var each []string
		for _, c := range conditions {
			if c.not {
				each = append(each, c.negated())
			} else {
				each = append(each, "r.nid IN (SELECT x.nid FROM "+c.table+" x WHERE "+c.inner+")")
			}
		}
		any = append(any, strings.Join(each, " AND "))
	}
	b.where = append(b.where, "("+strings.Join(any, " OR ")+")")
	return nil, nil
}

// term turns one term into conditions: one per word of a simple term, one in all for a phrase.
func (s *Store) term(ctx context.Context, b *builder, t fhir.TextTerm) ([]condition, error) {
	param := short[b.root] + ":_text"
	build := func(tests []string) condition {
		return condition{table: "directory_string", inner: "x.param = " + b.arg(param) + " AND (" + strings.Join(tests, " OR ") + ")", cost: 2, not: t.Not}
	}
	forms := spellings(t.Text)
	switch {
	case t.Kind == fhir.Nothing:
		return []condition{build([]string{"1 = 0"})}, nil
	case forms[0] == "":
		return nil, nil
	case t.Kind == fhir.WordExact:
		var tests []string
		for _, f := range forms {
			tests = append(tests, b.word(cutAt(f, maxPhrase)))
		}
		return []condition{build(tests)}, nil
	case t.Kind == fhir.WordFuzzy:
		var tests []string
		for _, f := range forms {
			similar, err := s.similar(ctx, param, f, t.Distance)
			if err != nil {
				return nil, err
			}
			for _, word := range similar {
				tests = append(tests, b.word(word))
			}
		}
		if len(tests) == 0 {
			tests = []string{"1 = 0"}
		}
		return []condition{build(tests)}, nil
	}
	var all []condition
	for i, word := range strings.Fields(forms[0]) { // what punctuation cuts into several words must be there with all of them
		tests := []string{b.prefix(cutAt(word, maxPhrase))}
		for _, f := range forms[1:] {
			if parts := strings.Fields(f); i < len(parts) && parts[i] != word {
				tests = append(tests, b.prefix(cutAt(parts[i], maxPhrase)))
			}
		}
		all = append(all, build(tests))
	}
	return all, nil
}

// word compares with whole words: the value is them, or goes on behind a blank.
func (b *builder) word(words string) string {
	return "(x.value = " + b.arg([]byte(words)) + " OR " + b.prefix(words+" ") + ")"
}

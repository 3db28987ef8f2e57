// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"slices"
	"strings"

	"github.com/konsil-health/konsil/internal/health/fhir"
)

// text reads what _text matches in the full-text index of the entries.
func (f *finder) text(ctx context.Context, q *fhir.Query) error {
	if strings.TrimSpace(q.Text) == "" {
		return nil
	}
	alternatives, err := fhir.ParseText(q.Text, q.ComplexText)
	if err != nil {
		return err
	}
	var all [][]match
	for _, terms := range alternatives {
		var matches []match
		for _, t := range terms {
			more, err := f.term(ctx, t)
			if err != nil {
				return err
			}
			matches = append(matches, more...)
		}
		if len(matches) > 0 {
			all = append(all, matches)
		}
	}
	switch len(all) {
	case 0: // nothing but punctuation
		f.matches = append(f.matches, match{set: newSet(f.n)})
		return nil
	case 1:
		f.matches = append(f.matches, all[0]...)
		return nil
	}
	any := newSet(f.n)
	for _, matches := range all {
		some, err := f.exact(ctx, matches)
		if err != nil {
			return err
		}
		any.or(some)
	}
	f.matches = append(f.matches, match{set: any})
	return nil
}

// exact intersects matches and asks the texts what they must still be asked.
func (f *finder) exact(ctx context.Context, matches []match) (set, error) {
	some, tests, err := f.candidates(ctx, matches)
	if err != nil || len(tests) == 0 {
		return some, err
	}
	passing, err := f.verify(ctx, slices.Collect(some.all()), tests, 0)
	out := newSet(f.n)
	for _, doc := range passing {
		out.add(doc)
	}
	return out, err
}

// term turns one term into matches: one per word of a simple term, one in all for a phrase.
func (f *finder) term(ctx context.Context, t fhir.TextTerm) ([]match, error) {
	params := []string{short[f.root] + ":_text"}
	forms := spellings(t.Text)
	switch {
	case t.Kind == fhir.Nothing:
		return []match{{set: newSet(f.n), not: t.Not}}, nil
	case forms[0] == "":
		return nil, nil
	case t.Kind == fhir.WordExact:
		m, err := f.whole(ctx, params, forms)
		m.not = t.Not
		return []match{m}, err
	case t.Kind == fhir.WordFuzzy:
		var spans []span
		for _, form := range forms {
			similar, err := f.s.similar(ctx, params[0], form, t.Distance)
			if err != nil {
				return nil, err
			}
			for _, word := range similar {
				spans = append(spans, exactly(params, word)...)
			}
		}
		found, err := f.read(ctx, spans)
		return []match{{set: found, not: t.Not}}, err
	}
	var all []match
	for i, word := range strings.Fields(forms[0]) { // what punctuation cuts into several words must be there with all of them
		spans := starting(params, word)
		for _, form := range forms[1:] {
			if parts := strings.Fields(form); i < len(parts) && parts[i] != word {
				spans = append(spans, starting(params, parts[i])...)
			}
		}
		found, err := f.read(ctx, spans)
		if err != nil {
			return nil, err
		}
		all = append(all, match{set: found, not: t.Not})
	}
	return all, nil
}

// whole finds entries that hold whole words in a row, in any of some forms.
func (f *finder) whole(ctx context.Context, params, forms []string) (match, error) {
	m := match{set: newSet(f.n)}
	for _, form := range forms {
		words := strings.Split(form, " ")
		some, err := f.together(ctx, params, words, false, true)
		if err != nil {
			return m, err
		}
		m.set.or(some)
		if len(words) > 1 {
			m.test = &textTest{numbersOf(params), func(text []byte) bool {
				return slices.ContainsFunc(forms, func(form string) bool { return phrase(form, true)(text) })
			}}
		}
	}
	return m, nil
}

// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"slices"

	"github.com/konsil-health/konsil/internal/health/fhir"
)

// rawTest compares texts as they were entered, case and accents included (:exact, FHIR R4, 3.1.1.4.8). The index holds folded ones only, so that what
// it finds is read.
type rawTest struct {
	link      *link // where the text stands; nil: in the entry itself
	parameter parameter
	values    []string
}

// entered reads where a text may stand as a whole, to be compared as it was entered.
func (f *finder) entered(ctx context.Context, root string, params []string, filter fhir.Filter, p parameter) (match, error) {
	raw := &rawTest{parameter: p}
	if len(filter.Path) == 2 {
		l := linkOf(root, filter.Path[0])
		raw.link = &l
	}
	var folded []string
	for _, v := range filter.Values {
		raw.values = append(raw.values, v.Text())
		if whole := fold(v.Text()); whole != "" {
			folded = append(folded, whole)
		}
	}
	m, err := f.whole(ctx, params, folded)
	m.test = &textTest{numbersOf(params), func(text []byte) bool { return slices.Contains(folded, string(text)) }}
	m.raw = raw
	return m, err
}

// exactBlock is how many entries are read at once to compare their texts.
const exactBlock = 100

// compare keeps the entries that hold one of the values as it was entered, up to a limit; 0 is none.
func (t *rawTest) compare(ctx context.Context, f *finder, docs []int, limit int) ([]int, error) {
	var passing []int
	for some := range slices.Chunk(docs, exactBlock) {
		entries, err := f.s.numbered(ctx, some)
		if err != nil {
			return nil, err
		}
		var linked map[string]*fhir.Resource
		if t.link != nil {
			var references []string
			for _, r := range entries {
				references = append(references, r.References(t.link.element)...)
			}
			if linked, err = f.s.read(ctx, references); err != nil {
				return nil, err
			}
		}
		for _, doc := range some {
			if entries[doc] != nil && t.holds(entries[doc], linked, f.insured) {
				if passing = append(passing, doc); len(passing) == limit {
					return passing, nil
				}
			}
		}
	}
	return passing, nil
}

func (t *rawTest) holds(entry *fhir.Resource, linked map[string]*fhir.Resource, insured bool) bool {
	if t.link == nil {
		return t.among(entry)
	}
	return slices.ContainsFunc(entry.References(t.link.element), func(ref string) bool {
		r := linked[ref]
		return r != nil && r.Type() == t.link.target && !(insured && r.Type() == fhir.Endpoint && r.HiddenFromInsured()) && t.among(r)
	})
}

func (t *rawTest) among(r *fhir.Resource) bool {
	return slices.ContainsFunc(t.parameter.values(r), func(c fhir.Coding) bool { return slices.Contains(t.values, c.Code) })
}

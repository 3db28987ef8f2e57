// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/health/fhir"
)

type circle struct{ latitude, longitude, kilometres float64 }

// plan reads what the filters of a query match. Every filter is checked before anything is read.
func (f *finder) plan(ctx context.Context, q *fhir.Query) error {
	if err := f.check(q); err != nil {
		return err
	}
	mandatory := activeFilter[f.root]
	f.active = true
	for _, filter := range q.Filters {
		if isActive(filter, mandatory) {
			continue
		}
		p, _ := parameterOf(f.root, filter.Path)
		if p.kind == near {
			continue
		}
		m, err := f.filter(ctx, f.root, filter, p)
		if err != nil {
			return err
		}
		f.matches = append(f.matches, m)
	}
	for _, h := range q.Has {
		m, err := f.has(ctx, h)
		if err != nil {
			return err
		}
		f.matches = append(f.matches, m)
	}
	return f.text(ctx, q)
}

func isActive(f fhir.Filter, mandatory [2]string) bool {
	return f.Name() == mandatory[0] && f.Modifier == "" && len(f.Values) == 1 && f.Values[0].Text() == mandatory[1]
}

// check refuses what cannot be searched.
func (f *finder) check(q *fhir.Query) error {
	mandatory, seen := activeFilter[f.root], false
	for _, filter := range q.Filters {
		p, ok := parameterOf(f.root, filter.Path)
		if !ok {
			return fhir.Refuse(http.StatusBadRequest, fhir.CodeNotSupported, "%s cannot be searched by %.64s", f.root, filter.Name())
		}
		seen = seen || isActive(filter, mandatory)
		if err := checkFilter(filter, p); err != nil {
			return err
		}
		if p.kind == near {
			if err := f.circle(filter); err != nil {
				return err
			}
		}
	}
	if !seen {
		return fhir.Refuse(http.StatusBadRequest, fhir.CodeRequired, "the filter %s=%s is mandatory", mandatory[0], mandatory[1])
	}
	for _, h := range q.Has {
		if hasLink(f.root, h) == nil {
			return fhir.Refuse(http.StatusBadRequest, fhir.CodeNotSupported, "no %.64s refers to %s by %.64s", h.Type, f.root, h.Reference)
		}
		p, ok := parameterOf(h.Type, h.Filter.Path)
		if !ok || p.kind == near {
			return fhir.Refuse(http.StatusBadRequest, fhir.CodeNotSupported, "%.64s cannot be searched by %.64s", h.Type, h.Filter.Name())
		}
		if err := checkFilter(h.Filter, p); err != nil {
			return err
		}
	}
	return nil
}

// modifiers are those that each kind of parameter knows.
var modifiers = map[kind][]string{text: {"", "contains", "exact", "missing"}, token: {"", "not", "text", "missing"}, near: {""}, ref: {"", "missing"}, date: {"", "missing"}}

func checkFilter(f fhir.Filter, p parameter) error {
	if !slices.Contains(modifiers[p.kind], f.Modifier) {
		return fhir.Refuse(http.StatusBadRequest, fhir.CodeNotSupported, "%s does not know the modifier :%.20s", f.Name(), f.Modifier)
	}
	if f.Modifier == "missing" && (len(f.Values) != 1 || f.Values[0].Text() != "true" && f.Values[0].Text() != "false") {
		return fhir.Refuse(http.StatusBadRequest, fhir.CodeValue, "%s:missing is true or false", f.Name())
	}
	if p.kind == date && f.Modifier == "" {
		for _, v := range f.Values {
			if _, ok := fhir.ParseDate(v.Text()); !ok {
				return fhir.Refuse(http.StatusBadRequest, fhir.CodeValue, "%s is a date or time, which eq, ne, gt, ge, lt, le, sa or eb may precede", f.Name())
			}
		}
	}
	if p.kind == token && (f.Modifier == "" || f.Modifier == "not") {
		for _, v := range f.Values {
			if len(v.Parts) < 1 || len(v.Parts) > 2 {
				return fhir.Refuse(http.StatusBadRequest, fhir.CodeValue, "%s is a code or system|code", f.Name())
			}
		}
	}
	return nil
}

func hasLink(root string, h fhir.Has) *link {
	for i, l := range links[h.Type] {
		if l.name == h.Reference && l.target == root {
			return &links[h.Type][i]
		}
	}
	return nil
}

// filter reads what a search parameter of a root type matches.
func (f *finder) filter(ctx context.Context, root string, filter fhir.Filter, p parameter) (match, error) {
	params := f.params(short[root] + ":" + filter.Name())
	switch {
	case p.name == idParameter && len(filter.Path) == 1:
		return f.byID(ctx, root, filter)
	case p.kind == date:
		return f.changed(filter), nil
	case filter.Modifier == "missing":
		m, err := f.spans(ctx, params, func(param string) []span { return []span{{param: param, from: []byte{}}} })
		m.not = filter.Values[0].Text() == "true"
		return m, err
	case p.kind == ref:
		return f.refers(ctx, root, filter, p)
	case p.kind == text && filter.Modifier == "exact":
		return f.entered(ctx, root, params, filter, p)
	case p.kind == text:
		return f.texts(ctx, params, filter)
	case filter.Modifier == "text":
		for i := range params {
			params[i] += ":text"
		}
		return f.texts(ctx, params, filter)
	}
	m, err := f.spans(ctx, params, func(param string) []span { return tokenSpans(param, filter.Values) })
	m.not = filter.Modifier == "not"
	return m, err
}

// params are the names under which a parameter's values stand; professionals find hidden endpoints too.
func (f *finder) params(name string) []string {
	if f.insured || !strings.Contains(name, ":endpoint.") {
		return []string{name}
	}
	return []string{name, hiddenMark + name}
}

func (f *finder) spans(ctx context.Context, params []string, of func(param string) []span) (m match, err error) {
	var all []span
	for _, p := range params {
		all = append(all, of(p)...)
	}
	m.set, err = f.read(ctx, all)
	return m, err
}

// tokenSpans says where codes stand: "code", "system|code" or "system|".
func tokenSpans(param string, values []fhir.Value) []span {
	var all []span
	for _, v := range values {
		switch first := v.Parts[0]; {
		case len(v.Parts) == 1 && first == "": // no code finds nothing
		case len(v.Parts) == 1:
			all = append(all, span{param: param, from: []byte(first + "\x00"), to: []byte(first + "\x01")})
		case v.Parts[1] == "":
			all = append(all, span{param: param, from: []byte("\x00" + first)})
		default:
			all = append(all, span{param: param, from: []byte(v.Parts[1] + "\x00" + first)})
		}
	}
	return all
}

// changed finds entries by when they themselves were changed last, which is known of every one.
func (f *finder) changed(filter fhir.Filter) match {
	if filter.Modifier == "missing" {
		return match{set: newSet(f.n), not: filter.Values[0].Text() == "false"}
	}
	var ranges []fhir.DateRange
	for _, v := range filter.Values {
		if d, ok := fhir.ParseDate(v.Text()); ok {
			ranges = append(ranges, d)
		}
	}
	return match{set: f.s.entries.changed(f.n, func(at time.Time) bool {
		return slices.ContainsFunc(ranges, func(d fhir.DateRange) bool { return d.Holds(at) })
	})}
}

// byID finds entries by their own ids, which have no system.
func (f *finder) byID(ctx context.Context, root string, filter fhir.Filter) (match, error) {
	m := match{set: newSet(f.n), not: filter.Modifier == "not"}
	switch filter.Modifier {
	case "missing": // no entry is without
		m.not = filter.Values[0].Text() == "false"
		return m, nil
	case "text":
		return m, nil
	}
	args := []any{root}
	for _, v := range filter.Values {
		switch {
		case len(v.Parts) == 1:
			args = append(args, v.Parts[0])
		case v.Parts[0] == "":
			args = append(args, v.Parts[1])
		}
	}
	if len(args) == 1 {
		return m, nil
	}
	return m, f.numbers(ctx, m.set, "SELECT doc FROM directory_resource WHERE type = $1 AND id IN ("+database.Marks(2, len(args)-1)+")", args)
}

// numbers takes the entries that a query names into a set.
func (f *finder) numbers(ctx context.Context, into set, query string, args []any) error {
	rows, err := f.s.db.Query(ctx, query, args...)
	all, err := database.All(rows, err, database.Column[int64])
	if err != nil {
		return fmt.Errorf("directory: searching: %w", err)
	}
	for _, doc := range all {
		into.add(int(doc))
	}
	return nil
}

func linkOf(root, name string) link {
	for _, l := range links[root] {
		if l.name == name {
			return l
		}
	}
	return link{}
}

// refers compares what an element refers to: an id, "Type/id" or an address that ends so.
func (f *finder) refers(ctx context.Context, root string, filter fhir.Filter, p parameter) (match, error) {
	m := match{set: newSet(f.n)}
	l := linkOf(root, p.name)
	args := []any{root, l.element}
	for _, v := range filter.Values {
		id := v.Text()
		if i := strings.LastIndexByte(id, '/'); i >= 0 {
			if !strings.HasSuffix("/"+id[:i], "/"+l.target) {
				continue // a reference to another type finds nothing
			}
			id = id[i+1:]
		}
		args = append(args, l.target+"/"+id)
	}
	if len(args) == 2 {
		return m, nil
	}
	return m, f.numbers(ctx, m.set, "SELECT r.doc FROM directory_link f JOIN directory_resource r ON r.nid = f.nid WHERE r.type = $1 AND f.element = $2 AND f.target IN ("+
		database.Marks(3, len(args)-2)+")", args)
}

// texts compares folded texts by the beginning of a word, or anywhere with :contains.
func (f *finder) texts(ctx context.Context, params []string, filter fhir.Filter) (match, error) {
	var spellingsOf []string
	for _, v := range filter.Values {
		for _, s := range spellings(v.Text()) {
			if s = cut(s); s != "" { // a value of punctuation only finds nothing
				spellingsOf = append(spellingsOf, s)
			}
		}
	}
	return f.phrases(ctx, params, spellingsOf, filter.Modifier == "contains")
}

// phrases finds entries in whose texts any of some folded texts stands: from a word's start on, or anywhere.
func (f *finder) phrases(ctx context.Context, params, sought []string, anywhere bool) (match, error) {
	m := match{set: newSet(f.n)}
	test := false
	var single []span
	for _, s := range sought {
		words := strings.Split(s, " ")
		if len(words) == 1 && anywhere {
			for _, p := range params {
				single = append(single, span{param: p, from: []byte{0}, to: []byte{0xff, 0xff}, inside: []byte(s)})
			}
			continue
		}
		if len(words) == 1 {
			single = append(single, starting(params, s)...)
			continue
		}
		test = true
		some, err := f.together(ctx, params, words, anywhere, false)
		if err != nil {
			return m, err
		}
		m.set.or(some)
	}
	if len(single) > 0 {
		some, err := f.read(ctx, single)
		if err != nil {
			return m, err
		}
		m.set.or(some)
	}
	if test {
		m.test = &textTest{numbersOf(params), func(text []byte) bool {
			return slices.ContainsFunc(sought, func(s string) bool {
				if anywhere {
					return bytes.Contains(text, []byte(s))
				}
				return phrase(s, false)(text)
			})
		}}
	}
	return m, nil
}

// together finds entries that have all of several words; the last may go on unless it is whole, and with loose ends the first may have begun before.
func (f *finder) together(ctx context.Context, params, words []string, loose, whole bool) (set, error) {
	var all set
	for i, w := range words {
		var spans []span
		switch {
		case i == 0 && loose:
			continue // the words behind it narrow the search down
		case i == len(words)-1 && !whole:
			spans = starting(params, w)
		default:
			spans = exactly(params, w)
		}
		some, err := f.read(ctx, spans)
		if err != nil {
			return nil, err
		}
		if all == nil {
			all = some
		} else {
			all.and(some)
		}
	}
	return all, nil
}

func starting(params []string, word string) (all []span) {
	for _, p := range params {
		all = append(all, span{param: p, from: []byte(cut(word)), to: after(cut(word))})
	}
	return all
}

func exactly(params []string, word string) (all []span) {
	for _, p := range params {
		all = append(all, span{param: p, from: []byte(cut(word))})
	}
	return all
}

func numbersOf(params []string) (all []uint64) {
	for _, p := range params {
		if n, ok := textNumbers[p]; ok {
			all = append(all, n)
		}
	}
	return all
}

// has finds the entries that another one refers to which passes a filter (_has).
func (f *finder) has(ctx context.Context, h fhir.Has) (match, error) {
	p, _ := parameterOf(h.Type, h.Filter.Path)
	m, err := f.filter(ctx, h.Type, h.Filter, p)
	if err != nil {
		return m, err
	}
	candidates, tests, err := f.candidates(ctx, []match{m})
	if err != nil {
		return m, err
	}
	sources := f.s.entries.visible(h.Type, false, f.insured, candidates, 0)
	if len(tests) > 0 {
		if sources, err = f.verify(ctx, sources, tests, 0); err != nil {
			return m, err
		}
	}
	if m.raw != nil {
		if sources, err = m.raw.compare(ctx, f, sources, 0); err != nil {
			return m, err
		}
	}
	out := match{set: newSet(f.n)}
	args := make([]any, len(sources))
	for i, doc := range sources {
		args[i] = int64(doc)
	}
	element := hasLink(f.root, h).element
	return out, chunks(args, func(some []any) error { return f.targets(ctx, out.set, h.Type, element, some) })
}

// targets takes the entries into a set that an element of some others refers to.
func (f *finder) targets(ctx context.Context, into set, kind, element string, sources []any) error {
	rows, err := f.s.db.Query(ctx, "SELECT r.json FROM directory_entry e JOIN directory_resource r ON r.nid = e.nid WHERE e.doc IN ("+database.Marks(1, len(sources))+")", sources...)
	var ids []any
	_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
		var text sql.RawBytes
		if err := rows.Scan(&text); err != nil {
			return struct{}{}, err
		}
		r, err := fhir.Parse(text)
		if err != nil {
			return struct{}{}, err
		}
		for _, target := range r.References(element) {
			if kind, id, _ := strings.Cut(target, "/"); kind == f.root {
				ids = append(ids, id)
			}
		}
		return struct{}{}, nil
	})
	if err != nil {
		return fmt.Errorf("directory: searching: %w", err)
	}
	return chunks(ids, func(some []any) error {
		return f.numbers(ctx, into, "SELECT doc FROM directory_resource WHERE type = $1 AND id IN ("+database.Marks(2, len(some))+")", append([]any{f.root}, some...))
	})
}

const (
	maxKilometres      = 100
	kilometresOfDegree = 111.32
)

// circle reads location.near=latitude|longitude|distance|km; all four parts are required.
func (f *finder) circle(filter fhir.Filter) error {
	bad := fhir.Refuse(http.StatusBadRequest, fhir.CodeValue, "%s is latitude|longitude|distance|km with at most %d km", filter.Name(), maxKilometres)
	if len(filter.Values) != 1 || len(filter.Values[0].Parts) != 4 || filter.Values[0].Parts[3] != "km" || f.near != nil {
		return bad
	}
	var n [3]float64
	for i := range n {
		var err error
		if n[i], err = strconv.ParseFloat(filter.Values[0].Parts[i], 64); err != nil || math.IsNaN(n[i]) {
			return bad
		}
	}
	if math.Abs(n[0]) > 90 || math.Abs(n[1]) > 180 || n[2] <= 0 || n[2] > maxKilometres {
		return bad
	}
	f.near = &circle{n[0], n[1], n[2]}
	return nil
}

// box is the square around the circle: its lowest and highest corner.
func (c circle) box() (low, high point) {
	up := c.kilometres / kilometresOfDegree
	wide := min(180, up/max(0.01, math.Cos(c.latitude*math.Pi/180)))
	return point{int32((c.latitude - up) * 1e6), int32((c.longitude - wide) * 1e6)}, point{int32((c.latitude + up) * 1e6), int32((c.longitude + wide) * 1e6)}
}

// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"cmp"
	"context"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/konsil-health/konsil/internal/health/fhir"
)

// builder collects the SQL of one search.
type builder struct {
	root     string
	where    []string
	args     []any
	postgres bool
	insured  bool
	near     *circle
	led      bool // a filter gives the candidates, so that not every entry is looked at
}

type circle struct{ latitude, longitude, kilometres float64 }

func (b *builder) arg(v any) string {
	b.args = append(b.args, v)
	return "$" + strconv.Itoa(len(b.args))
}

// condition is one filter in SQL: cost tells which one should lead.
type condition struct {
	table, inner string
	cost         int
	not          bool
}

// plan turns a query into SQL. The most selective filter gives the candidates, the others are asked of each.
func (s *Store) plan(ctx context.Context, root string, q *fhir.Query, v View) (*builder, error) {
	b := &builder{root: root, postgres: s.db.Postgres(), insured: v.Insured}
	b.where = append(b.where, "r.type = "+b.arg(root))
	if v.Insured {
		b.where = append(b.where, "NOT r.hidden")
	}
	mandatory, seen := activeFilter[root], false
	var conditions []condition
	for _, f := range q.Filters {
		p, ok := parameterOf(root, f.Path)
		if !ok {
			return nil, fhir.Refuse(http.StatusBadRequest, fhir.CodeNotSupported, "%s cannot be searched by %.64s", root, f.Name())
		}
		if f.Name() == mandatory[0] && f.Modifier == "" && len(f.Values) == 1 && f.Values[0].Text() == mandatory[1] {
			seen = true
			b.where = append(b.where, "r.active")
			continue
		}
		c, err := b.filter(root, f, p)
		if err != nil {
			return nil, err
		}
		if c.table != "" {
			conditions = append(conditions, c)
		}
	}
	if !seen {
		return nil, fhir.Refuse(http.StatusBadRequest, fhir.CodeRequired, "the filter %s=%s is mandatory", mandatory[0], mandatory[1])
	}
	for _, h := range q.Has {
		if err := b.has(h); err != nil {
			return nil, err
		}
	}
	words, err := s.text(ctx, b, q)
	if err != nil {
		return nil, err
	}
	conditions = append(conditions, words...)
	slices.SortStableFunc(conditions, func(x, y condition) int { return cmp.Compare(x.cost, y.cost) })
	for i, c := range conditions {
		switch {
		case c.not:
			b.where = append(b.where, c.negated())
		case i == 0 && c.cost < 3:
			b.led = true
			b.where = append(b.where, "r.nid IN (SELECT x.nid FROM "+c.table+" x WHERE "+c.inner+")")
		default:
			b.where = append(b.where, c.exists())
		}
	}
	return b, nil
}

func (c condition) exists() string {
	return "EXISTS (SELECT 1 FROM " + c.table + " x WHERE x.nid = r.nid AND " + c.inner + ")"
}

func (c condition) negated() string { return "NOT " + c.exists() }

// has restricts the matches to those that another resource refers to (_has).
func (b *builder) has(h fhir.Has) error {
	var through *link
	for i, l := range links[h.Type] {
		if l.name == h.Reference && l.target == b.root {
			through = &links[h.Type][i]
		}
	}
	if through == nil {
		return fhir.Refuse(http.StatusBadRequest, fhir.CodeNotSupported, "no %.64s refers to %s by %.64s", h.Type, b.root, h.Reference)
	}
	p, ok := parameterOf(h.Type, h.Filter.Path)
	if !ok || p.kind == near {
		return fhir.Refuse(http.StatusBadRequest, fhir.CodeNotSupported, "%.64s cannot be searched by %.64s", h.Type, h.Filter.Name())
	}
	c, err := b.filter(h.Type, h.Filter, p)
	if err != nil {
		return err
	}
	membership := "f.nid IN (SELECT x.nid FROM " + c.table + " x WHERE " + c.inner + ")"
	if c.not {
		membership = "f.nid NOT IN (SELECT x.nid FROM " + c.table + " x WHERE " + c.inner + ")"
	}
	seen := ""
	if b.insured {
		seen = " AND NOT s.hidden"
	}
	b.where = append(b.where, "r.id IN (SELECT substr(f.target, "+strconv.Itoa(len(b.root)+2)+") FROM directory_reference f JOIN directory_resource s ON s.nid = f.nid WHERE f.element = "+
		b.arg(through.element)+" AND s.type = "+b.arg(h.Type)+seen+" AND "+membership+")")
	return nil
}

// filter writes one search parameter as SQL.
func (b *builder) filter(root string, f fhir.Filter, p parameter) (condition, error) {
	name := short[root] + ":" + f.Name()
	unknown := func() (condition, error) {
		return condition{}, fhir.Refuse(http.StatusBadRequest, fhir.CodeNotSupported, "%s does not know the modifier :%.20s", f.Name(), f.Modifier)
	}
	if f.Modifier == "missing" && p.kind != near {
		return b.missing(root, name, f, p)
	}
	switch p.kind {
	case ref:
		if f.Modifier != "" {
			return unknown()
		}
		return b.refers(root, f, p)
	case near:
		if f.Modifier != "" {
			return unknown()
		}
		return condition{}, b.circle(f)
	case text:
		if f.Modifier != "" && f.Modifier != "contains" {
			return unknown()
		}
		return condition{table: "directory_string", inner: b.named(name) + " AND " + b.texts(f), cost: 1}, nil
	}
	switch f.Modifier {
	case "text":
		return condition{table: "directory_string", inner: b.named(name+":text") + " AND " + b.texts(f), cost: 2}, nil
	case "", "not":
	default:
		return unknown()
	}
	var any []string
	for _, v := range f.Values {
		switch {
		case len(v.Parts) == 1:
			any = append(any, "x.code = "+b.arg(v.Parts[0]))
		case len(v.Parts) == 2 && v.Parts[1] == "":
			any = append(any, "x.system = "+b.arg(v.Parts[0]))
		case len(v.Parts) == 2:
			any = append(any, "(x.system = "+b.arg(v.Parts[0])+" AND x.code = "+b.arg(v.Parts[1])+")")
		default:
			return condition{}, fhir.Refuse(http.StatusBadRequest, fhir.CodeValue, "%s is a code or system|code", f.Name())
		}
	}
	cost := 3
	if strings.HasSuffix(f.Name(), "identifier") || f.Name() == "_id" || f.Name() == "owner-telematik-id" {
		cost = 0
	}
	if f.Modifier == "not" {
		cost = 4
	}
	return condition{table: "directory_token", inner: b.named(name) + " AND (" + strings.Join(any, " OR ") + ")", cost: cost, not: f.Modifier == "not"}, nil
}

// missing asks whether an element has any value; all values of one parameter are in one table.
func (b *builder) missing(root, name string, f fhir.Filter, p parameter) (condition, error) {
	if len(f.Values) != 1 || f.Values[0].Text() != "true" && f.Values[0].Text() != "false" {
		return condition{}, fhir.Refuse(http.StatusBadRequest, fhir.CodeValue, "%s:missing is true or false", f.Name())
	}
	c := condition{cost: 4, not: f.Values[0].Text() == "true"}
	switch p.kind {
	case ref:
		c.table, c.inner = "directory_reference", "x.element = "+b.arg(linkOf(root, p.name).element)
	case text:
		c.table, c.inner = "directory_string", b.named(name)
	default:
		c.table, c.inner = "directory_token", b.named(name)
	}
	return c, nil
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
func (b *builder) refers(root string, f fhir.Filter, p parameter) (condition, error) {
	l := linkOf(root, p.name)
	var any []string
	for _, v := range f.Values {
		id := v.Text()
		if i := strings.LastIndexByte(id, '/'); i >= 0 {
			if !strings.HasSuffix("/"+id[:i], "/"+l.target) {
				continue // a reference to another type finds nothing
			}
			id = id[i+1:]
		}
		any = append(any, "x.target = "+b.arg(l.target+"/"+id))
	}
	if len(any) == 0 {
		any = []string{"1 = 0"}
	}
	return condition{table: "directory_reference", inner: "x.element = " + b.arg(l.element) + " AND (" + strings.Join(any, " OR ") + ")"}, nil
}

// named restricts rows to a parameter; professionals find hidden endpoints too.
func (b *builder) named(name string) string {
	if b.insured || !strings.Contains(name, ":endpoint.") {
		return "x.param = " + b.arg(name)
	}
	return "x.param IN (" + b.arg(name) + ", " + b.arg(hiddenMark+name) + ")"
}

// texts compares folded values by the prefix of a word, or anywhere with :contains.
func (b *builder) texts(f fhir.Filter) string {
	var any []string
	for _, v := range f.Values {
		for _, spelling := range spellings(v.Text()) {
			spelling = cut(spelling)
			switch {
			case spelling == "":
			case f.Modifier == "contains":
				any = append(any, b.contains(spelling))
			default:
				any = append(any, b.prefix(spelling))
			}
		}
	}
	if len(any) == 0 {
		return "1 = 0" // a value of punctuation only finds nothing
	}
	return "(" + strings.Join(any, " OR ") + ")"
}

func (b *builder) prefix(value string) string {
	return "(x.value >= " + b.arg([]byte(value)) + " AND x.value < " + b.arg(after(value)) + ")"
}

// contains differs between the databases, which is what [database.DB.Postgres] may be asked for.
func (b *builder) contains(value string) string {
	if b.postgres {
		return "position(" + b.arg([]byte(value)) + "::bytea IN x.value) > 0"
	}
	return "instr(x.value, " + b.arg([]byte(value)) + ") > 0"
}

const (
	maxKilometres      = 100
	kilometresOfDegree = 111.32
)

// circle reads location.near=latitude|longitude|distance|km; all four parts are required.
func (b *builder) circle(f fhir.Filter) error {
	bad := fhir.Refuse(http.StatusBadRequest, fhir.CodeValue, "%s is latitude|longitude|distance|km with at most %d km", f.Name(), maxKilometres)
	if len(f.Values) != 1 || len(f.Values[0].Parts) != 4 || f.Values[0].Parts[3] != "km" || b.near != nil {
		return bad
	}
	var n [3]float64
	for i := range n {
		var err error
		if n[i], err = strconv.ParseFloat(f.Values[0].Parts[i], 64); err != nil || math.IsNaN(n[i]) {
			return bad
		}
	}
	if math.Abs(n[0]) > 90 || math.Abs(n[1]) > 180 || n[2] <= 0 || n[2] > maxKilometres {
		return bad
	}
	b.near = &circle{n[0], n[1], n[2]}
	b.where = append(b.where, b.box())
	return nil
}

// box is the square around the circle, for which there is an index.
func (b *builder) box() string {
	c := b.near
	high := c.kilometres / kilometresOfDegree
	wide := min(180, high/max(0.01, math.Cos(c.latitude*math.Pi/180)))
	return "r.nid IN (SELECT x.nid FROM directory_position x WHERE x.latitude BETWEEN " + b.arg(int64((c.latitude-high)*1e6)) + " AND " +
		b.arg(int64((c.latitude+high)*1e6)) + " AND x.longitude BETWEEN " + b.arg(int64((c.longitude-wide)*1e6)) + " AND " + b.arg(int64((c.longitude+wide)*1e6)) + ")"
}

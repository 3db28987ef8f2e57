// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/health/fhir"
)

// maxCounted is where counting the matches stops, and the most that a search by distance sorts.
const maxCounted = 10_000

// activeFilter is the parameter that a search from each root must carry (dossier §4.3).
var activeFilter = map[string][2]string{
	fhir.PractitionerRole: {"practitioner.active", "true"}, fhir.HealthcareService: {"organization.active", "true"}, fhir.Endpoint: {"status", "active"},
}

// View says who looks.
type View struct {
	// Insured people see nothing that is marked hide-versicherte (A_25681-01).
	Insured bool
	// Base is the address of the interface, for full URLs and links, without trailing slash.
	Base string
}

// Search answers a search from a root type. The query must carry the root's active filter. Refusals are *fhir.Error.
func (s *Store) Search(ctx context.Context, root, rawQuery string, v View) (*fhir.Bundle, error) {
	if short[root] == "" {
		return nil, fhir.Refuse(http.StatusNotFound, fhir.CodeNotSupported, "searches begin at PractitionerRole, HealthcareService or Endpoint")
	}
	q, err := fhir.ParseQuery(rawQuery)
	if err != nil {
		return nil, err
	}
	b, err := s.plan(ctx, root, q, v)
	if err != nil {
		return nil, err
	}
	found, total, err := s.find(ctx, b, q)
	if err != nil {
		return nil, err
	}
	bundle := fhir.NewSearchset()
	bundle.Total = total
	bundle.Link = append(bundle.Link, fhir.Link{Relation: "self", URL: v.Base + "/" + root + "?" + rawQuery})
	if q.OnlyCount {
		return bundle, nil
	}
	if next := q.Offset + q.Count; next < min(total, fhir.MaxResults) {
		bundle.Link = append(bundle.Link, fhir.Link{Relation: "next", URL: v.Base + "/" + root + "?" + q.Encode(next)})
	}
	return bundle, s.fill(ctx, bundle, root, found, q, v)
}

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

// find returns the resources of the page and how many match.
func (s *Store) find(ctx context.Context, b *builder, q *fhir.Query) ([]int64, int, error) {
	where := " WHERE " + strings.Join(b.where, " AND ")
	if b.near != nil {
		return s.findNear(ctx, b, q, where)
	}
	if q.OnlyCount {
		var total int
		if err := s.db.QueryRow(ctx, "SELECT count(*) FROM (SELECT 1 FROM directory_resource r"+where+" LIMIT "+strconv.Itoa(maxCounted)+") m", b.args...).Scan(&total); err != nil {
			return nil, 0, fmt.Errorf("directory: counting: %w", err)
		}
		return nil, total, nil
	}
	if !b.led { // every entry matches: the order comes from the index, the number from a count
		return s.findAll(ctx, b, q, where)
	}
	// One pass gives both the number and what to sort by. Of more matches than are counted, those that came up first are sorted.
	type match struct {
		nid  int64
		sort []byte
	}
	rows, err := s.db.Query(ctx, "SELECT r.nid, r.sort FROM directory_resource r"+where+" LIMIT "+strconv.Itoa(maxCounted), b.args...)
	all, err := database.All(rows, err, func(rows *sql.Rows) (m match, err error) {
		err = rows.Scan(&m.nid, &m.sort)
		return m, err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("directory: searching: %w", err)
	}
	slices.SortFunc(all, func(x, y match) int { return cmp.Or(bytes.Compare(x.sort, y.sort), cmp.Compare(x.nid, y.nid)) })
	var found []int64
	for _, m := range all[min(q.Offset, len(all)):min(q.Offset+q.Count, len(all), max(q.Offset, fhir.MaxResults))] {
		found = append(found, m.nid)
	}
	return found, len(all), nil
}

// findAll is find where no filter narrows the search down.
func (s *Store) findAll(ctx context.Context, b *builder, q *fhir.Query, where string) ([]int64, int, error) {
	var total int
	if err := s.db.QueryRow(ctx, "SELECT count(*) FROM (SELECT 1 FROM directory_resource r"+where+" LIMIT "+strconv.Itoa(maxCounted)+") m", b.args...).Scan(&total); err != nil {
		return nil, 0, fmt.Errorf("directory: counting: %w", err)
	}
	limit := min(q.Count, fhir.MaxResults-q.Offset)
	if total <= q.Offset || limit <= 0 {
		return nil, total, nil
	}
	rows, err := s.db.Query(ctx, "SELECT r.nid FROM directory_resource r"+where+" ORDER BY r.sort, r.nid LIMIT "+strconv.Itoa(limit)+" OFFSET "+strconv.Itoa(q.Offset), b.args...)
	found, err := database.All(rows, err, database.Column[int64])
	if err != nil {
		return nil, 0, fmt.Errorf("directory: searching: %w", err)
	}
	return found, total, nil
}

// findNear is find for a search around a point, nearest first.
func (s *Store) findNear(ctx context.Context, b *builder, q *fhir.Query, where string) ([]int64, int, error) {
	found, total, err := s.around(ctx, b, where)
	if err != nil || q.OnlyCount {
		return nil, total, err
	}
	from := min(q.Offset, total)
	return found[from:min(from+q.Count, total, max(from, fhir.MaxResults))], total, nil
}

// around sorts by distance, which no index can.
func (s *Store) around(ctx context.Context, b *builder, where string) ([]int64, int, error) {
	type place struct {
		nid      int64
		distance float64
	}
	rows, err := s.db.Query(ctx, "SELECT r.nid, p.latitude, p.longitude FROM directory_resource r JOIN directory_position p ON p.nid = r.nid"+where+
		" ORDER BY r.sort, r.nid LIMIT "+strconv.Itoa(maxCounted), b.args...)
	all, err := database.All(rows, err, func(rows *sql.Rows) (place, error) {
		var p place
		var latitude, longitude int64
		err := rows.Scan(&p.nid, &latitude, &longitude)
		p.distance = distance(b.near.latitude, b.near.longitude, float64(latitude)/1e6, float64(longitude)/1e6)
		return p, err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("directory: searching: %w", err)
	}
	slices.SortStableFunc(all, func(x, y place) int { return cmp.Compare(x.distance, y.distance) })
	seen := map[int64]bool{}
	var found []int64
	for _, p := range all {
		if p.distance <= b.near.kilometres && !seen[p.nid] {
			seen[p.nid] = true
			found = append(found, p.nid)
		}
	}
	return found, len(found), nil
}

// distance is the great-circle distance in kilometres.
func distance(lat1, long1, lat2, long2 float64) float64 {
	const radius = 6371
	rad := func(d float64) float64 { return d * math.Pi / 180 }
	a := math.Pow(math.Sin(rad(lat2-lat1)/2), 2) + math.Cos(rad(lat1))*math.Cos(rad(lat2))*math.Pow(math.Sin(rad(long2-long1)/2), 2)
	return 2 * radius * math.Asin(math.Min(1, math.Sqrt(a)))
}

// fill adds the matches in order and what the includes ask for.
func (s *Store) fill(ctx context.Context, bundle *fhir.Bundle, root string, nids []int64, q *fhir.Query, v View) error {
	include, err := included(root, q)
	if err != nil || len(nids) == 0 {
		return err
	}
	reverse, err := referring(root, q)
	if err != nil {
		return err
	}
	matches, err := s.byNID(ctx, nids)
	if err != nil {
		return err
	}
	return s.present(ctx, bundle, matches, include, reverse, v)
}

// maxIncluded bounds what a page brings along beside its matches.
const maxIncluded = 1000

// present adds matches and what comes along with them.
func (s *Store) present(ctx context.Context, bundle *fhir.Bundle, matches []*fhir.Resource, include []link, reverse []reverseLink, v View) error {
	var linked []string
	known := map[string]bool{}
	for _, r := range matches {
		bundle.Add(v.Base, r, "match")
		known[r.Reference()] = true
	}
	add := func(ref string) {
		if !known[ref] && len(linked) < maxIncluded {
			known[ref] = true
			linked = append(linked, ref)
		}
	}
	for _, r := range matches {
		for _, l := range include {
			for _, ref := range r.References(l.element) {
				add(ref)
			}
		}
	}
	for _, l := range reverse {
		sources, err := s.referring(ctx, matches, l)
		if err != nil {
			return err
		}
		for _, ref := range sources {
			add(ref)
		}
	}
	for _, ref := range linked {
		r, _, err := s.Get(ctx, ref)
		if err != nil {
			return err
		}
		if r == nil {
			continue
		}
		hidden, err := s.hidden(ctx, r, v)
		if err != nil {
			return err
		}
		if !hidden {
			bundle.Add(v.Base, r, "include")
		}
	}
	return nil
}

// hidden says whether a resource is not for this viewer. A service hides with its organisation.
func (s *Store) hidden(ctx context.Context, r *fhir.Resource, v View) (bool, error) {
	if !v.Insured || r.HiddenFromInsured() {
		return v.Insured, nil
	}
	if r.Type() != fhir.HealthcareService {
		return false, nil
	}
	for _, ref := range r.References("providedBy") {
		o, _, err := s.Get(ctx, ref)
		if err != nil || o != nil && o.HiddenFromInsured() {
			return true, err
		}
	}
	return false, nil
}

// reverseLink is a reference followed from its end.
type reverseLink struct {
	link
	source string // the type that refers
}

// referring resolves _revinclude to references of other types to the root.
func referring(root string, q *fhir.Query) ([]reverseLink, error) {
	var all []reverseLink
	for _, i := range q.RevIncludes {
		known := false
		for _, l := range links[i.Type] {
			if l.target == root && (i.Parameter == "*" || i.Parameter == l.name) {
				known = true
				all = append(all, reverseLink{l, i.Type})
			}
		}
		if !known {
			return nil, fhir.Refuse(http.StatusBadRequest, fhir.CodeNotSupported, "no %.40s refers to %s by %.40s", i.Type, root, i.Parameter)
		}
	}
	return all, nil
}

// referring lists the resources that refer to any of some matches.
func (s *Store) referring(ctx context.Context, matches []*fhir.Resource, l reverseLink) ([]string, error) {
	args := []any{l.element, l.source}
	for _, r := range matches {
		args = append(args, r.Reference())
	}
	rows, err := s.db.Query(ctx, "SELECT DISTINCT s.id FROM directory_reference f JOIN directory_resource s ON s.nid = f.nid WHERE f.element = $1 AND s.type = $2 AND f.target IN ("+
		database.Marks(3, len(matches))+") ORDER BY s.id LIMIT "+strconv.Itoa(maxIncluded), args...)
	ids, err := database.All(rows, err, database.Column[string])
	if err != nil {
		return nil, fmt.Errorf("directory: reading references: %w", err)
	}
	for i, id := range ids {
		ids[i] = l.source + "/" + id
	}
	return ids, nil
}

// included resolves _include to links of the root.
func included(root string, q *fhir.Query) ([]link, error) {
	var all []link
	for _, i := range q.Includes {
		if i.Type != "" && i.Type != root {
			return nil, fhir.Refuse(http.StatusBadRequest, fhir.CodeNotSupported, "_include begins at %s here", root)
		}
		known := false
		for _, l := range links[root] {
			if i.Parameter == "*" || i.Parameter == l.name {
				known = true
				if !slices.Contains(all, l) {
					all = append(all, l)
				}
			}
		}
		if !known {
			return nil, fhir.Refuse(http.StatusBadRequest, fhir.CodeNotSupported, "%s has no reference %.40s to include", root, i.Parameter)
		}
	}
	return all, nil
}

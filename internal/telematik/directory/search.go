// SPDX-License-Identifier: Apache-2.0

package directory

import (
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
	b, err := s.plan(root, q, v)
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
func (s *Store) plan(root string, q *fhir.Query, v View) (*builder, error) {
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
		c, err := b.filter(f, p)
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
	for word := range strings.FieldsSeq(q.Text) {
		var any []string
		for _, spelling := range spellings(word) {
			for part := range strings.FieldsSeq(spelling) {
				any = append(any, b.prefix(part))
			}
		}
		if len(any) > 0 {
			conditions = append(conditions, condition{table: "directory_string", inner: "x.param = " + b.arg(short[root]+":_text") + " AND (" + strings.Join(any, " OR ") + ")", cost: 2})
		}
	}
	slices.SortStableFunc(conditions, func(x, y condition) int { return cmp.Compare(x.cost, y.cost) })
	for i, c := range conditions {
		switch {
		case c.not:
			b.where = append(b.where, "NOT EXISTS (SELECT 1 FROM "+c.table+" x WHERE x.nid = r.nid AND "+c.inner+")")
		case i == 0 && c.cost < 3:
			b.where = append(b.where, "r.nid IN (SELECT x.nid FROM "+c.table+" x WHERE "+c.inner+")")
		default:
			b.where = append(b.where, "EXISTS (SELECT 1 FROM "+c.table+" x WHERE x.nid = r.nid AND "+c.inner+")")
		}
	}
	return b, nil
}

// filter writes one search parameter as SQL.
func (b *builder) filter(f fhir.Filter, p parameter) (condition, error) {
	name := short[b.root] + ":" + f.Name()
	unknown := func() (condition, error) {
		return condition{}, fhir.Refuse(http.StatusBadRequest, fhir.CodeNotSupported, "%s does not know the modifier :%.20s", f.Name(), f.Modifier)
	}
	switch p.kind {
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
	high := n[2] / kilometresOfDegree
	wide := min(180, high/max(0.01, math.Cos(n[0]*math.Pi/180)))
	b.where = append(b.where, "EXISTS (SELECT 1 FROM directory_position x WHERE x.nid = r.nid AND x.latitude BETWEEN "+b.arg(int64((n[0]-high)*1e6))+" AND "+
		b.arg(int64((n[0]+high)*1e6))+" AND x.longitude BETWEEN "+b.arg(int64((n[1]-wide)*1e6))+" AND "+b.arg(int64((n[1]+wide)*1e6))+")")
	return nil
}

// find returns the resources of the page and how many match.
func (s *Store) find(ctx context.Context, b *builder, q *fhir.Query) ([]int64, int, error) {
	where := " WHERE " + strings.Join(b.where, " AND ")
	if b.near != nil {
		return s.findNear(ctx, b, q, where)
	}
	var total int
	if err := s.db.QueryRow(ctx, "SELECT count(*) FROM (SELECT 1 FROM directory_resource r"+where+" LIMIT "+strconv.Itoa(maxCounted)+") m", b.args...).Scan(&total); err != nil {
		return nil, 0, fmt.Errorf("directory: counting: %w", err)
	}
	limit := min(q.Count, fhir.MaxResults-q.Offset)
	if q.OnlyCount || total <= q.Offset || limit <= 0 {
		return nil, total, nil
	}
	rows, err := s.db.Query(ctx, "SELECT r.nid FROM directory_resource r"+where+" ORDER BY r.sort, r.nid LIMIT "+strconv.Itoa(limit)+" OFFSET "+strconv.Itoa(q.Offset), b.args...)
	found, err := database.All(rows, err, database.Column[int64])
	if err != nil {
		return nil, 0, fmt.Errorf("directory: searching: %w", err)
	}
	return found, total, nil
}

// findNear sorts by distance, which no index can.
func (s *Store) findNear(ctx context.Context, b *builder, q *fhir.Query, where string) ([]int64, int, error) {
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
	total := len(found)
	from := min(q.Offset, total)
	return found[from:min(from+q.Count, total, max(from, fhir.MaxResults))], total, nil
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
	args := make([]any, len(nids))
	for i, n := range nids {
		args[i] = n
	}
	type row struct {
		nid int64
		r   *fhir.Resource
	}
	rows, err := s.db.Query(ctx, "SELECT nid, json FROM directory_resource WHERE nid IN ("+database.Marks(1, len(args))+")", args...)
	all, err := database.All(rows, err, func(rows *sql.Rows) (row, error) {
		var w row
		var text string
		if err := rows.Scan(&w.nid, &text); err != nil {
			return w, err
		}
		var err error
		w.r, err = fhir.Parse([]byte(text))
		return w, err
	})
	if err != nil {
		return fmt.Errorf("directory: reading: %w", err)
	}
	slices.SortFunc(all, func(x, y row) int { return cmp.Compare(slices.Index(nids, x.nid), slices.Index(nids, y.nid)) })
	var linked []string
	for _, w := range all {
		bundle.Add(v.Base, w.r, "match")
		for _, l := range include {
			for _, ref := range w.r.References(l.element) {
				if !slices.Contains(linked, ref) {
					linked = append(linked, ref)
				}
			}
		}
	}
	for _, ref := range linked {
		r, _, err := s.Get(ctx, ref)
		if err != nil {
			return err
		}
		if r != nil && !(v.Insured && r.HiddenFromInsured()) {
			bundle.Add(v.Base, r, "include")
		}
	}
	return nil
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

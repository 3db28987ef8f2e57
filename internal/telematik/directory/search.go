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

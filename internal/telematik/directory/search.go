// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"math"
	"net/http"

	"github.com/konsil-health/konsil/internal/health/fhir"
)

// maxCounted is where counting the matches stops. Of more matches those that were entered first are sorted.
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
	f, err := s.finder(ctx, root, v.Insured)
	if err != nil {
		return nil, err
	}
	if err := f.plan(ctx, q); err != nil {
		return nil, err
	}
	found, total, err := f.page(ctx, q.Offset, max(0, min(q.Count, fhir.MaxResults-q.Offset)))
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

// distance is the great-circle distance in kilometres.
func distance(lat1, long1, lat2, long2 float64) float64 {
	const radius = 6371
	rad := func(d float64) float64 { return d * math.Pi / 180 }
	a := math.Pow(math.Sin(rad(lat2-lat1)/2), 2) + math.Cos(rad(lat1))*math.Cos(rad(lat2))*math.Pow(math.Sin(rad(long2-long1)/2), 2)
	return 2 * radius * math.Asin(math.Min(1, math.Sqrt(a)))
}

// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/health/fhir"
)

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

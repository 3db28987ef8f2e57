// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"database/sql"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/health/fhir"
)

// fill adds the matches in order and what the includes ask for.
func (s *Store) fill(ctx context.Context, bundle *fhir.Bundle, root string, docs []int, q *fhir.Query, v View) error {
	include, err := included(root, q)
	if err != nil || len(docs) == 0 {
		return err
	}
	reverse, err := referring(root, q)
	if err != nil {
		return err
	}
	matches, err := s.byNumber(ctx, docs)
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
	resources, err := s.read(ctx, linked)
	if err != nil {
		return err
	}
	hidden, err := s.hides(ctx, maps.Values(resources), v)
	if err != nil {
		return err
	}
	for _, ref := range linked {
		if r := resources[ref]; r != nil && !hidden(r) {
			bundle.Add(v.Base, r, "include")
		}
	}
	return nil
}

// hides tells which of some resources are not for this viewer. A service hides with its organisation.
func (s *Store) hides(ctx context.Context, resources iter.Seq[*fhir.Resource], v View) (func(*fhir.Resource) bool, error) {
	if !v.Insured {
		return func(*fhir.Resource) bool { return false }, nil
	}
	var above []string
	for r := range resources {
		if r.Type() == fhir.HealthcareService {
			above = append(above, r.References("providedBy")...)
		}
	}
	organizations, err := s.read(ctx, above)
	return func(r *fhir.Resource) bool {
		return r.HiddenFromInsured() || r.Type() == fhir.HealthcareService && slices.ContainsFunc(r.References("providedBy"), func(ref string) bool {
			o := organizations[ref]
			return o != nil && o.HiddenFromInsured()
		})
	}, err
}

// read reads resources by their references, of all types in one query.
func (s *Store) read(ctx context.Context, references []string) (map[string]*fhir.Resource, error) {
	found := map[string]*fhir.Resource{}
	for some := range slices.Chunk(references, database.MaxMarks) {
		byType := map[string][]any{}
		for _, ref := range some {
			kind, id, _ := strings.Cut(ref, "/")
			byType[kind] = append(byType[kind], id)
		}
		var parts []string
		var args []any
		for _, kind := range slices.Sorted(maps.Keys(byType)) {
			ids := byType[kind]
			parts = append(parts, "SELECT type, id, json FROM directory_resource WHERE type = "+database.Marks(len(args)+1, 1)+" AND id IN ("+database.Marks(len(args)+2, len(ids))+")")
			args = append(append(args, kind), ids...)
		}
		rows, err := s.db.Query(ctx, strings.Join(parts, " UNION ALL "), args...)
		_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
			var kind, id string
			var text sql.RawBytes
			if err := rows.Scan(&kind, &id, &text); err != nil {
				return struct{}{}, err
			}
			r, err := fhir.Parse(text)
			found[kind+"/"+id] = r
			return struct{}{}, err
		})
		if err != nil {
			return nil, fmt.Errorf("directory: reading: %w", err)
		}
	}
	return found, nil
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
	rows, err := s.db.Query(ctx, "SELECT DISTINCT s.id FROM directory_link f JOIN directory_resource s ON s.nid = f.nid WHERE f.element = $1 AND s.type = $2 AND f.target IN ("+
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

// SPDX-License-Identifier: Apache-2.0

package directory_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/health/fhir"
	"github.com/konsil-health/konsil/internal/telematik/directory"
)

// TestSearchBudget: what a search asks of the database depends on how many filters it has, not on how many entries match or come along.
func TestSearchBudget(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		s := filled(t, db)
		entries, err := directory.Generate(3, 600).Entries()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Put(t.Context(), entries...); err != nil {
			t.Fatal(err)
		}
		found(t, s, fhir.PractitionerRole, "practitioner.active=true&practitioner.name=nobody", directory.View{}) // reads the entries
		const people = "practitioner.active=true&_count=50&_include=PractitionerRole:*&"
		for query, budget := range map[string]int64{ // the clock, the page, what comes along, and one for each filter
			people:                         3,
			people + "practitioner.name=m": 4,
			people + "practitioner.name=s&location.address-city=b":                                         5,
			people + "practitioner.qualification=1.2.276.0.76.4.30&location.near=52.52%7C13.40%7C100%7Ckm": 4,
			people + "practitioner.identifier=1-1.1":                                                       4,
			people + "practitioner.name=M%C3%BCller%20J%C3%BCrgen":                                         9, // two words, whose spellings are read for themselves, and the texts of those that have both
			people + "_text=kardiologie%20berlin":                                                          5,
			"practitioner.active=true&_summary=count":                                                      1,
		} {
			before := db.Counters().Queries
			b, err := s.Search(t.Context(), fhir.PractitionerRole, query, directory.View{Insured: true})
			if err != nil || b.Total == 0 {
				t.Fatalf("%s: %+v %v", query, b, err)
			}
			if asked := db.Counters().Queries - before; asked > budget {
				t.Errorf("%s: %d queries for %d matches, not %d", query, asked, b.Total, budget)
			}
		}
		before := db.Counters().Statements
		entries, err = directory.Generate(4, 600).Entries()
		if err != nil {
			t.Fatal(err)
		}
		for i := range entries {
			entries[i].Resource, err = entries[i].Resource.With(map[string]any{"id": "x" + entries[i].Resource.ID()[1:]})
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Put(t.Context(), entries...); err != nil {
			t.Fatal(err)
		}
		if statements := db.Counters().Statements - before; statements > 300 {
			t.Errorf("%d statements for %d new resources", statements, len(entries))
		}
	})
}

// TestPrepare: entries of a program that had another index, or none of this kind, are found after the start.
func TestPrepare(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		filled(t, db)
		rows := func() (n int64) {
			if err := db.QueryRow(t.Context(), "SELECT count(*) FROM directory_posting").Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		want := rows()
		for name, statements := range map[string][]string{
			"another format": {"UPDATE directory_clock SET format = 7", "DELETE FROM directory_posting WHERE param LIKE 'PR%'"},
			"no index": {"UPDATE directory_clock SET format = 0, docs = 0", "UPDATE directory_resource SET doc = 0", "DELETE FROM directory_posting", "DELETE FROM directory_entry",
				"DELETE FROM directory_text", "INSERT INTO directory_unindexed (nid) SELECT nid FROM directory_resource WHERE type IN ('PractitionerRole', 'HealthcareService')"},
		} {
			for _, statement := range statements {
				if _, err := db.Exec(t.Context(), statement); err != nil {
					t.Fatal(err)
				}
			}
			s := directory.NewStore(db, nil)
			for range 2 {
				if err := s.Prepare(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if got := rows(); got != want {
				t.Errorf("%s: %d rows of the index, not %d", name, got, want)
			}
			if got := found(t, s, fhir.PractitionerRole, "practitioner.active=true&practitioner.name=M%C3%BCller%20J%C3%BCrgen", directory.View{}); !slices.Equal(got, []string{"1-1.1"}) {
				t.Errorf("%s: %v", name, got)
			}
		}
	})
}

// TestIndexForgets: what an entry no longer says does not find it, whichever node changed it, and nothing is left of deleted entries.
func TestIndexForgets(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		s, other := filled(t, db), directory.NewStore(db, nil)
		services := "organization.active=true&"
		if got := found(t, other, fhir.HealthcareService, services+"organization.name=isar", directory.View{}); len(got) != 1 {
			t.Fatal(got)
		}
		renamed := clinic
		renamed.Name = "Klinikum Spree"
		entries, err := renamed.Entries()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Put(t.Context(), entries[0]); err != nil { // the organisation alone
			t.Fatal(err)
		}
		for query, want := range map[string]int{"organization.name=isar": 0, "organization.name=spree": 1, "_text=spree": 1, "name=isar": 1, "organization.name=klinikum%20spree": 1, "organization.name:contains=kum%20sp": 1} {
			if got := found(t, other, fhir.HealthcareService, services+query, directory.View{}); len(got) != want {
				t.Errorf("%s: %v", query, got)
			}
		}
		var references strings.Builder
		if _, err := s.Export(t.Context(), &references); err != nil {
			t.Fatal(err)
		}
		var roots, rest []string
		for line := range strings.Lines(references.String()) {
			r, err := fhir.Parse([]byte(line))
			if err != nil {
				t.Fatal(err)
			}
			if r.Has("location") {
				roots = append(roots, r.Reference())
			} else {
				rest = append(rest, r.Reference())
			}
		}
		for _, ref := range append(roots, rest...) {
			if err := s.Delete(t.Context(), ref, ""); err != nil {
				t.Fatal(err)
			}
		}
		for _, table := range []string{"posting", "link", "resource"} {
			var n int
			if err := db.QueryRow(t.Context(), "SELECT count(*) FROM directory_"+table).Scan(&n); err != nil || n != 0 {
				t.Errorf("%d rows left in %s, %v", n, table, err)
			}
		}
		if got := found(t, other, fhir.HealthcareService, services, directory.View{}); len(got) != 0 {
			t.Errorf("still found: %v", got)
		}
	})
}

// TestLastUpdated: entries are found by when they themselves were changed, not by when a part of them was.
func TestLastUpdated(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
		s := directory.NewStore(db, func() time.Time { return now })
		var all [][]directory.Entry
		for _, i := range []directory.Institution{practice, clinic} {
			entries, err := i.Entries()
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, entries)
			if err := s.Put(t.Context(), entries...); err != nil {
				t.Fatal(err)
			}
			now = now.AddDate(0, 0, 1)
		}
		if err := s.Put(t.Context(), all[0][0]); err != nil { // the organisation, on the third day
			t.Fatal(err)
		}
		for query, want := range map[string]string{
			"2026-11": "1-2.1 5-2.1", "2026-11-01": "1-2.1", "gt2026-11-01": "5-2.1", "lt2026-11-02": "1-2.1", "ge2026-11-03": "", "2026-11-02,2026-11-05": "5-2.1",
			"ge2026-11-01&_lastUpdated=lt2026-11-02": "1-2.1", "ne2026-11-01T12:00:00Z": "5-2.1",
		} {
			if got := strings.Join(found(t, s, fhir.HealthcareService, "organization.active=true&_lastUpdated="+query, directory.View{}), " "); got != want {
				t.Errorf("%s: %q, not %q", query, got, want)
			}
		}
		for query, want := range map[string]int{"_lastUpdated:missing=true": 0, "_lastUpdated:missing=false": 2} {
			if got := found(t, s, fhir.HealthcareService, "organization.active=true&"+query, directory.View{}); len(got) != want {
				t.Errorf("%s: %v", query, got)
			}
		}
		if _, err := s.Search(t.Context(), fhir.HealthcareService, "organization.active=true&_lastUpdated=yesterday", directory.View{}); err == nil {
			t.Error("a date that is none")
		}
	})
}

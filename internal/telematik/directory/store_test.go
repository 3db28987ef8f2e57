// SPDX-License-Identifier: Apache-2.0

package directory_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/fhir"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/telematik/directory"
)

var (
	berlin  = directory.Place{Town: "Berlin", PostalCode: "12045", State: "Berlin", Latitude: 52.4848, Longitude: 13.4390}
	potsdam = directory.Place{Town: "Potsdam", PostalCode: "14467", State: "Brandenburg", Latitude: 52.3990, Longitude: 13.0600}
	munich  = directory.Place{Town: "München", PostalCode: "80331", State: "Bayern", Latitude: 48.1351, Longitude: 11.5720}
	cardio  = directory.Concept{Code: "KARD", Display: "Kardiologie"}
	general = directory.Concept{Code: "ALLG", Display: "Allgemeinmedizin"}

	mueller = directory.Person{TelematikID: "1-1.1", Prefix: "Dr. med.", GivenName: "Jürgen", FamilyName: "Müller", ProfessionOID: certificate.Physician, Specialties: []directory.Concept{cardio}, Street: "Sonnenallee 12", Place: berlin}
	sommer  = directory.Person{TelematikID: "1-1.2", GivenName: "Anna Maria", FamilyName: "Sommer-Weiß", ProfessionOID: certificate.Physician, Specialties: []directory.Concept{general}, Street: "Am Markt 1", Place: potsdam}
	bauer   = directory.Person{TelematikID: "9-1.3", GivenName: "Ida", FamilyName: "Bauer", ProfessionOID: "1.2.276.0.76.4.234", Street: "Marienplatz 3", Place: munich}
	gone    = directory.Person{TelematikID: "1-1.4", GivenName: "Otto", FamilyName: "Müller", ProfessionOID: certificate.Physician, Street: "Weg 1", Place: berlin, Inactive: true}

	practice = directory.Institution{TelematikID: "1-2.1", Name: "Praxis Sonnenallee", Alias: "Hausarzt am Kanal", ProfessionOID: certificate.Practice, Specialties: []directory.Concept{general}, Street: "Sonnenallee 12", Place: berlin, Phone: "030 1"}
	clinic   = directory.Institution{TelematikID: "5-2.1", Name: "Klinikum Isar", ProfessionOID: certificate.Hospital, Specialties: []directory.Concept{cardio, general}, Street: "Isarring 1", Place: munich}
	closed   = directory.Institution{TelematikID: "1-2.9", Name: "Praxis Zu", ProfessionOID: certificate.Practice, Street: "Weg 2", Place: berlin, Inactive: true}
)

func filled(t testing.TB, db *database.DB) *directory.Store {
	t.Helper()
	s := directory.NewStore(db, nil)
	var all []directory.Entry
	for _, e := range []interface {
		Entries() ([]directory.Entry, error)
	}{mueller, sommer, bauer, gone, practice, clinic, closed} {
		entries, err := e.Entries()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if issues := fhir.Validate(e.Resource); len(issues) > 0 {
				t.Errorf("%s: %+v", e.Resource.Reference(), issues)
			}
		}
		all = append(all, entries...)
	}
	if err := s.Put(t.Context(), all...); err != nil {
		t.Fatal(err)
	}
	return s
}

// names are the ids' owners of a bundle's matches, for reading failures.
func found(t testing.TB, s *directory.Store, root, query string, v directory.View) []string {
	t.Helper()
	b, err := s.Search(t.Context(), root, query, v)
	if err != nil {
		t.Fatalf("%s?%s: %v", root, query, err)
	}
	all := []string{}
	for _, e := range b.Entry {
		if e.Search.Mode != "match" {
			continue
		}
		r, err := fhir.Parse(e.Resource)
		if err != nil {
			t.Fatal(err)
		}
		_, owner, err := s.Get(t.Context(), r.Reference())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, owner)
	}
	slices.Sort(all)
	if b.Total != len(all) {
		t.Errorf("%s?%s: total %d of %d", root, query, b.Total, len(all))
	}
	return all
}

func TestSearch(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		s := filled(t, db)
		people, services := "practitioner.active=true&", "organization.active=true&"
		for _, c := range []struct{ root, query, want string }{
			{fhir.PractitionerRole, people, "1-1.1 1-1.2 9-1.3"},
			{fhir.PractitionerRole, people + "practitioner.name=M%C3%BCll", "1-1.1"},
			{fhir.PractitionerRole, people + "practitioner.name=Mueller", "1-1.1"},
			{fhir.PractitionerRole, people + "practitioner.name=muller", "1-1.1"},
			{fhir.PractitionerRole, people + "practitioner.name=juergen", "1-1.1"},
			{fhir.PractitionerRole, people + "practitioner.name=M%C3%BCller%20J%C3%BCrgen", "1-1.1"},
			{fhir.PractitionerRole, people + "practitioner.name=J%C3%BCrgen%20M%C3%BCller", "1-1.1"},
			{fhir.PractitionerRole, people + "practitioner.name=weiss", "1-1.2"},
			{fhir.PractitionerRole, people + "practitioner.name=omme", ""},
			{fhir.PractitionerRole, people + "practitioner.name:contains=omme", "1-1.2"},
			{fhir.PractitionerRole, people + "practitioner.family:exact=M%C3%BCller", "1-1.1"},
			{fhir.PractitionerRole, people + "practitioner.family:exact=m%C3%BCller,Mueller,Muller,M%C3%BCll", ""},
			{fhir.PractitionerRole, people + "practitioner.family:exact=Bauer,Sommer-Wei%C3%9F&practitioner.given:exact=Anna%20Maria", "1-1.2"},
			{fhir.PractitionerRole, people + "practitioner.name=sommer,bauer", "1-1.2 9-1.3"},
			{fhir.PractitionerRole, people + "practitioner.name=%C2%A7", ""},
			{fhir.PractitionerRole, people + "practitioner.family=anna", ""},
			{fhir.PractitionerRole, people + "practitioner.given=anna", "1-1.2"},
			{fhir.PractitionerRole, people + "practitioner.identifier=1-1.1", "1-1.1"},
			{fhir.PractitionerRole, people + "practitioner.identifier=https://gematik.de/fhir/sid/telematik-id%7C1-1.1", "1-1.1"},
			{fhir.PractitionerRole, people + "practitioner.identifier=https://other%7C1-1.1", ""},
			{fhir.PractitionerRole, people + "practitioner.identifier=1-1.4", ""},
			{fhir.PractitionerRole, people + "practitioner.qualification=1.2.276.0.76.4.30", "1-1.1 1-1.2"},
			{fhir.PractitionerRole, people + "practitioner.qualification=Kardiologie", "1-1.1"},
			{fhir.PractitionerRole, people + "practitioner.qualification:not=1.2.276.0.76.4.30", "9-1.3"},
			{fhir.PractitionerRole, people + "practitioner.qualification:text=kardio", "1-1.1"},
			{fhir.PractitionerRole, people + "specialty=KARD,ALLG", "1-1.1 1-1.2"},
			{fhir.PractitionerRole, people + "location.address-city=berlin", "1-1.1"},
			{fhir.PractitionerRole, people + "location.address-postalcode=14", "1-1.2"},
			{fhir.PractitionerRole, people + "location.address-state=Brandenburg&practitioner.name=anna", "1-1.2"},
			{fhir.PractitionerRole, people + "location.address=sonnenallee", "1-1.1"},
			{fhir.PractitionerRole, people + "location.near=52.52%7C13.40%7C50%7Ckm", "1-1.1 1-1.2"},
			{fhir.PractitionerRole, people + "location.near=52.52%7C13.40%7C10%7Ckm", "1-1.1"},
			{fhir.PractitionerRole, people + "location.near=48.1%7C11.5%7C20%7Ckm&practitioner.name=M%C3%BCller", ""},
			{fhir.PractitionerRole, people + "_text=kardiologie%20berlin", "1-1.1"},
			{fhir.PractitionerRole, people + "_text=Mueller-Berlin", "1-1.1"},
			{fhir.PractitionerRole, people + "_text=kardiologie%20potsdam", ""},
			{fhir.PractitionerRole, people + "owner-telematik-id=9-1.3", "9-1.3"},
			{fhir.PractitionerRole, people + "_tag=ldap&practitioner.name=ida", "9-1.3"},
			{fhir.HealthcareService, services, "1-2.1 5-2.1"},
			{fhir.HealthcareService, services + "organization.name=sonnen", "1-2.1"},
			{fhir.HealthcareService, services + "organization.alias=kanal", "1-2.1"},
			{fhir.HealthcareService, services + "name=klinikum", "5-2.1"},
			{fhir.HealthcareService, services + "name:exact=Klinikum%20Isar", "5-2.1"},
			{fhir.HealthcareService, services + "name:exact=Klinikum%20isar", ""},
			{fhir.HealthcareService, services + "organization.type=1.2.276.0.76.4.50,1.2.276.0.76.4.51", "1-2.1"},
			{fhir.HealthcareService, services + "organization.type-display=krank", "5-2.1"},
			{fhir.HealthcareService, services + "organization.identifier=1-2.9", ""},
			{fhir.HealthcareService, services + "service-type=KARD&location.address-city=M%C3%BCnchen", "5-2.1"},
			{fhir.HealthcareService, services + "_text=isarring", "5-2.1"},
			{fhir.Endpoint, "status=active", ""},
		} {
			if got := strings.Join(found(t, s, c.root, c.query, directory.View{}), " "); got != c.want {
				t.Errorf("%s?%s: %q, want %q", c.root, c.query, got, c.want)
			}
		}
		b, err := s.Search(t.Context(), fhir.PractitionerRole, people+"practitioner.name=sommer&_include=PractitionerRole:practitioner&_include=PractitionerRole:location", directory.View{Base: "https://d/search"})
		if err != nil || len(b.Entry) != 3 || b.Entry[0].Search.Mode != "match" || b.Entry[1].Search.Mode != "include" || !strings.HasPrefix(b.Entry[1].FullURL, "https://d/search/Practitioner/") {
			t.Errorf("%+v %v", b, err)
		}
		b, err = s.Search(t.Context(), fhir.PractitionerRole, people+"_count=2", directory.View{Base: "https://d/search"})
		if err != nil || len(b.Entry) != 2 || b.Total != 3 || len(b.Link) != 2 || b.Link[1].Relation != "next" {
			t.Fatalf("%+v %v", b, err)
		}
		_, query, _ := strings.Cut(b.Link[1].URL, "?")
		second, err := s.Search(t.Context(), fhir.PractitionerRole, query, directory.View{})
		if err != nil || len(second.Entry) != 1 || string(second.Entry[0].Resource) == string(b.Entry[1].Resource) || len(second.Link) != 1 {
			t.Errorf("%+v %v", second, err)
		}
		if b, err = s.Search(t.Context(), fhir.PractitionerRole, people+"_summary=count", directory.View{}); err != nil || b.Total != 3 || len(b.Entry) != 0 {
			t.Errorf("%+v %v", b, err)
		}
	})
}

func TestSearchRefusals(t *testing.T) {
	t.Parallel()
	s := filled(t, databasetest.Open(t, databasetest.SQLite(t)))
	people := "practitioner.active=true&"
	for query, root := range map[string]string{
		"": fhir.PractitionerRole, "practitioner.active=false": fhir.PractitionerRole, "organization.active=true": fhir.Endpoint, "status=active,off": fhir.Endpoint,
		people + "practitioner.name:above=x":          fhir.PractitionerRole,
		people + "practitioner.birthdate=2000":        fhir.PractitionerRole,
		people + "practitioner.name.x=2000":           fhir.PractitionerRole,
		people + "specialty:above=x":                  fhir.PractitionerRole,
		people + "location.near=1%7C2%7C3":            fhir.PractitionerRole,
		people + "location.near=1%7C2%7C300%7Ckm":     fhir.PractitionerRole,
		people + "location.near=a%7C2%7C3%7Ckm":       fhir.PractitionerRole,
		people + "location.near=NaN%7C2%7C3%7Ckm":     fhir.PractitionerRole,
		people + "_include=HealthcareService:x":       fhir.PractitionerRole,
		people + "_include=PractitionerRole:passport": fhir.PractitionerRole,
		people + "practitioner.identifier=a%7Cb%7Cc":  fhir.PractitionerRole,
		"active=true": fhir.Practitioner,
	} {
		_, err := s.Search(t.Context(), root, query, directory.View{})
		if refused, ok := errors.AsType[*fhir.Error](err); !ok || refused.Status < 400 {
			t.Errorf("%s?%s: %v", root, query, err)
		}
	}
}

func TestGenerate(t *testing.T) {
	t.Parallel()
	a, err := directory.Generate(7, 210).Entries()
	if err != nil {
		t.Fatal(err)
	}
	b, err := directory.Generate(7, 210).Entries()
	if err != nil {
		t.Fatal(err)
	}
	other, err := directory.Generate(8, 210).Entries()
	if err != nil {
		t.Fatal(err)
	}
	same := 0
	for i := range a {
		if string(a[i].Resource.JSON()) != string(b[i].Resource.JSON()) {
			t.Fatal("the same seed makes different entries")
		}
		if i < len(other) && string(a[i].Resource.JSON()) == string(other[i].Resource.JSON()) {
			same++
		}
		if issues := fhir.Validate(a[i].Resource); len(issues) > 0 {
			t.Errorf("%+v", issues)
		}
	}
	if len(a) != 630 || same > 60 {
		t.Errorf("%d resources, %d of them the same with another seed", len(a), same)
	}
	s := directory.NewStore(databasetest.Open(t, databasetest.SQLite(t)), nil)
	for range 2 { // again: replaced, not doubled
		if err := s.Put(context.Background(), a...); err != nil {
			t.Fatal(err)
		}
	}
	bundle, err := s.Search(t.Context(), fhir.PractitionerRole, "practitioner.active=true&_count=100", directory.View{})
	if err != nil || bundle.Total < 125 || bundle.Total > 140 || len(bundle.Entry) != 100 || len(bundle.Link) != 1 {
		t.Errorf("%d, %d entries, %v", bundle.Total, len(bundle.Entry), err)
	}
}

func BenchmarkPut2000(b *testing.B) {
	entries, err := directory.Generate(1, 2000).Entries()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s := directory.NewStore(databasetest.Open(b, databasetest.SQLite(b)), nil)
		if err := s.Put(b.Context(), entries...); err != nil {
			b.Fatal(err)
		}
	}
}

// TestConcurrentMessengers: addresses that are entered at the same time are all there afterwards.
func TestConcurrentMessengers(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		s := filled(t, db)
		users := []id.User{"@a:x.example", "@b:x.example", "@c:x.example", "@d:x.example"}
		var all sync.WaitGroup
		for _, u := range users {
			all.Go(func() {
				if err := s.SetMessenger(t.Context(), clinic.TelematikID, directory.Messenger{User: u, Name: string(u)}); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		for _, u := range users {
			if where, err := s.WhereIs(t.Context(), u); err != nil || where != directory.InOrganizations {
				t.Errorf("%s: %s %v", u, where, err)
			}
		}
		if where, err := s.WhereIs(t.Context(), "@nobody:x.example"); err != nil || where != directory.Nowhere {
			t.Errorf("%s %v", where, err)
		}
		if people, organisations, err := s.Size(t.Context()); err != nil || people != 4 || organisations != 3 {
			t.Errorf("%d people, %d organisations, %v", people, organisations, err)
		}
		services, err := s.Owned(t.Context(), clinic.TelematikID, fhir.HealthcareService)
		if err != nil || len(services) != 1 {
			t.Fatal(err)
		}
		if err := s.Put(t.Context(), directory.Entry{Resource: services[0], Owner: clinic.TelematikID}); err != nil {
			t.Fatal(err)
		}
		err = s.Put(t.Context(), directory.Entry{Resource: services[0], Owner: clinic.TelematikID})
		if refused, ok := errors.AsType[*fhir.Error](err); !ok || refused.Status != 409 {
			t.Errorf("a change based on an old version: %v", err)
		}
		if err := s.RemoveMessenger(t.Context(), clinic.TelematikID, "@a:x.example"); err != nil {
			t.Fatal(err)
		}
		if where, err := s.WhereIs(t.Context(), "@a:x.example"); err != nil || where != directory.Nowhere {
			t.Errorf("%s %v", where, err)
		}
		err = s.SetMessenger(t.Context(), "1-nobody", directory.Messenger{User: "@a:x.example", Name: "x"})
		if refused, ok := errors.AsType[*fhir.Error](err); !ok || refused.Status != 404 {
			t.Error(err)
		}
	})
}

// FuzzSearch: whatever a query says, it is answered or refused, never a failure of the database.
func FuzzSearch(f *testing.F) {
	s := filled(f, databasetest.Open(f, databasetest.SQLite(f)))
	f.Add(fhir.PractitionerRole, "practitioner.active=true&practitioner.name:contains=m%C3%BCl&_include=*&_count=3")
	f.Add(fhir.HealthcareService, "organization.active=true&location.near=52.5%7C13.4%7C10%7Ckm&_text=a%20b")
	f.Add(fhir.Endpoint, "status=active&address=x&_tag:not=a%7Cb")
	f.Fuzz(func(t *testing.T, root, query string) {
		_, err := s.Search(t.Context(), root, query, directory.View{})
		if err == nil {
			return
		}
		if _, refused := errors.AsType[*fhir.Error](err); !refused {
			t.Errorf("%s?%s: %v", root, query, err)
		}
	})
}

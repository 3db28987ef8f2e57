// SPDX-License-Identifier: Apache-2.0

package directory_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/fhir"
	"github.com/konsil-health/konsil/internal/telematik/directory"
)

// the entries that the how-to's full-text examples speak of
var (
	aachen = directory.Institution{TelematikID: "1-2arvtst-ap104233", Name: "Klinik am Dom", ProfessionOID: certificate.Hospital, Street: "Franz-Wallraff-Str. 2",
		Place: directory.Place{Town: "Aachen", PostalCode: "52078", State: "Nordrhein-Westfalen", Latitude: 50.7753, Longitude: 6.0839}}
	frankfurt = directory.Institution{TelematikID: "1-2arvtst-ap051582", Name: "Apotheke Coppenbrügge", ProfessionOID: "1.2.276.0.76.4.54", Street: "Bessinger Str. 42",
		Place: directory.Place{Town: "Frankfurt", PostalCode: "60313", State: "Hessen", Latitude: 50.1503, Longitude: 8.6168}}
)

// TestHowTo holds the searches of FHIR_VZD_HOWTO_Search with the results that it documents. a is Aachen, f is Frankfurt.
//
// Requirements: A_25479, A_25681-01.
func TestHowTo(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		s := directory.NewStore(db, nil)
		for _, i := range []directory.Institution{aachen, frankfurt} {
			all, err := i.Entries()
			if err == nil {
				err = s.Put(t.Context(), all...)
			}
			if err == nil {
				err = s.SetMessenger(t.Context(), i.TelematikID, directory.Messenger{User: "@x:" + "praxis.example", Name: i.Name})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		a, f := aachen.TelematikID, frankfurt.TelematikID
		both := f + " " + a
		for _, c := range []struct{ section, query, want string }{
			{"complex", "_text=Bessinger Str. 42", ""},
			{"complex", `_text="Bessinger Str. 42"`, f},
			{"complex", `_text=Bessinger "Str." 42`, f},
			{"complex", "_text=Bessinger Str 42", f},
			{"complex", "_text=Franz*+Wallraf*+Str*", a},
			{"complex", "_text=Franz+Wallraf+Str", a},
			{"complex", `_text="Franz Wallraf Str"`, ""},
			{"complex", `_text="Franz Wallraff Str"`, a},
			{"complex", "_text=Franz+Wallraff+Str.", ""},
			{"complex", "_text=Franz-Wallraff-Str", ""},
			{"complex", `_text="Franz-Wallraff-Str."`, a},
			{"complex", `_text="Franz"\+"Wallraff"+"Str."`, a},
			{"complex", "_text=Aachen+Wallraf", a},
			{"complex", `_text="Aachen"+Wallraf`, ""},
			{"complex", `_text="Aachen"+"Wallraf"`, ""},
			{"complex", `_text="Aachen"+Wallraf*`, a},
			{"complex", `_text="Aachen"+"Wallraf*"`, ""},
			{"complex", `_text="aAChen"+wALlraf*`, a},
			{"OR", `_text="1-2arvtst-ap104233" | "1-2arvtst-ap051582"`, both},
			{"OR", `_text="1-2arvtst-ap104233","1-2arvtst-ap051582"`, both},
			{"NOT", "_text=Str -Aachen", f},
			{"fuzzy", "_text=Coppenbruegge~", f},
			{"fuzzy", "_text=Coppenbrüge~", f},
			{"fuzzy", "_text=Coppenhagen~", ""},
			{"simple", "_complexSearch=false&_text=Franz-Wallraff-Str", a},
			{"simple", `_complexSearch=false&_text="1-2arvtst-ap104233"`, a},
			{"simple", "_complexSearch=false&_text=Aachen, Dom", a},
			{"simple", "_complexSearch=false&_text=Krankenhaus", a},
			{"simple", "_complexSearch=false&_text=-", ""},
			{"near", "location.near=50.1503|8.6168|10|km", f},
			{"missing", "endpoint.status:missing=false", both},
			{"missing", "organization.alias:missing=true", both},
			{"missing", "organization.alias:missing=false", ""},
			{"reference", "organization:missing=true", ""},
			{"telematikID", "organization.identifier=1-2arvtst-ap051582&endpoint.status=active", f},
		} {
			query := "organization.active=true"
			if c.section != "simple" {
				query += "&_complexSearch=true"
			}
			for pair := range strings.SplitSeq(c.query, "&") {
				key, value, _ := strings.Cut(pair, "=")
				query += "&" + url.QueryEscape(key) + "=" + url.QueryEscape(value)
			}
			if got := strings.Join(found(t, s, fhir.HealthcareService, query, directory.View{}), " "); got != c.want {
				t.Errorf("%s: %s: %q, want %q", c.section, c.query, got, c.want)
			}
		}
		reverse(t, s)
		radius(t, s)
	})
}

// reverse: all active endpoints of one entry, with the entry ("Loading all active endpoints of one resource").
func reverse(t *testing.T, s *directory.Store) {
	t.Helper()
	b, err := s.Search(t.Context(), fhir.Endpoint, "status=active&_revinclude=HealthcareService:endpoint&_has:HealthcareService:endpoint:identifier="+aachen.TelematikID, directory.View{})
	if err != nil || b.Total != 1 || len(b.Entry) != 2 || b.Entry[1].Search.Mode != "include" || !strings.Contains(string(b.Entry[1].Resource), aachen.TelematikID) {
		t.Errorf("_revinclude: %+v %v", b, err)
	}
	for query, want := range map[string]int{
		"_has:HealthcareService:endpoint:organization.name=dom":  1,
		"_has:HealthcareService:endpoint:organization.name=none": 0,
		"_has:PractitionerRole:endpoint:practitioner.name=a":     0,
	} {
		if b, err := s.Search(t.Context(), fhir.Endpoint, "status=active&"+query, directory.View{Insured: true}); err != nil || b.Total != want {
			t.Errorf("%s: %+v %v", query, b, err)
		}
	}
	for _, query := range []string{"_has:HealthcareService:location:name=x", "_has:HealthcareService:endpoint:x=y", "_has:x", "_has:HealthcareService:endpoint:location.near=1|2|3|km",
		"_revinclude=Organization:endpoint", "_revinclude=x", "_total=many", "_complexSearch=x", "address:missing=x", "_text=" + strings.Repeat("a+", 40)} {
		_, err := s.Search(t.Context(), fhir.Endpoint, "status=active&"+query, directory.View{})
		if refused, ok := errors.AsType[*fhir.Error](err); !ok || refused.Status != 400 {
			t.Errorf("%s: %v", query, err)
		}
	}
	name, _, _ := strings.Cut(aachen.ServiceReference(), "/")
	if got := found(t, s, name, "organization.active=true&location="+url.QueryEscape("https://d/search/Location/none")+",x", directory.View{}); len(got) != 0 {
		t.Errorf("by reference: %v", got)
	}
}

// radius: the named queries of the interface for insured people ("Pharmacy radius search").
func radius(t *testing.T, s *directory.Store) {
	t.Helper()
	for query, want := range map[string]int{
		"_query=near&latitude=50.15&longitude=8.61&distance=10&_count=8":                              1,
		"_query=near&text=1.2.276.0.76.4.54&latitude=50.15&longitude=8.61&distance=10":                1,
		"_query=nearPharmacy&latitude=50.77&longitude=6.08&distance=10":                               0,
		"_query=nearPharmacy&latitude=50.15&longitude=8.61&distance=10&text=penbr":                    1,
		"_query=near&latitude=50.15&longitude=8.61&distance=10&text=Copenbrugge":                      1,
		"_query=near&latitude=50.15&longitude=8.61&distance=10&location=Aachen":                       0,
		"_query=near&latitude=50.15&longitude=8.61&distance=10&isOpenInMinutes=5":                     1, // no opening hours are stored
		"_query=near&latitude=50.77&longitude=6.08&distance=10&organization.type=1.2.276.0.76.4.53,x": 1,
	} {
		if b, err := s.Near(t.Context(), query, directory.View{Insured: true}); err != nil || b.Total != want {
			t.Errorf("%s: %+v %v", query, b, err)
		}
	}
	for _, query := range []string{"_query=near&longitude=8&distance=10", "_query=near&latitude=x&longitude=8&distance=10", "_query=near&latitude=1&longitude=8&distance=101",
		"_query=near&latitude=1&longitude=8&distance=10&isOpenInMinutes=-1", "_query=near&latitude=1&longitude=8&distance=10&practitioner.name=x"} {
		_, err := s.Near(t.Context(), query, directory.View{Insured: true})
		if refused, ok := errors.AsType[*fhir.Error](err); !ok || refused.Status != 400 {
			t.Errorf("%s: %v", query, err)
		}
	}
}

func TestOpenAt(t *testing.T) {
	t.Parallel()
	r, err := fhir.Parse([]byte(`{"resourceType":"HealthcareService","availableTime":[
		{"daysOfWeek":["wed"],"availableStartTime":"08:00:00","availableEndTime":"18:00:00"},
		{"daysOfWeek":["fri"],"availableStartTime":"22:00:00","availableEndTime":"06:00:00"},
		{"extension":[{"url":"https://gematik.de/fhir/directory/StructureDefinition/SpecialOpeningTimesEX","extension":[
			{"url":"period","valuePeriod":{"start":"2026-11-29T08:00:00+01:00","end":"2026-11-29T20:00:00+01:00"}}]}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]bool{
		"2026-11-25T07:30:00Z": true, "2026-11-25T06:30:00Z": false, "2026-11-25T17:00:30Z": true, "2026-11-25T17:02:00Z": false,
		"2026-11-27T22:00:00Z": true, "2026-11-28T04:00:00Z": true, "2026-11-28T06:00:00Z": false, "2026-11-29T10:00:00Z": true, "2026-11-29T20:00:00Z": false,
	} {
		when, err := time.Parse(time.RFC3339, at)
		if err != nil {
			t.Fatal(err)
		}
		if got := directory.OpenAt(r, when); got != want {
			t.Errorf("%s: %v", at, got)
		}
	}
}

// TestHarvest: whoever copies the directory page by page is slowed down.
//
// Requirements: A_27755.
func TestHarvest(t *testing.T) {
	t.Parallel()
	r := newRig(t, databasetest.Open(t, databasetest.SQLite(t)))
	r.limit(limit.New(limit.Options{Now: func() time.Time { return r.now }}))
	token := r.searchToken("praxis.example")
	path := "/search/PractitionerRole?practitioner.active=true&_include=*"
	refused := 0
	for range 2000 {
		status, body, header := r.call("GET", path, token, "")
		if status == 429 {
			if refused++; header.Get("Retry-After") == "" || body["resourceType"] != "OperationOutcome" {
				t.Fatalf("%v %v", header, body)
			}
			break
		}
		r.now = r.now.Add(250 * time.Millisecond) // within the rate of requests
	}
	if refused == 0 {
		t.Fatal("nobody was throttled")
	}
	r.now = r.now.Add(time.Hour)
	if status, _, _ := r.call("GET", path, token, ""); status != 200 {
		t.Errorf("an hour later: %d", status)
	}
}

// TestCapabilities: each parameter of the CapabilityStatement is answered, each other one refused.
func TestCapabilities(t *testing.T) {
	t.Parallel()
	r := newRig(t, databasetest.Open(t, databasetest.SQLite(t)))
	token := r.searchToken("praxis.example")
	status, statement, _ := r.call("GET", "/search/metadata", "", "")
	if status != 200 || statement["resourceType"] != "CapabilityStatement" {
		t.Fatalf("%d %v", status, statement)
	}
	active := map[string]string{fhir.PractitionerRole: "practitioner.active=true", fhir.HealthcareService: "organization.active=true", fhir.Endpoint: "status=active"}
	resources := statement["rest"].([]any)[0].(map[string]any)["resource"].([]any)
	for _, entry := range resources {
		m := entry.(map[string]any)
		kind := m["type"].(string)
		params, searched := m["searchParam"].([]any)
		if !searched {
			if status, _, _ := r.call("GET", "/search/"+kind+"?active=true", token, ""); status != 404 {
				t.Errorf("%s is not declared and answers %d", kind, status)
			}
			continue
		}
		for _, p := range params {
			name := p.(map[string]any)["name"].(string)
			value := "x"
			switch {
			case strings.HasSuffix(name, "near"):
				value = "50|8|10|km"
			case p.(map[string]any)["type"] == "date":
				value = "ge2026-11-25"
			case strings.HasSuffix(active[kind], "="+name):
				continue
			}
			if status, body, _ := r.call("GET", "/search/"+kind+"?"+active[kind]+"&"+url.QueryEscape(name)+"="+url.QueryEscape(value), token, ""); status != 200 {
				t.Errorf("%s by %s: %d %v", kind, name, status, body)
			}
		}
		for key, name := range map[string]string{"searchInclude": "_include", "searchRevInclude": "_revinclude"} {
			all, _ := m[key].([]any)
			for _, v := range all {
				if status, body, _ := r.call("GET", "/search/"+kind+"?"+active[kind]+"&"+name+"="+url.QueryEscape(v.(string)), token, ""); status != 200 {
					t.Errorf("%s %s=%s: %d %v", kind, name, v, status, body)
				}
			}
		}
	}
}

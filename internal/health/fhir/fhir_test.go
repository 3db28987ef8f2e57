// SPDX-License-Identifier: Apache-2.0

package fhir_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/health/fhir"
)

const endpoint = `{"resourceType":"Endpoint","id":"e1","status":"active","name":"Messenger","address":"matrix:u/anna:praxis.example",
	"connectionType":{"system":"https://gematik.de/fhir/directory/CodeSystem/EndpointDirectoryConnectionType","code":"tim"},
	"payloadType":[{"coding":[{"system":"https://gematik.de/fhir/directory/CodeSystem/EndpointDirectoryPayloadType","code":"tim-chat"}]}],
	"extension":[{"url":"https://gematik.de/fhir/directory/StructureDefinition/EndpointVisibility","valueCoding":{"system":"https://gematik.de/fhir/directory/CodeSystem/EndpointVisibilityCS","code":"hide-versicherte"}}]}`

func TestAccessors(t *testing.T) {
	t.Parallel()
	r, err := fhir.Parse([]byte(endpoint))
	if err != nil {
		t.Fatal(err)
	}
	if r.Reference() != "Endpoint/e1" || !r.HiddenFromInsured() || r.Bool("active", true) != true || len(fhir.Validate(r)) != 0 {
		t.Errorf("%s %v", r.Reference(), fhir.Validate(r))
	}
	if c := r.Codings("payloadType"); len(c) != 1 || c[0].Code != "tim-chat" {
		t.Errorf("%+v", c)
	}
	shown, err := r.With(map[string]any{"extension": nil, "status": "off"})
	if err != nil || shown.HiddenFromInsured() || shown.Strings("status")[0] != "off" || r.Strings("status")[0] != "active" {
		t.Errorf("%s %v", shown.JSON(), err)
	}
	p, err := fhir.Parse([]byte(`{"resourceType":"Practitioner","identifier":[{"system":"x","value":"1"},{"system":"https://gematik.de/fhir/sid/telematik-id","value":"1-1"}],
		"name":[{"family":"Sommer","given":["Anna","Maria"]}],"active":true}`))
	if err != nil || p.Identifier(fhir.SystemTelematikID) != "1-1" || !slices.Equal(p.Strings("name", "given"), []string{"Anna", "Maria"}) || !p.Bool("active", false) {
		t.Error(err)
	}
}

func TestBadResources(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"no JSON": `{`, "array": `[]`, "no type": `{"id":"a"}`, "type a number": `{"resourceType":1}`, "type odd": `{"resourceType":"endpoint"}`,
		"id odd": `{"resourceType":"Endpoint","id":"a/b"}`, "id a number": `{"resourceType":"Endpoint","id":7}`, "member twice": `{"resourceType":"Endpoint","id":"a","id":"b"}`,
		"too large": `{"resourceType":"Endpoint","name":"` + strings.Repeat("x", fhir.MaxResource) + `"}`,
	} {
		if _, err := fhir.Parse([]byte(text)); !errors.Is(err, fhir.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]struct{ from, to, where string }{
		"unknown element":  {`"status"`, `"statuss"`, "statuss"},
		"missing status":   {`"status":"active",`, ``, "status"},
		"unknown status":   {`"active"`, `"on"`, "status"},
		"connection type":  {`"tim"`, `"fax"`, "connectionType"},
		"address":          {`matrix:u/anna:praxis.example`, `@anna:praxis.example`, "address"},
		"address is a URL": {`matrix:u/anna:praxis.example`, `https://example.org`, "address"},
		"payload":          {`tim-chat`, `tim-fax`, "payloadType"},
		"no list":          {`"payloadType":[`, `"contact":{},"payloadType":[`, "contact"},
		"null":             {`"name":"Messenger"`, `"name":null`, "name"},
	} {
		r, err := fhir.Parse([]byte(strings.Replace(endpoint, c.from, c.to, 1)))
		if err != nil {
			t.Fatal(err)
		}
		issues := fhir.Validate(r)
		if !slices.ContainsFunc(issues, func(i fhir.Issue) bool { return i.Expression[0] == "Endpoint."+c.where }) {
			t.Errorf("%s: %+v", name, issues)
		}
	}
	for text, where := range map[string]string{
		`{"resourceType":"PractitionerRole","practitioner":{"reference":"Organization/1"}}`: "PractitionerRole.practitioner",
		`{"resourceType":"PractitionerRole","practitioner":{"display":"x"}}`:                "PractitionerRole.practitioner",
		`{"resourceType":"Practitioner","identifier":[{"value":"1"}]}`:                      "Practitioner.identifier",
		`{"resourceType":"Organization","identifier":[],"active":"yes"}`:                    "Organization.active",
	} {
		r, err := fhir.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if issues := fhir.Validate(r); !slices.ContainsFunc(issues, func(i fhir.Issue) bool { return i.Expression[0] == where }) {
			t.Errorf("%s: %+v", text, issues)
		}
	}
	r, err := fhir.Parse([]byte(`{"resourceType":"Patient"}`))
	if err != nil || len(fhir.Validate(r)) != 1 {
		t.Error("a Patient is valid in the directory")
	}
}

// TestPublishedExamples validates the examples of the directory's FHIR package.
func TestPublishedExamples(t *testing.T) {
	t.Parallel()
	dir := os.Getenv("KONSIL_REFERENCE")
	if dir == "" {
		dir = "../../../../shared/reference"
	}
	n := 0
	for _, kind := range []string{fhir.Practitioner, fhir.PractitionerRole, fhir.Organization, fhir.HealthcareService, fhir.Location, fhir.Endpoint} {
		files, err := filepath.Glob(filepath.Join(dir, "gematik/vzd-fhir", kind+"-*.json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			r, err := fhir.Parse(text)
			if err != nil {
				t.Errorf("%s: %v", file, err)
				continue
			}
			if issues := fhir.Validate(r); len(issues) > 0 {
				t.Errorf("%s: %+v", filepath.Base(file), issues)
			}
			n++
		}
	}
	if n == 0 {
		t.Skip("skipped: no FHIR examples in the reference data (KONSIL_REFERENCE)")
	}
}

func TestMatrixURI(t *testing.T) {
	t.Parallel()
	for user, uri := range map[string]string{"@anna:praxis.example": "matrix:u/anna:praxis.example", "@a/b:x.example:8448": "matrix:u/a%2Fb:x.example:8448"} {
		if got := fhir.MatrixURI(user); got != uri {
			t.Errorf("%s: %s", user, got)
		}
	}
	for address, want := range map[string]string{
		"matrix:u/anna:praxis.example": "@anna:praxis.example", "@anna:praxis.example": "@anna:praxis.example", "matrix:user/anna:x": "@anna:x",
		"matrix:u/anna": "", "anna:praxis.example": "", "": "", "matrix:u/:x": "", "matrix:u/a%2Fb:x": "", "matrix:u/%zz:x": "", "matrix:u/a:b?action=chat": "", "mailto:a@b.de": "",
	} {
		if got, ok := fhir.MatrixUser(address); got != want || ok != (want != "") {
			t.Errorf("%q: %q", address, got)
		}
	}
}

func TestQuery(t *testing.T) {
	t.Parallel()
	q, err := fhir.ParseQuery(`practitioner.active=true&practitioner.name:contains=M%C3%BCller&location.near=48.1%7C11.5%7C10%7Ckm&practitioner.identifier=https://x%7C1-1,2&` +
		`location:Location.address-city=Bad\,%20Ems&_include=PractitionerRole:practitioner&_include=*&_count=500&_offset=10&_text=Herz&`)
	if err != nil {
		t.Fatal(err)
	}
	if len(q.Filters) != 5 || q.Count != 100 || q.Offset != 10 || q.Text != "Herz" || len(q.Includes) != 2 || q.Includes[0] != (fhir.Include{Type: "PractitionerRole", Parameter: "practitioner"}) {
		t.Fatalf("%+v", q)
	}
	for i, want := range []struct{ name, modifier, value string }{
		{"practitioner.active", "", "true"}, {"practitioner.name", "contains", "Müller"}, {"location.near", "", "48.1|11.5|10|km"}, {"practitioner.identifier", "", "https://x|1-1"},
		{"location.address-city", "", "Bad, Ems"},
	} {
		if f := q.Filters[i]; f.Name() != want.name || f.Modifier != want.modifier || f.Values[0].Text() != want.value {
			t.Errorf("%+v", f)
		}
	}
	if next := q.Encode(20); !strings.HasSuffix(next, "&_offset=20") || strings.Contains(next, "_offset=10") || !strings.Contains(next, "M%C3%BCller") {
		t.Error(next)
	}
	if again, err := fhir.ParseQuery(q.Encode(20)); err != nil || again.Offset != 20 || len(again.Filters) != 5 {
		t.Errorf("%+v %v", again, err)
	}
	for _, bad := range []string{
		"name=%zz", "%zz=a", "name=%00", "name=%ff", "_count=x", "_count=-1", "_offset=101", "_summary=text", "_format=xml", "_include=practitioner", "_include=a:b", "na+me=x", "a.b.c.d.e=x", "name=", "name=,", "a:b:c=x",
		"practitioner:x.name=y", "name", "=x", "_text=a&_text=b", strings.Repeat("a=b&", 51), "a=" + strings.Repeat("b", 9000), "a=" + strings.Repeat("b,", 101),
	} {
		_, err := fhir.ParseQuery(bad)
		refusal, ok := errors.AsType[*fhir.Error](err)
		if !ok || refusal.Status != 400 || refusal.Outcome().ResourceType != "OperationOutcome" || refusal.Error() == "" {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
}

func FuzzQuery(f *testing.F) {
	f.Add("practitioner.name:contains=M%C3%BCller&_include=PractitionerRole:practitioner&_count=5")
	f.Add(`a=b\,c,d|e\|f&_offset=3`)
	f.Fuzz(func(t *testing.T, raw string) {
		q, err := fhir.ParseQuery(raw)
		if err != nil {
			if _, ok := errors.AsType[*fhir.Error](err); !ok {
				t.Error(err)
			}
			return
		}
		again, err := fhir.ParseQuery(q.Encode(q.Offset))
		if err != nil {
			if len(q.Encode(q.Offset)) <= 8<<10 && len(q.Other) < 50 {
				t.Errorf("%q does not come back: %v", raw, err)
			}
			return
		}
		if len(again.Filters) != len(q.Filters) || again.Text != q.Text {
			t.Errorf("%q comes back as another query", raw)
		}
	})
}

func FuzzResource(f *testing.F) {
	f.Add([]byte(endpoint))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := fhir.Parse(raw)
		if err != nil {
			if !errors.Is(err, fhir.ErrFormat) {
				t.Error(err)
			}
			return
		}
		fhir.Validate(r)
		r.HiddenFromInsured()
	})
}

func TestWithMeta(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"resourceType":"Location"}`: `{"meta":{"versionId":"2"},"resourceType":"Location"}`,
		`{ "name":"a\u00e4 \"b\"", "\u006deta":{"tag":[1]}, "resourceType":"Location", "x":[{"meta":1}] }`: `{"meta":{"versionId":"2"},"name":"a\u00e4 \"b\"","resourceType":"Location","x":[{"meta":1}]}`,
	} {
		r, err := fhir.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		changed, err := r.WithMeta(map[string]any{"versionId": "2"})
		if err != nil || string(changed.JSON()) != want || !slices.Equal(changed.Strings("meta", "versionId"), []string{"2"}) || r.Has("x") != changed.Has("x") {
			t.Errorf("%s %v, not %s", changed.JSON(), err, want)
		}
		if _, err := fhir.Parse(changed.JSON()); err != nil || len(r.Strings("meta", "versionId")) != 0 {
			t.Error(err)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package fhir

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// published reads a file of the directory's FHIR package from the reference data; the test is left out without them.
func published(t *testing.T, name string, into any) {
	t.Helper()
	dir := os.Getenv("KONSIL_REFERENCE")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "..", "shared", "reference")
	}
	text, err := os.ReadFile(filepath.Join(dir, "gematik", "vzd-fhir", name+".json"))
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("the published package is not here (set KONSIL_REFERENCE): %v", err)
	}
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

type publishedConcept struct {
	Code    string             `json:"code"`
	Concept []publishedConcept `json:"concept"`
}

func flat(all []publishedConcept) (codes []string) {
	for _, c := range all {
		codes = append(append(codes, c.Code), flat(c.Concept)...)
	}
	return codes
}

// codeSystemFiles are the published code systems by file.
var codeSystemFiles = []string{"EndpointDirectoryConnectionType", "EndpointDirectoryKIMappTags", "EndpointDirectoryPayloadType", "EndpointVisibilityCS", "HealthcareServiceSpecialtyCS",
	"HolderCS", "KimVersionCS", "OpeningTimeQualifierCS", "OrganizationVisibilityCS", "Origin", "PharmacyHealthcareSpecialtyCS", "PharmacyTypeCS", "PharmacyTypeLDAPCS", "Region",
	"ResourceTag", "VZDHealthCareServiceCharacteristicsCS", "aerztliche-fachrichtungen-oid-url", "nicht-aerztliche-fachrichtungen-oid-url", "physicalFeatures",
	"zahnaerztliche-fachrichtungen-oid-url"}

// TestCodesArePublished compares the code table with the published code systems.
func TestCodesArePublished(t *testing.T) {
	t.Parallel()
	for _, file := range codeSystemFiles {
		var d struct {
			URL     string             `json:"url"`
			Concept []publishedConcept `json:"concept"`
		}
		published(t, "CodeSystem-"+file, &d)
		want, got := flat(d.Concept), slices.Clone(codeSystems()[d.URL])
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(want, got) {
			t.Errorf("%s:\n got %q\nwant %q", d.URL, got, want)
		}
	}
}

// TestValueSetsArePublished compares the value sets of the required bindings with the published ones.
func TestValueSetsArePublished(t *testing.T) {
	t.Parallel()
	for name, got := range valueSets() {
		want := map[string][]string{}
		composed(t, name, want)
		if len(got) != len(want) {
			t.Errorf("%s: %d systems, want %d", name, len(got), len(want))
		}
		for system, codes := range want {
			if codes == nil { // the whole system
				codes = codeSystems()[system]
			}
			if len(codes) == 0 || !slices.Equal(got[system], codes) {
				t.Errorf("%s, %s: %q, want %q", name, system, got[system], codes)
			}
		}
	}
}

func composed(t *testing.T, name string, into map[string][]string) {
	t.Helper()
	var d struct {
		Compose struct {
			Include []struct {
				System   string             `json:"system"`
				Concept  []publishedConcept `json:"concept"`
				ValueSet []string           `json:"valueSet"`
			} `json:"include"`
		} `json:"compose"`
	}
	published(t, "ValueSet-"+name, &d)
	for _, i := range d.Compose.Include {
		for _, other := range i.ValueSet {
			composed(t, other[strings.LastIndexByte(other, '/')+1:], into)
		}
		if i.System != "" {
			into[i.System] = flat(i.Concept)
		}
	}
}

type publishedElement struct {
	Path    string `json:"path"`
	ID      string `json:"id"`
	Min     *int   `json:"min"`
	Max     string `json:"max"`
	Binding *struct {
		Strength string `json:"strength"`
		ValueSet string `json:"valueSet"`
	} `json:"binding"`
}

// checkedElsewhere are elements of the profiles whose rule is not in the table but in profile.go, or whose value set is not published with the package.
var checkedElsewhere = map[string]bool{
	"Location.address.state": true, "Practitioner.qualification.code": true, "HealthcareService.availableTime.allDay": true,
}

// TestRulesArePublished compares cardinalities and bindings of the table with the differentials of the published profiles.
func TestRulesArePublished(t *testing.T) {
	t.Parallel()
	for _, kind := range validated {
		var d struct {
			Differential struct {
				Element []publishedElement `json:"element"`
			} `json:"differential"`
		}
		published(t, "StructureDefinition-"+kind+"Directory", &d)
		for _, e := range d.Differential.Element {
			if strings.Contains(e.ID, ":") || strings.Contains(e.Path, ".extension") || checkedElsewhere[e.Path] { // slices and extensions have tests of their own
				continue
			}
			r, ok := ruleOf(e.Path)
			if !ok {
				if e.Path != kind {
					t.Errorf("%s is not in the table", e.Path)
				}
				continue
			}
			if e.Min != nil && r.min < *e.Min {
				t.Errorf("%s: at least %d, want %d", e.Path, r.min, *e.Min)
			}
			if n, err := strconv.Atoi(e.Max); err == nil && (r.max < 0 || r.max > n) {
				t.Errorf("%s: at most %d, want %d", e.Path, r.max, n)
			}
			if b := e.Binding; b != nil && b.Strength == "required" && !strings.HasSuffix(b.ValueSet, "/"+r.set) {
				t.Errorf("%s is bound to %q, want %s", e.Path, r.set, b.ValueSet)
			}
		}
	}
}

// ruleOf walks a path of element names through the table.
func ruleOf(path string) (rule, bool) {
	parts := strings.Split(path, ".")
	known := slices.Concat(rules()["Resource"], rules()[parts[0]])
	var r rule
	for _, p := range parts[1:] {
		at := slices.IndexFunc(known, func(r rule) bool { return r.name == p })
		if at < 0 {
			return rule{}, false
		}
		r = known[at]
		known = rules()[r.kind]
	}
	return r, len(parts) > 1
}

// TestTableIsWhole: every type that the table names is there.
func TestTableIsWhole(t *testing.T) {
	t.Parallel()
	for kind, elements := range rules() {
		for _, r := range elements {
			if _, known := rules()[r.kind]; !known && !primitive(r.kind) && r.kind != "Extension" && r.max != 0 {
				t.Errorf("%s.%s: unknown type %s", kind, r.name, r.kind)
			}
			if r.set != "" && valueSets()[r.set] == nil {
				t.Errorf("%s.%s: unknown value set %s", kind, r.name, r.set)
			}
			if r.min < 0 || r.max > 0 && r.max < r.min {
				t.Errorf("%s.%s: %d..%d", kind, r.name, r.min, r.max)
			}
		}
	}
}

// TestBrokenSamples breaks each published sample and wants the issue at the right place.
func TestBrokenSamples(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ file, from, to, path, code string }{
		{"Endpoint-MessengerEndpointWithVisibility", `"status":"active",`, ``, "Endpoint.status", CodeRequired},
		{"Endpoint-MessengerEndpointWithVisibility", `"status":"active"`, `"status":"on"`, "Endpoint.status", CodeCodeInvalid},
		{"Endpoint-MessengerEndpointWithVisibility", `"status":"active"`, `"status":["active"]`, "Endpoint.status", CodeStructure},
		{"Endpoint-MessengerEndpointWithVisibility", `"status":"active"`, `"status":"active","colour":"red"`, "Endpoint.colour", CodeStructure},
		{"Endpoint-MessengerEndpointWithVisibility", `"hide-versicherte"`, `"hide-all"`, "Endpoint.extension[0].valueCoding", CodeCodeInvalid},
		{"Endpoint-KIMEndpointExample", `"code":"ldap"`, `"code":"elsewhere"`, "Endpoint.meta.tag", CodeCodeInvalid},
		{"Endpoint-MessengerEndpointWithVisibility", `CodeSystem/Origin`, `CodeSystem/Other`, "Endpoint.meta.tag", CodeRequired},
		{"Endpoint-MessengerEndpointWithVisibility", `tim-chat`, `tim-fax`, "Endpoint.payloadType[0]", CodeCodeInvalid},
		{"Endpoint-MessengerEndpointWithVisibility", `"code":"tim"`, `"code":"telex"`, "Endpoint.connectionType", CodeCodeInvalid},
		{"Endpoint-MessengerEndpointWithVisibility", `"matrix:`, `"xmpp:`, "Endpoint.address", CodeValue},
		{"Endpoint-KIMEndpointExample", `"code":"2.0"`, `"code":"9.9"`, "Endpoint.connectionType.extension[0].extension[0].valueCoding", CodeCodeInvalid},
		{"Endpoint-KIMEndpointExample", `"url":"version"`, `"url":"edition"`, "Endpoint.connectionType.extension[0].extension", CodeRequired},
		{"Endpoint-KIMEndpointExample", `"valueBoolean":true`, `"valueBoolean":"yes"`, "Endpoint.connectionType.extension[0].extension[1].valueBoolean", CodeValue},
		{"Endpoint-KIMEndpointExample", `StructureDefinition/ConnectionTypeKimVersionEx`, `StructureDefinition/Other`, "Endpoint.connectionType", CodeInvariant},
		{"HealthcareService-PharmacyHealthCareServiceExample", `"mon"`, `"monday"`, "HealthcareService.availableTime[0].daysOfWeek[0]", CodeCodeInvalid},
		{"HealthcareService-PharmacyHealthCareServiceExample", `"08:00:00"`, `"8:00"`, "HealthcareService.availableTime[0].availableStartTime", CodeValue},
		{"HealthcareService-PharmacyHealthCareServiceExample", `"daysOfWeek":["mon"],`, ``, "HealthcareService.availableTime[0]", CodeInvariant},
		{"HealthcareService-PharmacyHealthCareServiceExample", `"daysOfWeek":["mon"]`, `"daysOfWeek":["mon"],"allDay":true`, "HealthcareService.availableTime[0].allDay", CodeStructure},
		{"HealthcareService-PharmacyHealthCareServiceExample", `"notdienst"`, `"nachtdienst"`, "HealthcareService.availableTime[5].extension[0].extension[1].valueCoding", CodeCodeInvalid},
		{"HealthcareService-PharmacyHealthCareServiceExample", `"parkmoeglichkeit"`, `"garage"`, "HealthcareService.characteristic[0].coding[0]", CodeCodeInvalid},
		{"HealthcareService-PharmacyHealthCareServiceExample", `"code":"m"`, `"code":"km"`, "HealthcareService.coverageArea.extension.valueQuantity", CodeValue},
		{"HealthcareService-NCPeHHealthcareServiceExample", `"60591-5"`, `"1-1"`, "HealthcareService.specialty[0]", CodeCodeInvalid},
		{"HealthcareService-NCPeHHealthcareServiceExample", `"1.2.276.0.76.4.292"`, `"1.2.276.0.76.4.50"`, "HealthcareService.category[0]", CodeCodeInvalid},
		{"HealthcareService-NCPeHHealthcareServiceExample", `Organization/NCPeH`, `Practitioner/NCPeH`, "HealthcareService.providedBy", CodeValue},
		{"Practitioner-TIPractitionerExampleDentist", `sid/telematik-id`, `sid/other`, "Practitioner.identifier", CodeRequired},
		{"Practitioner-TIPractitionerExampleDentist", `"given":["Max"`, `"given":[7,"Max"`, "Practitioner.name[0].given[0]", CodeValue},
		{"Practitioner-TIPractitionerExampleDentist", `"name":[{`, `"name":[{"text":"x"},{`, "Practitioner.name", CodeStructure},
		{"Organization-NCPeHOrganizationExample", `"active":true`, `"active":"true"`, "Organization.active", CodeValue},
		{"Organization-NCPeHOrganizationExample", `"name":"NCPeH Portugal"`, `"name":" "`, "Organization.name", CodeValue},
		{"PractitionerRole-PractitionerRoleExample", `"Practitioner/TI`, `"Location/TI`, "PractitionerRole.practitioner", CodeValue},
		{"PractitionerRole-PractitionerRoleExample", `"location":[`, `"location":[{},`, "PractitionerRole.location[0]", CodeStructure},
		{"Location-LocationExample", `"state":"Berlin"`, `"state":"Preussen"`, "Location.address.state", CodeCodeInvalid},
		{"Location-LocationExample", `"line":["Hauptstraße 1"]`, `"line":"Hauptstraße 1"`, "Location.address.line", CodeStructure},
		{"Location-LocationExample", `"name":"Praxis am Rathaus"`, `"name":"x","position":{"latitude":95,"longitude":1}`, "Location.position.latitude", CodeValue},
		{"Location-LocationExample", `"name":"Praxis am Rathaus"`, `"name":"x","position":{"latitude":5}`, "Location.position.longitude", CodeRequired},
		{"Location-LocationExample", `"name":"Praxis am Rathaus"`, `"name":"x","contained":[{}]`, "Location.contained", CodeStructure},
	} {
		var raw json.RawMessage
		published(t, c.file, &raw)
		r, err := Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if issues := Validate(r); len(issues) > 0 {
			t.Errorf("%s: %v", c.file, issues)
		}
		broken := strings.Replace(string(r.JSON()), c.from, c.to, 1)
		if broken == string(r.JSON()) {
			t.Errorf("%s does not hold %s", c.file, c.from)
			continue
		}
		b, err := Parse([]byte(broken))
		if err != nil {
			t.Errorf("%s, %s: %v", c.file, c.to, err)
			continue
		}
		issues := Validate(b)
		if !slices.ContainsFunc(issues, func(i Issue) bool { return i.Expression[0] == c.path && i.Code == c.code }) {
			t.Errorf("%s with %s: %v, want %s at %s", c.file, c.to, issues, c.code, c.path)
		}
	}
}

func FuzzValidate(f *testing.F) {
	f.Add([]byte(`{"resourceType":"Endpoint","extension":[{"url":"x","extension":[{"url":"y","valueX":1}]}],"_name":[null]}`))
	f.Fuzz(func(_ *testing.T, raw []byte) {
		if r, err := Parse(raw); err == nil {
			Validate(r)
		}
	})
}

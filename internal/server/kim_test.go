// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/telematik/directory"
)

// reached is a practice that has a KIM address in the directory.
var reached = directory.Institution{TelematikID: "1-2.00000000003", Name: "Praxis Kastanie", ProfessionOID: certificate.Practice, Street: "Kastanienweg 4", Place: directory.Places[1]}

const kimAddress = "praxis@kastanie.kim.telematik"

// withKIM adds a KIM address to what card issuers deliver of an organisation.
func (c *country) withKIM(all []directory.Entry, telematikID string) (lines []byte) {
	c.Helper()
	gematik := "https://gematik.de/fhir/directory/"
	resources := []map[string]any{{
		"resourceType": "Endpoint", "id": "kim-1", "status": "active", "name": "KIM-Mailadresse", "address": kimAddress,
		"meta":      map[string]any{"tag": []any{map[string]any{"system": gematik + "CodeSystem/Origin", "code": "ldap"}}},
		"extension": []any{map[string]any{"url": gematik + "StructureDefinition/OwnerTelematikIdEx", "valueIdentifier": map[string]any{"system": "https://gematik.de/fhir/sid/telematik-id", "value": telematikID}}},
		"connectionType": map[string]any{"system": gematik + "CodeSystem/EndpointDirectoryConnectionType", "code": "kim", "extension": []any{map[string]any{
			"url": gematik + "StructureDefinition/ConnectionTypeKimVersionEx", "extension": []any{
				map[string]any{"url": "version", "valueCoding": map[string]any{"code": "2.0", "system": gematik + "CodeSystem/KimVersionCS"}}, map[string]any{"url": "xxlMailSupported", "valueBoolean": true}}}}},
		"payloadType": []any{map[string]any{"coding": []any{map[string]any{"code": "Arztbrief", "system": gematik + "CodeSystem/EndpointDirectoryKIMappTags"}}}},
	}}
	for _, e := range all {
		var r map[string]any
		if err := json.Unmarshal(e.Resource.JSON(), &r); err != nil {
			c.Fatal(err)
		}
		if r["resourceType"] == "HealthcareService" {
			r["endpoint"] = []any{map[string]any{"reference": "Endpoint/kim-1"}}
		}
		resources = append(resources, r)
	}
	for _, r := range resources {
		text, err := json.Marshal(r)
		if err != nil {
			c.Fatal(err)
		}
		lines = append(append(lines, text...), '\n')
	}
	return lines
}

// TestRegisterByKIM: an institution proves itself by a link that the KIM client module sends to the address in the directory. It counts once, in the hands
// of a person, and nobody learns by it who is in the directory.
//
// Requirements: AF_10103.
func TestRegisterByKIM(t *testing.T) {
	t.Parallel()
	c := newCountry(t, [3]string{})
	d := c.newBrowser(0)
	ask := func(telematikID string) string {
		t.Helper()
		d.visit(http.MethodGet, "/console/register", nil)
		d.send("/console/register", 200, "do", "kim", "telematik_id", telematikID)
		return d.page
	}
	known := ask(reached.TelematikID)
	mail := c.kim.Next(t)
	if mail.To != kimAddress || !strings.Contains(mail.Subject, "TI-Messenger") {
		t.Errorf("sent %q to %s", mail.Subject, mail.To)
	}
	for name, id := range map[string]string{"no KIM address": practices[1].TelematikID, "unknown": "1-2.00000000099", "a search": reached.TelematikID + ",1-2.00000000002"} {
		if ask(id) != known {
			t.Errorf("%s: the page tells", name)
		}
	}
	c.kim.None(t)
	link, err := url.Parse(regexp.MustCompile(`http://\S+`).FindString(mail.Text))
	if err != nil || link.Path != "/console/register/kim" {
		t.Fatalf("%v %v in %q", link, err, mail.Text)
	}
	for range 2 { // a scanner of the mailbox opens it too
		d.visit(http.MethodGet, link.RequestURI(), nil)
		if d.status != 200 || !strings.Contains(d.page, reached.Name) {
			t.Fatalf("%d\n%s", d.status, d.page)
		}
	}
	d.send("/console/register/kim", 200, "link", link.Query().Get("link"))
	d.appoint("leitung")
	d.send("/console/register", 200, "do", "order", "label", "kastanie")
	if !strings.Contains(d.page, reached.Name) || !strings.Contains(d.page, "leitung") {
		t.Errorf("no console:\n%s", d.page)
	}
	again := c.newBrowser(0)
	again.visit(http.MethodGet, link.RequestURI(), nil)
	again.send("/console/register/kim", 403, "link", link.Query().Get("link"))
	again.send("/console/register/kim", 403, "link", "guessed")
}

// SPDX-License-Identifier: Apache-2.0

package directory_test

import (
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/fhir"
	"github.com/konsil-health/konsil/internal/telematik/card"
)

// TestAdditionalService: an organisation adds a service of its own, others find it, the organisation changes and removes it; nobody adds one to
// somebody else, and the service from the card issuers stays as it is.
//
// Requirements: AF_10059, A_25546.
func TestAdditionalService(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		r := newRig(t, db)
		owner := r.ownerToken(r.unlock(r.pki.IssueSMCB(card.Institution{Name: "Klinikum Isar", TelematikID: clinic.TelematikID, ProfessionOID: certificate.Hospital, PIN: "123456"})))
		stranger := r.ownerToken(r.unlock(r.pki.IssueSMCB(card.Institution{Name: "Praxis", TelematikID: practice.TelematikID, ProfessionOID: certificate.Practice, PIN: "123456"})))
		mine, err := r.store.Organization(t.Context(), clinic.TelematikID)
		if err != nil || mine == nil {
			t.Fatalf("%v %v", mine, err)
		}
		theirs, err := r.store.Organization(t.Context(), practice.TelematikID)
		if err != nil || theirs == nil {
			t.Fatalf("%v %v", theirs, err)
		}
		text := func(more string) string {
			return `{"resourceType":"HealthcareService","name":"Notaufnahme","providedBy":{"reference":"` + mine.Reference() + `"}` + more + `}`
		}
		status, made, _ := r.call("POST", "/owner/HealthcareService", owner, text(""))
		if status != 201 {
			t.Fatalf("%d %v", status, made)
		}
		path := "/owner/HealthcareService/" + made["id"].(string)
		_, endpoint, _ := r.call("POST", "/owner/Endpoint", owner, chat)
		link := `,"endpoint":[{"reference":"Endpoint/` + endpoint["id"].(string) + `"}]`
		with := func(more string) string {
			return strings.Replace(text(more), `"resourceType"`, `"id":"`+made["id"].(string)+`","resourceType"`, 1)
		}
		if status, body, _ := r.call("PUT", path, owner, strings.Replace(with(link), "Notaufnahme", "Notfallambulanz", 1)); status != 200 || body["name"] != "Notfallambulanz" {
			t.Errorf("%d %v", status, body)
		}
		found := func() any {
			_, body, _ := r.call("GET", "/search/HealthcareService?organization.active=true&name=Notfallamb&_include=HealthcareService:endpoint", r.searchToken("praxis.example"), "")
			return body["total"]
		}
		if found() != float64(1) {
			t.Errorf("found %v", found())
		}
		synced, err := r.store.Owned(t.Context(), clinic.TelematikID, fhir.HealthcareService)
		if err != nil || len(synced) != 2 {
			t.Fatalf("%d %v", len(synced), err)
		}
		fromIssuers := "/owner/" + clinic.ServiceReference()
		for name, c := range map[string]struct {
			method, path, token, body string
			want                      int
		}{
			"for another organisation":  {"POST", "/owner/HealthcareService", owner, strings.Replace(text(""), mine.Reference(), theirs.Reference(), 1), 422},
			"by another organisation":   {"POST", "/owner/HealthcareService", stranger, text(""), 422},
			"with a foreign number":     {"POST", "/owner/HealthcareService", owner, text(`,"identifier":[{"system":"` + fhir.SystemTelematikID + `","value":"` + practice.TelematikID + `"}]`), 422},
			"with a foreign endpoint":   {"POST", "/owner/HealthcareService", stranger, strings.Replace(text(link), mine.Reference(), theirs.Reference(), 1), 422},
			"against the profile":       {"POST", "/owner/HealthcareService", owner, text(`,"availableTime":[{"daysOfWeek":["someday"]}]`), 422},
			"moved to another":          {"PUT", path, owner, strings.Replace(with(""), mine.Reference(), theirs.Reference(), 1), 422},
			"changed by another":        {"PUT", path, stranger, with(""), 403},
			"removed by another":        {"DELETE", path, stranger, "", 403},
			"removed from the issuers'": {"DELETE", fromIssuers, owner, "", 422},
		} {
			if status, body, _ := r.call(c.method, c.path, c.token, c.body); status != c.want || body["resourceType"] != "OperationOutcome" {
				t.Errorf("%s: %d %v", name, status, body)
			}
		}
		if status, body, _ := r.call("DELETE", path, owner, ""); status != 204 {
			t.Errorf("%d %v", status, body)
		}
		if found() != float64(0) {
			t.Errorf("found %v after its end", found())
		}
	})
}

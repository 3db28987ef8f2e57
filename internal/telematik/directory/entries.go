// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/fhir"
)

// Place is a town with its coordinates.
type Place struct {
	Town, PostalCode, State string
	Latitude, Longitude     float64
}

// Concept is a code with its German name.
type Concept struct{ Code, Display string }

// Person is a health professional as card issuers enter it: a Practitioner with its PractitionerRole and Location.
type Person struct {
	TelematikID           string
	Prefix                string // "Dr. med." or empty
	GivenName, FamilyName string
	ProfessionOID         string
	Specialties           []Concept // of fhir.SystemSpecialty
	Street                string
	Place                 Place
	Inactive              bool
}

// Institution is an organisation as card issuers enter it: an Organization with its HealthcareService and Location.
type Institution struct {
	TelematikID   string
	Name          string
	Alias         string
	ProfessionOID string
	Specialties   []Concept
	Street        string
	Place         Place
	Phone         string
	Inactive      bool
}

// resourceID derives a resource's id from who it belongs to, so that an entry that is entered again replaces itself.
func resourceID(kind, telematikID string) string {
	sum := sha256.Sum256([]byte(kind + "\x00" + telematikID))
	return hex.EncodeToString(sum[:12])
}

// RoleReference is the person's entry that owners link endpoints to.
func (p Person) RoleReference() string {
	return fhir.PractitionerRole + "/" + resourceID(fhir.PractitionerRole, p.TelematikID)
}

// ServiceReference is the organisation's entry that owners link endpoints to.
func (i Institution) ServiceReference() string {
	return fhir.HealthcareService + "/" + resourceID(fhir.HealthcareService, i.TelematikID)
}

func meta(origin string) map[string]any {
	return map[string]any{"tag": []any{map[string]any{"system": fhir.SystemOrigin, "code": origin}}}
}

func identifier(telematikID string) []any {
	return []any{map[string]any{"system": fhir.SystemTelematikID, "value": telematikID}}
}

func owned(telematikID string) []any {
	return []any{map[string]any{"url": fhir.ExtensionOwnerTelematikID, "valueIdentifier": map[string]any{"system": fhir.SystemTelematikID, "value": telematikID}}}
}

func concept(system string, c Concept) map[string]any {
	return map[string]any{"coding": []any{map[string]any{"system": system, "code": c.Code, "display": c.Display}}}
}

func concepts(system string, all []Concept) []any {
	var out []any
	for _, c := range all {
		out = append(out, concept(system, c))
	}
	return out
}

func location(owner, name, street string, p Place) map[string]any {
	return map[string]any{
		"resourceType": fhir.Location, "id": resourceID(fhir.Location, owner), "meta": meta("ldap"), "extension": owned(owner), "name": name,
		"address":  map[string]any{"text": street + ", " + p.PostalCode + " " + p.Town, "line": []any{street}, "city": p.Town, "postalCode": p.PostalCode, "state": p.State, "country": "DE"},
		"position": map[string]any{"latitude": p.Latitude, "longitude": p.Longitude},
	}
}

func reference(kind, telematikID string) map[string]any {
	return map[string]any{"reference": kind + "/" + resourceID(kind, telematikID)}
}

// Entries makes the person's resources.
func (p Person) Entries() ([]Entry, error) {
	full := strings.TrimSpace(p.Prefix + " " + p.GivenName + " " + p.FamilyName)
	name := map[string]any{"text": full, "family": p.FamilyName, "given": []any{p.GivenName}}
	if p.Prefix != "" {
		name["prefix"] = []any{p.Prefix}
	}
	qualifications := []any{map[string]any{"code": concept(fhir.SystemPractitionerOID, Concept{p.ProfessionOID, certificate.ProfessionName(p.ProfessionOID)})}}
	for _, s := range p.Specialties {
		qualifications = append(qualifications, map[string]any{"code": concept(fhir.SystemSpecialty, s)})
	}
	role := map[string]any{
		"resourceType": fhir.PractitionerRole, "id": resourceID(fhir.PractitionerRole, p.TelematikID), "meta": meta("ldap"), "extension": owned(p.TelematikID),
		"practitioner": reference(fhir.Practitioner, p.TelematikID), "location": []any{reference(fhir.Location, p.TelematikID)},
	}
	if len(p.Specialties) > 0 {
		role["specialty"] = concepts(fhir.SystemSpecialty, p.Specialties)
	}
	return entries(p.TelematikID,
		map[string]any{"resourceType": fhir.Practitioner, "id": resourceID(fhir.Practitioner, p.TelematikID), "meta": meta("ldap"), "identifier": identifier(p.TelematikID),
			"active": !p.Inactive, "name": []any{name}, "qualification": qualifications},
		location(p.TelematikID, full, p.Street, p.Place), role)
}

// Entries makes the organisation's resources.
func (i Institution) Entries() ([]Entry, error) {
	organization := map[string]any{
		"resourceType": fhir.Organization, "id": resourceID(fhir.Organization, i.TelematikID), "meta": meta("ldap"), "identifier": identifier(i.TelematikID), "active": !i.Inactive,
		"name": i.Name, "type": []any{concept(fhir.SystemOrganizationOID, Concept{i.ProfessionOID, certificate.ProfessionName(i.ProfessionOID)})},
	}
	if i.Alias != "" {
		organization["alias"] = []any{i.Alias}
	}
	service := map[string]any{
		"resourceType": fhir.HealthcareService, "id": resourceID(fhir.HealthcareService, i.TelematikID), "meta": meta("ldap"), "identifier": identifier(i.TelematikID), "name": i.Name,
		"extension": owned(i.TelematikID), "providedBy": reference(fhir.Organization, i.TelematikID), "location": []any{reference(fhir.Location, i.TelematikID)},
	}
	if len(i.Specialties) > 0 {
		service["type"] = concepts(fhir.SystemSpecialty, i.Specialties) // the profile's specialty has codes of its own
	}
	if i.Phone != "" {
		service["telecom"] = []any{map[string]any{"system": "phone", "value": i.Phone, "use": "work"}}
	}
	return entries(i.TelematikID, organization, location(i.TelematikID, i.Name, i.Street, i.Place), service)
}

func entries(owner string, trees ...map[string]any) ([]Entry, error) {
	all := make([]Entry, len(trees))
	for n, tree := range trees {
		r, err := fhir.New(tree)
		if err != nil {
			return nil, err
		}
		all[n] = Entry{Resource: r, Owner: owner}
	}
	return all, nil
}

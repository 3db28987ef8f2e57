// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"net/http"
	"slices"

	"github.com/konsil-health/konsil/internal/health/fhir"
)

// searchTypes name the kinds of search parameters in a CapabilityStatement.
var searchTypes = map[kind]string{text: "string", token: "token", near: "special", ref: "reference", date: "date"}

// resourceTypes in the order of the CapabilityStatement.
var resourceTypes = []string{fhir.PractitionerRole, fhir.HealthcareService, fhir.Endpoint, fhir.Practitioner, fhir.Organization, fhir.Location}

// capabilities answers the CapabilityStatement of an interface. It is made of the tables by which searches are answered, so it says what is true.
func (s *Service) capabilities(path string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		send(w, http.StatusOK, s.statement(path))
	}
}

func (s *Service) statement(path string) map[string]any {
	resources := []any{}
	for _, t := range resourceTypes {
		resources = append(resources, capability(t, path))
	}
	return map[string]any{
		"resourceType": "CapabilityStatement", "status": "active", "date": "2026-11-25", "kind": "instance", "fhirVersion": "4.0.1", "format": []any{"application/fhir+json"},
		"software":       map[string]any{"name": "Konsil"},
		"implementation": map[string]any{"description": "Konsil directory (VZD-FHIR-Directory interfaces)", "url": s.o.Base + path},
		"rest": []any{map[string]any{"mode": "server", "resource": resources,
			"security": map[string]any{"description": "Bearer tokens of /tim-authenticate, /owner-authenticate or /service-authenticate"}}},
	}
}

// capability describes one resource type at one interface.
func capability(t, path string) map[string]any {
	interactions := []any{map[string]any{"code": "read"}}
	more := func(codes ...string) {
		for _, c := range codes {
			interactions = append(interactions, map[string]any{"code": c})
		}
	}
	r := map[string]any{"type": t, "profile": "https://gematik.de/fhir/directory/StructureDefinition/" + t + "Directory", "versioning": "versioned"}
	switch {
	case path == ownerPath:
		more("search-type")
		switch t {
		case fhir.Endpoint, fhir.HealthcareService:
			more("create", "update", "delete")
		case fhir.PractitionerRole:
			more("update")
		}
	case short[t] != "":
		more("search-type")
		r["searchParam"], r["searchInclude"], r["searchRevInclude"] = searchParams(t, path), includes(t), revIncludes(t)
	}
	r["interaction"] = interactions
	return r
}

// searchParams lists the parameters of a root, chains with their whole name.
func searchParams(t, path string) []any {
	all := []any{}
	add := func(name string, k kind, doc string) {
		p := map[string]any{"name": name, "type": searchTypes[k]}
		if doc != "" {
			p["documentation"] = doc
		}
		all = append(all, p)
	}
	for _, p := range slices.Concat(parameters[t], everywhere) {
		add(p.name, p.kind, "")
	}
	for _, l := range links[t] {
		add(l.name, ref, "")
		for _, p := range parameters[l.target] {
			add(l.name+"."+p.name, p.kind, mandatoryNote(t, l.name+"."+p.name))
		}
	}
	add("_text", text, "over linked resources; with _complexSearch=true operators + , | - \" * ~N")
	if path == fdvSearchPath && t == fhir.HealthcareService {
		add("_query", text, "near or nearPharmacy with latitude, longitude, distance and, optionally, text, location, isOpenInMinutes, specialty, characteristics, organization.type, _count")
	}
	return all
}

func mandatoryNote(root, name string) string {
	if m := activeFilter[root]; m[0] == name {
		return "every search carries " + m[0] + "=" + m[1]
	}
	return ""
}

func includes(t string) []any {
	all := []any{"*"}
	for _, l := range links[t] {
		all = append(all, t+":"+l.name)
	}
	return all
}

func revIncludes(t string) []any {
	all := []any{}
	for _, source := range resourceTypes {
		for _, l := range links[source] {
			if l.target == t {
				all = append(all, source+":"+l.name)
			}
		}
	}
	return all
}

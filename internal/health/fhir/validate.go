// SPDX-License-Identifier: Apache-2.0

package fhir

import (
	"fmt"
	"slices"
	"strings"
)

// shape is what a resource type of the directory looks like. The tables follow the profiles of de.gematik.fhir.directory 1.2.0 and FHIR R4.
type shape struct {
	elements []string // all that may stand on the top level, besides what every resource has
	required []string
	lists    []string // elements that are lists
	refs     map[string]string
	codes    map[string][]string // element → the codes of its required binding
}

// everywhere may stand in each resource.
var everywhere = []string{"resourceType", "id", "meta", "implicitRules", "language", "text", "contained", "extension", "modifierExtension", "identifier"}

var shapes = map[string]shape{
	Practitioner: {
		elements: []string{"active", "name", "telecom", "address", "gender", "birthDate", "photo", "qualification", "communication"},
		required: []string{"identifier"},
		lists:    []string{"identifier", "name", "telecom", "address", "qualification", "communication", "extension"},
	},
	PractitionerRole: {
		elements: []string{"active", "period", "practitioner", "organization", "code", "specialty", "location", "healthcareService", "telecom", "availableTime", "notAvailable",
			"availabilityExceptions", "endpoint"},
		required: []string{"practitioner"},
		lists:    []string{"identifier", "code", "specialty", "location", "healthcareService", "telecom", "endpoint", "extension"},
		refs:     map[string]string{"practitioner": Practitioner, "organization": Organization, "location": Location, "healthcareService": HealthcareService, "endpoint": Endpoint},
	},
	Organization: {
		elements: []string{"active", "type", "name", "alias", "telecom", "address", "partOf", "contact", "endpoint"},
		required: []string{"identifier"},
		lists:    []string{"identifier", "type", "alias", "telecom", "address", "contact", "endpoint", "extension"},
		refs:     map[string]string{"partOf": Organization, "endpoint": Endpoint},
	},
	HealthcareService: {
		elements: []string{"active", "providedBy", "category", "type", "specialty", "location", "name", "comment", "extraDetails", "photo", "telecom", "coverageArea",
			"serviceProvisionCode", "eligibility", "program", "characteristic", "communication", "referralMethod", "appointmentRequired", "availableTime", "notAvailable",
			"availabilityExceptions", "endpoint"},
		required: []string{"providedBy"},
		lists:    []string{"identifier", "category", "type", "specialty", "location", "telecom", "coverageArea", "availableTime", "endpoint", "extension"},
		refs:     map[string]string{"providedBy": Organization, "location": Location, "endpoint": Endpoint},
	},
	Location: {
		elements: []string{"status", "operationalStatus", "name", "alias", "description", "mode", "type", "telecom", "address", "physicalType", "position",
			"managingOrganization", "partOf", "hoursOfOperation", "availabilityExceptions", "endpoint"},
		required: []string{"address"},
		lists:    []string{"identifier", "alias", "telecom", "extension"},
		refs:     map[string]string{"managingOrganization": Organization},
		codes:    map[string][]string{"status": {"active", "suspended", "inactive"}},
	},
	Endpoint: {
		elements: []string{"status", "connectionType", "name", "managingOrganization", "contact", "period", "payloadType", "payloadMimeType", "address", "header"},
		required: []string{"status", "connectionType", "payloadType", "address", "name"},
		lists:    []string{"identifier", "payloadType", "contact", "extension"},
		refs:     map[string]string{"managingOrganization": Organization},
		codes:    map[string][]string{"status": {"active", "suspended", "error", "off", "entered-in-error", "test"}},
	},
}

// ConnectionTypes are the codes of EndpointDirectoryConnectionType.
var ConnectionTypes = []string{"tim", "tim-fa", "tim-bot", "kim", "epa-supported", "ident-eingangsabruf", "apotheken-identverfahren", "eRP-onPremise", "eRP-delivery",
	"eRP-shipment", "eRP-availability", "terminbuchung-online", "terminbuchung-telefonisch", "terminbuchung-tim"}

// Validate checks a resource against the directory's profile of its type. It answers no issue for a good one.
func Validate(r *Resource) []Issue {
	s, ok := shapes[r.Type()]
	if !ok {
		return []Issue{{Severity: "error", Code: CodeNotSupported, Diagnostics: "the directory has no " + r.Type()}}
	}
	var issues []Issue
	report := func(code, element, format string, a ...any) {
		issues = append(issues, Issue{Severity: "error", Code: code, Diagnostics: fmt.Sprintf(format, a...), Expression: []string{r.Type() + "." + element}})
	}
	for name, value := range r.tree {
		plain := strings.TrimPrefix(name, "_") // _name holds the extensions of a primitive element
		if !slices.Contains(everywhere, plain) && !slices.Contains(s.elements, plain) {
			report(CodeStructure, name, "unknown element")
			continue
		}
		list, isList := value.([]any)
		if isList && len(list) == 0 {
			report(CodeStructure, name, "a list must not be empty")
		}
		if wants := slices.Contains(s.lists, name); name == plain && wants && !isList {
			report(CodeStructure, name, "must be a list")
		}
		if value == nil {
			report(CodeStructure, name, "must not be null")
		}
	}
	for _, name := range s.required {
		if !r.Has(name) {
			report(CodeRequired, name, "is required")
		}
	}
	for name, kind := range s.refs {
		if !r.Has(name) {
			continue
		}
		given := r.References(name)
		if len(given) != len(r.At(name)) {
			report(CodeValue, name, "must be references of the form %s/id", kind)
		}
		for _, ref := range given {
			if !strings.HasPrefix(ref, kind+"/") {
				report(CodeValue, name, "must refer to %s", kind)
			}
		}
	}
	for name, codes := range s.codes {
		if r.Has(name) && !slices.Contains(codes, r.text(name)) {
			report(CodeValue, name, "must be one of %q", codes)
		}
	}
	if r.Has("active") {
		if _, ok := r.tree["active"].(bool); !ok {
			report(CodeStructure, "active", "must be true or false")
		}
	}
	if slices.Contains(s.required, "identifier") && r.Identifier(SystemTelematikID) == "" {
		report(CodeRequired, "identifier", "no Telematik-ID")
	}
	if r.Type() == Endpoint {
		issues = append(issues, validateEndpoint(r)...)
	}
	slices.SortFunc(issues, func(a, b Issue) int {
		return strings.Compare(a.Expression[0]+a.Diagnostics, b.Expression[0]+b.Diagnostics)
	})
	return issues
}

// validateEndpoint checks what the profile EndpointDirectory adds.
func validateEndpoint(r *Resource) []Issue {
	var issues []Issue
	report := func(element, format string, a ...any) {
		issues = append(issues, Issue{Severity: "error", Code: CodeValue, Diagnostics: fmt.Sprintf(format, a...), Expression: []string{"Endpoint." + element}})
	}
	kinds := r.Codings("connectionType")
	if len(kinds) != 1 || kinds[0].System != SystemConnectionType || !slices.Contains(ConnectionTypes, kinds[0].Code) {
		report("connectionType", "must be one code of %s", SystemConnectionType)
		return issues
	}
	if strings.HasPrefix(kinds[0].Code, "tim") {
		if _, ok := MatrixUser(r.text("address")); !ok || !strings.HasPrefix(r.text("address"), "matrix:") {
			report("address", "must be a Matrix URI, matrix:u/localpart:domain")
		}
		if !slices.ContainsFunc(r.Codings("payloadType"), func(c Coding) bool { return c.System == SystemPayloadType && c.Code == "tim-chat" }) {
			report("payloadType", "must be tim-chat of %s", SystemPayloadType)
		}
	}
	return issues
}

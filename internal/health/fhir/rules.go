// SPDX-License-Identifier: Apache-2.0

package fhir

import (
	"strconv"
	"strings"
	"sync"
)

// ruleTable is what resources and their parts look like: FHIR R4 narrowed by the profiles …Directory of de.gematik.fhir.directory 1.2.0. A line
// without indentation names a type; those below are its elements: name, cardinality, type and, optionally, what its codes are bound to: "=a|b" for
// codes of its own, "@Set" for a value set of codes.go. Reference(…) names the types that may be meant.
const ruleTable = `
Resource
 id 0..1 id
 meta 0..1 Meta
 implicitRules 0..1 uri
 language 0..1 code
 text 0..1 Narrative
 contained 0..0 any
 extension 0..* Extension
 modifierExtension 0..* Extension
Practitioner
 identifier 1..* Identifier
 active 0..1 boolean
 name 0..1list HumanName
 telecom 0..* ContactPoint
 address 0..* Address
 gender 0..1 code =male|female|other|unknown
 birthDate 0..1 date
 photo 0..* Attachment
 qualification 0..* Practitioner.qualification
 communication 0..* CodeableConcept
Practitioner.qualification
 identifier 0..* Identifier
 code 1..1 CodeableConcept
 period 0..1 Period
 issuer 0..1 Reference(Organization)
PractitionerRole
 identifier 0..* Identifier
 active 0..1 boolean
 period 0..1 Period
 practitioner 1..1 Reference(Practitioner)
 organization 0..1 Reference(Organization)
 code 0..* CodeableConcept
 specialty 0..* CodeableConcept
 location 0..* Reference(Location)
 healthcareService 0..* Reference(HealthcareService)
 telecom 0..* ContactPoint
 availableTime 0..* AvailableTime
 notAvailable 0..* NotAvailable
 availabilityExceptions 0..1 string
 endpoint 0..* Reference(Endpoint)
Organization
 identifier 1..* Identifier
 active 0..1 boolean
 type 0..* CodeableConcept
 name 0..1 string
 alias 0..* string
 telecom 0..* ContactPoint
 address 0..* Address
 partOf 0..1 Reference(Organization)
 contact 0..* Organization.contact
 endpoint 0..* Reference(Endpoint)
Organization.contact
 purpose 0..1 CodeableConcept
 name 0..1 HumanName
 telecom 0..* ContactPoint
 address 0..1 Address
HealthcareService
 identifier 0..* Identifier
 active 0..1 boolean
 providedBy 1..1 Reference(Organization)
 category 0..* CodeableConcept @healthcare-service-category-codes
 type 0..* CodeableConcept @HealthcareServiceTypeVS
 specialty 0..* CodeableConcept @HealthcareSpecialtyTypeVS
 location 0..1list Reference(Location)
 name 0..1 string
 comment 0..1 string
 extraDetails 0..1 string
 photo 0..1 Attachment
 telecom 0..* ContactPoint
 coverageArea 0..* Reference(Location)
 serviceProvisionCode 0..* CodeableConcept
 eligibility 0..* HealthcareService.eligibility
 program 0..* CodeableConcept
 characteristic 0..* CodeableConcept
 communication 0..* CodeableConcept
 referralMethod 0..* CodeableConcept
 appointmentRequired 0..1 boolean
 availableTime 0..* HealthcareService.availableTime
 notAvailable 0..* NotAvailable
 availabilityExceptions 0..1 string
 endpoint 0..* Reference(Endpoint)
HealthcareService.eligibility
 code 0..1 CodeableConcept
 comment 0..1 string
HealthcareService.availableTime
 daysOfWeek 0..1list code =mon|tue|wed|thu|fri|sat|sun
 availableStartTime 0..1 time
 availableEndTime 0..1 time
AvailableTime
 daysOfWeek 0..* code =mon|tue|wed|thu|fri|sat|sun
 allDay 0..1 boolean
 availableStartTime 0..1 time
 availableEndTime 0..1 time
NotAvailable
 description 1..1 string
 during 0..1 Period
Location
 identifier 0..* Identifier
 status 0..1 code =active|suspended|inactive
 operationalStatus 0..1 Coding
 name 0..1 string
 alias 0..* string
 description 0..1 string
 mode 0..1 code =instance|kind
 type 0..* CodeableConcept
 telecom 0..* ContactPoint
 address 1..1 Address
 physicalType 0..1 CodeableConcept
 position 0..1 Location.position
 managingOrganization 0..1 Reference(Organization)
 partOf 0..1 Reference(Location)
 hoursOfOperation 0..* Location.hoursOfOperation
 availabilityExceptions 0..1 string
 endpoint 0..* Reference(Endpoint)
Location.position
 longitude 1..1 decimal
 latitude 1..1 decimal
 altitude 0..1 decimal
Location.hoursOfOperation
 daysOfWeek 0..* code =mon|tue|wed|thu|fri|sat|sun
 allDay 0..1 boolean
 openingTime 0..1 time
 closingTime 0..1 time
Endpoint
 identifier 0..* Identifier
 status 1..1 code =active|suspended|error|off|entered-in-error|test
 connectionType 1..1 Coding @EndpointConnectionTypeVS
 name 1..1 string
 managingOrganization 0..1 Reference(Organization)
 contact 0..* ContactPoint
 period 0..1 Period
 payloadType 1..* CodeableConcept @EndpointPayloadTypeVS
 payloadMimeType 0..* code
 address 1..1 url
 header 0..* string
Meta
 versionId 0..1 id
 lastUpdated 0..1 instant
 source 0..1 uri
 profile 0..* uri
 security 0..* Coding
 tag 1..* Coding
Narrative
 status 1..1 code =generated|extensions|additional|empty
 div 1..1 string
Coding
 system 0..1 uri
 version 0..1 string
 code 0..1 code
 display 0..1 string
 userSelected 0..1 boolean
CodeableConcept
 coding 0..* Coding
 text 0..1 string
Identifier
 use 0..1 code =usual|official|temp|secondary|old
 type 0..1 CodeableConcept
 system 0..1 uri
 value 0..1 string
 period 0..1 Period
 assigner 0..1 Reference(Organization)
HumanName
 use 0..1 code =usual|official|temp|nickname|anonymous|old|maiden
 text 0..1 string
 family 0..1 string
 given 0..* string
 prefix 0..* string
 suffix 0..* string
 period 0..1 Period
ContactPoint
 system 0..1 code =phone|fax|email|pager|url|sms|other
 value 0..1 string
 use 0..1 code =home|work|temp|old|mobile
 rank 0..1 positiveInt
 period 0..1 Period
Address
 use 0..1 code =home|work|temp|old|billing
 type 0..1 code =postal|physical|both
 text 0..1 string
 line 0..* string
 city 0..1 string
 district 0..1 string
 state 0..1 string
 postalCode 0..1 string
 country 0..1 string
 period 0..1 Period
Period
 start 0..1 dateTime
 end 0..1 dateTime
Quantity
 value 0..1 decimal
 comparator 0..1 code =<|<=|>=|>
 unit 0..1 string
 system 0..1 uri
 code 0..1 code
Attachment
 contentType 0..1 code
 language 0..1 code
 data 0..1 base64Binary
 url 0..1 url
 size 0..1 positiveInt
 hash 0..1 base64Binary
 title 0..1 string
 creation 0..1 dateTime
Reference
 reference 0..1 string
 type 0..1 uri
 identifier 0..1 Identifier
 display 0..1 string
`

// rule is one element of a type.
type rule struct {
	name     string
	min, max int // max -1: any number
	list     bool
	kind     string
	targets  []string // of a Reference
	codes    []string
	set      string
}

// rules is the table, read once: type → elements.
var rules = sync.OnceValue(func() map[string][]rule {
	all := map[string][]rule{}
	current := ""
	for line := range strings.Lines(ruleTable) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0:
		case line[0] != ' ':
			current = fields[0]
			all[current] = nil
		default:
			all[current] = append(all[current], parseRule(fields))
		}
	}
	return all
})

// parseRule reads a line of the table; the table is constant, and a test reads all of it.
func parseRule(fields []string) rule {
	r := rule{name: fields[0], kind: fields[2]}
	low, high, _ := strings.Cut(fields[1], "..")
	high, r.list = strings.CutSuffix(high, "list")
	r.min, _ = strconv.Atoi(low)
	if high == "*" {
		r.max, r.list = -1, true
	} else {
		r.max, _ = strconv.Atoi(high)
	}
	if inner, ok := strings.CutPrefix(r.kind, "Reference("); ok {
		r.kind, r.targets = "Reference", strings.Split(strings.TrimSuffix(inner, ")"), ",")
	}
	if len(fields) > 3 {
		if set, ok := strings.CutPrefix(fields[3], "@"); ok {
			r.set = set
		} else {
			r.codes = strings.Split(strings.TrimPrefix(fields[3], "="), "|")
		}
	}
	return r
}

const profileBase = "https://gematik.de/fhir/directory/StructureDefinition/"

// extensionRule is a published extension: where it may stand, what its value is, and which parts it consists of.
type extensionRule struct {
	contexts []string
	value    string // datatype; empty for one of parts
	set      string
	parts    map[string]extensionRule
}

var extensionRules = map[string]extensionRule{
	ExtensionEndpointVisible:        {contexts: []string{Endpoint}, value: "Coding", set: "EndpointVisibilityVS"},
	ExtensionOrganizationHides:      {contexts: []string{Organization}, value: "Coding", set: "OrganizationVisibilityVS"},
	ExtensionOwnerTelematikID:       {value: "Identifier"},
	ExtensionHolderID:               {contexts: []string{HealthcareService, PractitionerRole}, value: "code"},
	ExtensionCoveragePostalCode:     {contexts: []string{"HealthcareService.coverageArea"}, value: "string"},
	profileBase + "EndpointFADIdEx": {contexts: []string{Endpoint}, value: "Identifier"},
	extensionKIM: {contexts: []string{"Endpoint.connectionType"}, parts: map[string]extensionRule{
		"version": {value: "Coding", set: "KimVersionVS"}, "xxlMailSupported": {value: "boolean"}}},
	extensionSpecialOpening: {contexts: []string{"HealthcareService.availableTime"}, parts: map[string]extensionRule{
		"period": {value: "Period"}, "qualifier": {value: "Coding", set: "OpeningTimeQualifierVS"}}},
	profileBase + "ServiceCoverageArea":              {contexts: []string{"HealthcareService.coverageArea"}, value: "Quantity"},
	profileBase + "PhysicalFeaturesAdditionalNoteEX": {contexts: []string{"HealthcareService.characteristic"}, value: "string"},
}

const (
	extensionKIM            = profileBase + "ConnectionTypeKimVersionEx"
	extensionSpecialOpening = profileBase + "SpecialOpeningTimesEX"
)

// SPDX-License-Identifier: Apache-2.0

package fhir

import (
	"math"
	"strconv"
	"strings"
)

// profile checks what the profiles say beyond the table: slices and rules between elements.
func (c *checker) profile(r *Resource) {
	c.tags(r)
	switch r.Type() {
	case Practitioner, Organization:
		if r.Has("identifier") && r.Identifier(SystemTelematikID) == "" {
			c.report(CodeRequired, r.Type()+".identifier", "no Telematik-ID")
		}
	case Endpoint:
		c.endpoint(r)
	case HealthcareService:
		c.openingTimes(r)
		c.characteristics(r)
		c.coverage(r)
	case Location:
		c.place(r)
	}
}

// tags: exactly one tag says where a resource comes from.
func (c *checker) tags(r *Resource) {
	if len(r.At("meta", "tag")) == 0 {
		return // the table asks for tags where there is meta
	}
	origins := 0
	for _, t := range r.Codings("meta", "tag") {
		if t.System != SystemOrigin {
			continue
		}
		if origins++; !inSet("OriginVS", t.System, t.Code) {
			c.report(CodeCodeInvalid, r.Type()+".meta.tag", "must be a code of the value set OriginVS")
		}
	}
	if origins != 1 {
		c.report(CodeRequired, r.Type()+".meta.tag", "needs exactly one tag of the system %s", SystemOrigin)
	}
}

// endpoint: a KIM address names its version (KimConnectionTypeInv, KimConnectionTypeRequiresVersionInv), a messenger is reached by a Matrix URI.
func (c *checker) endpoint(r *Resource) {
	kinds := r.Codings("connectionType")
	if len(kinds) != 1 {
		return
	}
	versions := 0
	for _, e := range r.Strings("connectionType", "extension", "url") {
		if e == extensionKIM {
			versions++
		}
	}
	switch kim := kinds[0].System == SystemConnectionType && kinds[0].Code == "kim"; {
	case versions > 1 || versions == 1 && !kim:
		c.report(CodeInvariant, "Endpoint.connectionType", "only the connection type kim names its version, and once")
	case versions == 0 && kim:
		c.report(CodeInvariant, "Endpoint.connectionType", "the connection type kim names its version (extension ConnectionTypeKimVersionEx)")
	}
	if kinds[0].System != SystemConnectionType || !messenger(kinds[0].Code) {
		return
	}
	if _, ok := MatrixUser(r.text("address")); r.Has("address") && (!ok || !strings.HasPrefix(r.text("address"), "matrix:")) {
		c.report(CodeValue, "Endpoint.address", "must be a Matrix URI, matrix:u/localpart:domain")
	}
	for _, p := range r.Codings("payloadType") {
		if p.System == SystemPayloadType && p.Code == "tim-chat" {
			return
		}
	}
	c.report(CodeInvariant, "Endpoint.payloadType", "must be tim-chat of %s", SystemPayloadType)
}

func messenger(kind string) bool { return kind == "tim" || kind == "tim-fa" || kind == "tim-bot" }

// openingTimes: VZD-Service-Opening-TimeInv-1 and -2.
func (c *checker) openingTimes(r *Resource) {
	for i, v := range r.At("availableTime") {
		m, ok := v.(map[string]any)
		if !ok {
			continue
		}
		special, some, all := false, false, true
		extensions, _ := m["extension"].([]any)
		for _, e := range extensions {
			if x, ok := e.(map[string]any); ok && x["url"] == extensionSpecialOpening {
				special = true
			}
		}
		for _, name := range []string{"daysOfWeek", "availableStartTime", "availableEndTime"} {
			_, there := m[name]
			some, all = some || there, all && there
		}
		path := "HealthcareService.availableTime[" + strconv.Itoa(i) + "]"
		if special && some {
			c.report(CodeInvariant, path, "special opening times stand alone, without days and times")
		}
		if !special && !all {
			c.report(CodeInvariant, path, "regular opening times need day, begin and end")
		}
	}
}

// characteristics: codes of the two published systems must exist.
func (c *checker) characteristics(r *Resource) {
	for i, v := range r.At("characteristic") {
		m, ok := v.(map[string]any)
		if !ok {
			continue
		}
		codings, _ := m["coding"].([]any)
		for j, x := range codings {
			entry, _ := x.(map[string]any)
			k := coding(entry)
			for _, set := range []string{"PhysicalFeaturesHealthCareServiceVS", "healthcareservice-technical-characteristic-vs"} {
				if _, ours := valueSets()[set][k.System]; ours && !inSet(set, k.System, k.Code) {
					c.report(CodeCodeInvalid, "HealthcareService.characteristic["+strconv.Itoa(i)+"].coding["+strconv.Itoa(j)+"]", "must be a code of the value set %s", set)
				}
			}
		}
	}
}

// coverage: a coverage area is a radius in metres.
func (c *checker) coverage(r *Resource) {
	for _, v := range r.At("coverageArea", "extension") {
		m, ok := v.(map[string]any)
		if !ok || m["url"] != profileBase+"ServiceCoverageArea" {
			continue
		}
		if q, ok := m["valueQuantity"].(map[string]any); ok && (q["system"] != "http://unitsofmeasure.org" || q["code"] != "m") {
			c.report(CodeValue, "HealthcareService.coverageArea.extension.valueQuantity", "must be in metres (system http://unitsofmeasure.org, code m)")
		}
	}
}

// place: German states by name, coordinates on the globe.
func (c *checker) place(r *Resource) {
	for _, state := range r.Strings("address", "state") {
		if !inSet("AddressStateVS", directorySystem+"Region", state) {
			c.report(CodeCodeInvalid, "Location.address.state", "must be a code of the value set AddressStateVS")
		}
	}
	for name, most := range map[string]float64{"latitude": 90, "longitude": 180} {
		for _, n := range r.Numbers("position", name) {
			if math.Abs(n) > most {
				c.report(CodeValue, "Location.position."+name, "lies outside -%g to %g", most, most)
			}
		}
	}
}

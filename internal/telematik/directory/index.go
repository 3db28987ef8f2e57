// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"math"
	"slices"
	"strings"

	"github.com/konsil-health/konsil/internal/health/fhir"
)

// kind is how a search parameter compares.
type kind uint8

const (
	text  kind = iota + 1 // by prefix of words, folded
	token                 // by code, optionally with its system
	near                  // by distance
	ref                   // by what it refers to
	date                  // by time
)

// parameter is a search parameter of a resource type: where its values stand.
type parameter struct {
	name   string
	kind   kind
	values func(r *fhir.Resource) []fhir.Coding // text: Code holds the text
}

// link is a reference that a search may follow.
type link struct {
	name, element, target string
}

// short names a root in the index.
var short = map[string]string{fhir.PractitionerRole: "PR", fhir.HealthcareService: "HS", fhir.Endpoint: "EP"}

// links are the chains that a search may go, from each root (dossier §4.3).
var links = map[string][]link{
	fhir.PractitionerRole: {
		{"practitioner", "practitioner", fhir.Practitioner}, {"location", "location", fhir.Location}, {"endpoint", "endpoint", fhir.Endpoint},
		{"organization", "organization", fhir.Organization}, {"healthcareService", "healthcareService", fhir.HealthcareService},
	},
	fhir.HealthcareService: {
		{"organization", "providedBy", fhir.Organization}, {"location", "location", fhir.Location}, {"endpoint", "endpoint", fhir.Endpoint},
	},
	fhir.Endpoint: {{"organization", "managingOrganization", fhir.Organization}},
}

// parameters are those of each type, named as FHIR R4 and the directory's package name them.
var parameters = map[string][]parameter{
	fhir.Practitioner: {
		{"active", token, active}, {"identifier", token, codings("identifier")}, {"name", text, personName},
		{"family", text, texts("name", "family")}, {"given", text, texts("name", "given")}, {"qualification", token, withDisplay("qualification", "code")},
	},
	fhir.PractitionerRole: {
		{"active", token, active}, {"identifier", token, codings("identifier")}, {"specialty", token, withDisplay("specialty")}, {"role", token, withDisplay("code")},
		{"holder-id", token, holderID},
	},
	fhir.Organization: {
		{"active", token, active}, {"identifier", token, codings("identifier")}, {"name", text, texts("name")}, {"alias", text, texts("alias")},
		{"type", token, withDisplay("type")}, {"type-display", text, texts("type", "coding", "display")},
		{"organizationVisibility", token, visibility}, {"ncpeh-country", token, extensionCodings(fhir.ExtensionNCPeHCountry)},
	},
	fhir.HealthcareService: {
		{"active", token, active}, {"identifier", token, codings("identifier")}, {"name", text, texts("name")}, {"specialty", token, withDisplay("specialty")},
		{"holder-id", token, holderID}, {"coverageAreaPostalCode", text, coveragePostalCodes},
		{"service-type", token, withDisplay("type")}, {"service-category", token, withDisplay("category")}, {"characteristic", token, withDisplay("characteristic")},
	},
	fhir.Location: {
		{"name", text, texts("name")}, {"address", text, address}, {"address-city", text, texts("address", "city")}, {"address-postalcode", text, texts("address", "postalCode")},
		{"address-state", text, texts("address", "state")}, {"address-country", text, texts("address", "country")}, {"near", near, nil},
	},
	fhir.Endpoint: {
		{"status", token, codes("status")}, {"identifier", token, codings("identifier")}, {"name", text, texts("name")}, {"address", text, texts("address")},
		{"payload-type", token, withDisplay("payloadType")}, {"connection-type", token, withDisplay("connectionType")}, {"endpointVisibility", token, visibility},
	},
}

// everywhere are the parameters of every root.
var everywhere = []parameter{
	{"_id", token, codes("id")}, {"_tag", token, codings("meta", "tag")}, {"owner-telematik-id", token, ownerID}, {updatedParameter, date, nil},
}

func texts(path ...string) func(*fhir.Resource) []fhir.Coding {
	return func(r *fhir.Resource) []fhir.Coding { return plain(r.Strings(path...)) }
}

func codes(path ...string) func(*fhir.Resource) []fhir.Coding { return texts(path...) }

func plain(values []string) []fhir.Coding {
	all := make([]fhir.Coding, len(values))
	for i, v := range values {
		all[i].Code = v
	}
	return all
}

func codings(path ...string) func(*fhir.Resource) []fhir.Coding {
	return func(r *fhir.Resource) []fhir.Coding { return r.Codings(path...) }
}

// withDisplay finds a concept by its code and by its display.
func withDisplay(path ...string) func(*fhir.Resource) []fhir.Coding {
	return func(r *fhir.Resource) []fhir.Coding {
		found := r.Codings(path...)
		for _, c := range slices.Clone(found) {
			if c.Display != "" && c.Display != c.Code {
				found = append(found, fhir.Coding{System: c.System, Code: c.Display})
			}
		}
		return found
	}
}

// active is true where the resource does not say otherwise.
func active(r *fhir.Resource) []fhir.Coding {
	if r.Bool("active", true) {
		return []fhir.Coding{{Code: "true"}}
	}
	return []fhir.Coding{{Code: "false"}}
}

func personName(r *fhir.Resource) []fhir.Coding {
	parts := append(append(r.Strings("name", "prefix"), r.Strings("name", "given")...), r.Strings("name", "family")...)
	return plain(append(r.Strings("name", "text"), strings.Join(parts, " "), strings.Join(append(r.Strings("name", "family"), r.Strings("name", "given")...), " ")))
}

func address(r *fhir.Resource) []fhir.Coding {
	var all []string
	for _, part := range []string{"line", "city", "postalCode", "state", "country"} {
		all = append(all, r.Strings("address", part)...)
	}
	return plain(all)
}

func visibility(r *fhir.Resource) []fhir.Coding {
	return extensionCodings(fhir.ExtensionEndpointVisible, fhir.ExtensionOrganizationHides)(r)
}

// extensionCodings finds the Coding values of extensions.
func extensionCodings(urls ...string) func(*fhir.Resource) []fhir.Coding {
	return func(r *fhir.Resource) []fhir.Coding {
		var all []fhir.Coding
		for _, url := range urls {
			for _, v := range r.Extensions(url) {
				m, _ := v.(map[string]any)
				system, _ := m["system"].(string)
				if code, ok := m["code"].(string); ok {
					all = append(all, fhir.Coding{System: system, Code: code})
				}
			}
		}
		return all
	}
}

func holderID(r *fhir.Resource) []fhir.Coding {
	var all []string
	for _, v := range r.Extensions(fhir.ExtensionHolderID) {
		if code, ok := v.(string); ok {
			all = append(all, code)
		}
	}
	return plain(all)
}

func coveragePostalCodes(r *fhir.Resource) []fhir.Coding {
	var all []string
	for _, v := range r.At("coverageArea", "extension") {
		if m, ok := v.(map[string]any); ok && m["url"] == fhir.ExtensionCoveragePostalCode {
			if code, ok := m["valueString"].(string); ok {
				all = append(all, code)
			}
		}
	}
	return plain(all)
}

func ownerID(r *fhir.Resource) []fhir.Coding {
	var all []fhir.Coding
	for _, v := range r.Extensions(fhir.ExtensionOwnerTelematikID) {
		if m, ok := v.(map[string]any); ok {
			if s, ok := m["value"].(string); ok {
				all = append(all, fhir.Coding{System: fhir.SystemTelematikID, Code: s})
			}
		}
	}
	return all
}

// term is one row of the index: a value of a parameter. A text has one for each of its words, a token one for "code\x00system" and one for
// "\x00system"; the empty value stands for any, so that what is missing can be found.
type term struct{ param, value string }

// rows are the search values of one root.
type rows struct {
	terms     []term // sorted, each once
	texts     []term // folded texts as a whole, likewise
	encoded   []byte // the texts as they are stored
	positions []point
	active    bool
	hidden    bool
	sort      string
}

// hiddenMark stands before the values of endpoints that insured people must not find.
const hiddenMark = "!"

// lookup finds a resource by "Type/id"; nil where it does not exist.
type lookup func(reference string) *fhir.Resource

// index computes what a root is found by.
func index(r *fhir.Resource, find lookup) *rows {
	out := &rows{terms: make([]term, 0, 160), texts: make([]term, 0, 32), hidden: r.HiddenFromInsured()}
	root := short[r.Type()]
	out.take(root+":", "", r, parameters[r.Type()])
	out.take(root+":", "", r, everywhere)
	sentences := texted(r)
	switch r.Type() {
	case fhir.Endpoint:
		out.active = slices.Contains(r.Strings("status"), "active")
		out.sort = fold(strings.Join(r.Strings("name"), " "))
		for _, a := range r.Strings("address") {
			if user, ok := fhir.MatrixUser(a); ok {
				out.terms = append(out.terms, term{root + ":" + mxidParameter, user})
			}
		}
	case fhir.HealthcareService:
		out.sort = fold(strings.Join(r.Strings("name"), " "))
	}
	for _, l := range links[r.Type()] {
		for _, ref := range r.References(l.element) {
			out.add(root + ":" + l.name)
			target := find(ref)
			if target == nil || target.Type() != l.target {
				continue
			}
			mark := ""
			if l.target == fhir.Endpoint && target.HiddenFromInsured() {
				mark = hiddenMark
			}
			out.take(mark+root+":"+l.name+".", l.name, target, parameters[l.target])
			if l.target != fhir.Endpoint {
				sentences = append(sentences, texted(target)...)
			}
			switch {
			case l.name == "practitioner":
				out.active = target.Bool("active", true) && r.Bool("active", true)
				out.sort = fold(strings.Join(append(target.Strings("name", "family"), target.Strings("name", "given")...), " "))
			case l.name == "organization" && r.Type() == fhir.HealthcareService:
				out.active = target.Bool("active", true) && r.Bool("active", true)
				out.hidden = out.hidden || target.HiddenFromInsured()
				out.sort = fold(strings.Join(target.Strings("name"), " ") + " " + out.sort)
			}
		}
	}
	for _, s := range sentences {
		out.text(root+":_text", s)
	}
	out.terms, out.texts = unique(out.terms), unique(out.texts)
	out.encoded = encodeTexts(out.texts)
	return out
}

func unique(all []term) []term {
	slices.SortFunc(all, compareTerms)
	return slices.Compact(all)
}

// mxidParameter is the index of endpoints by Matrix user id; no search parameter has the name.
const mxidParameter = "mxid"

// take adds the values of a resource under a prefix.
func (out *rows) take(prefix, chain string, r *fhir.Resource, all []parameter) {
	for _, p := range all {
		switch p.kind {
		case near:
			lat, long := r.Numbers("position", "latitude"), r.Numbers("position", "longitude")
			if chain != "" && len(lat) == 1 && len(long) == 1 && math.Abs(lat[0]) <= 90 && math.Abs(long[0]) <= 180 {
				if at := (point{int32(lat[0] * 1e6), int32(long[0] * 1e6)}); !slices.Contains(out.positions, at) {
					out.positions = append(out.positions, at)
				}
			}
		case text:
			for _, v := range p.values(r) {
				out.text(prefix+p.name, v.Code)
			}
		case token:
			if p.name == idParameter {
				continue // the resources themselves are found by it
			}
			for _, v := range p.values(r) {
				if v.Code != "" && len(v.Code) <= 200 && len(v.System) <= 200 && !strings.ContainsRune(v.System+v.Code, 0) {
					out.add(prefix+p.name, v.Code+"\x00"+v.System, "\x00"+v.System)
				}
				if v.Display != "" {
					out.text(prefix+p.name+":text", v.Display)
				}
			}
		}
	}
}

// maxWords bounds how many words of a text are indexed.
const maxWords = 24

// text adds a text, word by word.
func (out *rows) text(param, value string) {
	folded := fold(value)
	if folded == "" || slices.Contains(out.texts, term{param, folded}) {
		return
	}
	out.texts = append(out.texts, term{param, folded})
	n := 0
	for word := range strings.SplitSeq(folded, " ") {
		out.add(param, cut(word))
		if n++; n == maxWords {
			return
		}
	}
}

// add puts values of a parameter into the index, and that there are any.
func (out *rows) add(param string, values ...string) {
	for _, v := range values {
		out.terms = append(out.terms, term{param, v})
	}
	if any := (term{param, ""}); !slices.Contains(out.terms[max(0, len(out.terms)-24):], any) { // mostly just before, if at all
		out.terms = append(out.terms, any)
	}
}

// updatedParameter is the parameter for when a resource itself was changed last.
const updatedParameter = "_lastUpdated"

// idParameter is the parameter for a resource's own id.
const idParameter = "_id"

// domainSystems are the naming systems of the identifiers that full-text search finds (FHIR_VZD_HOWTO_Search, "Contents of the _text attribute").
var domainSystems = []string{fhir.SystemTelematikID, "http://fhir.de/StructureDefinition/identifier-bsnr", "http://fhir.de/StructureDefinition/identifier-kzva",
	"http://fhir.de/StructureDefinition/identifier-iknr"}

// texted is what _text finds of a resource: names, concepts, address and identifiers.
func texted(r *fhir.Resource) []string {
	var all []string
	for _, path := range textPaths[r.Type()] {
		all = append(all, r.Strings(path...)...)
	}
	if r.Type() == fhir.Practitioner {
		for _, c := range personName(r) {
			all = append(all, c.Code)
		}
	}
	for _, c := range r.Codings("identifier") {
		if slices.Contains(domainSystems, c.System) {
			all = append(all, c.Code)
		}
	}
	return all
}

var textPaths = map[string][][]string{
	fhir.Organization:      {{"name"}, {"alias"}, {"type", "coding", "display"}, {"type", "coding", "code"}},
	fhir.HealthcareService: {{"name"}, {"specialty", "coding", "display"}, {"type", "coding", "display"}},
	fhir.Location:          {{"address", "line"}, {"address", "city"}, {"address", "postalCode"}},
	fhir.Practitioner:      {{"qualification", "code", "coding", "display"}},
	fhir.PractitionerRole:  {{"specialty", "coding", "display"}},
	fhir.Endpoint:          {{"name"}},
}

// parameterOf finds what a filter's chain means for a root type.
func parameterOf(root string, path []string) (parameter, bool) {
	switch len(path) {
	case 1:
		for _, l := range links[root] {
			if l.name == path[0] {
				return parameter{name: l.name, kind: ref}, true
			}
		}
		for _, p := range slices.Concat(parameters[root], everywhere) {
			if p.name == path[0] {
				return p, true
			}
		}
	case 2:
		for _, l := range links[root] {
			if l.name != path[0] {
				continue
			}
			for _, p := range parameters[l.target] {
				if p.name == path[1] {
					return p, true
				}
			}
		}
	}
	return parameter{}, false
}

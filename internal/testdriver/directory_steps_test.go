// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package testdriver_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
)

// entry is a FHIR resource.
type entry map[string]any

func (e entry) text(key string) string {
	s, _ := e[key].(string)
	return s
}

// code is the code of the connection type.
func (e entry) code() string {
	m, _ := e["connectionType"].(map[string]any)
	s, _ := m["code"].(string)
	return s
}

// hidden says whether an endpoint is kept from insured people.
func (e entry) hidden() bool {
	list, _ := e["extension"].([]any)
	return slices.ContainsFunc(list, func(x any) bool {
		m, _ := x.(map[string]any)
		coding, _ := m["valueCoding"].(map[string]any)
		return coding["code"] == "hide-versicherte"
	})
}

func matrixURI(user string) string { return "matrix:u/" + strings.TrimPrefix(user, "@") }

// search asks a driver for entries.
func (a *actor) search(ctx context.Context, path string, query url.Values) ([]entry, error) {
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	var found struct {
		Entry []struct {
			Resource entry `json:"resource"`
		} `json:"entry"`
	}
	err := a.do(ctx, http.MethodGet, path, nil, &found)
	all := make([]entry, len(found.Entry))
	for i, e := range found.Entry {
		all[i] = e.Resource
	}
	return all, err
}

// at finds the endpoint with somebody's address.
func at(all []entry, user string) (entry, bool) {
	i := slices.IndexFunc(all, func(e entry) bool { return e.text("address") == matrixURI(user) })
	if i < 0 {
		return nil, false
	}
	return all[i], true
}

// realName is a HealthcareService's name, which nobody else has.
func (p *play) realName(service string) string { return fmt.Sprintf("%s Nr%dx", service, p.number) }

func (p *play) inService(ctx context.Context, name, who, service, kind string) (bool, error) {
	all, err := p.actors[name].search(ctx, "/fhir/searchOrganizationInFhirDirectory", url.Values{"healthcareServiceName": {p.realName(service)}})
	e, ok := at(all, p.actors[who].account.User)
	return ok && (kind == "" || e.code() == kind), err
}

func (p *play) finds(ctx context.Context, name, who, service, kind string) error {
	ok, err := p.inService(ctx, name, who, service, kind)
	if err == nil && !ok {
		err = errors.New("the entry is not found")
	}
	return err
}

func (p *play) inFHIR(ctx context.Context, name, who string) (bool, error) {
	user := p.actors[who].account.User
	all, err := p.actors[name].search(ctx, "/fhir/searchPractitionerInFhirDirectory", url.Values{"mxid": {matrixURI(user)}})
	_, ok := at(all, user)
	return ok, err
}

// card reads from the list of devices what stands on somebody's card.
func (p *play) cardName(ctx context.Context, name string) (string, error) {
	var list struct {
		Devices []struct {
			ID   int    `json:"deviceId"`
			Name string `json:"cn"`
		} `json:"devices"`
	}
	err := p.actors[name].call(ctx, http.MethodGet, "/devices", nil, &list)
	for _, d := range list.Devices {
		if d.ID == p.actors[name].device {
			return d.Name, err
		}
	}
	return "", err
}

// cut shortens a name at both ends.
func cut(name string, front, back int) string { return name[front : len(name)-back] }

func must(ok bool, err error, what string) error {
	if err == nil && !ok {
		err = errors.New(what)
	}
	return err
}

func (p *play) looking() map[string]any {
	const fdv, short = `( über die FDV-Schnittstelle)?`, ` bei Suche nach Namen minus (\d+)-(\d+) \(Anzahl vorne-hinten\) Char\(s\) abgeschnitten`
	return map[string]any{
		`"([A-Z])" findet TI-Messenger-Nutzer "([A-Z])" bei der Suche im HomeServer( nicht \[Retry \d+ - \d+\])?`: func(ctx context.Context, name, who, not string) error {
			var found struct {
				Results []struct {
					User string `json:"mxId"`
				} `json:"searchResults"`
			}
			other := p.actors[who].account
			err := p.actors[name].do(ctx, http.MethodGet, "/homeserver/search?displayName="+url.QueryEscape(other.DisplayName), nil, &found)
			got := false
			for _, r := range found.Results {
				got = got || r.User == other.User
			}
			return must(got == (not == ""), err, fmt.Sprintf("the search for %q finds %v", other.DisplayName, found.Results))
		},
		`"([A-Z])" findet "([A-Z])" im Healthcare-Service "([^"]*)"` + fdv: func(ctx context.Context, name, who, service, _ string) error {
			return p.finds(ctx, name, who, service, "")
		},
		`"([A-Z])" findet "([A-Z])" im Healthcare-Service "([^"]*)" mit dem ConnectionType "([^"]*)"`: p.finds,
		`"([A-Z])" findet "([A-Z])" im Healthcare-Service "([^"]*)" über die FDV-Schnittstelle NICHT` + retry: func(ctx context.Context, name, who, service string) error {
			ok, err := p.inService(ctx, name, who, service, "")
			return must(!ok, err, "the entry is found")
		},
		`"([A-Z])" findet Healthcare-Service "([^"]*)"` + short + fdv: func(ctx context.Context, name, service string, front, back int, _ string) error {
			all, err := p.actors[name].search(ctx, "/fhir/searchOrganizationInFhirDirectory", url.Values{"healthcareServiceName": {cut(p.realName(service), front, back)}})
			return must(slices.ContainsFunc(all, func(e entry) bool { return e.text("name") == p.realName(service) }), err, "it is not found")
		},
		`"([A-Z])" findet TI-Messenger-Nutzer "([A-Z])"` + short + fdv: func(ctx context.Context, name, who string, front, back int, _ string) error {
			full, err := p.cardName(ctx, who)
			if err != nil {
				return err
			}
			all, err := p.actors[name].search(ctx, "/fhir/searchPractitionerInFhirDirectory", url.Values{"name": {cut(full, front, back)}})
			_, ok := at(all, p.actors[who].account.User)
			return must(ok, err, "the person is not found by "+cut(full, front, back))
		},
		`"([A-Z])" findet "([A-Z])" in FHIR` + fdv: func(ctx context.Context, name, who, _ string) error {
			ok, err := p.inFHIR(ctx, name, who)
			return must(ok, err, "the person is not found")
		},
		`"([A-Z])" (?:kann "([A-Z])" nicht mehr finden in FHIR|findet "([A-Z])" bei Suche in FHIR über die FDV-Schnittstelle NICHT)` + retry: func(ctx context.Context, name, one, other string) error {
			ok, err := p.inFHIR(ctx, name, one+other)
			return must(!ok, err, "the person is found")
		},
		names + ` (?:hinterlegt seine MXID|hinterlegen ihre MXIDs) im Verzeichnis Dienst`: func(ctx context.Context, list string) error {
			for _, name := range quoted(list) {
				if err := p.actors[name].do(ctx, http.MethodPost, "/fhir/fhirAuthenticate", nil, nil); err != nil {
					return err
				}
				if err := p.actors[name].do(ctx, http.MethodPost, "/fhir/mxidInFhirDirectory", nil, nil); err != nil {
					return err
				}
			}
			return nil
		},
		`"([A-Z])" löscht seine MXID im Verzeichnis Dienst`: func(ctx context.Context, name string) error {
			return p.actors[name].do(ctx, http.MethodDelete, "/fhir/mxidInFhirDirectory", nil, nil)
		},
		`"([A-Z])" (setzt|löscht) die endpointVisibility (?:hide-versicherte )?für seine Practitioner Endpunkt Extension(?: auf hide-versicherte)?`: func(ctx context.Context, name, how string) error {
			return p.actors[name].do(ctx, hiding[how], "/fhir/endpointVisibility", nil, nil)
		},
		`"([A-Z])" sieht die eigene endpointVisibility der Practitioner Endpunkt Extension (ist|NICHT mehr) auf dem Wert hide-versicherte(?: \[Retry \d+ - \d+\])?`: func(ctx context.Context, name, is string) error {
			all, err := p.actors[name].search(ctx, "/fhir/mxidInFhirDirectory", nil)
			e, ok := at(all, p.actors[name].account.User)
			return must(ok && e.hidden() == (is == "ist"), err, "the visibility is another one")
		},
	}
}

var hiding = map[string]string{"setzt": http.MethodPost, "löscht": http.MethodDelete}

const (
	services       = "/fhir/org/healthcareService"
	codeSystems    = "https://gematik.de/fhir/directory/CodeSystem/"
	functionalKind = "tim-fa"
)

// newEndpoint is an address as an administrator enters it.
func (p *play) newEndpoint(who, kind string) entry {
	return entry{"resourceType": "Endpoint", "status": "active", "name": "Empfang " + who, "address": matrixURI(p.actors[who].account.User),
		"connectionType": map[string]any{"system": codeSystems + "EndpointDirectoryConnectionType", "code": kind},
		"payloadType":    []any{map[string]any{"coding": []any{map[string]any{"system": codeSystems + "EndpointDirectoryPayloadType", "code": "tim-chat"}}}}}
}

func (p *play) createService(ctx context.Context, name, service string) error {
	var made entry
	err := p.actors[name].do(ctx, http.MethodPost, services, entry{"resourceType": "HealthcareService", "name": p.realName(service)}, &made)
	p.entries[service] = made.text("id")
	return err
}

func (p *play) createEndpoint(ctx context.Context, name, who, service, kind string) error {
	return p.actors[name].do(ctx, http.MethodPost, p.service(service)+"/endpoint", p.newEndpoint(who, kind), nil)
}

func (p *play) service(service string) string { return services + "/" + p.entries[service] }

func (p *play) endpoints(ctx context.Context, name, service string) ([]entry, error) {
	return p.actors[name].search(ctx, p.service(service)+"/endpoint", nil)
}

// endpoint finds somebody's address in a service; an empty name takes the only one.
func (p *play) endpoint(ctx context.Context, name, who, service string) (entry, error) {
	all, err := p.endpoints(ctx, name, service)
	if err != nil {
		return nil, err
	}
	if who == "" && len(all) == 1 {
		return all[0], nil
	}
	if who != "" {
		if e, ok := at(all, p.actors[who].account.User); ok {
			return e, nil
		}
	}
	return nil, fmt.Errorf("no such endpoint among %d", len(all))
}

func (p *play) change(ctx context.Context, name, who, service string, how func(entry)) error {
	e, err := p.endpoint(ctx, name, who, service)
	if err != nil {
		return err
	}
	how(e)
	return p.actors[name].do(ctx, http.MethodPut, p.service(service)+"/endpoint/"+e.text("id"), e, nil)
}

// document reads one of the suite's JSON files, with the organisation in its place.
func (p *play) document(ctx context.Context, name, file string) (entry, error) {
	text, err := os.ReadFile(filepath.Join(testsuite(), "json", file))
	if err != nil {
		return nil, err
	}
	var organisation, e entry
	if err := p.actors[name].do(ctx, http.MethodGet, "/fhir/org", nil, &organisation); err != nil {
		return nil, err
	}
	return e, json.Unmarshal([]byte(strings.ReplaceAll(string(text), "{{ORG_ID_REF}}", "Organization/"+organisation.text("id"))), &e)
}

// equal compares what a document says with an entry; what the directory adds does not matter, nor does what it says of the origin.
func equal(want, got entry) error {
	for key, value := range want {
		if key == "meta" {
			continue
		}
		a, err := json.Marshal(value, json.Deterministic(true))
		if err != nil {
			return err
		}
		b, err := json.Marshal(got[key], json.Deterministic(true))
		if err != nil || string(a) != string(b) {
			return fmt.Errorf("%s is %s instead of %s (%w)", key, b, a, err)
		}
	}
	return nil
}

func (p *play) administration() map[string]any {
	return map[string]any{
		`"([A-Z])" erstellt einen Healthcare-Service "([^"]*)"`: p.createService,
		`"([A-Z])" erstellt einen Healthcare-Service "([^"]*)" und setzen einen (Funktionsaccount-)?Endpunkt auf "([A-Z])"`: func(ctx context.Context, name, service, functional, who string) error {
			kind := "tim"
			if functional != "" {
				kind = functionalKind
			}
			if err := p.createService(ctx, name, service); err != nil {
				return err
			}
			return p.createEndpoint(ctx, name, who, service, kind)
		},
		`"([A-Z])" erstellt Endpunkt für "([A-Z])" auf Healthcare-Service "([^"]*)"`: func(ctx context.Context, name, who, service string) error {
			return p.createEndpoint(ctx, name, who, service, "tim")
		},
		`"([A-Z])" ändert den Endpunkt des Healthcare-Services "([^"]*)" auf "([A-Z])"`: func(ctx context.Context, name, service, who string) error {
			return p.change(ctx, name, "", service, func(e entry) { e["address"] = matrixURI(p.actors[who].account.User) })
		},
		`"([A-Z])" ändert den Endpunktname von "([A-Z])" des Healthcare-Services "([^"]*)"`: func(ctx context.Context, name, who, service string) error {
			return p.change(ctx, name, who, service, func(e entry) { e["name"] = "Anderer Empfang" })
		},
		`"([A-Z])" ändert den Endpunkt von "([A-Z])" im Healthcare-Service "([^"]*)" mit dem JSON "([^"]*)"`: func(ctx context.Context, name, who, service, file string) error {
			document, err := p.document(ctx, name, file)
			if err != nil {
				return err
			}
			return p.change(ctx, name, who, service, func(e entry) {
				for key, value := range document {
					if key != "address" { // the file has only the beginning of one
						e[key] = value
					}
				}
			})
		},
		`entspricht der Endpunkt von "([A-Z])" im Healthcare-Service "([^"]*)" dem JSON "([^"]*)"`: func(ctx context.Context, who, service, file string) error {
			document, err := p.document(ctx, "A", file)
			if err != nil {
				return err
			}
			delete(document, "address")
			e, err := p.endpoint(ctx, "A", who, service)
			if err != nil {
				return err
			}
			return equal(document, e)
		},
		`"([A-Z])" ändert die Daten des Healthcare-Service "([^"]*)" mit JSON "([^"]*)"`: func(ctx context.Context, name, service, file string) error {
			document, err := p.document(ctx, name, file)
			if err != nil {
				return err
			}
			return p.actors[name].do(ctx, http.MethodPut, p.service(service), document, nil)
		},
		`vergleicht "([A-Z])" den Healthcare-Service "([^"]*)" mit dem JSON "([^"]*)"`: func(ctx context.Context, name, service, file string) error {
			document, err := p.document(ctx, name, file)
			if err != nil {
				return err
			}
			var e entry
			if err := p.actors[name].do(ctx, http.MethodGet, p.service(service), nil, &e); err != nil {
				return err
			}
			return equal(document, e)
		},
		`"([A-Z])" sieht, dass ` + names + ` (?:je|genau) einen Endpunkt im Healthcare-Service "([^"]*)" (?:haben|hat)`: func(ctx context.Context, name, list, service string) error {
			all, err := p.endpoints(ctx, name, service)
			for _, who := range quoted(list) {
				n := 0
				for _, e := range all {
					if e.text("address") == matrixURI(p.actors[who].account.User) {
						n++
					}
				}
				err = errors.Join(err, must(n == 1, nil, fmt.Sprintf("%s has %d", who, n)))
			}
			return errors.Join(err, must(len(all) == len(quoted(list)), nil, fmt.Sprintf("there are %d", len(all))))
		},
		`"([A-Z])" löscht den Endpoint von "([A-Z])" für den Healthcare-Service "([^"]*)"`: func(ctx context.Context, name, who, service string) error {
			e, err := p.endpoint(ctx, name, who, service)
			if err != nil {
				return err
			}
			return p.actors[name].do(ctx, http.MethodDelete, p.service(service)+"/endpoint/"+e.text("id"), nil, nil)
		},
		`existiert kein Endpoint von "([A-Z])" für den Healthcare-Service "([^"]*)"` + retry: func(ctx context.Context, who, service string) error {
			all, err := p.endpoints(ctx, "A", service)
			_, ok := at(all, p.actors[who].account.User)
			return must(!ok, err, "there it is")
		},
		`"([A-Z])" löscht den Healthcare-Service "([^"]*)"`: func(ctx context.Context, name, service string) error {
			p.deleted = p.service(service)
			return p.actors[name].do(ctx, http.MethodDelete, p.deleted, nil, nil)
		},
		`existiert der zuletzt gelöschte Healthcare-Service nicht mehr` + retry: func(ctx context.Context) error {
			if err := p.try(p.actors["A"].do(ctx, http.MethodGet, p.deleted, nil, nil)); err != nil || p.status != http.StatusNotFound {
				return fmt.Errorf("%d (%w)", p.status, err)
			}
			return nil
		},
		`"([A-Z])" (setzt|löscht) die endpointVisibility (?:hide-versicherte )?für die Endpunkt Extension von "([A-Z])" im Healthcare-Service "([^"]*)"(?: auf hide-versicherte)?`: func(ctx context.Context, name, how, who, service string) error {
			e, err := p.endpoint(ctx, name, who, service)
			if err != nil {
				return err
			}
			return p.actors[name].do(ctx, hiding[how], p.service(service)+"/endpointVisibility/"+e.text("id"), nil, nil)
		},
		`"([A-Z])" sieht die endpointVisibility für die Endpunkt Extension von "([A-Z])" im Healthcare-Service "([^"]*)" (auf|NICHT mehr auf dem Wert) hide-versicherte(?: \[Retry \d+ - \d+\])?`: func(ctx context.Context, name, who, service, is string) error {
			e, err := p.endpoint(ctx, name, who, service)
			return must(err == nil && e.hidden() == (is == "auf"), err, "the visibility is another one")
		},
	}
}

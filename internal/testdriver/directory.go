// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package testdriver

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
)

// directoryOperations administer entries of the directory: an organisation's administrator those of the organisation, a professional the own one.
var directoryOperations = map[string]operation{
	"GET /fhir/org":                            {status: http.StatusOK, signedIn: true, do: readOrganization},
	"POST " + services:                         {status: http.StatusCreated, signedIn: true, do: createService},
	"GET " + service:                           {status: http.StatusOK, signedIn: true, do: readService},
	"PUT " + service:                           {status: http.StatusOK, signedIn: true, do: updateService},
	"DELETE " + service:                        {status: http.StatusNoContent, signedIn: true, do: deleteService},
	"GET " + service + "/endpoint":             {status: http.StatusOK, signedIn: true, do: listEndpoints},
	"POST " + service + "/endpoint":            {status: http.StatusCreated, signedIn: true, do: createEndpoint},
	"GET " + service + "/endpoint/{end}":       {status: http.StatusOK, signedIn: true, do: readEndpoint},
	"PUT " + service + "/endpoint/{end}":       {status: http.StatusOK, signedIn: true, do: updateEndpoint},
	"DELETE " + service + "/endpoint/{end}":    {status: http.StatusNoContent, signedIn: true, do: deleteEndpoint},
	"POST " + service + visibility + "{end}":   {status: http.StatusCreated, signedIn: true, do: setHidden(true)},
	"DELETE " + service + visibility + "{end}": {status: http.StatusNoContent, signedIn: true, do: setHidden(false)},

	"POST /fhir/fhirAuthenticate":      {status: http.StatusOK, signedIn: true, do: authenticate},
	"POST /fhir/mxidInFhirDirectory":   {status: http.StatusCreated, signedIn: true, do: enterAddress},
	"GET /fhir/mxidInFhirDirectory":    {status: http.StatusOK, signedIn: true, do: readAddress},
	"DELETE /fhir/mxidInFhirDirectory": {status: http.StatusNoContent, signedIn: true, do: removeAddress},
	"POST /fhir/endpointVisibility":    {status: http.StatusCreated, signedIn: true, do: hideAddress(true)},
	"DELETE /fhir/endpointVisibility":  {status: http.StatusNoContent, signedIn: true, do: hideAddress(false)},
}

const (
	services   = "/fhir/org/healthcareService"
	service    = services + "/{hs}"
	visibility = "/endpointVisibility/"

	healthcareService = "HealthcareService"
	endpoint          = "Endpoint"
	practitionerRole  = "PractitionerRole"

	directoryBase       = "https://gematik.de/fhir/directory/"
	visibilityExtension = directoryBase + "StructureDefinition/EndpointVisibility"
	visibilitySystem    = directoryBase + "CodeSystem/EndpointVisibilityCS"
)

// resource is a FHIR resource as it comes.
type resource map[string]any

func (r resource) text(key string) string {
	s, _ := r[key].(string)
	return s
}

func (r resource) reference() string { return r.text("resourceType") + "/" + r.text("id") }

// references are the endpoints that an entry links.
func (r resource) references() []string {
	var all []string
	list, _ := r["endpoint"].([]any)
	for _, v := range list {
		m, _ := v.(map[string]any)
		if s, ok := m["reference"].(string); ok {
			all = append(all, s)
		}
	}
	return all
}

func (r resource) link(references []string) {
	if len(references) == 0 {
		delete(r, "endpoint")
		return
	}
	list := make([]any, len(references))
	for i, ref := range references {
		list[i] = map[string]any{"reference": ref}
	}
	r["endpoint"] = list
}

// shown is a resource with the extensions that the interface knows: those of a coding.
func (r resource) shown() resource {
	extensions, _ := r["extension"].([]any)
	kept := slices.DeleteFunc(slices.Clone(extensions), func(x any) bool {
		m, _ := x.(map[string]any)
		return m["valueCoding"] == nil
	})
	out := maps.Clone(r)
	delete(out, "extension")
	if len(kept) > 0 {
		out["extension"] = kept
	}
	return out
}

// ownerToken proves the account to the directory: an administrator by the registration service, a professional by the card.
func (v *device) ownerToken(ctx context.Context) (string, error) {
	if v.owner != "" {
		return v.owner, nil
	}
	d := v.driver
	switch {
	case d.o.Organization && d.o.Registration != "":
		var vouched struct {
			Token string `json:"token"`
		}
		if err := d.fetch(ctx, http.MethodPost, d.o.Registration+"/owner-token", map[string]string{"Authorization": "Bearer " + v.client.Client.AccessToken}, nil, &vouched); err != nil {
			return "", err
		}
		var access struct {
			Token string `json:"access_token"`
		}
		err := d.fetch(ctx, http.MethodGet, d.o.Directory+"/owner-authenticate", map[string]string{"Authorization": "Bearer " + vouched.Token}, nil, &access)
		v.owner = access.Token
		return v.owner, err
	case d.o.Practitioner && d.o.CardOwner != nil:
		var err error
		v.owner, err = d.o.CardOwner(ctx, v.account)
		return v.owner, err
	}
	return "", fail(http.StatusNotImplemented, "CARD", "this device has nothing to prove itself to the directory with")
}

// owned asks the owners' interface.
func (v *device) owned(ctx context.Context, method, path string, in, into any) error {
	token, err := v.ownerToken(ctx)
	if err != nil {
		return err
	}
	text, err := json.Marshal(in)
	if err != nil {
		return err
	}
	header := map[string]string{"Authorization": "Bearer " + token}
	if in == nil {
		return v.driver.fetch(ctx, method, v.driver.o.Directory+"/owner/"+path, header, nil, into)
	}
	header["Content-Type"] = "application/fhir+json"
	return v.driver.fetch(ctx, method, v.driver.o.Directory+"/owner/"+path, header, bytes.NewReader(text), into)
}

// all lists the own resources of a type.
func (v *device) all(ctx context.Context, kind string) ([]resource, error) {
	var found struct {
		Entry []struct {
			Resource resource `json:"resource"`
		} `json:"entry"`
	}
	err := v.owned(ctx, http.MethodGet, kind, nil, &found)
	var all []resource
	for _, e := range found.Entry {
		all = append(all, e.Resource)
	}
	return all, err
}

func (v *device) get(ctx context.Context, reference string) (resource, error) {
	var r resource
	return r, v.owned(ctx, http.MethodGet, reference, nil, &r)
}

func (v *device) put(ctx context.Context, r resource) (resource, error) {
	var stored resource
	return stored, v.owned(ctx, http.MethodPut, r.reference(), r, &stored)
}

func readOrganization(ctx context.Context, v *device, _ *http.Request) (any, error) {
	all, err := v.all(ctx, "Organization")
	if err == nil && len(all) == 0 {
		err = fail(http.StatusNotFound, "NOT_FOUND", "the organisation has no entry")
	}
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

func createService(ctx context.Context, v *device, r *http.Request) (any, error) {
	var given, stored resource
	if err := body(r, &given); err != nil {
		return nil, err
	}
	if given["providedBy"] == nil {
		organisation, err := v.all(ctx, "Organization")
		if err != nil || len(organisation) == 0 {
			return nil, errors.Join(err, fail(http.StatusNotFound, "NOT_FOUND", "the organisation has no entry"))
		}
		given["providedBy"] = map[string]any{"reference": organisation[0].reference()}
	}
	if err := v.owned(ctx, http.MethodPost, healthcareService, given, &stored); err != nil {
		return nil, err
	}
	v.driver.remember(stored.text("id"))
	return stored, nil
}

func (d *Driver) remember(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.services[id] = true
}

// created returns what is left of what this driver has created, and forgets it.
func (d *Driver) created() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := slices.Sorted(maps.Keys(d.services))
	clear(d.services)
	return all
}

func readService(ctx context.Context, v *device, r *http.Request) (any, error) {
	return v.get(ctx, healthcareService+"/"+r.PathValue("hs"))
}

// updateService changes an entry; its endpoints stay unless the new one has some.
func updateService(ctx context.Context, v *device, r *http.Request) (any, error) {
	var given resource
	if err := body(r, &given); err != nil {
		return nil, err
	}
	old, err := v.get(ctx, healthcareService+"/"+r.PathValue("hs"))
	if err != nil {
		return nil, err
	}
	given["id"] = old["id"]
	if given["endpoint"] == nil {
		given.link(old.references())
	}
	return v.put(ctx, given)
}

func deleteService(ctx context.Context, v *device, r *http.Request) (any, error) {
	return nil, v.dropService(ctx, r.PathValue("hs"))
}

// dropService deletes an entry with its endpoints.
func (v *device) dropService(ctx context.Context, id string) error {
	old, err := v.get(ctx, healthcareService+"/"+id)
	if err != nil {
		return err
	}
	if err := v.owned(ctx, http.MethodDelete, old.reference(), nil, nil); err != nil {
		return err
	}
	for _, ref := range old.references() {
		if err := v.owned(ctx, http.MethodDelete, ref, nil, nil); err != nil {
			return err
		}
	}
	return nil
}

func (v *device) endpoints(ctx context.Context, entry resource) ([]resource, error) {
	all := []resource{}
	for _, ref := range entry.references() {
		e, err := v.get(ctx, ref)
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

func searchset(all []resource) any {
	entries := []any{}
	for _, r := range all {
		entries = append(entries, map[string]any{"resource": r.shown()})
	}
	return map[string]any{"resourceType": "Bundle", "type": "searchset", "total": len(all), "entry": entries}
}

func listEndpoints(ctx context.Context, v *device, r *http.Request) (any, error) {
	entry, err := v.get(ctx, healthcareService+"/"+r.PathValue("hs"))
	if err != nil {
		return nil, err
	}
	all, err := v.endpoints(ctx, entry)
	return searchset(all), err
}

func createEndpoint(ctx context.Context, v *device, r *http.Request) (any, error) {
	var given resource
	if err := body(r, &given); err != nil {
		return nil, err
	}
	entry, err := v.get(ctx, healthcareService+"/"+r.PathValue("hs"))
	if err != nil {
		return nil, err
	}
	stored, err := v.attach(ctx, entry, given)
	return stored.shown(), err
}

// attach adds an endpoint to an entry.
func (v *device) attach(ctx context.Context, entry, given resource) (resource, error) {
	var stored resource
	if err := v.owned(ctx, http.MethodPost, endpoint, given, &stored); err != nil {
		return nil, err
	}
	entry.link(append(entry.references(), stored.reference()))
	_, err := v.put(ctx, entry)
	return stored, err
}

// detach takes an endpoint off an entry and deletes it.
func (v *device) detach(ctx context.Context, entry resource, reference string) error {
	entry.link(slices.DeleteFunc(entry.references(), func(ref string) bool { return ref == reference }))
	if _, err := v.put(ctx, entry); err != nil {
		return err
	}
	return v.owned(ctx, http.MethodDelete, reference, nil, nil)
}

func readEndpoint(ctx context.Context, v *device, r *http.Request) (any, error) {
	e, err := v.get(ctx, endpoint+"/"+r.PathValue("end"))
	return e.shown(), err
}

func updateEndpoint(ctx context.Context, v *device, r *http.Request) (any, error) {
	var given resource
	if err := body(r, &given); err != nil {
		return nil, err
	}
	given["id"] = r.PathValue("end")
	stored, err := v.put(ctx, given)
	return stored.shown(), err
}

func deleteEndpoint(ctx context.Context, v *device, r *http.Request) (any, error) {
	entry, err := v.get(ctx, healthcareService+"/"+r.PathValue("hs"))
	if err != nil {
		return nil, err
	}
	return nil, v.detach(ctx, entry, endpoint+"/"+r.PathValue("end"))
}

func setHidden(hidden bool) func(context.Context, *device, *http.Request) (any, error) {
	return func(ctx context.Context, v *device, r *http.Request) (any, error) {
		e, err := v.get(ctx, endpoint+"/"+r.PathValue("end"))
		if err != nil {
			return nil, err
		}
		stored, err := v.hide(ctx, e, hidden)
		if !hidden {
			return nil, err
		}
		return stored.shown(), err
	}
}

// hide keeps an endpoint from insured people, or shows it again (AF_10377-01).
func (v *device) hide(ctx context.Context, e resource, hidden bool) (resource, error) {
	extensions, _ := e["extension"].([]any)
	extensions = slices.DeleteFunc(extensions, func(x any) bool {
		m, _ := x.(map[string]any)
		return m["url"] == visibilityExtension
	})
	if hidden {
		extensions = append(extensions, map[string]any{"url": visibilityExtension, "valueCoding": map[string]any{"system": visibilitySystem, "code": "hide-versicherte"}})
	}
	e["extension"] = extensions
	return v.put(ctx, e)
}

func authenticate(ctx context.Context, v *device, _ *http.Request) (any, error) {
	_, err := v.ownerToken(ctx)
	return nil, err
}

// role is the professional's entry.
func (v *device) role(ctx context.Context) (resource, error) {
	all, err := v.all(ctx, practitionerRole)
	if err == nil && len(all) == 0 {
		err = fail(http.StatusNotFound, "NOT_FOUND", "the professional has no entry")
	}
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// address finds the own Matrix ID among the endpoints of the own entry; nil when it is not there.
func (v *device) address(ctx context.Context, entry resource) (resource, error) {
	all, err := v.endpoints(ctx, entry)
	i := slices.IndexFunc(all, func(e resource) bool {
		return strings.EqualFold(e.text("address"), matrixURI(v.client.User().String()))
	})
	if err != nil || i < 0 {
		return nil, err
	}
	return all[i], nil
}

// enterAddress puts the own Matrix ID into the own entry (AF_10058-02).
func enterAddress(ctx context.Context, v *device, _ *http.Request) (any, error) {
	entry, err := v.role(ctx)
	if err != nil {
		return nil, err
	}
	if e, err := v.address(ctx, entry); err != nil || e != nil {
		return e.shown(), err
	}
	stored, err := v.attach(ctx, entry, resource{
		"resourceType": endpoint, "status": "active", "name": v.name, "address": matrixURI(v.client.User().String()),
		"connectionType": map[string]any{"system": directoryBase + "CodeSystem/EndpointDirectoryConnectionType", "code": "tim"},
		"payloadType":    []any{map[string]any{"coding": []any{map[string]any{"system": directoryBase + "CodeSystem/EndpointDirectoryPayloadType", "code": "tim-chat"}}}},
	})
	return stored.shown(), err
}

func readAddress(ctx context.Context, v *device, _ *http.Request) (any, error) {
	entry, err := v.role(ctx)
	if err != nil {
		return nil, err
	}
	all, err := v.endpoints(ctx, entry)
	return searchset(append([]resource{entry}, all...)), err
}

func removeAddress(ctx context.Context, v *device, _ *http.Request) (any, error) {
	return nil, v.removeAddress(ctx)
}

func (v *device) removeAddress(ctx context.Context) error {
	entry, err := v.role(ctx)
	if err != nil {
		return err
	}
	e, err := v.address(ctx, entry)
	if err != nil || e == nil {
		return err
	}
	return v.detach(ctx, entry, e.reference())
}

func hideAddress(hidden bool) func(context.Context, *device, *http.Request) (any, error) {
	return func(ctx context.Context, v *device, _ *http.Request) (any, error) {
		entry, err := v.role(ctx)
		if err != nil {
			return nil, err
		}
		e, err := v.address(ctx, entry)
		if err != nil || e == nil {
			return nil, errors.Join(err, fail(http.StatusNotFound, "NOT_FOUND", "the own Matrix ID is not in the directory"))
		}
		stored, err := v.hide(ctx, e, hidden)
		if !hidden {
			return nil, err
		}
		return stored.shown(), err
	}
}

// cleanDirectory removes what tests have put into the directory.
func (v *device) cleanDirectory(ctx context.Context) error {
	if v.driver.o.Practitioner && v.owner != "" {
		return v.removeAddress(ctx)
	}
	if !v.driver.o.Organization {
		return nil
	}
	for _, id := range v.driver.created() {
		var f *failure
		if err := v.dropService(ctx, id); err != nil && !(errors.As(err, &f) && f.status == http.StatusNotFound) {
			return err
		}
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"reflect"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/health/fhir"
)

// owner hands the Telematik-ID of a valid owner token to a handler.
func (s *Service) owner(handle func(w http.ResponseWriter, r *http.Request, owner string) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		access, err := s.allowed(bearer(r), ownerPath)
		if err != nil {
			s.refuse(w, login(err))
			return
		}
		if err := handle(w, r, access.Subject); err != nil {
			s.refuse(w, err)
		}
	}
}

// listOwned answers the owner's own resources of a type.
func (s *Service) listOwned(w http.ResponseWriter, r *http.Request, owner string) error {
	all, err := s.o.Store.Owned(r.Context(), owner, r.PathValue("type"))
	if err != nil {
		return err
	}
	bundle := fhir.NewSearchset()
	bundle.Total = len(all)
	for _, resource := range all {
		bundle.Add(s.o.Base+ownerPath, resource, "match")
	}
	send(w, http.StatusOK, bundle)
	return nil
}

func (s *Service) readOwned(w http.ResponseWriter, r *http.Request, owner string) error {
	resource, err := s.own(r, owner)
	if err != nil {
		return err
	}
	send(w, http.StatusOK, resource)
	return nil
}

// own reads the resource that a path names, when the owner owns it.
func (s *Service) own(r *http.Request, owner string) (*fhir.Resource, error) {
	resource, by, err := s.o.Store.Get(r.Context(), r.PathValue("type")+"/"+r.PathValue("id"))
	switch {
	case err != nil:
		return nil, err
	case resource == nil:
		return nil, fhir.Refuse(http.StatusNotFound, fhir.CodeNotFound, "there is no such resource")
	case by != owner:
		return nil, fhir.Refuse(http.StatusForbidden, fhir.CodeForbidden, "the resource belongs to somebody else")
	}
	return resource, nil
}

// createOwned adds an Endpoint, or a HealthcareService beside the one that comes from the card issuers.
func (s *Service) createOwned(w http.ResponseWriter, r *http.Request, owner string) error {
	resource, err := body(w, r)
	if err != nil {
		return err
	}
	store := map[string]storer{fhir.Endpoint: s.storeEndpoint, fhir.HealthcareService: s.storeService}[resource.Type()]
	if store == nil || r.PathValue("type") != resource.Type() {
		return fhir.Refuse(http.StatusUnprocessableEntity, fhir.CodeNotSupported, "owners add resources of the types Endpoint and HealthcareService")
	}
	var id [12]byte
	rand.Read(id[:])
	stored, err := store(r, resource, hex.EncodeToString(id[:]), owner)
	if err != nil {
		return err
	}
	w.Header().Set("Location", s.o.Base+ownerPath+"/"+stored.Reference())
	send(w, http.StatusCreated, stored)
	return nil
}

// storer checks what an owner sends, stamps it and stores it under an id.
type storer func(r *http.Request, resource *fhir.Resource, id, owner string) (*fhir.Resource, error)

// storeEndpoint checks an owner's Endpoint, stamps its origin and owner and stores it.
func (s *Service) storeEndpoint(r *http.Request, resource *fhir.Resource, id, owner string) (*fhir.Resource, error) {
	stamped, err := signed(resource, id, owner)
	if err != nil {
		return nil, err
	}
	issues := fhir.Validate(stamped)
	if len(issues) == 0 {
		if kinds := resource.Codings("connectionType"); !isMessenger(kinds[0].Code) {
			issues = append(issues, fhir.Issue{Severity: "error", Code: fhir.CodeBusinessRule, Diagnostics: fmt.Sprintf("owners enter %q only", messengerKinds), Expression: []string{"Endpoint.connectionType"}})
		}
	}
	return s.keep(r, stamped, owner, issues)
}

// signed writes id, origin and owner into what an owner sends, over whatever stands there.
func signed(resource *fhir.Resource, id, owner string) (*fhir.Resource, error) {
	extensions := owned(owner)
	for _, e := range resource.At("extension") {
		if m, ok := e.(map[string]any); ok && m["url"] != fhir.ExtensionOwnerTelematikID {
			extensions = append(extensions, m)
		}
	}
	return resource.With(map[string]any{"id": id, "extension": extensions, "meta": meta(originOwner)})
}

// keep stores what an owner sends if nothing is wrong with it, and reads it back.
func (s *Service) keep(r *http.Request, stamped *fhir.Resource, owner string, issues []fhir.Issue) (*fhir.Resource, error) {
	if len(issues) > 0 {
		return nil, &fhir.Error{Status: http.StatusUnprocessableEntity, Issues: issues}
	}
	if err := s.o.Store.Put(r.Context(), Entry{Resource: stamped, Owner: owner, By: owner}); err != nil {
		return nil, err
	}
	stored, _, err := s.o.Store.Get(r.Context(), stamped.Reference())
	return stored, err
}

// updateOwned changes what the owner has added, or which endpoints an entry links that comes from the card issuers: nothing else of that is the
// owner's to change.
func (s *Service) updateOwned(w http.ResponseWriter, r *http.Request, owner string) error {
	resource, err := body(w, r)
	if err != nil {
		return err
	}
	old, err := s.own(r, owner)
	if err != nil {
		return err
	}
	if resource.Type() != old.Type() || resource.ID() != old.ID() {
		return fhir.Refuse(http.StatusBadRequest, fhir.CodeValue, "type and id of the path and of the resource differ")
	}
	switch {
	case old.Type() == fhir.Endpoint:
		if old, err = s.storeEndpoint(r, resource, old.ID(), owner); err != nil {
			return err
		}
	case added(old):
		if old, err = s.storeService(r, resource, old.ID(), owner); err != nil {
			return err
		}
	case old.Type() == fhir.PractitionerRole || old.Type() == fhir.HealthcareService:
		if old, err = s.link(r, old, resource, owner); err != nil {
			return err
		}
	default:
		return fhir.Refuse(http.StatusUnprocessableEntity, fhir.CodeBusinessRule, "%s comes from the card issuers", old.Type())
	}
	send(w, http.StatusOK, old)
	return nil
}

// link takes the endpoints of a changed entry, when nothing else has changed and all of them are the owner's.
func (s *Service) link(r *http.Request, old, changed *fhir.Resource, owner string) (*fhir.Resource, error) {
	same, err := sameBut(old, changed, "endpoint", "meta", "text")
	if err != nil {
		return nil, err
	}
	if !same {
		return nil, fhir.Refuse(http.StatusUnprocessableEntity, fhir.CodeBusinessRule, "owners change only the endpoints of an entry")
	}
	references := changed.References("endpoint")
	if err := s.ownEndpoints(r, changed, owner); err != nil {
		return nil, err
	}
	entry, err := relink(old, references)
	if err != nil {
		return nil, err
	}
	if err := s.o.Store.Put(r.Context(), Entry{Resource: entry, Owner: owner, By: owner}); err != nil {
		return nil, err
	}
	stored, _, err := s.o.Store.Get(r.Context(), entry.Reference())
	return stored, err
}

// ownEndpoints refuses an entry that links anything but endpoints of its owner.
func (s *Service) ownEndpoints(r *http.Request, entry *fhir.Resource, owner string) error {
	references := entry.References("endpoint")
	if len(references) != len(entry.At("endpoint")) {
		return fhir.Refuse(http.StatusUnprocessableEntity, fhir.CodeValue, "endpoint is a list of references of the form Endpoint/id")
	}
	for _, ref := range references {
		target, by, err := s.o.Store.Get(r.Context(), ref)
		if err != nil {
			return err
		}
		if target == nil || by != owner || !strings.HasPrefix(ref, fhir.Endpoint+"/") {
			return fhir.Refuse(http.StatusUnprocessableEntity, fhir.CodeBusinessRule, "%s is not an endpoint of this owner", ref)
		}
	}
	return nil
}

// sameBut compares two resources without some elements.
func sameBut(a, b *fhir.Resource, elements ...string) (bool, error) {
	without := map[string]any{}
	for _, e := range elements {
		without[e] = nil
	}
	var trees [2]any
	for i, r := range []*fhir.Resource{a, b} {
		rest, err := r.With(without)
		if err != nil {
			return false, err
		}
		if err := json.Unmarshal(rest.JSON(), &trees[i]); err != nil {
			return false, err
		}
	}
	return reflect.DeepEqual(trees[0], trees[1]), nil
}

// deleteOwned removes what the owner has added and nothing links any more.
func (s *Service) deleteOwned(w http.ResponseWriter, r *http.Request, owner string) error {
	old, err := s.own(r, owner)
	if err != nil {
		return err
	}
	if old.Type() != fhir.Endpoint && !added(old) {
		return fhir.Refuse(http.StatusUnprocessableEntity, fhir.CodeBusinessRule, "%s comes from the card issuers", old.Type())
	}
	if err := s.o.Store.Delete(r.Context(), old.Reference(), owner); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"errors"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/health/fhir"
)

// Routes serves the directory's interfaces: search of professionals and of insured people, the owners' interface, the log, and the ways to a token.
func (s *Service) Routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /tim-authenticate", s.limited(limit.Search, s.timAuthenticate))
	mux.HandleFunc("GET /owner-authenticate", s.limited(limit.Search, s.ownerAuthenticate))
	mux.HandleFunc("GET "+signInPath, s.limited(limit.Search, s.signIn))
	mux.HandleFunc("POST /owner-authenticate-decoupled", s.limited(limit.Search, s.ownerDecoupled))
	mux.HandleFunc("GET "+decoupledSignInPath, s.limited(limit.Search, s.signInDecoupled))
	mux.HandleFunc("POST "+pollPath, s.limited(limit.Search, s.ownerPoll))
	mux.HandleFunc("POST /auth/realms/{realm}/protocol/openid-connect/token", s.limited(limit.Login, s.clientToken))
	mux.HandleFunc("GET "+providerAuthPath, s.limited(limit.Search, s.providerAuthenticate))
	mux.HandleFunc("GET "+serviceAuthPath, s.limited(limit.Search, s.serviceAuthenticate))
	for _, path := range []string{"/log", "/fachliches-log/log"} { // of today, and as the interface's file has it
		mux.HandleFunc("GET "+path, s.readLog)
	}
	for _, path := range []string{searchPath, fdvSearchPath, ownerPath} {
		mux.HandleFunc("GET "+path+"/metadata", s.capabilities(path))
	}
	mux.HandleFunc("GET "+searchPath+"/{type}", s.search(false))
	mux.HandleFunc("GET "+searchPath+"/{type}/{id}", s.read(false))
	mux.HandleFunc("GET "+fdvSearchPath+"/{type}", s.search(true))
	mux.HandleFunc("GET "+fdvSearchPath+"/{type}/{id}", s.read(true))
	mux.HandleFunc("GET "+ownerPath+"/{type}", s.owner(s.listOwned))
	mux.HandleFunc("GET "+ownerPath+"/{type}/{id}", s.owner(s.readOwned))
	mux.HandleFunc("POST "+ownerPath+"/{type}", s.owner(s.createOwned))
	mux.HandleFunc("PUT "+ownerPath+"/{type}/{id}", s.owner(s.updateOwned))
	mux.HandleFunc("DELETE "+ownerPath+"/{type}/{id}", s.owner(s.deleteOwned))
	return crossOrigin(mux)
}

// crossOrigin lets web clients of any origin ask: who may ask is decided by the token alone.
func crossOrigin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Access-Control-Expose-Headers", "Location")
		if r.Method == http.MethodOptions {
			h.Set("Access-Control-Allow-Methods", "GET, POST, PUT, DELETE, OPTIONS")
			h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, X-Matrix-OpenID-Token")
			h.Set("Access-Control-Max-Age", "86400")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// search answers a search. What was searched for is never logged (TIP1-A_5549).
func (s *Service) search(insured bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, who, err := s.view(r, insured)
		if err == nil {
			err = s.throttle(w, who)
		}
		if err != nil {
			s.refuse(w, err)
			return
		}
		bundle, err := s.find(r, v)
		if err != nil {
			s.refuse(w, err)
			return
		}
		s.taken(who, bundle)
		send(w, http.StatusOK, bundle)
	}
}

// find runs a search; the interface for insured people has named queries beside.
func (s *Service) find(r *http.Request, v View) (*fhir.Bundle, error) {
	kind, query := r.PathValue("type"), r.URL.Query().Get("_query")
	switch {
	case query == "":
		return s.o.Store.Search(r.Context(), kind, r.URL.RawQuery, v)
	case v.Insured && kind == fhir.HealthcareService && (query == "near" || query == "nearPharmacy"):
		return s.o.Store.Near(r.Context(), r.URL.RawQuery, v)
	}
	return nil, fhir.Refuse(http.StatusBadRequest, fhir.CodeNotSupported, "there is no query %.40q here", query)
}

// read answers one resource; whether it is active is for the client to look at (dossier §4.3).
func (s *Service) read(insured bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, who, err := s.view(r, insured)
		if err == nil {
			err = s.throttle(w, who)
		}
		if err != nil {
			s.refuse(w, err)
			return
		}
		resource, _, err := s.o.Store.Get(r.Context(), r.PathValue("type")+"/"+r.PathValue("id"))
		hidden := false
		if err == nil && resource != nil {
			var hides func(*fhir.Resource) bool
			if hides, err = s.o.Store.hides(r.Context(), slices.Values([]*fhir.Resource{resource}), v); err == nil {
				hidden = hides(resource)
			}
			s.taken(who, &fhir.Bundle{Entry: make([]fhir.Entry, 1)})
		}
		if err == nil && (resource == nil || hidden) {
			err = fhir.Refuse(http.StatusNotFound, fhir.CodeNotFound, "there is no such resource")
		}
		if err != nil {
			s.refuse(w, err)
			return
		}
		send(w, http.StatusOK, resource)
	}
}

// view checks the token of a search. Every owner may search as well.
func (s *Service) view(r *http.Request, insured bool) (v View, who string, err error) {
	v = View{Insured: insured, Base: s.o.Base + searchPath}
	paths := []string{searchPath, ownerPath}
	if insured {
		v.Base, paths = s.o.Base+fdvSearchPath, []string{fdvSearchPath}
	}
	access, err := s.allowed(bearer(r), paths...)
	who = access.Subject
	if access.ClientID != "" { // a service hands its token to many insured people
		who += " " + s.address(r)
	}
	return v, who, login(err)
}

func (s *Service) address(r *http.Request) string {
	if s.o.Address == nil {
		return r.RemoteAddr
	}
	return s.o.Address(r)
}

// limited refuses addresses that ask for tokens too often.
func (s *Service) limited(class limit.Class, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s.o.Limiter != nil {
			if ok, wait := s.o.Limiter.Allow(class, "", "token "+s.address(r)); !ok {
				w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
				tokenRefused(w, http.StatusTooManyRequests, "too many requests")
				return
			}
		}
		h(w, r)
	}
}

func login(err error) error {
	if err == nil {
		return nil
	}
	return fhir.Refuse(http.StatusUnauthorized, fhir.CodeLogin, "the access token is missing, wrong, for another interface or expired")
}

func bearer(r *http.Request) string {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return ""
	}
	return token
}

// refuse answers an OperationOutcome.
func (s *Service) refuse(w http.ResponseWriter, err error) {
	e, ok := errors.AsType[*fhir.Error](err)
	if !ok {
		s.o.Log.Error("directory", "error", err)
		e = fhir.Refuse(http.StatusInternalServerError, fhir.CodeException, "the directory cannot answer now")
	}
	if e.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	send(w, e.Status, e.Outcome())
}

func send(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil { // only for what this package makes itself
		status, body = http.StatusInternalServerError, []byte(`{"resourceType":"OperationOutcome","issue":[{"severity":"fatal","code":"exception"}]}`)
	}
	w.Header().Set("Content-Type", "application/fhir+json;charset=UTF-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the caller is gone if this fails
}

// body reads a resource of the request.
func body(w http.ResponseWriter, r *http.Request) (*fhir.Resource, error) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, fhir.MaxResource))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return nil, fhir.Refuse(http.StatusRequestEntityTooLarge, fhir.CodeTooCostly, "a resource has at most %d bytes", fhir.MaxResource)
	}
	if err != nil {
		return nil, fhir.Refuse(http.StatusBadRequest, fhir.CodeInvalid, "the body ended early")
	}
	resource, err := fhir.Parse(raw)
	if err != nil {
		return nil, fhir.Refuse(http.StatusBadRequest, fhir.CodeStructure, "%v", err)
	}
	return resource, nil
}

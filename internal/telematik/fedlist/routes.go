// SPDX-License-Identifier: Apache-2.0

package fedlist

import (
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/health/fhir"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Providers finds the provider that a bearer token belongs to; false refuses with 401.
type Providers func(token string) (provider string, ok bool)

// maxBody bounds a request of a provider in bytes.
const maxBody = 64 << 10

// Handler serves I_VZD_TIM_Provider_Services below the given prefix, for example "/tim-provider-services".
func (p *Publisher) Handler(prefix string, providers Providers) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+prefix+"/{$}", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]any{"title": "I_VZD_TIM_Provider_Services", "description": "Federation list of the TI-Messenger: fetch it, administrate domains.", "version": "1.4.0"})
	})
	for pattern, handle := range map[string]func(http.ResponseWriter, *http.Request, string){
		"GET " + prefix + "/FederationList/federationList.jws": p.getList,
		"GET " + prefix + "/federation":                        p.getDomains,
		"POST " + prefix + "/federation":                       p.addDomain,
		"PUT " + prefix + "/federation/{domain}":               p.putDomain,
		"DELETE " + prefix + "/federation/{domain}":            p.deleteDomain,
		"GET " + prefix + "/federationCheck":                   p.checkDomains,
		"GET " + prefix + "/localization":                      p.whereIs,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			provider, ok := providers(bearer(r))
			if !ok {
				w.Header().Set("WWW-Authenticate", "OAuth")
				refuse(w, http.StatusUnauthorized, "The provider-accesstoken is missing, unknown or expired.")
				return
			}
			handle(w, r, provider)
		})
	}
	return mux
}

func bearer(r *http.Request) string {
	const prefix = "Bearer "
	h := r.Header.Get("Authorization")
	if len(h) > len(prefix) && h[:len(prefix)] == prefix {
		return h[len(prefix):]
	}
	return ""
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.MarshalWrite(w, v) // the client is gone if this fails
}

// refuse answers the interface's Error object.
func refuse(w http.ResponseWriter, status int, message string) {
	answer(w, status, map[string]any{"message": message})
}

// fail maps an error to its status; an attribute that is wrong is named.
func fail(w http.ResponseWriter, err error) {
	if e, ok := errors.AsType[*EntryError](err); ok {
		answer(w, http.StatusBadRequest, map[string]any{"message": e.Error(), "errors": []any{map[string]string{"attributeName": e.Attribute, "attributeError": e.Reason}}})
		return
	}
	switch {
	case errors.Is(err, ErrExists):
		refuse(w, http.StatusConflict, err.Error())
	case errors.Is(err, ErrInvalid), errors.Is(err, ErrInactive), errors.Is(err, ErrAlgorithm):
		refuse(w, http.StatusBadRequest, err.Error())
	case errors.Is(err, ErrForeign):
		refuse(w, http.StatusForbidden, err.Error())
	case errors.Is(err, ErrUnknown):
		refuse(w, http.StatusNotFound, err.Error())
	default:
		refuse(w, http.StatusInternalServerError, "The federation list cannot answer now.")
	}
}

func (p *Publisher) getList(w http.ResponseWriter, r *http.Request, _ string) {
	known := int64(-1)
	if v := r.URL.Query().Get("version"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			refuse(w, http.StatusBadRequest, "version is a number.")
			return
		}
		known = n
	}
	token, version, err := p.TokenFor(r.Context(), r.URL.Query().Get("sigAlg"))
	if err != nil {
		fail(w, err)
		return
	}
	if version <= known {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = io.WriteString(w, token)
}

// whereIs says in which part of the directory a Matrix user stands.
func (p *Publisher) whereIs(w http.ResponseWriter, r *http.Request, _ string) {
	user, ok := fhir.MatrixUser(r.URL.Query().Get("mxid"))
	if !ok {
		refuse(w, http.StatusBadRequest, "mxid is a Matrix URI: matrix:u/localpart:domain.")
		return
	}
	where := "none"
	if p.o.WhereIs != nil {
		var err error
		if where, err = p.o.WhereIs(r.Context(), id.User(user)); err != nil {
			fail(w, err)
			return
		}
	}
	answer(w, http.StatusOK, where)
}

func (p *Publisher) getDomains(w http.ResponseWriter, r *http.Request, provider string) {
	domains, err := p.Domains(r.Context(), provider)
	if err != nil {
		fail(w, err)
		return
	}
	wanted := r.URL.Query().Get("domain")
	out := []Domain{}
	for _, d := range domains {
		if wanted == "" || string(d.Domain) == wanted {
			out = append(out, d)
		}
	}
	if wanted != "" && len(out) == 0 {
		fail(w, ErrUnknown)
		return
	}
	answer(w, http.StatusOK, out)
}

func readDomain(w http.ResponseWriter, r *http.Request) (Domain, bool) {
	var d Domain
	if err := json.UnmarshalRead(http.MaxBytesReader(w, r.Body, maxBody), &d); err != nil {
		refuse(w, http.StatusBadRequest, "The body is not a Domain: "+err.Error())
		return d, false
	}
	return d, true
}

func (p *Publisher) addDomain(w http.ResponseWriter, r *http.Request, provider string) {
	d, ok := readDomain(w, r)
	if !ok {
		return
	}
	if err := p.Add(r.Context(), provider, d); err != nil {
		fail(w, err)
		return
	}
	d.Provider = provider
	answer(w, http.StatusOK, d)
}

func (p *Publisher) putDomain(w http.ResponseWriter, r *http.Request, provider string) {
	d, ok := readDomain(w, r)
	if !ok {
		return
	}
	if string(d.Domain) != r.PathValue("domain") {
		refuse(w, http.StatusBadRequest, "The domain of the path and of the body differ.")
		return
	}
	if err := p.Update(r.Context(), provider, d); err != nil {
		fail(w, err)
		return
	}
	d.Provider = provider
	answer(w, http.StatusOK, d)
}

func (p *Publisher) deleteDomain(w http.ResponseWriter, r *http.Request, provider string) {
	if err := p.Remove(r.Context(), provider, id.Server(r.PathValue("domain"))); err != nil {
		fail(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (p *Publisher) checkDomains(w http.ResponseWriter, r *http.Request, provider string) {
	inactive, err := p.Inactive(r.Context(), provider)
	if err != nil {
		fail(w, err)
		return
	}
	if len(inactive) == 0 {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	answer(w, http.StatusOK, map[string]any{"inactiveOrganizationDomains": inactive})
}

// SPDX-License-Identifier: Apache-2.0

package registration

import (
	"errors"
	"net/http"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/health/jose"
	"github.com/konsil-health/konsil/internal/telematik/idp"
)

// maxOrder bounds an order in bytes.
const maxOrder = 64 << 10

// Routes serves the registration below a prefix, for example "/registration": a challenge, and the answer with the order.
func (s *Service) Routes(prefix string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+prefix+"/challenge", s.challenge)
	mux.HandleFunc("POST "+prefix+"/order", s.order)
	return mux
}

// challenge answers a challenge with what an authenticator needs: the provider's certificate and encryption key.
func (s *Service) challenge(w http.ResponseWriter, _ *http.Request) {
	token, err := s.Begin()
	if err != nil {
		s.fail(w, err)
		return
	}
	key, err := jose.NewKey(s.o.IDP.Key())
	if err != nil {
		s.fail(w, err)
		return
	}
	key.Kid, key.Use = "puk_idp_enc", "enc"
	send(w, http.StatusOK, map[string]any{"challenge": token, "x5c": [][]byte{s.o.IDP.Certificate().DER()}, "puk_idp_enc": key})
}

// order takes the card's answer and the order.
func (s *Service) order(w http.ResponseWriter, r *http.Request) {
	var request struct {
		Answer string `json:"signed_challenge"`
		Order  `json:",inline"`
	}
	if err := json.UnmarshalRead(http.MaxBytesReader(w, r.Body, maxOrder), &request); err != nil {
		send(w, http.StatusBadRequest, failure{Error: "invalid_request", Message: "The body is not an order."})
		return
	}
	result, err := s.Complete(r.Context(), request.Answer, request.Order)
	if err != nil {
		s.fail(w, err)
		return
	}
	status := http.StatusCreated
	if result.Again {
		status = http.StatusOK
	}
	send(w, status, map[string]any{
		"domain": result.Tenant.Name, "organizationName": result.Tenant.DisplayName, "telematikID": result.TelematikID, "professionOID": result.Profession, "isInsurance": result.Tenant.Insurance,
	})
}

type failure struct {
	Error   string `json:"error"`
	Message string `json:"message"`
	Code    int    `json:"gematik_code,omitzero"`
}

// fail maps an error to its status; what went wrong inside stays in the log.
func (s *Service) fail(w http.ResponseWriter, err error) {
	if e, ok := errors.AsType[*idp.Error](err); ok {
		send(w, e.Status, failure{Error: e.OAuth, Message: e.Text, Code: e.Code})
		return
	}
	for _, c := range []struct {
		err    error
		status int
		name   string
	}{
		{ErrCard, http.StatusForbidden, "card"}, {ErrProfession, http.StatusForbidden, "profession"}, {ErrInactive, http.StatusForbidden, "inactive"}, {ErrInsurance, http.StatusForbidden, "insurance"},
		{ErrIK, http.StatusBadRequest, "ik"}, {ErrDomain, http.StatusBadRequest, "domain"}, {ErrTaken, http.StatusConflict, "taken"},
	} {
		if errors.Is(err, c.err) {
			send(w, c.status, failure{Error: c.name, Message: c.err.Error()})
			return
		}
	}
	s.o.Log.Error("registration", "error", err)
	send(w, http.StatusServiceUnavailable, failure{Error: "unavailable", Message: ErrUnavailable.Error()})
}

func send(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.MarshalWrite(w, v, json.Deterministic(true)) // the caller is gone if this fails
}

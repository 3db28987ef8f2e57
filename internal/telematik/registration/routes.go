// SPDX-License-Identifier: Apache-2.0

package registration

import (
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/jose"
	"github.com/konsil-health/konsil/internal/telematik/idp"
)

// maxOrder bounds an order in bytes.
const maxOrder = 64 << 10

// Handler serves the registration below a prefix, for example "/registration": a challenge, the answer with the order, an administrator's token for
// the directory.
func (s *Service) Handler(prefix string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+prefix+"/challenge", s.limited(s.challenge))
	mux.HandleFunc("POST "+prefix+"/order", s.limited(s.order))
	mux.HandleFunc("POST "+prefix+"/owner-token", s.limited(s.ownerToken))
	return mux
}

// limited refuses those who ask too often.
func (s *Service) limited(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s.o.Allow != nil {
			if ok, wait := s.o.Allow(r); !ok {
				w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
				send(w, http.StatusTooManyRequests, failure{Error: "limit", Message: "too many requests"})
				return
			}
		}
		h(w, r)
	}
}

// begun is a challenge with what an authenticator needs: the provider's certificate and encryption key.
type begun struct {
	Challenge string    `json:"challenge"`
	X5c       [][]byte  `json:"x5c"`
	Key       *jose.Key `json:"puk_idp_enc"`
}

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
	send(w, http.StatusOK, begun{Challenge: token, X5c: [][]byte{s.o.IDP.Certificate().DER()}, Key: key})
}

// request is an order, with the card's answer unless an administrator sends it.
type request struct {
	Answer string `json:"signed_challenge,omitempty"`
	Order  `json:",inline"`
}

func (s *Service) order(w http.ResponseWriter, r *http.Request) {
	var q request
	if err := json.UnmarshalRead(http.MaxBytesReader(w, r.Body, maxOrder), &q); err != nil {
		send(w, http.StatusBadRequest, failure{Error: "invalid_request", Message: "the body is not an order"})
		return
	}
	var result *Result
	var err error
	if token := bearer(r); token != "" && q.Answer == "" {
		result, err = s.CompleteAs(r.Context(), token, q.Order)
	} else {
		result, err = s.Complete(r.Context(), q.Answer, q.Order)
	}
	if err != nil {
		s.fail(w, err)
		return
	}
	status := http.StatusCreated
	if result.Again {
		status = http.StatusOK
	}
	send(w, status, result)
}

func (s *Service) ownerToken(w http.ResponseWriter, r *http.Request) {
	token, err := s.AdminToken(r.Context(), bearer(r))
	if err != nil {
		s.fail(w, err)
		return
	}
	send(w, http.StatusOK, map[string]any{"token": token, "expires_in": int(tokenLife.Seconds())})
}

func bearer(r *http.Request) string {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return token
}

// failure is the error object: name and message, and what the identity provider's error object has where the card was refused.
type failure struct {
	Error   string `json:"error"`
	Message string `json:"message"`
	Code    int    `json:"gematik_code,omitzero"`
	Time    int64  `json:"gematik_timestamp,omitzero"`
	UUID    string `json:"gematik_uuid,omitzero"`
	Text    string `json:"gematik_error_text,omitzero"`
	Proof   *Proof `json:"proof,omitzero"` // how to prove the domain
}

// refusals are the errors with their status and their name in the interface.
var refusals = []struct {
	err    error
	status int
	name   string
}{
	{ErrCard, http.StatusForbidden, "card"},
	{ErrProfession, http.StatusForbidden, "profession"},
	{ErrSession, http.StatusUnauthorized, "session"},
	{ErrInactive, http.StatusForbidden, "inactive"},
	{ErrInsurance, http.StatusForbidden, "insurance"},
	{ErrIK, http.StatusBadRequest, "ik"},
	{ErrDomain, http.StatusBadRequest, "domain"},
	{ErrOrder, http.StatusBadRequest, "order"},
	{ErrProof, http.StatusForbidden, "proof"},
	{ErrSimilar, http.StatusBadRequest, "similar"},
	{ErrTaken, http.StatusConflict, "taken"},
	{ErrLogin, http.StatusConflict, "login"},
	{ErrUnavailable, http.StatusServiceUnavailable, "unavailable"},
}

// fail answers an error; what went wrong inside stays in the log.
func (s *Service) fail(w http.ResponseWriter, err error) {
	if e, ok := errors.AsType[*idp.Error](err); ok {
		p := e.Published(s.o.Now())
		log := s.o.Log.With("code", p.Code, "uuid", p.UUID)
		if check, ok := errors.AsType[*certificate.CheckError](err); ok {
			log = log.With("check", string(check.Check))
		}
		log.Info("registration: card refused")
		send(w, e.Status, failure{Error: p.OAuth, Message: p.Text, Code: p.Code, Time: p.Time, UUID: p.UUID, Text: p.Text})
		return
	}
	found := refusals[len(refusals)-1]
	for _, c := range refusals {
		if errors.Is(err, c.err) {
			found = c
			break
		}
	}
	if found.status == http.StatusServiceUnavailable {
		s.o.Log.Error("registration", "error", err)
		w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
	}
	if found.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	f := failure{Error: found.name, Message: found.err.Error()}
	if e, ok := errors.AsType[*ProofError](err); ok {
		f.Proof = &e.Proof
	}
	send(w, found.status, f)
}

// retryAfter is what callers are told when something is down.
const retryAfter = 30 * time.Second

func send(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.MarshalWrite(w, v, json.Deterministic(true)) // the caller is gone if this fails
}

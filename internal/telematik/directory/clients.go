// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/health/jose"
)

// The realms of client credentials, and what their tokens are exchanged at (FHIR_VZD_HOWTO_Authenticate).
const (
	realmProviders = "TI-Provider"
	realmServices  = "Service-Authenticate"

	providerAuthPath    = "/ti-provider-authenticate"
	serviceAuthPath     = "/service-authenticate"
	providerServicePath = "/tim-provider-services"
)

// clientTokenLife is how long the token of client credentials is valid, within which it is exchanged.
const clientTokenLife = 5 * time.Minute

var exchanges = map[string]string{realmProviders: providerAuthPath, realmServices: serviceAuthPath}

// oauthError is a refusal of an OAuth 2.0 token endpoint (RFC 6749, 5.2).
func oauthError(w http.ResponseWriter, status int, code, description string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="Konsil directory"`)
	}
	w.WriteHeader(status)
	_ = json.MarshalWrite(w, map[string]string{"error": code, "error_description": description}, json.Deterministic(true)) // the caller is gone if this fails
}

// clientToken answers client credentials with a token for the exchange of its realm.
func (s *Service) clientToken(w http.ResponseWriter, r *http.Request) {
	exchange, ok := exchanges[r.PathValue("realm")]
	if !ok || s.o.Clients == nil {
		oauthError(w, http.StatusNotFound, "invalid_request", "there is no such realm")
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 8<<10)
	if err := r.ParseForm(); err != nil || r.PostForm.Get("grant_type") != "client_credentials" {
		oauthError(w, http.StatusBadRequest, "unsupported_grant_type", "grant_type is client_credentials")
		return
	}
	id, secret, basic := r.BasicAuth()
	if !basic {
		id, secret = r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")
	}
	if id == "" || secret == "" || !s.o.Clients(exchange == providerAuthPath, id, secret) {
		oauthError(w, http.StatusUnauthorized, "invalid_client", "client_id or client_secret is wrong")
		return
	}
	token, err := s.issue(jose.Access{Issuer: s.o.Base + "/auth/realms/" + r.PathValue("realm"), Subject: id, Audience: s.o.Base + exchange, ClientID: id}, clientTokenLife)
	s.sendTokenFor(w, token, clientTokenLife, err)
}

func (s *Service) issue(a jose.Access, life time.Duration) (string, error) {
	return jose.IssueAccess(jose.P256Signer{Key: s.o.TokenKey}, a, s.o.Now(), life)
}

// providerAuthenticate exchanges a provider's client token for its provider-accesstoken (I_VZD_TI_Provider_Authenticate_Service).
func (s *Service) providerAuthenticate(w http.ResponseWriter, r *http.Request) {
	s.exchange(w, r, providerAuthPath, jose.Access{Audience: s.o.Base + providerServicePath})
}

// serviceAuthenticate exchanges the client token of an insured people's service for a token of their search (I_VZD_Service_Authenticate_Service).
func (s *Service) serviceAuthenticate(w http.ResponseWriter, r *http.Request) {
	s.exchange(w, r, serviceAuthPath, jose.Access{Audience: s.o.Base + fdvSearchPath, Insured: true})
}

func (s *Service) exchange(w http.ResponseWriter, r *http.Request, path string, for_ jose.Access) {
	client, err := s.allowed(bearer(r), path)
	if err != nil {
		tokenRefused(w, http.StatusUnauthorized, "the access token is missing, wrong, for another interface or expired")
		return
	}
	for_.Issuer, for_.Subject, for_.ClientID = s.o.Base+path, client.Subject, client.ClientID
	token, err := s.issue(for_, tokenLife)
	s.sendTokenFor(w, token, tokenLife, err)
}

// Provider finds the provider that a provider-accesstoken belongs to; the federation list asks it.
func (s *Service) Provider(token string) (name string, ok bool) {
	a, err := s.allowed(token, providerServicePath)
	return a.ClientID, err == nil && a.ClientID != ""
}

// digest is how secrets that come back are remembered.
func digest(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

var errNoProvider = errors.New("no identity provider is configured")

// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/jose"
)

const (
	decoupledGrant      = "urn:telematik:params:grant-type:decoupled"
	decoupledSignInPath = "/signin-gematik-idp-dienst-decoupled"
	pollPath            = "/owner-authenticate-poll"
	pollInterval        = 5 * time.Second
)

// decoupled is what an auth_req_id carries, sealed: nothing is stored for those who never prove themselves.
type decoupled struct {
	ID      string       `json:"id"`
	Expires jose.Seconds `json:"exp"`
}

// ownerDecoupled begins a sign-in in which the authenticator calls the directory itself, and the client asks for the outcome.
func (s *Service) ownerDecoupled(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 8<<10)
	if err := r.ParseForm(); err != nil || r.PostForm.Get("grant_type") != decoupledGrant {
		tokenRefused(w, http.StatusBadRequest, "grant_type is "+decoupledGrant)
		return
	}
	if s.o.IDP == nil {
		tokenRefused(w, http.StatusServiceUnavailable, errNoProvider.Error())
		return
	}
	d := decoupled{ID: rand.Text(), Expires: jose.Seconds(s.o.Now().Add(signInLife).Unix())}
	request, err := s.seal(d)
	if err != nil {
		s.sendToken(w, "", err)
		return
	}
	address, err := s.authorization(s.o.Base+decoupledSignInPath, d.ID)
	if err != nil {
		s.sendToken(w, "", err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.MarshalWrite(w, struct { // the caller is gone if this fails
		Request  string `json:"auth_req_id"`
		Poll     string `json:"poll_uri"`
		Redirect string `json:"redirect_uri"`
		Expires  int64  `json:"expires_in"` // seconds
		Interval int64  `json:"interval"`   // seconds
	}{request, s.o.Base + pollPath, address, int64(signInLife.Seconds()), int64(pollInterval.Seconds())})
}

// signInDecoupled is where the authenticator comes with the code. Nobody reads its answer.
func (s *Service) signInDecoupled(w http.ResponseWriter, r *http.Request) {
	if s.o.IDP == nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	state, err := s.state(r)
	if err != nil || state.Decoupled == "" {
		tokenRefused(w, http.StatusBadRequest, "state is wrong or expired")
		return
	}
	var token string // stays empty where access is denied
	if who, err := s.cardHolder(r, s.o.Base+decoupledSignInPath, state); err == nil {
		if token, err = s.OwnerToken(who.Number, who.ProfessionOID); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
	}
	if err := s.finish(r.Context(), state, token); err != nil {
		s.o.Log.Error("directory: decoupled sign-in", "error", err)
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// finish keeps the outcome of a decoupled sign-in until it is fetched or expires. The first outcome counts.
func (s *Service) finish(ctx context.Context, state signInState, token string) error {
	sealed, err := s.seal(token)
	if err != nil {
		return err
	}
	return s.o.Store.db.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM directory_signin WHERE expires < $1", s.o.Now().Unix()); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO directory_signin (id, token, expires) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING", digest(state.Decoupled), sealed, int64(state.Expires))
		return err
	})
}

// ownerPoll tells a client how its decoupled sign-in stands. The token is given once.
func (s *Service) ownerPoll(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 8<<10)
	if err := r.ParseForm(); err != nil || r.PostForm.Get("grant_type") != decoupledGrant {
		authenticationError(w, "access_denied", "grant_type is "+decoupledGrant)
		return
	}
	var d decoupled
	if err := s.unseal(r.PostForm.Get("auth_req_id"), &d); err != nil || d.ID == "" {
		authenticationError(w, "access_denied", "auth_req_id is wrong")
		return
	}
	if int64(d.Expires) <= s.o.Now().Unix() {
		authenticationError(w, "expired_token", "the card was not presented in time")
		return
	}
	var sealed string
	err := s.o.Store.db.Write(r.Context(), func(tx *database.Tx) error {
		return tx.QueryRow(r.Context(), "DELETE FROM directory_signin WHERE id = $1 RETURNING token", digest(d.ID)).Scan(&sealed)
	})
	if errors.Is(err, sql.ErrNoRows) {
		authenticationError(w, "authorization_pending", "the card has not been presented yet")
		return
	}
	var token string
	if err == nil {
		err = s.unseal(sealed, &token)
	}
	if err == nil && token == "" {
		authenticationError(w, "access_denied", "owners prove themselves with an eHBA or an SMC-B")
		return
	}
	s.sendToken(w, token, err)
}

// authenticationError answers the interface's AuthenticationError.
func authenticationError(w http.ResponseWriter, code, description string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusBadRequest)
	_ = json.MarshalWrite(w, map[string]string{"error": code, "description": description}, json.Deterministic(true)) // the caller is gone if this fails
}

// seal and unseal keep values from everybody but this directory.
func (s *Service) seal(v any) (string, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	return jose.EncryptDirect(rand.Reader, s.o.StateKey, jose.Header{}, plain)
}

func (s *Service) unseal(sealed string, v any) error {
	_, plain, err := jose.DecryptDirect(sealed, s.o.StateKey)
	if err != nil {
		return err
	}
	return jose.Decode(plain, v)
}

var errNoOwner = errors.New("owners prove themselves with an eHBA or an SMC-B")

// cardHolder redeems the code that the identity provider gave.
func (s *Service) cardHolder(r *http.Request, redirectURI string, state signInState) (certificate.Identity, error) {
	who, err := s.o.IDP.Redeem(r.Context(), redirectURI, r.URL.Query().Get("code"), state.Verifier)
	if err == nil && who.Type != certificate.ProfessionalAUT && who.Type != certificate.InstitutionAUT {
		err = errNoOwner
	}
	return who, err
}

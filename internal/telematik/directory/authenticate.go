// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/jose"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/telematik/idp"
)

// accessToken is what the token endpoints answer.
type accessToken struct {
	Token   string `json:"access_token"`
	Type    string `json:"token_type"`
	Expires int64  `json:"expires_in"` // seconds
}

// timAuthenticate exchanges a Matrix OpenID token for a search token (I_VZD_TIM_Authenticate). mxId is the domain on the federation list.
func (s *Service) timAuthenticate(w http.ResponseWriter, r *http.Request) {
	token := r.Header.Get("X-Matrix-OpenID-Token")
	server, err := id.ParseServer(r.URL.Query().Get("mxId"))
	if err != nil || token == "" || len(token) > 1024 {
		tokenRefused(w, http.StatusUnauthorized, "header X-Matrix-OpenID-Token and parameter mxId (a domain of the federation list) are required")
		return
	}
	listed, insured, err := s.o.Member(r.Context(), server)
	switch {
	case err != nil:
		s.o.Log.Error("directory: federation list", "error", err)
		tokenRefused(w, http.StatusServiceUnavailable, "the federation list cannot be asked")
		return
	case !listed:
		tokenRefused(w, http.StatusUnauthorized, "the domain is not on the federation list")
		return
	}
	user, err := s.o.UserInfo(r.Context(), server, token)
	switch {
	case err != nil && mxerror.From(err) == nil:
		s.o.Log.Warn("directory: userinfo of a homeserver", "server", string(server), "error", err)
		tokenRefused(w, http.StatusServiceUnavailable, "the homeserver cannot be asked")
		return
	case err != nil || user.Server() != server:
		tokenRefused(w, http.StatusUnauthorized, "the homeserver does not know the token")
		return
	}
	access, err := s.SearchToken(user, insured)
	s.sendToken(w, access, err)
}

// regServiceClaims are those of a RegService-OpenID-Token, by which a provider's registration service brings an organisation's administrator.
type regServiceClaims struct {
	Issuer     string       `json:"iss"`
	Subject    string       `json:"sub"`
	Audience   string       `json:"aud"`
	Profession string       `json:"professionOID"`
	Number     string       `json:"idNummer"`
	Expires    jose.Seconds `json:"exp"`
}

// ownerAuthenticate makes an owner token: for a registration service's token at once, otherwise by way of the identity provider.
func (s *Service) ownerAuthenticate(w http.ResponseWriter, r *http.Request) {
	if token := bearer(r); token != "" {
		claims, err := s.registrationService(token)
		if err != nil {
			tokenRefused(w, http.StatusUnauthorized, err.Error())
			return
		}
		access, err := s.OwnerToken(claims.Number, claims.Profession)
		s.sendToken(w, access, err)
		return
	}
	if s.o.IDP == nil {
		tokenRefused(w, http.StatusServiceUnavailable, errNoProvider.Error())
		return
	}
	address, err := s.authorization(s.redirectURI(), "")
	if err != nil {
		s.sendToken(w, "", err)
		return
	}
	http.Redirect(w, r, address, http.StatusFound)
}

// authorization is the address at the identity provider that begins a sign-in; decoupled names the sign-in that the client asks for.
func (s *Service) authorization(redirectURI, decoupled string) (string, error) {
	verifier := rand.Text() + rand.Text()
	state, err := s.seal(signInState{Verifier: verifier, Expires: jose.Seconds(s.o.Now().Add(signInLife).Unix()), Decoupled: decoupled})
	if err != nil {
		return "", err
	}
	return s.o.IDP.AuthURL + "?" + url.Values{
		"client_id": {s.o.IDP.ClientID}, "response_type": {"code"}, "redirect_uri": {redirectURI}, "state": {state}, "nonce": {rand.Text()}, "scope": {idp.Scope},
		"code_challenge": {idp.PKCE(verifier)}, "code_challenge_method": {"S256"},
	}.Encode(), nil
}

const signInLife = 10 * time.Minute

// signInState is what the state parameter carries, sealed.
type signInState struct {
	Verifier string       `json:"v"`
	Expires  jose.Seconds `json:"exp"`
	// Decoupled is the id of the sign-in that somebody else waits for.
	Decoupled string `json:"d,omitempty"`
}

// state reads and checks the state of a request that comes back from the identity provider.
func (s *Service) state(r *http.Request) (state signInState, err error) {
	err = s.unseal(r.URL.Query().Get("state"), &state)
	if err == nil && int64(state.Expires) <= s.o.Now().Unix() {
		err = errors.New("expired")
	}
	return state, err
}

const signInPath = "/signin-gematik-idp-dienst"

func (s *Service) redirectURI() string { return s.o.Base + signInPath }

// RedirectURIs are the addresses to which an identity provider may send people back to a directory at an address.
func RedirectURIs(base string) []string {
	return []string{base + signInPath, base + decoupledSignInPath}
}

// signIn is where the identity provider sends the card holder back.
func (s *Service) signIn(w http.ResponseWriter, r *http.Request) {
	if s.o.IDP == nil {
		tokenRefused(w, http.StatusServiceUnavailable, errNoProvider.Error())
		return
	}
	state, err := s.state(r)
	if err != nil || state.Decoupled != "" {
		tokenRefused(w, http.StatusUnauthorized, "state is wrong or expired")
		return
	}
	who, err := s.cardHolder(r, s.redirectURI(), state)
	if errors.Is(err, errNoOwner) {
		tokenRefused(w, http.StatusUnauthorized, err.Error())
		return
	}
	if err != nil {
		tokenRefused(w, http.StatusUnauthorized, "the identity provider does not accept the code")
		return
	}
	access, err := s.OwnerToken(who.Number, who.ProfessionOID)
	s.sendToken(w, access, err)
}

// registrationService checks a RegService-OpenID-Token (dossier §4.1).
func (s *Service) registrationService(token string) (*regServiceClaims, error) {
	signed, err := jose.Parse(token)
	if err != nil {
		return nil, err
	}
	if signed.Header.Alg != jose.BP256R1 || len(signed.Header.X5c) == 0 {
		return nil, fmt.Errorf("a RegService-OpenID-Token is signed with %s and carries its certificate", jose.BP256R1)
	}
	c, err := certificate.Parse(signed.Header.X5c[0])
	if err != nil {
		return nil, err
	}
	if err := s.o.Trust.Check(c, certificate.Expect{Types: []certificate.Type{certificate.ServiceSIG}, Professions: []string{certificate.RoleTIM}, At: s.o.Now(), Revoked: s.o.Revoked}); err != nil {
		return nil, err
	}
	if err := signed.Verify(c.PublicKey()); err != nil {
		return nil, err
	}
	var claims regServiceClaims
	if err := signed.Claims(&claims); err != nil {
		return nil, err
	}
	switch {
	case claims.Audience != s.o.Base+"/owner-authenticate":
		return nil, fmt.Errorf("the token is for %.100q", claims.Audience)
	case int64(claims.Expires) <= s.o.Now().Unix():
		return nil, fmt.Errorf("the token has expired")
	case claims.Number == "" || claims.Issuer == "" || claims.Subject == "":
		return nil, fmt.Errorf("the token misses iss, sub or idNummer")
	}
	return &claims, nil
}

func (s *Service) sendToken(w http.ResponseWriter, token string, err error) {
	s.sendTokenFor(w, token, tokenLife, err)
}

func (s *Service) sendTokenFor(w http.ResponseWriter, token string, life time.Duration, err error) {
	if err != nil {
		s.o.Log.Error("directory: token", "error", err)
		tokenRefused(w, http.StatusServiceUnavailable, "no token can be made now")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.MarshalWrite(w, accessToken{Token: token, Type: "Bearer", Expires: int64(life.Seconds())}) // the caller is gone if this fails
}

// tokenRefused answers the token endpoints' error object.
func tokenRefused(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "OAuth")
	}
	w.WriteHeader(status)
	_ = json.MarshalWrite(w, map[string]string{"message": message}) // as above
}

// messengerKinds are the connection types that owners may enter.
var messengerKinds = []string{"tim", "tim-fa", "tim-bot"}

func isMessenger(kind string) bool { return slices.Contains(messengerKinds, kind) }

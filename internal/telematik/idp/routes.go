// SPDX-License-Identifier: Apache-2.0

package idp

import (
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/health/jose"
)

// maxForm bounds an answer in bytes.
const maxForm = 64 << 10

// Routes serves the issuer below a prefix, for example "/idp": discovery, keys, authorization, the cards' answers and tokens.
func (i *Issuer) Routes(prefix string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+prefix+"/.well-known/openid-configuration", i.discovery)
	mux.HandleFunc("GET "+prefix+"/certs", i.jwks)
	mux.HandleFunc("GET "+prefix+"/certs/"+kidEncrypt, i.key(kidEncrypt, "enc"))
	mux.HandleFunc("GET "+prefix+"/certs/"+kidSign, i.key(kidSign, "sig"))
	mux.HandleFunc("GET "+prefix+"/auth", i.authorize)
	mux.HandleFunc("POST "+prefix+"/auth", i.answered)
	mux.HandleFunc("POST "+prefix+"/auth/sso_response", i.again)
	mux.HandleFunc("POST "+prefix+"/token", i.token)
	return mux
}

// Discovery is what the provider says about itself (dossier §5.1). It is signed and counts for a day.
type Discovery struct {
	Issuer        string       `json:"issuer"`
	Authorization string       `json:"authorization_endpoint"`
	SSO           string       `json:"sso_endpoint"`
	Token         string       `json:"token_endpoint"`
	Self          string       `json:"uri_disc"`
	Keys          string       `json:"jwks_uri"`
	Encryption    string       `json:"uri_puk_idp_enc"`
	Signature     string       `json:"uri_puk_idp_sig"`
	Subjects      []string     `json:"subject_types_supported"`
	Algorithms    []string     `json:"id_token_signing_alg_values_supported"`
	ResponseTypes []string     `json:"response_types_supported"`
	Scopes        []string     `json:"scopes_supported"`
	ResponseModes []string     `json:"response_modes_supported"`
	Grants        []string     `json:"grant_types_supported"`
	ACR           []string     `json:"acr_values_supported"`
	TokenAuth     []string     `json:"token_endpoint_auth_methods_supported"`
	PKCE          []string     `json:"code_challenge_methods_supported"`
	Issued        jose.Seconds `json:"iat"`
	Expires       jose.Seconds `json:"exp"`
}

// Describe is the issuer's description of itself.
func (i *Issuer) Describe() Discovery {
	u, now := i.o.URL, i.o.Now()
	return Discovery{Issuer: u, Authorization: u + "/auth", SSO: u + "/auth/sso_response", Token: u + "/token", Self: u + "/.well-known/openid-configuration", Keys: u + "/certs",
		Encryption: u + "/certs/" + kidEncrypt, Signature: u + "/certs/" + kidSign, Subjects: []string{"pairwise"}, Algorithms: []string{i.o.Signer.Algorithm()},
		ResponseTypes: []string{"code"}, Scopes: append([]string{"openid"}, slices.Sorted(maps.Keys(i.o.Scopes))...), ResponseModes: []string{"query"},
		Grants: []string{"authorization_code"}, ACR: []string{ACR}, TokenAuth: []string{"none"}, PKCE: []string{"S256"},
		Issued: jose.Seconds(now.Unix()), Expires: jose.Seconds(now.Add(24 * time.Hour).Unix())}
}

func (i *Issuer) discovery(w http.ResponseWriter, _ *http.Request) {
	token, err := jose.SignClaims(jose.Header{Typ: "JWT", Kid: kidDiscovery, X5c: [][]byte{i.Certificate().DER()}}, i.Describe(), i.o.Signer)
	if err != nil {
		fail(w, i.o.Now(), err)
		return
	}
	w.Header().Set("Content-Type", "application/jwt;charset=UTF-8")
	w.Header().Set("Cache-Control", "max-age=300")
	_, _ = w.Write([]byte(token)) // the caller is gone if this fails
}

// jwk is one of the provider's keys; the signature key with its certificate.
func (i *Issuer) jwk(kid, use string) (*jose.Key, error) {
	public := i.Key()
	if kid == kidSign {
		public = i.Certificate().PublicKey()
	}
	key, err := jose.NewKey(public)
	if err != nil {
		return nil, err
	}
	key.Kid, key.Use = kid, use
	if kid == kidSign {
		key.X5c = [][]byte{i.Certificate().DER()}
	}
	return key, nil
}

func (i *Issuer) key(kid, use string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		key, err := i.jwk(kid, use)
		if err != nil {
			fail(w, i.o.Now(), err)
			return
		}
		answer(w, http.StatusOK, key)
	}
}

func (i *Issuer) jwks(w http.ResponseWriter, _ *http.Request) {
	signing, err := i.jwk(kidSign, "sig")
	encryption, err2 := i.jwk(kidEncrypt, "enc")
	if err := errors.Join(err, err2); err != nil {
		fail(w, i.o.Now(), err)
		return
	}
	answer(w, http.StatusOK, map[string]any{"keys": []*jose.Key{signing, encryption}})
}

// authorize answers a relying party's request with a challenge for the card.
func (i *Issuer) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	token, err := i.Challenge(Authorization{
		ClientID: q.Get("client_id"), ResponseType: q.Get("response_type"), RedirectURI: q.Get("redirect_uri"), State: q.Get("state"), Nonce: q.Get("nonce"), Scope: q.Get("scope"),
		CodeChallenge: q.Get("code_challenge"), CodeChallengeMethod: q.Get("code_challenge_method"),
	})
	if err != nil {
		fail(w, i.o.Now(), err)
		return
	}
	answer(w, http.StatusOK, map[string]any{"challenge": token, "user_consent": i.consent(q.Get("scope"))})
}

// answered takes a card's answer and sends the browser back with a code.
func (i *Issuer) answered(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		fail(w, i.o.Now(), ErrChallenge.because(err))
		return
	}
	proof, err := i.Verify(r.Context(), r.PostForm.Get("signed_challenge"))
	if err != nil {
		fail(w, i.o.Now(), err)
		return
	}
	token := ""
	if slices.Contains(i.o.ReturnSSO, proof.ClientID) {
		if token, err = i.SSO(proof); err != nil {
			fail(w, i.o.Now(), err)
			return
		}
	}
	i.sendBack(w, r, proof, token)
}

// again takes an SSO token in a card's place.
func (i *Issuer) again(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		fail(w, i.o.Now(), ErrSSO.because(err))
		return
	}
	proof, err := i.VerifySSO(r.Context(), r.PostForm.Get("ssotoken"), r.PostForm.Get("unsigned_challenge"))
	if err != nil {
		fail(w, i.o.Now(), err)
		return
	}
	i.sendBack(w, r, proof, "")
}

// sendBack sends the browser back to the relying party with a code.
func (i *Issuer) sendBack(w http.ResponseWriter, r *http.Request, proof *Proof, ssoToken string) {
	token, err := i.Code(proof)
	if err != nil {
		fail(w, i.o.Now(), err)
		return
	}
	target, err := url.Parse(proof.RedirectURI)
	if err != nil {
		fail(w, i.o.Now(), ErrRedirect.because(err))
		return
	}
	q := target.Query()
	q.Set("code", token)
	if ssoToken != "" {
		q.Set("ssotoken", ssoToken)
	}
	q.Set("state", proof.State)
	target.RawQuery = q.Encode()
	http.Redirect(w, r, target.String(), http.StatusFound)
}

// token is the token endpoint.
func (i *Issuer) token(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		fail(w, i.o.Now(), ErrNoGrant.because(err))
		return
	}
	tokens, err := i.Token(r.Context(), r.PostForm)
	if err != nil {
		fail(w, i.o.Now(), err)
		return
	}
	answer(w, http.StatusOK, tokens)
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.MarshalWrite(w, v, json.Deterministic(true)) // the caller is gone if this fails
}

// fail answers the provider's error object; causes stay in the process.
func fail(w http.ResponseWriter, now time.Time, err error) {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		e = errInternal
	}
	answer(w, e.Status, e.Published(now))
}

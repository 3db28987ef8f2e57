// SPDX-License-Identifier: Apache-2.0

package idp

import (
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/health/jose"
)

// maxForm bounds an answer in bytes.
const maxForm = 64 << 10

// Routes serves the issuer below a prefix, for example "/idp": its keys, the authorization endpoint and the cards' answers.
func (i *Issuer) Routes(prefix string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+prefix+"/.well-known/openid-configuration", i.discovery(prefix))
	mux.HandleFunc("GET "+prefix+"/keys/enc", i.encryptionKey)
	mux.HandleFunc("GET "+prefix+"/auth", i.authorize)
	mux.HandleFunc("POST "+prefix+"/auth", i.answered)
	return mux
}

// discovery is the signed discovery document (dossier §5.1).
func (i *Issuer) discovery(prefix string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		now := i.o.Now()
		token, err := jose.SignClaims(jose.Header{Typ: "JWT", Kid: "puk_disc_sig", X5c: [][]byte{i.Certificate().DER()}}, map[string]any{
			"issuer": i.o.URL, "authorization_endpoint": i.o.URL + "/auth", "uri_puk_idp_enc": i.o.URL + "/keys/enc", "uri_disc": i.o.URL + "/.well-known/openid-configuration",
			"scopes_supported": []string{"openid", "ti-messenger"}, "response_types_supported": []string{"code"}, "code_challenge_methods_supported": []string{"S256"},
			"iat": now.Unix(), "exp": now.Add(24 * time.Hour).Unix(),
		}, i.o.Signer)
		if err != nil {
			fail(w, i.o.Now(), err)
			return
		}
		w.Header().Set("Content-Type", "application/jwt;charset=UTF-8")
		_, _ = w.Write([]byte(token)) // the caller is gone if this fails
	}
}

func (i *Issuer) encryptionKey(w http.ResponseWriter, _ *http.Request) {
	key, err := jose.NewKey(i.Key())
	if err != nil {
		fail(w, i.o.Now(), err)
		return
	}
	key.Kid, key.Use = "puk_idp_enc", "enc"
	answer(w, http.StatusOK, key)
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
	answer(w, http.StatusOK, map[string]any{"challenge": token, "user_consent": map[string]any{
		"requested_scopes": map[string]string{"openid": "Zugriff auf den ID-Token", "ti-messenger": "Zugriff auf den TI-Messenger"},
		"requested_claims": map[string]string{"idNummer": "Zustimmung zur Verarbeitung der Id (Telematik-ID)", "professionOID": "Zustimmung zur Verarbeitung der Rolle",
			"organizationName": "Zustimmung zur Verarbeitung der Organisationszugehörigkeit", "given_name": "Zustimmung zur Verarbeitung des Vornamens",
			"family_name": "Zustimmung zur Verarbeitung des Nachnamens"},
	}})
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
	q.Set("state", proof.State)
	target.RawQuery = q.Encode()
	http.Redirect(w, r, target.String(), http.StatusFound)
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

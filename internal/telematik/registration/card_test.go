// SPDX-License-Identifier: Apache-2.0

package registration_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/jose"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/idp"
	"github.com/konsil-health/konsil/internal/telematik/registration"
)

// post sends an order as it stands and returns the status and the error object.
func post(t *testing.T, c registration.Client, body any) (int, map[string]any) {
	t.Helper()
	raw, ok := body.(string)
	if !ok {
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		raw = string(text)
	}
	resp, err := http.Post(c.URL+"/order", "application/json", strings.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var out map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, out
}

// TestRefusedCards: who cannot prove an active organisation gets nothing, and is told why in the published form.
func TestRefusedCards(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		n := newNetwork(t, db)
		client := n.client(n.service)
		abroad, err := card.Open(card.Options{Folder: t.TempDir(), Now: n.clock})
		if err != nil {
			t.Fatal(err)
		}
		unlocked := func(c *card.Card, err error) card.Signer {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			return n.unlock(c)
		}
		good := n.unlock(n.smcb("1-2.2", certificate.Practice, "Praxis Zwei"))
		revoked := n.unlock(n.smcb("1-2.1", certificate.Practice, "Praxis Sonnenallee"))
		if err := n.pki.Revoke(revoked.Certificate()); err != nil {
			t.Fatal(err)
		}
		expired := card.Period{From: start.AddDate(-6, 0, 0), Until: start.AddDate(-1, 0, 0)}
		early := card.Period{From: start.AddDate(1, 0, 0), Until: start.AddDate(2, 0, 0)}
		practice := card.Institution{Name: "Praxis Sonnenallee", TelematikID: "1-2.1", ProfessionOID: certificate.Practice, PIN: pin}
		with := func(p card.Period) card.Institution { i := practice; i.Period = p; return i }
		for name, c := range map[string]struct {
			c    card.Signer
			want error
		}{
			"expired":              {unlocked(n.pki.IssueSMCB(with(expired))), idp.ErrCertificate},
			"not valid yet":        {unlocked(n.pki.IssueSMCB(with(early))), idp.ErrCertificate},
			"revoked":              {revoked, idp.ErrCertificate},
			"another PKI's":        {unlocked(abroad.IssueSMCB(practice)), idp.ErrCertificate},
			"a person's card":      {unlocked(n.pki.IssueHBA(card.Person{GivenName: "Anna", FamilyName: "Sommer", TelematikID: "1-2.1", ProfessionOID: certificate.Physician, PIN: pin})), registration.ErrCard},
			"an insured person's":  {unlocked(n.pki.IssueEGK(card.Insured{GivenName: "Ida", FamilyName: "Wolf", KVNR: "A123456780", Insurer: "Testkasse", IK: "109500969", PIN: pin})), registration.ErrCard},
			"no institution":       {n.unlock(n.smcb("1-2.1", certificate.Physician, "x")), registration.ErrProfession},
			"not in the directory": {n.unlock(n.smcb("1-nobody", certificate.Practice, "x")), registration.ErrInactive},
			"inactive":             {n.unlock(n.smcb("1-2.9", certificate.Practice, "x")), registration.ErrInactive},
		} {
			if r, err := client.RegisterWith(t.Context(), c.c, registration.Order{ServerName: "neu.example"}); !errors.Is(err, c.want) {
				t.Errorf("%s: %+v %v", name, r, err)
			}
		}
		// replayed, and told in the published form
		answer, err := client.Prove(t.Context(), good)
		if err != nil {
			t.Fatal(err)
		}
		order := map[string]any{"signed_challenge": answer, "domain": "zwei.example"}
		if status, body := post(t, client, order); status != http.StatusCreated {
			t.Fatalf("%d %v", status, body)
		}
		status, body := post(t, client, order)
		if status != http.StatusBadRequest || body["error"] != "invalid_request" || body["gematik_code"] != 2030. || body["gematik_error_text"] == "" || len(body["gematik_uuid"].(string)) != 32 || body["gematik_timestamp"] != float64(start.Unix()) {
			t.Errorf("replayed: %d %v", status, body)
		}
		// tampered at each of its five parts
		if answer, err = client.Prove(t.Context(), good); err != nil {
			t.Fatal(err)
		}
		parts := strings.Split(answer, ".")
		for i := range parts {
			changed := append([]string{}, parts...)
			changed[i] = flip(parts[i])
			if status, body := post(t, client, map[string]any{"signed_challenge": strings.Join(changed, "."), "domain": "y.example"}); status != http.StatusBadRequest || body["gematik_code"] != 2030. {
				t.Errorf("part %d tampered: %d %v", i, status, body)
			}
		}
		// signed by the right card over a challenge of another provider of identities, and of another relying party
		strange := idp.New(idp.Options{URL: "https://idp.example", Signer: good, Key: nil, Clients: map[string][]string{"provider-b": {"https://b.example/callback"}}, Now: n.clock})
		forged, err := strange.Challenge(authorization("provider-b", "https://b.example/callback"))
		if err != nil {
			t.Fatal(err)
		}
		other, err := n.issuer.Challenge(authorization("other", "https://o.example/callback"))
		if err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]struct {
			challenge string
			provider  *certificate.Certificate
			code      float64
		}{"forged challenge": {forged, good.Certificate(), 2030}, "another relying party's": {other, n.issuer.Certificate(), 2012}} {
			answer, err := idp.Answer(c.challenge, good, c.provider, n.issuer.Key())
			if err != nil {
				t.Fatal(err)
			}
			if status, body := post(t, client, map[string]any{"signed_challenge": answer, "domain": "y.example"}); status != http.StatusBadRequest || body["gematik_code"] != c.code {
				t.Errorf("%s: %d %v", name, status, body)
			}
		}
		// too late
		if answer, err = client.Prove(t.Context(), good); err != nil {
			t.Fatal(err)
		}
		n.now = n.now.Add(3 * time.Minute)
		if status, body := post(t, client, map[string]any{"signed_challenge": answer, "domain": "y.example"}); status != http.StatusBadRequest || body["gematik_code"] != 2032. {
			t.Errorf("late: %d %v", status, body)
		}
		if d := n.listed(); len(d) != 1 {
			t.Errorf("refused cards left something: %+v", d)
		}
	})
}

func authorization(client, redirect string) idp.Authorization {
	return idp.Authorization{ClientID: client, ResponseType: "code", RedirectURI: redirect, State: "s", Scope: idp.Scope, CodeChallenge: idp.PKCE("v"), CodeChallengeMethod: "S256"}
}

// flip changes the first character of a part; an empty one (the encrypted key of a direct agreement) gets one.
func flip(part string) string {
	if part == "" {
		return "AAAA"
	}
	c := byte('A')
	if part[0] == 'A' {
		c = 'B'
	}
	return string(c) + part[1:]
}

// TestClient: a wrong PIN stays with the card, and no card signs for a stranger.
func TestClient(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, databasetest.Open(t, databasetest.SQLite(t)))
	client := n.client(n.service)
	smcb := n.smcb("1-2.1", certificate.Practice, "Praxis Sonnenallee")
	var wrong *card.PINError
	if _, err := client.Register(t.Context(), smcb, "654321", registration.Order{ServerName: "praxis.example"}); !errors.As(err, &wrong) || wrong.Left != 2 {
		t.Errorf("wrong PIN: %v", err)
	}
	abroad, err := card.Open(card.Options{Folder: t.TempDir(), Now: n.clock})
	if err != nil {
		t.Fatal(err)
	}
	suspicious := client
	suspicious.Trust = abroad.Trust()
	var check *certificate.CheckError
	if _, err := suspicious.Register(t.Context(), smcb, pin, registration.Order{ServerName: "praxis.example"}); !errors.As(err, &check) || check.Check != certificate.ChainCheck {
		t.Errorf("an identity provider of somebody else: %v", err)
	}
	for _, body := range []string{"{}", `{"challenge":"x","x5c":["AA=="],"puk_idp_enc":{}}`, "nothing", `{"challenge":"a.b.c"}`} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }))
		if _, err := (registration.Client{URL: srv.URL}).Register(t.Context(), smcb, pin, registration.Order{}); err == nil {
			t.Errorf("%s: no error", body)
		}
		srv.Close()
	}
	slow := n.client(n.provider(func(o *registration.Options) {
		o.Allow = func(*http.Request) (bool, time.Duration) { return false, time.Second }
	}))
	var refused *registration.Refusal
	if _, err := slow.Register(t.Context(), smcb, pin, registration.Order{}); !errors.As(err, &refused) || refused.Status != http.StatusTooManyRequests {
		t.Errorf("too often: %v", err)
	}
	for _, body := range []any{"", "[]", `{"domain":7}`, `{"domain":"neu.example","domain":"y.example"}`, `{"domain":"` + strings.Repeat("a", 70<<10) + `"}`} {
		if status, out := post(t, client, body); status != http.StatusBadRequest || out["error"] != "invalid_request" {
			t.Errorf("%.40s: %d %v", body, status, out)
		}
	}
}

// FuzzOrder feeds the answer's parser and the order: whatever comes is refused with a 4xx, and nothing is made.
func FuzzOrder(f *testing.F) {
	n := newNetwork(f, databasetest.Open(f, databasetest.SQLite(f)))
	h := n.service.Handler("")
	good := n.unlock(n.smcb("1-2.1", certificate.Practice, "Praxis Sonnenallee"))
	challenge, err := n.service.Begin()
	if err != nil {
		f.Fatal(err)
	}
	answer, err := n.service.Answer(challenge, good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"signed_challenge":"` + answer + `","domain":"UPPER.example"}`))
	f.Add([]byte(`{"signed_challenge":"a.b.c.d.e","domain":"neu.example","isInsurance":true,"ik":["1"]}`))
	f.Add([]byte(`{`))
	for _, plain := range []string{`{"njwt":"a.b.c"}`, `{"njwt":7}`, ``} {
		sealed, err := jose.Encrypt(rand.Reader, n.issuer.Key(), jose.Header{Cty: "NJWT"}, []byte(plain))
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(`{"signed_challenge":"` + sealed + `","domain":"neu.example"}`))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/order", bytes.NewReader(body)))
		if w.Code < 400 || w.Code >= 500 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}

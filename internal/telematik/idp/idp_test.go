// SPDX-License-Identifier: Apache-2.0

package idp_test

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/health/brainpool"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/jose"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/idp"
)

var start = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

type network struct {
	pki    *card.PKI
	issuer *idp.Issuer
	now    time.Time
}

func newNetwork(t testing.TB) *network {
	t.Helper()
	n := &network{now: start}
	clock := func() time.Time { return n.now }
	var err error
	if n.pki, err = card.Open(card.Options{Folder: t.TempDir(), Now: clock}); err != nil {
		t.Fatal(err)
	}
	signer, err := n.pki.Component("idp", certificate.RoleIDP)
	if err != nil {
		t.Fatal(err)
	}
	key, err := n.pki.ComponentKey("idp", certificate.RoleIDP)
	if err != nil {
		t.Fatal(err)
	}
	n.issuer = idp.New(idp.Options{
		URL: "https://idp.example", Signer: signer, Key: key, Trust: n.pki.Trust(), Revoked: n.pki.Revoked, Now: clock,
		Clients: map[string][]string{"registration": {"https://provider.example/callback"}},
	})
	return n
}

func (n *network) smcb(t testing.TB, change func(*card.Institution)) card.Signer {
	t.Helper()
	i := card.Institution{Name: "Praxis Sonnenallee", TelematikID: "1-2.1", ProfessionOID: certificate.Practice, PIN: "123456"}
	if change != nil {
		change(&i)
	}
	c, err := n.pki.IssueSMCB(i)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := c.Unlock("123456")
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func request() idp.Authorization {
	return idp.Authorization{ClientID: "registration", ResponseType: "code", RedirectURI: "https://provider.example/callback", State: "s", Nonce: "n", Scope: idp.Scope,
		CodeChallenge: idp.PKCE("verifier"), CodeChallengeMethod: "S256"}
}

func (n *network) answer(t testing.TB, c card.Signer) string {
	t.Helper()
	token, err := n.issuer.Challenge(request())
	if err != nil {
		t.Fatal(err)
	}
	answer, err := idp.Answer(token, c, n.issuer.Certificate(), n.issuer.Key())
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func TestProof(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	answer := n.answer(t, n.smcb(t, nil))
	proof, err := n.issuer.Verify(t.Context(), answer)
	if err != nil {
		t.Fatal(err)
	}
	if proof.Identity.Number != "1-2.1" || proof.Identity.ProfessionOID != certificate.Practice || proof.Identity.Organization != "Praxis Sonnenallee" || proof.State != "s" {
		t.Errorf("%+v", proof)
	}
	if _, err := n.issuer.Verify(t.Context(), answer); !errors.Is(err, idp.ErrChallenge) {
		t.Errorf("the same answer twice: %v", err)
	}
	code, err := n.issuer.Code(proof)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		client, redirect, verifier string
		want                       error
	}{
		"another client":   {"directory", proof.RedirectURI, "verifier", idp.ErrClient},
		"another redirect": {"registration", "https://evil.example", "verifier", idp.ErrRedirect},
		"another verifier": {"registration", proof.RedirectURI, "guess", idp.ErrVerifier},
	} {
		if _, err := n.issuer.Redeem(t.Context(), c.client, c.redirect, code, c.verifier); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	got, err := n.issuer.Redeem(t.Context(), "registration", proof.RedirectURI, code, "verifier")
	if err != nil || got.Identity != proof.Identity || got.Nonce != "n" || !got.AuthTime.Equal(start) {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := n.issuer.Redeem(t.Context(), "registration", proof.RedirectURI, code, "verifier"); !errors.Is(err, idp.ErrCode) {
		t.Errorf("the same code twice: %v", err)
	}
	if code, err = n.issuer.Code(proof); err != nil {
		t.Fatal(err)
	}
	n.now = start.Add(2 * time.Minute)
	if _, err := n.issuer.Redeem(t.Context(), "registration", proof.RedirectURI, code, "verifier"); !errors.Is(err, idp.ErrCode) {
		t.Errorf("an old code: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	for name, c := range map[string]struct {
		change func(*idp.Authorization)
		want   error
	}{
		"client": {func(a *idp.Authorization) { a.ClientID = "x" }, idp.ErrClient}, "redirect": {func(a *idp.Authorization) { a.RedirectURI = "https://x" }, idp.ErrRedirect},
		"response type": {func(a *idp.Authorization) { a.ResponseType = "token" }, idp.ErrResponseType}, "state": {func(a *idp.Authorization) { a.State = "" }, idp.ErrNoState},
		"scope": {func(a *idp.Authorization) { a.Scope = "openid" }, idp.ErrScope}, "PKCE": {func(a *idp.Authorization) { a.CodeChallenge = "" }, idp.ErrNoPKCE}, "odd PKCE": {func(a *idp.Authorization) { a.CodeChallenge = "x" }, idp.ErrPKCE},
		"no client": {func(a *idp.Authorization) { a.ClientID = "" }, idp.ErrNoClient}, "no redirect": {func(a *idp.Authorization) { a.RedirectURI = "" }, idp.ErrNoRedirect},
		"no response type": {func(a *idp.Authorization) { a.ResponseType = "" }, idp.ErrNoType}, "no scope": {func(a *idp.Authorization) { a.Scope = "" }, idp.ErrNoScope},
		"another scope": {func(a *idp.Authorization) { a.Scope = "openid e-rezept" }, idp.ErrScope}, "a long state": {func(a *idp.Authorization) { a.State = strings.Repeat("x", 513) }, idp.ErrState},
		"a long nonce": {func(a *idp.Authorization) { a.Nonce = strings.Repeat("x", 513) }, idp.ErrNonce},
		"plain PKCE":   {func(a *idp.Authorization) { a.CodeChallengeMethod = "plain" }, idp.ErrMethod},
	} {
		a := request()
		c.change(&a)
		if _, err := n.issuer.Challenge(a); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := newNetwork(t)
	good := n.smcb(t, nil)
	expired := n.smcb(t, func(i *card.Institution) {
		i.TelematikID = "1-2.2"
		i.Period = card.Period{From: start.AddDate(-6, 0, 0)}
	})
	revoked := n.smcb(t, func(i *card.Institution) { i.TelematikID = "1-2.3" })
	if err := n.pki.Revoke(revoked.Certificate()); err != nil {
		t.Fatal(err)
	}
	token, err := n.issuer.Challenge(request())
	if err != nil {
		t.Fatal(err)
	}
	encrypt := func(plain []byte) string {
		t.Helper()
		out, err := jose.Encrypt(rand.Reader, n.issuer.Key(), jose.Header{Cty: "NJWT"}, plain)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	nested := func(s jose.Signer, c *certificate.Certificate, inner string) string {
		t.Helper()
		payload, err := jose.Nest(inner)
		if err != nil {
			t.Fatal(err)
		}
		var x5c [][]byte
		if c != nil {
			x5c = [][]byte{c.DER()}
		}
		signed, err := jose.Sign(jose.Header{X5c: x5c}, payload, s)
		if err != nil {
			t.Fatal(err)
		}
		if payload, err = jose.Nest(signed); err != nil {
			t.Fatal(err)
		}
		return encrypt(payload)
	}
	stranger, err := brainpool.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := jose.SignClaims(jose.Header{}, map[string]any{"token_type": "challenge", "iss": "https://idp.example", "jti": "x", "exp": start.Unix() + 60}, jose.BrainpoolSigner{Key: stranger})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		answer string
		want   error
	}{
		"empty":                  {"", idp.ErrChallenge},
		"for another provider":   {other.answer(t, good), idp.ErrChallenge},
		"plain text":             {encrypt([]byte("hello")), idp.ErrChallenge},
		"not nested":             {encrypt([]byte(`{"njwt":"a.b.c"}`)), idp.ErrChallenge},
		"another PKI's card":     {n.answer(t, other.smcb(t, nil)), idp.ErrCertificate},
		"expired card":           {n.answer(t, expired), idp.ErrCertificate},
		"revoked card":           {n.answer(t, revoked), idp.ErrCertificate},
		"no certificate":         {nested(good, nil, token), idp.ErrCertificate},
		"component's signature":  {nested(good, n.issuer.Certificate(), token), idp.ErrCertificate},
		"somebody else's key":    {nested(jose.BrainpoolSigner{Key: stranger}, good.Certificate(), token), idp.ErrSignature},
		"challenge of a forger":  {nested(good, good.Certificate(), foreign), idp.ErrChallenge},
		"challenge is no token":  {nested(good, good.Certificate(), "x"), idp.ErrChallenge},
		"challenge is an answer": {nested(good, good.Certificate(), n.answer(t, good)), idp.ErrChallenge},
	} {
		if _, err := n.issuer.Verify(t.Context(), c.answer); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	late := n.answer(t, good)
	n.now = start.Add(4 * time.Minute)
	if _, err := n.issuer.Verify(t.Context(), late); !errors.Is(err, idp.ErrExpired) {
		t.Errorf("late: %v", err)
	}
	if _, err := idp.Answer(foreign, good, n.issuer.Certificate(), n.issuer.Key()); err == nil {
		t.Error("the authenticator signs a forged challenge")
	}
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	srv := httptest.NewServer(n.issuer.Routes("/idp"))
	t.Cleanup(srv.Close)
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	q := url.Values{"client_id": {"registration"}, "response_type": {"code"}, "redirect_uri": {"https://provider.example/callback"}, "state": {"s1"}, "scope": {idp.Scope},
		"code_challenge": {idp.PKCE("v")}, "code_challenge_method": {"S256"}}
	resp, err := client.Get(srv.URL + "/idp/auth?" + q.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body struct{ Challenge string }
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil || resp.StatusCode != 200 {
		t.Fatalf("%d %v", resp.StatusCode, err)
	}
	answer, err := idp.Answer(body.Challenge, n.smcb(t, nil), n.issuer.Certificate(), n.issuer.Key())
	if err != nil {
		t.Fatal(err)
	}
	back, err := client.PostForm(srv.URL+"/idp/auth", url.Values{"signed_challenge": {answer}})
	if err != nil {
		t.Fatal(err)
	}
	defer back.Body.Close()
	to, err := back.Location()
	if err != nil || back.StatusCode != http.StatusFound || to.Query().Get("state") != "s1" {
		t.Fatalf("%d %v %v", back.StatusCode, to, err)
	}
	if p, err := n.issuer.Redeem(t.Context(), "registration", "https://provider.example/callback", to.Query().Get("code"), "v"); err != nil || p.Identity.Number != "1-2.1" {
		t.Errorf("%+v %v", p, err)
	}
	for _, path := range []string{"/idp/auth?client_id=y", "/idp/auth?client_id=x"} {
		resp, err := client.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		var refused struct {
			Error string
			Code  int `json:"gematik_code"`
		}
		err = json.NewDecoder(resp.Body).Decode(&refused)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 400 || refused.Code != 2012 || refused.Error != "invalid_client" {
			t.Errorf("%s: %d %+v %v", path, resp.StatusCode, refused, err)
		}
	}
	resp2, err := client.Post(srv.URL+"/idp/auth", "application/x-www-form-urlencoded", strings.NewReader("signed_challenge="+strings.Repeat("a", 70<<10)))
	if err != nil {
		t.Fatal(err)
	}
	resp2.Body.Close()
	if resp2.StatusCode != 400 {
		t.Errorf("oversized answer: %d", resp2.StatusCode)
	}
	for _, path := range []string{"/idp/.well-known/openid-configuration", "/idp/certs/puk_idp_enc", "/idp/certs/puk_idp_sig", "/idp/certs"} {
		resp, err := client.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
}

// TestUsedEverywhere: what was answered at one node is a replay at another, and after a restart; the memory of it ends with the token.
func TestUsedEverywhere(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		n := newNetwork(t)
		node := func() *idp.Issuer {
			signer, err := n.pki.Component("idp", certificate.RoleIDP)
			if err != nil {
				t.Fatal(err)
			}
			key, err := n.pki.ComponentKey("idp", certificate.RoleIDP)
			if err != nil {
				t.Fatal(err)
			}
			return idp.New(idp.Options{
				URL: "https://idp.example", Signer: signer, Key: key, Trust: n.pki.Trust(), Revoked: n.pki.Revoked, Now: func() time.Time { return n.now },
				Clients: map[string][]string{"registration": {"https://provider.example/callback"}}, Used: idp.UsedIn(db), Seal: make([]byte, 32),
			})
		}
		first, second := node(), node()
		answer := n.answer(t, n.smcb(t, nil))
		proof, err := first.Verify(t.Context(), answer)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := second.Verify(t.Context(), answer); !errors.Is(err, idp.ErrChallenge) {
			t.Errorf("the answer once more at another node: %v", err)
		}
		code, err := first.Code(proof)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := second.Redeem(t.Context(), "registration", proof.RedirectURI, code, "verifier"); err != nil {
			t.Errorf("a code at another node: %v", err)
		}
		if _, err := first.Redeem(t.Context(), "registration", proof.RedirectURI, code, "verifier"); !errors.Is(err, idp.ErrCode) {
			t.Errorf("the code once more: %v", err)
		}
		n.now = n.now.Add(time.Hour)
		if _, err := first.Verify(t.Context(), n.answer(t, n.smcb(t, nil))); err != nil {
			t.Fatal(err)
		}
		var left int
		if err := db.QueryRow(t.Context(), "SELECT COUNT(*) FROM idp_used").Scan(&left); err != nil || left != 1 {
			t.Errorf("%d remembered, %v", left, err)
		}
	})
	n := newNetwork(t)
	answer := n.answer(t, n.smcb(t, nil))
	db := databasetest.Open(t, databasetest.SQLite(t))
	db.Close()
	signer, err := n.pki.Component("idp", certificate.RoleIDP)
	if err != nil {
		t.Fatal(err)
	}
	key, err := n.pki.ComponentKey("idp", certificate.RoleIDP)
	if err != nil {
		t.Fatal(err)
	}
	down := idp.New(idp.Options{URL: "https://idp.example", Signer: signer, Key: key, Trust: n.pki.Trust(), Now: func() time.Time { return n.now }, Used: idp.UsedIn(db)})
	if proof, err := down.Verify(t.Context(), answer); err == nil {
		t.Errorf("without memory an answer counts: %+v", proof)
	}
}

func FuzzVerify(f *testing.F) {
	n := newNetwork(f)
	f.Add(n.answer(f, n.smcb(f, nil)))
	f.Add("....")
	f.Fuzz(func(t *testing.T, answer string) {
		if _, err := n.issuer.Verify(t.Context(), answer); err != nil {
			if _, ok := errors.AsType[*idp.Error](err); !ok {
				t.Error(err)
			}
		}
	})
}

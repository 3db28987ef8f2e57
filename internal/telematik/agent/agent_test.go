// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/telematik/agent"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/idp"
)

// desk is a person at a machine: an identity provider, a relying party, cards and the agent, all behind HTTP.
type desk struct {
	*testing.T
	pki      *card.PKI
	party    *idp.Party
	agent    *httptest.Server
	cards    []agent.Card
	now      time.Time
	language string
	arrived  url.Values // at the relying party
}

const pin = "123456"

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{T: t, now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), language: "en"}
	clock := func() time.Time { return d.now }
	var err error
	if d.pki, err = card.Open(card.Options{Folder: t.TempDir(), Now: clock}); err != nil {
		t.Fatal(err)
	}
	signer, err := d.pki.Component("idp", certificate.RoleIDP)
	if err != nil {
		t.Fatal(err)
	}
	key, err := d.pki.ComponentKey("idp", certificate.RoleIDP)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	callback := server.URL + "/callback"
	mux.HandleFunc("/callback", func(w http.ResponseWriter, r *http.Request) { d.arrived = r.URL.Query() })
	issuer := idp.New(idp.Options{URL: server.URL + "/idp", Signer: signer, Key: key, Trust: d.pki.Trust(), Revoked: d.pki.Revoked, Now: clock,
		Clients: map[string][]string{"messenger": {callback}}})
	mux.Handle("/idp/", issuer.Routes("/idp"))
	d.party = &idp.Party{Discovery: server.URL + "/idp/.well-known/openid-configuration", Issuer: server.URL + "/idp", ClientID: "messenger", RedirectURI: callback, Trust: d.pki.Trust(), Now: clock}
	own := &idp.Party{Discovery: d.party.Discovery, Issuer: d.party.Issuer, Trust: d.party.Trust, Now: clock}
	d.agent = httptest.NewServer(agent.New(agent.Options{Provider: own, Cards: func() ([]agent.Card, error) { return d.cards, nil }}))
	t.Cleanup(d.agent.Close)
	return d
}

func (d *desk) hba() *card.Card {
	d.Helper()
	c, err := d.pki.IssueHBA(card.Person{GivenName: "Anna", FamilyName: "Sömmer", TelematikID: "1-1.9", ProfessionOID: certificate.Physician, PIN: pin})
	if err != nil {
		d.Fatal(err)
	}
	return c
}

func (d *desk) smcb() *card.Card {
	d.Helper()
	c, err := d.pki.IssueSMCB(card.Institution{Name: "Praxis Sonnenallee", TelematikID: "1-2.1", ProfessionOID: certificate.Practice, PIN: pin})
	if err != nil {
		d.Fatal(err)
	}
	return c
}

// begin is where the messenger sends the browser.
func (d *desk) begin(extra string) string {
	d.Helper()
	address, err := d.party.Begin(d.Context(), "state", "nonce", "verifier")
	if err != nil {
		d.Fatal(err)
	}
	return "/?challenge_path=" + url.QueryEscape(address) + extra
}

// do makes a browser's request and returns the page.
func (d *desk) do(method, path string, form url.Values, change func(*http.Request)) (status int, page, to string) {
	d.Helper()
	r, err := http.NewRequest(method, d.agent.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		d.Fatal(err)
	}
	r.Header.Set("Accept-Language", d.language)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if method == http.MethodPost {
		r.Header.Set("Origin", d.agent.URL)
	}
	if change != nil {
		change(r)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(r)
	if err != nil {
		d.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		d.Fatal(err)
	}
	return resp.StatusCode, string(body), resp.Header.Get("Location")
}

var (
	hidden = regexp.MustCompile(`<input type="hidden" name="(\w+)" value="([^"]*)">`)
	chosen = regexp.MustCompile(`name="card" value="(\w+)" checked`)
)

// form reads the form of a page and fills the PIN in.
func (d *desk) form(page, pin string) url.Values {
	d.Helper()
	form := url.Values{"pin": {pin}}
	for _, m := range hidden.FindAllStringSubmatch(page, -1) {
		form.Set(m[1], strings.NewReplacer("&amp;", "&", "&#43;", "+").Replace(m[2]))
	}
	if m := chosen.FindStringSubmatch(page); m != nil {
		form.Set("card", m[1])
	}
	return form
}

func (d *desk) says(page, german, english string) {
	d.Helper()
	want := english
	if d.language == "de" {
		want = german
	}
	if !strings.Contains(page, want) {
		d.Errorf("%s: the page does not say %q:\n%s", d.language, want, page)
	}
}

func TestSignInWithCards(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.cards = []agent.Card{d.smcb(), d.hba()}
	for kind, number := range map[string]string{"HBA": "1-1.9", "SMC-B": "1-2.1"} {
		status, page, _ := d.do(http.MethodGet, d.begin("&cardType="+kind), nil, nil)
		if status != 200 || strings.Count(page, `type="radio"`) != 1 || !strings.Contains(page, "127.0.0.1") {
			t.Fatalf("%s: %d\n%s", kind, status, page)
		}
		status, page, to := d.do(http.MethodPost, "/", d.form(page, pin), nil)
		if status != http.StatusSeeOther {
			t.Fatalf("%s: %d\n%s", kind, status, page)
		}
		u, err := url.Parse(to)
		if err != nil || !strings.HasPrefix(to, d.party.RedirectURI) || u.Query().Get("state") != "state" {
			t.Fatalf("%s: sent to %s", kind, to)
		}
		who, err := d.party.Redeem(t.Context(), u.Query().Get("code"), "verifier", "nonce")
		if err != nil || who.Number != number {
			t.Errorf("%s: %+v %v", kind, who, err)
		}
	}
	_, page, _ := d.do(http.MethodGet, d.begin("&callback=DIRECT"), nil, nil) // the client waits elsewhere
	if status, page, _ := d.do(http.MethodPost, "/", d.form(page, pin), nil); status != 200 || d.arrived.Get("code") == "" {
		t.Errorf("%d %v\n%s", status, d.arrived, page)
	}
	if _, page, _ := d.do(http.MethodGet, "/", nil, nil); !strings.Contains(page, "Ready") {
		t.Errorf("without a request:\n%s", page)
	}
}

func TestPINs(t *testing.T) {
	t.Parallel()
	for _, language := range []string{"de", "en"} {
		d := newDesk(t)
		d.language = language
		hba := d.hba()
		d.cards = []agent.Card{hba}
		_, page, _ := d.do(http.MethodGet, d.begin(""), nil, nil)
		for left := 2; left > 0; left-- {
			var status int
			if status, page, _ = d.do(http.MethodPost, "/", d.form(page, "000000"), nil); status != http.StatusForbidden || hba.RetriesLeft() != left {
				t.Errorf("%d, %d left", status, hba.RetriesLeft())
			}
			d.says(page, "Es bleiben "+string(rune('0'+left)), "There are "+string(rune('0'+left)))
		}
		_, page, _ = d.do(http.MethodPost, "/", d.form(page, "000000"), nil)
		d.says(page, "Die PIN der Karte ist gesperrt", "PIN is blocked")
		_, page, _ = d.do(http.MethodGet, d.begin(""), nil, nil)
		d.says(page, "PIN gesperrt", "PIN blocked")
		if status, page, _ := d.do(http.MethodPost, "/", d.form(page, pin), nil); status != http.StatusForbidden || len(d.arrived) > 0 {
			t.Errorf("the right PIN for a blocked card: %d\n%s", status, page)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, language := range []string{"de", "en"} {
		d := newDesk(t)
		d.language = language
		hba := d.hba()
		d.cards = []agent.Card{hba}
		begin := d.begin("")
		_, page, _ := d.do(http.MethodGet, begin, nil, nil)
		form := d.form(page, pin)
		// The same challenge answered twice: the browser's back button fetches a new one, so a replay happens at the provider; here the request is old.
		d.now = d.now.Add(time.Hour)
		d.cards = nil
		_, page, _ = d.do(http.MethodGet, d.begin(""), nil, nil)
		d.says(page, "keine passende Karte", "no fitting card")
		d.cards = []agent.Card{hba}
		if err := d.pki.Revoke(hba.Certificate()); err != nil {
			t.Fatal(err)
		}
		_, page, _ = d.do(http.MethodPost, "/", form, nil)
		d.says(page, "Das AUT-Zertifikat ist ungültig", "The AUT certificate is not valid")
		_, page, _ = d.do(http.MethodGet, "/?challenge_path="+url.QueryEscape("http://127.0.0.1:1/auth?x=y"), nil, nil)
		d.says(page, "nicht von Ihrer Anmeldestelle", "did not come from your identity provider")
		_, page, _ = d.do(http.MethodGet, "/elsewhere", nil, nil)
		d.says(page, "Diese Seite gibt es nicht", "no such page")
	}
}

// TestOwnOriginIsTold: a browser tells the origin of the page's own form only where the page lets it, and nothing to others.
func TestOwnOriginIsTold(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, d.agent.URL+"/", nil)
	d.agent.Config.Handler.ServeHTTP(w, r)
	if got := w.Header().Get("Referrer-Policy"); w.Code != http.StatusOK || got != "same-origin" {
		t.Errorf("%d, Referrer-Policy %q", w.Code, got)
	}
}

// TestOnlyOurOwnPages: no other page may make the agent sign, and no name that others control may reach it.
func TestOnlyOurOwnPages(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	hba := d.hba()
	d.cards = []agent.Card{hba}
	_, page, _ := d.do(http.MethodGet, d.begin(""), nil, nil)
	good := d.form(page, pin)
	without := func(field string) url.Values {
		form := url.Values{}
		for k, v := range good {
			form[k] = v
		}
		form.Set(field, "")
		return form
	}
	for name, c := range map[string]struct {
		form   url.Values
		change func(*http.Request)
	}{
		"another origin":         {good, func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }},
		"no origin":              {good, func(r *http.Request) { r.Header.Del("Origin") }},
		"an opaque origin":       {good, func(r *http.Request) { r.Header.Set("Origin", "null") }},
		"another port":           {good, func(r *http.Request) { r.Header.Set("Origin", "http://127.0.0.1:1") }},
		"a name pointed at here": {good, func(r *http.Request) { r.Host = "evil.example"; r.Header.Set("Origin", "http://evil.example") }},
		"without the form's key": {without("key"), nil},
		"another method":         {good, func(r *http.Request) { r.Method = http.MethodPut }},
	} {
		if status, page, to := d.do(http.MethodPost, "/", c.form, c.change); status != http.StatusForbidden && status != http.StatusMethodNotAllowed || to != "" || hba.RetriesLeft() != card.Retries {
			t.Errorf("%s: %d %s\n%s", name, status, to, page)
		}
	}
	if status, _, _ := d.do(http.MethodGet, "/", nil, func(r *http.Request) { r.Host = "evil.example" }); status != http.StatusForbidden {
		t.Errorf("shown under a foreign name: %d", status)
	}
	if status, _, to := d.do(http.MethodPost, "/", good, nil); status != http.StatusSeeOther || to == "" {
		t.Errorf("our own page: %d %s", status, to)
	}
}

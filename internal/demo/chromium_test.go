// SPDX-License-Identifier: Apache-2.0

package demo_test

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/browser/browsertest"
	"github.com/konsil-health/konsil/internal/demo"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// desk is a person at a real browser, which enforces what pages forbid each other; the card service is on the same machine.
type desk struct {
	*testing.T
	*browsertest.Page
	n *demo.Network
	// name is the full Matrix ID, holder whose card is shown.
	name, holder string
}

// shows fails unless the page says that, and looks right.
func (d *desk) shows(text string) {
	d.Helper()
	d.fits()
	if got := d.Page.Text(); !strings.Contains(got, text) {
		d.Fatalf("%s does not say %q: %s", d.URL(), text, got)
	}
}

// toCard goes from a page for signing in to the card service.
func (d *desk) toCard() {
	d.Helper()
	d.Fill("username", d.name)
	d.Press("card")
	d.fits()
	d.Press(d.n.Agent)
	at := d.URL()
	at.Host = "localhost:" + at.Port() // another site than the messenger's, as it is on people's machines
	d.Open(at.String())
}

// fits fails where a page is broader than the screen of a telephone or of a desk, or a button too small for a finger.
func (d *desk) fits() {
	d.Helper()
	for _, look := range []browsertest.Look{{Width: 390, Height: 844}, {}} {
		d.Look(look)
		var wrong []string
		d.Eval(`[...document.querySelectorAll("h1, p, label, button:not(.link), a.button, input:not([type=hidden])")].filter(e => e.checkVisibility()).filter(e => {
			const box = e.getBoundingClientRect(), pressed = e.matches("button, a.button");
			return box.left < 0 || box.right > innerWidth || pressed && box.height < 44;
		}).map(e => e.outerHTML).concat(document.documentElement.scrollWidth > innerWidth ? ["the page"] : [])`, &wrong)
		if len(wrong) > 0 {
			d.Errorf("%s at %+v: %q", d.URL().Path, look, wrong)
		}
	}
}

// sign shows a card and its PIN, right or wrong.
func (d *desk) sign(holder, pin string) {
	d.Helper()
	d.Choose(holder)
	d.Fill("pin", pin)
	d.Press("Anmelden")
}

// application is a messenger that waits for its browser; it shows what it is told.
func application(t *testing.T) string {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.URL.Query().Get("loginToken"), r.URL.Query().Get("code"))
	}))
	t.Cleanup(app.Close)
	return app.URL + "/"
}

// TestCardInChromium: a physician signs in with her health professional card in a real browser. The card of another institution is refused, a wrong PIN
// counted, the right one brings her messenger its token. Her browser then lets in a messenger by OAuth 2.0, and one that shows a code. Last, an
// institution registers by its card. Every page fits a telephone and a desk.
//
// Requirements: A_22936, AF_10103.
func TestCardInChromium(t *testing.T) {
	t.Parallel()
	chromium := browsertest.Start(t)
	n, err := demo.Start(t.Context(), demo.Options{Folder: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	o := demo.Cast[0]
	anna := o.People[0]
	user, ok := n.User(o.Server, anna.Login())
	if !ok {
		t.Fatal("Anna has no account")
	}
	d := &desk{T: t, Page: chromium.Page(t, browsertest.Look{}), n: n, name: "@" + anna.Login() + ":" + string(o.Server), holder: anna.Given + " " + anna.Family}
	start := n.URL + "/_matrix/client/v3/login/sso/redirect?redirectUrl=" + url.QueryEscape(application(t))
	d.Open(start)
	d.toCard()
	d.sign(demo.Newcomer.Name, demo.PIN)
	d.shows("Das ist die Karte einer anderen Institution")

	d.Open(start)
	d.toCard()
	d.sign(d.holder, "000000")
	d.shows("Die PIN ist falsch. Es bleiben 2 Versuche")
	d.sign(d.holder, demo.PIN)
	d.shows("Anmeldung weitergeben")
	d.Press("approve")
	d.has(user, d.post("/_matrix/client/v3/login", map[string]any{"type": "m.login.token", "token": d.Page.Text()})["access_token"])
	d.authorizes(user)
	d.linksDevice(user)
	(&desk{T: t, Page: chromium.Page(t, browsertest.Look{}), n: n}).registers()
}

// registers is an institution's registration by its card, up to its console (AF_10103).
func (d *desk) registers() {
	d.Helper()
	d.Open(d.n.URL + "/console/register")
	d.fits()
	d.Press("card")
	d.fits()
	d.Press(d.n.Agent)
	d.sign(demo.Newcomer.Name, demo.PIN)
	d.fits()
	d.Choose("accept")
	d.Press("terms")
	d.fits()
	found := regexp.MustCompile(`[A-Z2-7]{4}( [A-Z2-7]{4}){7}`).FindString(d.Page.Text())
	code, err := account.TOTPCode(strings.ReplaceAll(found, " ", ""), time.Now())
	if err != nil {
		d.Fatalf("no secret on the page (%v): %s", err, d.Page.Text())
	}
	for field, text := range map[string]string{"login": "leitung", "password": "ein-langes-Passwort-41", "repeat": "ein-langes-Passwort-41", "code": code} {
		d.Fill(field, text)
	}
	d.Press("admin")
	d.fits()
	d.Fill("label", "praxis-am-see")
	d.Press("order")
	d.shows(demo.Newcomer.Name)
}

// authorizes lets a messenger in by OAuth 2.0, in the browser that is signed in (RFC 6749, section 4.1).
func (d *desk) authorizes(user id.User) {
	d.Helper()
	home := application(d.T)
	client := d.client("Testmessenger", true)
	verifier := rand.Text() + rand.Text()
	challenge := sha256.Sum256([]byte(verifier))
	d.Open(d.n.URL + "/_matrix/oauth2/authorize?" + url.Values{"response_type": {"code"}, "response_mode": {"query"}, "client_id": {client}, "redirect_uri": {home},
		"scope": {scope("AUTHORIZED")}, "state": {"s"}, "code_challenge_method": {"S256"}, "code_challenge": {base64.RawURLEncoding.EncodeToString(challenge[:])}}.Encode())
	d.shows("Testmessenger")
	d.Press("approve")
	d.has(user, d.token(url.Values{"grant_type": {"authorization_code"}, "client_id": {client}, "redirect_uri": {home}, "code": {d.Page.Text()}, "code_verifier": {verifier}}))
}

// linksDevice lets a messenger in that has no browser (RFC 8628).
func (d *desk) linksDevice(user id.User) {
	d.Helper()
	const grant = "urn:ietf:params:oauth:grant-type:device_code"
	client := d.client("Stationstafel", false)
	link := d.form("/_matrix/oauth2/device", url.Values{"client_id": {client}, "scope": {scope("LINKED")}})
	code, _ := link["user_code"].(string)
	d.Open(fmt.Sprint(link["verification_uri"]))
	d.shows("Code")
	d.Fill("user_code", code)
	d.Press("code")
	d.shows(code)
	d.shows("Stationstafel")
	d.Press("approve")
	d.shows("Gerät verbunden")
	d.has(user, d.token(url.Values{"grant_type": {grant}, "client_id": {client}, "device_code": {fmt.Sprint(link["device_code"])}}))
	d.Open(d.n.URL + "/_matrix/account?action=org.matrix.devices_list")
	d.shows("Stationstafel")
}

func scope(device string) string {
	return "urn:matrix:client:api:* urn:matrix:client:device:" + device
}

// client registers a messenger (RFC 7591), with a browser or without; on this machine any port is its own.
func (d *desk) client(name string, browser bool) string {
	d.Helper()
	about := map[string]any{"client_name": name, "client_uri": "https://messenger.example/", "token_endpoint_auth_method": "none", "application_type": "native",
		"grant_types": []string{"urn:ietf:params:oauth:grant-type:device_code", "refresh_token"}}
	if browser {
		about["grant_types"], about["response_types"], about["redirect_uris"] = []string{"authorization_code", "refresh_token"}, []string{"code"}, []string{"http://127.0.0.1/"}
	}
	return fmt.Sprint(d.post("/_matrix/oauth2/register", about)["client_id"])
}

// has fails unless a token is the user's.
func (d *desk) has(user id.User, token any) {
	d.Helper()
	r, err := http.NewRequestWithContext(d.Context(), http.MethodGet, d.n.URL+"/_matrix/client/v3/account/whoami", nil)
	if err != nil {
		d.Fatal(err)
	}
	r.Header.Set("Authorization", fmt.Sprint("Bearer ", token))
	if got := d.do(r)["user_id"]; got != string(user) {
		d.Errorf("the messenger is signed in as %q, want %q", got, user)
	}
}

func (d *desk) token(form url.Values) any {
	d.Helper()
	return d.form("/_matrix/oauth2/token", form)["access_token"]
}

func (d *desk) form(path string, form url.Values) map[string]any {
	d.Helper()
	return d.send(path, "application/x-www-form-urlencoded", form.Encode())
}

func (d *desk) post(path string, body map[string]any) map[string]any {
	d.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		d.Fatal(err)
	}
	return d.send(path, "application/json", string(text))
}

func (d *desk) send(path, kind, body string) map[string]any {
	d.Helper()
	r, err := http.NewRequestWithContext(d.Context(), http.MethodPost, d.n.URL+path, strings.NewReader(body))
	if err != nil {
		d.Fatal(err)
	}
	r.Header.Set("Content-Type", kind)
	return d.do(r)
}

// do makes a messenger's request, which must succeed.
func (d *desk) do(r *http.Request) map[string]any {
	d.Helper()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		d.Fatal(err)
	}
	defer resp.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode >= 300 {
		d.Fatalf("%s: %d %v %v", r.URL.Path, resp.StatusCode, answer, err)
	}
	return answer
}

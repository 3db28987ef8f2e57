// SPDX-License-Identifier: Apache-2.0

package demo_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/browser/browsertest"
	"github.com/konsil-health/konsil/internal/demo"
)

// desk is a person at a real browser, which enforces what pages forbid each other; the card service is on the same machine.
type desk struct {
	*testing.T
	*browsertest.Page
	n *demo.Network
	// name is the full Matrix ID, holder whose card is shown.
	name, holder string
}

// shows fails unless the page says that.
func (d *desk) shows(text string) {
	d.Helper()
	if got := d.Page.Text(); !strings.Contains(got, text) {
		d.Fatalf("%s does not say %q: %s", d.URL(), text, got)
	}
}

// toCard goes from a page for signing in to the card service.
func (d *desk) toCard() {
	d.Helper()
	d.Fill("username", d.name)
	d.Press("card")
	d.Press(d.n.Agent)
}

// sign shows a card and its PIN, right or wrong.
func (d *desk) sign(holder, pin string) {
	d.Helper()
	d.Choose(holder)
	d.Fill("pin", pin)
	d.Press("Anmelden")
}

// application is a messenger that waits for its browser; it shows the login token that it got.
func application(t *testing.T) string {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.URL.Query().Get("loginToken"))
	}))
	t.Cleanup(app.Close)
	return app.URL + "/"
}

// TestCardInChromium: a physician signs in with her health professional card in a real browser. The card of another institution is refused, a wrong PIN
// counted, the right one brings her messenger its token.
//
// Requirements: A_22936.
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
	if got := d.whoHas(d.Page.Text()); got != string(user) {
		t.Errorf("the messenger is signed in as %q, want %q", got, user)
	}
}

// whoHas signs a messenger in with a login token and returns whose session it gets.
func (d *desk) whoHas(loginToken string) string {
	d.Helper()
	request, err := json.Marshal(map[string]string{"type": "m.login.token", "token": loginToken})
	if err != nil {
		d.Fatal(err)
	}
	resp, err := http.Post(d.n.URL+"/_matrix/client/v3/login", "application/json", strings.NewReader(string(request)))
	if err != nil {
		d.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		UserID string `json:"user_id"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != http.StatusOK {
		d.Fatalf("login: %d %v", resp.StatusCode, err)
	}
	return answer.UserID
}

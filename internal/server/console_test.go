// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/telematik/agent"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/directory"
	"github.com/konsil-health/konsil/internal/telematik/idp"
	"github.com/konsil-health/konsil/internal/telematik/registration"
)

// desk is a practice's computer: a browser, and the card service with the practice's card.
type desk struct {
	*country
	provider int
	browser  *http.Client
	agent    *httptest.Server
	page     string   // the last one
	at       *url.URL // where it stands
	status   int
	secret   string // of the second factor
}

// newBrowser is a desk without a card.
func (c *country) newBrowser(provider int) *desk {
	c.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		c.Fatal(err)
	}
	return &desk{country: c, provider: provider, browser: &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

func (c *country) newDesk(provider int, p directory.Institution) *desk {
	c.Helper()
	smcb, err := c.pki.IssueSMCB(card.Institution{Name: p.Name, TelematikID: p.TelematikID, ProfessionOID: p.ProfessionOID, PIN: cardPIN})
	if err != nil {
		c.Fatal(err)
	}
	d := c.newBrowser(provider)
	base := "http://" + c.clients[provider] + "/idp"
	party := &idp.Party{Discovery: base + "/.well-known/openid-configuration", Issuer: base, Trust: c.pki.Trust()}
	d.agent = httptest.NewServer(agent.New(agent.Options{Provider: party, Cards: func() ([]agent.Card, error) { return []agent.Card{smcb}, nil }}))
	c.Cleanup(d.agent.Close)
	return d
}

// visit makes a request and follows redirects.
func (d *desk) visit(method, address string, form url.Values) {
	d.Helper()
	if strings.HasPrefix(address, "/") {
		address = "http://" + d.clients[d.provider] + address
	}
	for range 5 {
		r, err := http.NewRequestWithContext(d.Context(), method, address, strings.NewReader(form.Encode()))
		if err != nil {
			d.Fatal(err)
		}
		r.Header.Set("Accept-Language", "en")
		if method == http.MethodPost {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.Header.Set("Origin", r.URL.Scheme+"://"+r.URL.Host)
		}
		resp, err := d.browser.Do(r)
		if err != nil {
			d.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			d.Fatal(err)
		}
		d.page, d.status, d.at = string(body), resp.StatusCode, r.URL
		to := resp.Header.Get("Location")
		if to == "" {
			return
		}
		next, err := r.URL.Parse(to)
		if err != nil {
			d.Fatal(err)
		}
		method, address, form = http.MethodGet, next.String(), nil
	}
	d.Fatal("too many redirects")
}

var formKeys = regexp.MustCompile(`name="key" value="(\w+)"`)

// send posts a form of the page that is shown and wants a status.
func (d *desk) send(path string, want int, fields ...string) {
	d.Helper()
	form := url.Values{}
	if m := formKeys.FindStringSubmatch(d.page); m != nil {
		form.Set("key", m[1])
	}
	for i := 0; i < len(fields); i += 2 {
		form.Add(fields[i], fields[i+1])
	}
	d.visit(http.MethodPost, path, form)
	if d.status != want {
		d.Fatalf("%s %v: %d\n%s", path, fields, d.status, d.page)
	}
}

// find reads something out of the page.
func (d *desk) find(pattern string) string {
	d.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(d.page)
	if m == nil {
		d.Fatalf("no %s in the page:\n%s", pattern, d.page)
	}
	return html.UnescapeString(m[1])
}

// code is what the authenticator app shows for a time step.
func (d *desk) code(steps int64) string {
	d.Helper()
	key, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(d.secret)
	if err != nil {
		d.Fatal(err)
	}
	mac := hmac.New(sha1.New, key)
	mac.Write(binary.BigEndian.AppendUint64(nil, uint64(time.Now().Unix()/30+steps)))
	sum := mac.Sum(nil)
	at := sum[len(sum)-1] & 15
	return fmt.Sprintf("%06d", (binary.BigEndian.Uint32(sum[at:at+4])&0x7fffffff)%1_000_000)
}

// prove lets the card prove the institution, as the person at the desk does it.
func (d *desk) prove() {
	d.Helper()
	d.send("/console/register", 200, "do", "card")
	link := d.find(`href="http://127\.0\.0\.1:8770(/\?[^"]+)"`)
	d.visit(http.MethodGet, d.agent.URL+link, nil)
	fields := []string{"pin", cardPIN, "card", d.find(`name="card" value="(\w+)"`)}
	for _, m := range regexp.MustCompile(`<input type="hidden" name="(\w+)" value="([^"]*)">`).FindAllStringSubmatch(d.page, -1) {
		fields = append(fields, m[1], html.UnescapeString(m[2]))
	}
	form := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
	}
	d.visit(http.MethodPost, d.agent.URL+"/", form)
}

// appoint walks from the terms to the page for the name.
func (d *desk) appoint(login string) {
	d.Helper()
	d.send("/console/register", 400, "do", "terms")
	d.send("/console/register", 200, "do", "terms", "accept", "yes")
	d.secret = strings.ReplaceAll(d.find(`<code>([A-Z2-7 ]+)</code>`), " ", "")
	const password = "ein-langes-Passwort-41"
	d.send("/console/register", 400, "do", "admin", "login", login, "password", password, "repeat", password, "code", "000000")
	d.send("/console/register", 200, "do", "admin", "login", login, "password", password, "repeat", password, "code", d.code(0))
}

// TestRegisterInBrowser: a practice registers with its card, is found in the directory and written to; afterwards its administrator goes through the life
// of the organisation.
//
// Requirements: AF_10103, AF_10060, AF_10059, AF_10438.
func TestRegisterInBrowser(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		registerInBrowser(t, [3]string{})
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		registerInBrowser(t, [3]string{databasetest.Postgres(t), databasetest.Postgres(t), databasetest.Postgres(t)})
	})
}

func registerInBrowser(t *testing.T, databases [3]string) {
	c := newCountry(t, databases)
	d := c.newDesk(0, practices[0])
	d.visit(http.MethodGet, "/console/", nil)
	if !strings.Contains(d.page, "Sign in to administration") {
		t.Fatalf("a stranger sees %d\n%s", d.status, d.page)
	}
	d.visit(http.MethodGet, "/console/register", nil)
	d.prove()
	d.appoint("leitung")
	d.send("/console/register", 400, "do", "order", "label", "support")
	d.send("/console/register", 403, "do", "order", "domain", "praxis-ahorn.example")
	d.visit(http.MethodGet, "/console/register", nil)
	d.send("/console/register", 200, "do", "order", "label", "ahorn")
	if !strings.Contains(d.page, "Hausarztpraxis Ahorn") || !strings.Contains(d.page, "leitung") {
		t.Fatalf("no console:\n%s", d.page)
	}

	// somebody else cannot have the name, nor one that looks like it
	other := c.newDesk(0, practices[1])
	other.visit(http.MethodGet, "/console/register", nil)
	other.prove()
	other.appoint("chefin")
	other.send("/console/register", 409, "do", "order", "label", "ahorn")
	other.send("/console/register", 400, "do", "order", "label", "ah0rn")

	// people
	anna := d.addPerson("anna.weber", "Dr. Anna Weber")
	carl := d.addPerson("carl", "Carl Busch")
	d.send("/console/", 409, "login", "carl", "name", "Noch ein Carl")
	d.visit(http.MethodGet, "/console/import", nil)
	file := "Anmeldename;Name\ndora;Dora Lang\ncarl;Carl Zwei\nÜ;X\nemil\n"
	d.send("/console/import", 200, "text", file, "do", "preview")
	for _, want := range []string{"Accounts that will be made: 1<", "This login name is taken", "A column is missing", "A login name has lower-case"} {
		if !strings.Contains(d.page, want) {
			t.Errorf("the preview misses %q:\n%s", want, d.page)
		}
	}
	d.send("/console/import", 200, "text", file, "do", "import")
	if n := strings.Count(d.page, "<code>"); n != 1 {
		t.Errorf("%d passwords for one account", n)
	}

	// the directory: found and written to at once
	d.visit(http.MethodGet, "/console/directory", nil)
	d.send("/console/directory", 200, "do", "enter", "user", anna.user, "name", "Empfang", "kind", "tim", "service", d.find(`<select id="service" name="service"><option value="([^"]+)"`))
	smcb, err := c.pki.IssueSMCB(card.Institution{Name: practices[1].Name, TelematikID: practices[1].TelematikID, ProfessionOID: practices[1].ProfessionOID, PIN: cardPIN})
	if err != nil {
		t.Fatal(err)
	}
	got, err := registration.Client{URL: "http://" + c.clients[1] + "/registration"}.Register(t.Context(), smcb, cardPIN, registration.Order{ServerName: practiceNames[1], Admin: "leitung"})
	if err != nil {
		t.Fatal(err)
	}
	ben := c.signIn(1, got.Admin)
	if found := ben.search("Ahorn"); found != anna.user {
		t.Fatalf("the directory answers %q, want %q", found, anna.user)
	}
	room := ben.do(http.MethodPost, "/_matrix/client/v3/createRoom", map[string]any{"preset": "private_chat"}, 200)["room_id"].(string)
	ben.do(http.MethodPost, "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/invite", map[string]any{"user_id": anna.user}, 200)
	anna.do(http.MethodPost, "/_matrix/client/v3/join/"+url.PathEscape(room), map[string]any{}, 200)
	ben.do(http.MethodPut, "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/send/m.room.message/1", map[string]any{"msgtype": "m.text", "body": "Guten Morgen"}, 200)

	d.leaves(anna, carl)
	if found := ben.search("Ahorn"); found != "" {
		t.Errorf("who has left is still found: %q", found)
	}
	d.provisions()
	d.settles(ben, carl)
	d.ends()
}

// TestTakeOver: a new administrator takes over the messenger that the institution has, an insurer's as well as a practice's.
//
// Requirements: AF_10060.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	c := newCountry(t, [3]string{})
	for _, o := range []struct {
		institution directory.Institution
		label       string
		insured     []string
	}{{practices[0], "ahorn", nil}, {insurer, "eiche", []string{"insurance", "yes", "ik", "109500969"}}} {
		var desks []*desk
		for _, login := range []string{"erste", "zweite"} {
			d := c.newDesk(0, o.institution)
			desks = append(desks, d)
			d.visit(http.MethodGet, "/console/register", nil)
			d.prove()
			d.appoint(login)
			if login == "erste" {
				d.send("/console/register", 200, append([]string{"do", "order", "label", o.label}, o.insured...)...)
			} else {
				d.send("/console/register", 200, "do", "enter", "domain", d.find(`name="domain" value="([^"]+)"><button class="second" name="do" value="enter">`))
			}
			if !strings.Contains(d.page, o.institution.Name) || !strings.Contains(d.page, login) {
				t.Errorf("%s, %s: no console:\n%s", o.label, login, d.page)
			}
		}
		desks[1].dismisses(desks[0])
	}
	stranger := c.newDesk(0, practices[1])
	stranger.visit(http.MethodGet, "/console/register", nil)
	stranger.prove()
	stranger.appoint("fremd")
	stranger.send("/console/register", 409, "do", "enter", "domain", "eiche.example.org")
}

// dismisses takes the office from an administrator who has left: the console that is open there closes, and nobody comes back in.
func (d *desk) dismisses(former *desk) {
	d.Helper()
	d.visit(http.MethodGet, "/console/admins", nil)
	user := d.find(`name="user" value="([^"]+)"><button class="second" name="do" value="dismiss" aria-label="Dismiss: erste"`)
	d.send("/console/admins", 200, "do", "dismiss", "user", user)
	former.visit(http.MethodGet, "/console/", nil)
	if !strings.Contains(former.page, "Sign in to administration") {
		d.Errorf("who is no administrator any more sees\n%s", former.page)
	}
	_, server, _ := strings.Cut(user, ":")
	former.send("/console/sign-in", 403, "do", "password", "server", server, "login", "erste", "password", "ein-langes-Passwort-41")
	d.send("/console/admins", 409, "do", "dismiss", "user", d.find(`name="user" value="([^"]+)"`))
}

// addPerson adds somebody, who signs in with the one-time password.
func (d *desk) addPerson(login, name string) *citizen {
	d.Helper()
	d.visit(http.MethodGet, "/console/", nil)
	d.send("/console/", 200, "login", login, "name", name)
	password := d.find(`<td>` + regexp.QuoteMeta(login) + `</td><td><code>([A-Z2-7-]+)</code>`)
	user := d.find(`user=([^"]+)">` + regexp.QuoteMeta(name) + `<`)
	user, err := url.QueryUnescape(user)
	if err != nil {
		d.Fatal(err)
	}
	return d.enter(d.provider, user, password)
}

// leaves ends an account in one action and looks what became of its sessions and room.
func (d *desk) leaves(who, heir *citizen) {
	d.Helper()
	team := who.do(http.MethodPost, "/_matrix/client/v3/createRoom", map[string]any{"preset": "private_chat", "name": "Team Empfang"}, 200)["room_id"].(string)
	path := "/console/person"
	d.visit(http.MethodGet, path+"?user="+url.QueryEscape(who.user), nil)
	if !strings.Contains(d.page, "Team Empfang") {
		d.Fatalf("no room to hand over:\n%s", d.page)
	}
	d.send(path, 400, "do", "leave", "user", who.user, "confirm", "anna")
	d.send(path, 400, "do", "leave", "user", who.user, "confirm", "anna.weber", "room", team)
	d.send(path, 200, "do", "leave", "user", who.user, "confirm", "anna.weber", "room", team, "heir", heir.user)
	if status, _ := d.ask(http.MethodGet, "http://"+d.clients[d.provider]+"/_matrix/client/v3/account/whoami", map[string]string{"Authorization": "Bearer " + who.token}, nil); status != 401 {
		d.Errorf("who has left is signed in: %d", status)
	}
	levels := heir.do(http.MethodGet, "/_matrix/client/v3/rooms/"+url.PathEscape(team)+"/state/m.room.power_levels/", nil, 200)
	if got := levels["users"].(map[string]any)[heir.user]; got != 100. {
		d.Errorf("the heir's power is %v", got)
	}
	d.visit(http.MethodGet, path+"?user="+url.QueryEscape(who.user), nil)
	if d.status != 404 {
		d.Errorf("who has left has a page: %d", d.status)
	}
}

// provisions is the practice's user administration.
func (d *desk) provisions() {
	d.Helper()
	d.visit(http.MethodGet, "/console/settings", nil)
	d.send("/console/settings", 200, "do", "scim", "name", "Personalverwaltung")
	secret := d.find(`<code>(ks_[^<]+)</code>`)
	base := "http://" + d.clients[d.provider] + "/scim/v2"
	call := func(method, path string, body any, want int) map[string]any {
		d.Helper()
		status, answer := d.ask(method, base+path, map[string]string{"Authorization": "Bearer " + secret}, body)
		if status != want {
			d.Fatalf("%s %s: %d %v", method, path, status, answer)
		}
		return answer
	}
	made := call("POST", "/Users", map[string]any{"schemas": []string{"urn:ietf:params:scim:schemas:core:2.0:User"}, "userName": "frieda", "name": map[string]any{"givenName": "Frieda", "familyName": "Voß"}}, 201)
	user := "/Users/" + url.PathEscape(made["id"].(string))
	call("POST", "/Users", map[string]any{"userName": "frieda", "displayName": "x"}, 409)
	call("POST", "/Users", map[string]any{"userName": "a b", "displayName": "x"}, 400)
	list := call("GET", "/Users?filter="+url.QueryEscape(`userName eq "Frieda"`), nil, 200)
	if list["totalResults"] != 1. || list["Resources"].([]any)[0].(map[string]any)["displayName"] != "Frieda Voß" {
		d.Errorf("filter: %v", list)
	}
	call("GET", "/Users?filter="+url.QueryEscape(`title eq "x"`), nil, 400)
	patch := func(active any) map[string]any {
		return call("PATCH", user, map[string]any{"Operations": []any{map[string]any{"op": "Replace", "path": "active", "value": active}}}, 200)
	}
	if p := patch("False"); p["active"] != false {
		d.Errorf("inactive: %v", p)
	}
	if p := patch(true); p["active"] != true {
		d.Errorf("active: %v", p)
	}
	call("DELETE", user, nil, 204)
	call("GET", user, nil, 404)
	d.visit(http.MethodGet, "/console/settings", nil)
	d.send("/console/settings", 200, "do", "scim_off", "credential", d.find(`name="credential" value="(\w+)"`))
	call("GET", "/Users", nil, 401)
}

// settles is what an administrator sets: contacts, bots, who else is one.
func (d *desk) settles(outside, inside *citizen) {
	d.Helper()
	d.send("/console/settings", 400, "do", "contact", "role", "m.role.admin", "email", "kein Postfach")
	d.send("/console/settings", 200, "do", "contact", "role", "m.role.admin", "email", "edv@ahorn.example")
	d.send("/console/settings", 200, "do", "invites", "invites", "block all")
	if !strings.Contains(d.page, "edv@ahorn.example") || !strings.Contains(d.page, `value="block all" checked`) {
		d.Errorf("settings:\n%s", d.page)
	}
	invite := func(want int) {
		d.Helper()
		room := outside.do(http.MethodPost, "/_matrix/client/v3/createRoom", map[string]any{"preset": "private_chat"}, 200)["room_id"].(string)
		outside.do(http.MethodPost, "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/invite", map[string]any{"user_id": inside.user}, want)
	}
	invite(403)
	d.send("/console/settings", 200, "do", "invites", "invites", "allow all")
	invite(200)
	if support := d.support(); !strings.Contains(support, "edv@ahorn.example") {
		d.Errorf("the contact is not published: %s", support)
	}
	d.visit(http.MethodGet, "/console/bots", nil)
	d.send("/console/bots", 200, "do", "issue", "login", "terminbot", "name", "Terminbot")
	d.find(`<code>(kb_[^<]+)</code>`)
	d.send("/console/bots", 200, "do", "revoke", "credential", d.find(`name="credential" value="(\w+)"`), "user", d.find(`name="user" value="([^"]+)"`))
	d.visit(http.MethodGet, "/console/admins", nil)
	own := d.find(`name="user" value="([^"]+)"`)
	d.send("/console/admins", 409, "do", "dismiss", "user", own)
	d.send("/console/admins", 200, "do", "appoint", "user", d.find(`<option value="([^"]+)">Carl Busch`))
	d.visit(http.MethodPost, "/console/admins", url.Values{"do": {"dismiss"}, "user": {own}, "key": {"forged"}})
	if d.status != 403 {
		d.Errorf("a foreign form: %d", d.status)
	}
	// another browser, both factors: the code of this step was used already
	d.visit(http.MethodGet, "/console/", nil)
	d.send("/console/sign-out", 200)
	d.visit(http.MethodGet, "/console/", nil)
	if !strings.Contains(d.page, "Sign in to administration") {
		d.Errorf("not signed out:\n%s", d.page)
	}
	d.visit(http.MethodGet, "/console/sign-in", nil)
	d.send("/console/sign-in", 403, "do", "password", "server", "ahorn.example.org", "login", "leitung", "password", "falsch")
	d.visit(http.MethodGet, "/console/sign-in", nil)
	d.send("/console/sign-in", 200, "do", "password", "server", "ahorn.example.org", "login", "leitung", "password", "ein-langes-Passwort-41")
	d.visit(http.MethodGet, "/console/", nil)
	if !strings.Contains(d.page, "Second factor") {
		d.Errorf("a password alone opens the console:\n%s", d.page)
	}
	d.send("/console/sign-in", 403, "do", "code", "code", "12345")
	d.send("/console/sign-in", 200, "do", "code", "code", d.code(1))
	d.visit(http.MethodGet, "/console/log", nil)
	for _, want := range []string{"ordered the messenger", "handed a room over", "appointed an administrator", "added a person (SCIM)"} {
		if !strings.Contains(d.page, want) {
			d.Errorf("the log misses %q", want)
		}
	}
}

// support is what others read of whom to turn to (A_26265).
func (d *desk) support() string {
	d.Helper()
	r, err := http.NewRequestWithContext(d.Context(), http.MethodGet, "http://"+d.clients[d.provider]+"/.well-known/matrix/support", nil)
	if err != nil {
		d.Fatal(err)
	}
	r.Host = "ahorn.example.org"
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		d.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		d.Fatal(err)
	}
	return string(body)
}

// ends is the end of the contract: the domain is off the list, nobody enters, and the name is not given again.
func (d *desk) ends() {
	d.Helper()
	d.visit(http.MethodGet, "/console/export", nil)
	if d.status != 200 || !strings.HasPrefix(d.page, "PK") {
		d.Errorf("export: %d", d.status)
	}
	d.visit(http.MethodGet, "/console/contract", nil)
	d.send("/console/contract", 400, "confirm", "ahorn")
	d.send("/console/contract", 200, "confirm", "ahorn.example.org")
	if status, _ := d.ask(http.MethodGet, d.central+"/tim-provider-services/federation?domain=ahorn.example.org", map[string]string{"Authorization": "Bearer " + tokenOfProvider("a")}, nil); status == 200 {
		d.Error("the domain is still on the list")
	}
	d.visit(http.MethodGet, "/console/sign-in", nil)
	d.send("/console/sign-in", 403, "do", "password", "server", "ahorn.example.org", "login", "leitung", "password", "ein-langes-Passwort-41")
	d.visit(http.MethodGet, "/console/register", nil)
	d.prove()
	d.appoint("leitung")
	d.send("/console/register", 409, "do", "order", "label", "ahorn")
}

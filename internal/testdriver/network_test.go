// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package testdriver_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/demo"
	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/foundation/httpapi/spectest"
	"github.com/konsil-health/konsil/internal/foundation/observe"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/telematik/idp"
	"github.com/konsil-health/konsil/internal/telematik/registration"
	"github.com/konsil-health/konsil/internal/testdriver"
)

// Three homeservers: two institutions at different providers, and an insurer.
const (
	praxis, klinik, kasse = id.Server("praxis-sonnenallee.localhost"), id.Server("klinikum-nord.localhost"), id.Server("kasse-nordlicht.localhost")
)

// country is the network under test with its drivers.
type country struct {
	*demo.Network
	apis []*api
}

// bootCountry starts the demonstration's two providers and central services, and a driver for each kind of client at each homeserver. Requests and
// answers of the drivers are checked against gematik's document.
func bootCountry(t *testing.T, document string) *country {
	t.Helper()
	log := observe.NewLogger(observe.LogOptions{Output: logWriter{t}, Level: slog.LevelError})
	// The driver's interface signs in with name and password and knows no second factor, which has tests of its own. The older media paths serve
	// everybody only where the provider says so (A_26263).
	configure := func(c *config.Config) {
		c.RateLimits, c.SecondFactor, c.Media.LegacyEnabled = false, config.SecondFactorOff, true
	}
	n, err := demo.Start(t.Context(), demo.Options{Folder: t.TempDir(), Entries: 20, Log: log, Configure: configure})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	c := &country{Network: n}
	for _, server := range []id.Server{praxis, klinik, kasse} {
		c.support(t, server)
	}
	pro := testdriver.Capabilities{Messages: true, Pro: true, VersionThree: true}
	practitioner, reference := pro, pro
	practitioner.Practitioner, reference.Reference = true, true
	for _, server := range []id.Server{praxis, klinik} {
		c.driver(t, document, server, "pro", pro, c.people(t, server, 4)...)
	}
	c.driver(t, document, kasse, "epa", testdriver.Capabilities{Messages: true, Insurance: true, VersionThree: true}, c.cast(kasse)...)
	for _, server := range []id.Server{praxis, klinik} {
		c.driver(t, document, server, "hba", practitioner, c.cast(server)[:2]...)
		c.driver(t, document, server, "admin", testdriver.Capabilities{Organization: true, VersionThree: true}, c.admin(t, server))
	}
	c.driver(t, document, klinik, "reference", reference, c.people(t, klinik, 2)...)
	return c
}

// driver starts a driver and reads from it, as the suite does, what kind of client it has.
func (c *country) driver(t *testing.T, document string, server id.Server, kind string, can testdriver.Capabilities, accounts ...testdriver.Account) {
	t.Helper()
	organisation := c.organisation(server)
	d := testdriver.New(testdriver.Options{Capabilities: can, Homeserver: string(server), URL: c.URL, Directory: c.Central.URL, Accounts: accounts,
		Registration: c.Providers[organisation.Provider].Registration(), CardOwner: c.cardOwner, Software: "Konsil", SoftwareVersion: "0.1",
		Agent: clientAgent, Transport: &named{t, &http.Transport{}}})
	s := httptest.NewServer(spectest.Document(t, document, d.Handler()))
	t.Cleanup(s.Close)
	t.Cleanup(d.Close)
	a := &api{name: kind + "-" + strings.TrimSuffix(string(server), ".localhost"), url: s.URL}
	var info struct {
		Homeserver string                  `json:"homeserver"`
		Client     testdriver.Capabilities `json:"clientInfo"`
	}
	if err := a.call(t.Context(), http.MethodGet, "/", nil, &info); err != nil {
		t.Fatal(err)
	}
	a.homeserver = info.Homeserver
	for tag, has := range map[string]bool{"orgAdmin": info.Client.Organization, "practitioner": info.Client.Practitioner, "refImpl": info.Client.Reference,
		"proClientV3": info.Client.Pro && info.Client.VersionThree && info.Client.Messages, "epaClientV3": info.Client.Insurance && info.Client.VersionThree} {
		if has {
			a.tags = append(a.tags, tag)
		}
	}
	c.apis = append(c.apis, a)
}

func (c *country) organisation(server id.Server) demo.Organisation {
	for _, o := range demo.Cast {
		if o.Server == server {
			return o
		}
	}
	return demo.Organisation{}
}

// cast are the demonstration's people with cards at a server.
func (c *country) cast(server id.Server) []testdriver.Account {
	var all []testdriver.Account
	for _, p := range c.organisation(server).People {
		if p.TelematikID != "" || p.KVNR != "" {
			all = append(all, testdriver.Account{User: "@" + p.Login() + ":" + string(server), Password: demo.Password, Name: p.Title(), TelematikID: p.TelematikID})
		}
	}
	return all
}

// support enters whom people may turn to at a server (A_26265).
func (c *country) support(t *testing.T, server id.Server) {
	t.Helper()
	s := c.Providers[c.organisation(server).Provider].Server
	tenant, err := s.Tenants().ByName(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	contact := account.Support{Contacts: []account.Contact{{Email: "verwaltung@" + string(server), Role: "m.role.admin"}}}
	if err := s.Accounts().SetSupport(t.Context(), tenant.ID, contact); err != nil {
		t.Fatal(err)
	}
}

// people makes more accounts, without cards.
func (c *country) people(t *testing.T, server id.Server, n int) []testdriver.Account {
	t.Helper()
	s := c.Providers[c.organisation(server).Provider].Server
	tenant, err := s.Tenants().ByName(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	var all []testdriver.Account
	for range n {
		made++
		login := fmt.Sprintf("testkonto.%d", made)
		if _, err := s.Accounts().Create(t.Context(), tenant, account.NewUser{LoginName: login, Password: demo.Password, DisplayName: fmt.Sprintf("Testkonto, Nummer %d", made)}); err != nil {
			t.Fatal(err)
		}
		all = append(all, testdriver.Account{User: "@" + login + ":" + string(server), Password: demo.Password})
	}
	return all
}

// made counts the accounts of people.
var made int

// admin lets an institution prove itself with its card, which makes its administrator.
func (c *country) admin(t *testing.T, server id.Server) testdriver.Account {
	t.Helper()
	o := c.organisation(server)
	smcb, err := c.Central.PKI.Card(o.TelematikID)
	if err != nil {
		t.Fatal(err)
	}
	client := registration.Client{URL: c.Providers[o.Provider].Registration(), Trust: c.Central.PKI.Trust()}
	got, err := client.Register(t.Context(), smcb, demo.PIN, registration.Order{ServerName: server, DisplayName: o.Name, Admin: "verwaltung"})
	if err != nil {
		t.Fatal(err)
	}
	return testdriver.Account{User: string(got.Admin.User), Password: got.Admin.Password, Name: o.Name, TelematikID: o.TelematikID}
}

// cardOwner goes the way of a card holder: the directory sends to the identity provider, the card answers its challenge (AF_10058-02).
func (c *country) cardOwner(ctx context.Context, a testdriver.Account) (string, error) {
	hba, err := c.Central.PKI.Card(a.TelematikID)
	if err != nil {
		return "", err
	}
	signer, err := hba.Unlock(demo.PIN)
	if err != nil {
		return "", err
	}
	issuer, err := c.Central.PKI.Component("idp", certificate.RoleIDP)
	if err != nil {
		return "", err
	}
	key, err := c.Central.PKI.ComponentKey("idp", certificate.RoleIDP)
	if err != nil {
		return "", err
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	to, err := redirected(client.Get(c.Central.URL + "/owner-authenticate"))
	if err != nil {
		return "", err
	}
	var begun struct {
		Challenge string `json:"challenge"`
	}
	if err := decoded(client.Get(to))(&begun); err != nil {
		return "", err
	}
	answer, err := idp.Answer(begun.Challenge, signer, issuer.Certificate(), key.PublicKey())
	if err != nil {
		return "", err
	}
	address, _, _ := strings.Cut(to, "?")
	if to, err = redirected(client.PostForm(address, url.Values{"signed_challenge": {answer}})); err != nil {
		return "", err
	}
	var access struct {
		Token string `json:"access_token"`
	}
	return access.Token, decoded(client.Get(to))(&access)
}

func redirected(res *http.Response, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusFound {
		return "", fmt.Errorf("%s instead of a redirect", res.Status)
	}
	return res.Header.Get("Location"), nil
}

func decoded(res *http.Response, err error) func(any) error {
	return func(into any) error {
		if err != nil {
			return err
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err == nil && res.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", res.Status, text)
		}
		return errors.Join(err, json.Unmarshal(text, into))
	}
}

// logWriter shows the network's log with the test.
type logWriter struct{ t *testing.T }

func (w logWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", strings.TrimSpace(string(b)))
	return len(b), nil
}

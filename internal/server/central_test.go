// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/mail/mailtest"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/server"
	"github.com/konsil-health/konsil/internal/server/authority"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/directory"
	"github.com/konsil-health/konsil/internal/telematik/idp"
	"github.com/konsil-health/konsil/internal/telematik/registration"
)

// country is a network of three nodes, each booted from a configuration file as `konsil serve` does: central services, providers A and B.
type country struct {
	*testing.T
	folder  string
	pki     *card.PKI
	central string    // address of the central services
	clients [2]string // addresses of the providers' clients
	resolve string    // where the providers' servers are, for configurations
	kim     *mailtest.Sink
}

const cardPIN = "123456"

// practices of the country, one per provider.
var practices = [2]directory.Institution{
	{TelematikID: "1-2.00000000001", Name: "Hausarztpraxis Ahorn", ProfessionOID: certificate.Practice, Street: "Ahornweg 1", Place: directory.Places[0]},
	{TelematikID: "1-2.00000000002", Name: "Praxis Birke", ProfessionOID: certificate.Practice, Street: "Birkenallee 2", Place: directory.Places[1]},
}

// insurer is a health insurance fund; provider A's if anybody's.
var insurer = directory.Institution{TelematikID: "8-01-0000000001", Name: "Kasse Eiche", ProfessionOID: certificate.Insurer, Street: "Eichenplatz 3", Place: directory.Places[0]}

var practiceNames = [2]id.Server{"ahorn.example.org", "birke.example.org"}

// Requirements: AF_10059, AF_10235, A_25428, A_25546, ML-123615.
func TestCentralAndTwoProviders(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		consult(t, [3]string{})
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		consult(t, [3]string{databasetest.Postgres(t), databasetest.Postgres(t), databasetest.Postgres(t)})
	})
}

// consult walks from the card to an invitation: registration by SMC-B, an address in the directory, a search by OpenID token, an invitation refused
// and allowed.
func consult(t *testing.T, databases [3]string) {
	c := newCountry(t, databases)
	c.refusesRevoked()
	var anna, ben *citizen
	for i, p := range practices {
		smcb, err := c.pki.IssueSMCB(card.Institution{Name: p.Name, TelematikID: p.TelematikID, ProfessionOID: p.ProfessionOID, PIN: cardPIN})
		if err != nil {
			t.Fatal(err)
		}
		client := registration.Client{URL: "http://" + c.clients[i] + "/registration", Trust: c.pki.Trust()}
		got, err := client.Register(t.Context(), smcb, cardPIN, registration.Order{ServerName: practiceNames[i], Admin: "leitung"})
		if err != nil {
			t.Fatal(err)
		}
		who := c.signIn(i, got.Admin)
		if i == 0 {
			anna = who
		} else {
			ben = who
			ben.publish(client, p.ServiceReference())
		}
	}
	found := anna.search("Birke")
	if found != ben.user {
		t.Fatalf("the directory answers %q, want %q", found, ben.user)
	}
	room := anna.do(http.MethodPost, "/_matrix/client/v3/createRoom", map[string]any{"preset": "private_chat"}, 200)["room_id"].(string)
	invite := "/_matrix/client/v3/rooms/" + url.PathEscape(room) + "/invite"
	config := "/_matrix/client/v3/user/" + url.PathEscape(ben.user) + "/account_data/de.gematik.tim.account.permissionconfig.pro.v1"

	ben.do(http.MethodPut, config, map[string]any{"defaultSetting": "block all"}, 200)
	if e := anna.do(http.MethodPost, invite, map[string]any{"user_id": found}, 403); e["errcode"] != "M_FORBIDDEN" {
		t.Errorf("blocked: %v", e)
	}
	ben.do(http.MethodPut, config, map[string]any{"defaultSetting": "block all", "userExceptions": map[string]any{anna.user: map[string]any{}}}, 200)
	anna.do(http.MethodPost, invite, map[string]any{"user_id": found}, 200)
	rooms := ben.do(http.MethodGet, "/_matrix/client/v3/sync?timeout=0", nil, 200)["rooms"].(map[string]any)
	if _, invited := rooms["invite"].(map[string]any)[room]; !invited {
		t.Errorf("no invitation to %s: %v", room, rooms)
	}
	if e := anna.do(http.MethodPost, invite, map[string]any{"user_id": "@x:fremd.example.org"}, 403); e["errcode"] != "M_FORBIDDEN" {
		t.Errorf("a server outside the list: %v", e)
	}
	c.strangers()
	c.examined()
}

// strangers have no token, or one of somebody else, or one for another interface.
func (c *country) strangers() {
	c.Helper()
	for path, token := range map[string]string{
		"/tim-provider-services/FederationList/federationList.jws": "nobody's-token-at-all",
		"/tim-provider-services/federation":                        "",
		"/search/HealthcareService?organization.active=true":       tokenOfProvider("a"),
	} {
		if status, _ := c.ask(http.MethodGet, c.central+path, map[string]string{"Authorization": "Bearer " + token}, nil); status != 401 {
			c.Errorf("%s with %q: %d", path, token, status)
		}
	}
	for _, client := range c.clients { // the central services stand on listeners of their own
		if status, _ := c.ask(http.MethodGet, "http://"+client+"/tim-provider-services/", nil, nil); status != 404 {
			c.Errorf("a provider serves the list: %d", status)
		}
	}
}

// refusesRevoked revokes a card as `konsil card revoke` does, beside the running nodes: the provider learns it from the central services' OCSP responder.
func (c *country) refusesRevoked() {
	c.Helper()
	p := practices[0]
	smcb, err := c.pki.IssueSMCB(card.Institution{Name: p.Name, TelematikID: p.TelematikID, ProfessionOID: p.ProfessionOID, PIN: cardPIN})
	if err != nil {
		c.Fatal(err)
	}
	if err := c.pki.Revoke(smcb.Certificate()); err != nil {
		c.Fatal(err)
	}
	client := registration.Client{URL: "http://" + c.clients[0] + "/registration", Trust: c.pki.Trust()}
	if r, err := client.Register(c.Context(), smcb, cardPIN, registration.Order{ServerName: practiceNames[0], Admin: "leitung"}); !errors.Is(err, idp.ErrCertificate) {
		c.Errorf("a revoked card registers: %+v %v", r, err)
	}
}

// examined is what konsil doctor --ti says of a provider: nothing is wrong, or exactly what is.
func (c *country) examined() {
	c.Helper()
	for _, step := range []struct {
		node, key, value string
		subject          string // with a problem; empty: none has
		text             string // somewhere in its text
	}{
		{node: "provider-a"},
		{node: "provider-b"}, // by client credentials
		{node: "provider-a", key: "telematik.idp.issuer", value: c.central + "/idp"},
		{"provider-a", "telematik.provider_token", "wrong", "telematik.federation_list", "401"},
		{"provider-b", "telematik.provider_login.client_secret", "wrong", "telematik.federation_list", "ti-provider-accesstoken"},
		{"provider-a", "telematik.federation_list", "http://127.0.0.1:1/x/FederationList/federationList.jws", "telematik.federation_list", "refused"},
		{"provider-a", "telematik.list_roots", filepath.Join(c.folder, "ca.pem"), "telematik.federation_list", "signer"},
		{"provider-a", "telematik.ocsp", "http://127.0.0.1:1/ocsp", "telematik.ocsp", "could not be asked"},
		{"provider-a", "telematik.roots", c.central + "/nothing.json", "telematik.roots", "404"},
		{"provider-a", "telematik.directory", c.central + "/nothing", "telematik.directory", "404"},
		{"provider-a", "telematik.idp.issuer", c.central + "/nothing", "telematik.idp", "404"},
		{"provider-a", "public_url", c.central, "public_url", "404"},
	} {
		source := config.Source{File: filepath.Join(c.folder, step.node+".yaml"), Environ: []string{}}
		if step.key != "" {
			source.Flags = []string{step.key + "=" + step.value}
		}
		if step.key == "telematik.idp.issuer" {
			source.Flags = append(source.Flags, "telematik.idp.client_id=x")
		}
		parsed, err := config.Load(source)
		if err != nil {
			c.Fatal(err)
		}
		found, err := server.Examine(c.Context(), parsed)
		if err != nil {
			c.Fatal(err)
		}
		said := map[string]bool{}
		for _, f := range found {
			said[f.Subject] = true
			if f.Verdict == server.Problem && (f.Subject != step.subject || !strings.Contains(f.Text, step.text)) {
				c.Errorf("%s with %s=%s: %+v", step.node, step.key, step.value, f)
			}
			if strings.Contains(f.Text+f.Advice, "secret") {
				c.Errorf("it tells a secret: %+v", f)
			}
		}
		if step.subject != "" && !slices.ContainsFunc(found, func(f server.Finding) bool {
			return f.Subject == step.subject && f.Verdict == server.Problem && f.Advice != ""
		}) {
			c.Errorf("%s with %s=%s: no problem is told of", step.node, step.key, step.value)
		}
		if step.key == "" && !(said["telematik.federation_list"] && said["telematik.ocsp"] && said["telematik.roots"] && said["telematik.directory"] && said["telematik.idp"] && said["clock"]) {
			c.Errorf("%s: %+v", step.node, found)
		}
	}
}

func tokenOfProvider(name string) string { return "secret-of-provider-" + name }

// newCountry writes the files and boots the three nodes.
func newCountry(t *testing.T, databases [3]string) *country {
	t.Helper()
	c := &country{T: t, folder: t.TempDir(), kim: mailtest.New(t)}
	var err error
	if c.pki, err = card.Open(card.Options{Folder: filepath.Join(c.folder, "cards")}); err != nil {
		t.Fatal(err)
	}
	ca, err := authority.New()
	if err != nil {
		t.Fatal(err)
	}
	caFile := c.write("ca.pem", ca.PEM())
	certFile, keyFile, err := ca.IssueFiles(c.folder, "federation", "*.example.org", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	var open [5]net.Listener // central, clients, federation: the files name each other's addresses
	for i := range open {
		if open[i], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	c.central = "http://" + open[0].Addr().String()
	resolve := "federation:\n  resolve:\n"
	for i, name := range practiceNames {
		c.clients[i] = open[1+i].Addr().String()
		resolve += fmt.Sprintf("    %s: {address: %q, ca: %q}\n", name, open[3+i].Addr(), caFile)
	}
	c.resolve = resolve
	cards := filepath.Join(c.folder, "cards")
	c.boot("central", fmt.Sprintf(`roles: [directory, federation_list]
database: {url: %q}
listeners: {central: [%q]}
telematik: {cards: %q, ocsp: "%s/ocsp"}
central:
  url: %q
  providers: [{name: A, token: %s}, {name: B, token: %s}]
  entries: [%q]
`, databases[0], open[0].Addr(), cards, c.central, c.central, tokenOfProvider("a"), tokenOfProvider("b"), c.entries())+resolve, server.Options{Central: open[:1]})
	for i, name := range []string{"a", "b"} {
		c.boot("provider-"+name, fmt.Sprintf(`roles: [homeserver, registration]
rate_limits: false
database: {url: %q}
public_url: "http://%s"
mail: {server: %q, from: "Konsil <konsil@provider.kim.telematik>", encryption: none}
listeners:
  client: [%q]
  federation: [{address: %q, certificate: %q, key: %q}]
telematik:
  federation_list: "%s/tim-provider-services/FederationList/federationList.jws"
  list_roots: [%q, %q]
  ocsp: "%s/ocsp"
  roots: "%s/roots.json"
  directory: %q
  provider: %s
  messenger_domain: example.org
%s
  cards: %q
`, databases[1+i], c.clients[i], c.kim.Address, c.clients[i], open[3+i].Addr(), certFile, keyFile, c.central, filepath.Join(cards, "root-ca.pem"), filepath.Join(cards, "komp-ca.pem"),
			c.central, c.central, c.central, strings.ToUpper(name), c.proof(name), cards)+resolve, server.Options{Client: open[1+i : 2+i], Federation: open[3+i : 4+i]})
	}
	return c
}

// proof is how a provider proves itself to the central services: A by a token, B by client credentials as in the real network.
func (c *country) proof(name string) string {
	if name == "a" {
		return "  provider_token: " + tokenOfProvider(name)
	}
	return fmt.Sprintf("  provider_login: {token_url: %q, authenticate_url: %q, client_id: B, client_secret: %s}",
		c.central+"/auth/realms/TI-Provider/protocol/openid-connect/token", c.central+"/ti-provider-authenticate", tokenOfProvider(name))
}

func (c *country) write(name string, content []byte) string {
	c.Helper()
	path := filepath.Join(c.folder, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		c.Fatal(err)
	}
	return path
}

// entries writes what card issuers deliver.
func (c *country) entries() string {
	c.Helper()
	var text []byte
	for _, p := range append(practices[:], insurer, reached) {
		all, err := p.Entries()
		if err != nil {
			c.Fatal(err)
		}
		if p.TelematikID == reached.TelematikID {
			text = append(text, c.withKIM(all, p.TelematikID)...)
			continue
		}
		for _, e := range all {
			text = append(append(text, e.Resource.JSON()...), '\n')
		}
	}
	return c.write("entries.ndjson", text)
}

// boot runs a node from its file until the test ends.
func (c *country) boot(name, text string, o server.Options) *server.Server {
	c.Helper()
	file := c.write(name+".yaml", fmt.Appendf(nil, "environment: development\ndata: %q\n%s", filepath.Join(c.folder, name), text))
	parsed, err := config.Load(config.Source{File: file, Environ: []string{}})
	if err != nil {
		c.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	o.Log = slog.New(slog.DiscardHandler)
	s, err := server.New(ctx, parsed, o)
	if err != nil {
		stop()
		c.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	c.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			c.Errorf("%s: %v", name, err)
		}
	})
	return s
}

// ask sends a request and decodes the answer, which is nil when it is no JSON object.
func (c *country) ask(method, address string, header map[string]string, body any) (int, map[string]any) {
	c.Helper()
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			c.Fatal(err)
		}
		in = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(c.Context(), method, address, in)
	if err != nil {
		c.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		c.Fatal(err)
	}
	defer res.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil && !errors.Is(err, io.EOF) {
		answer = nil
	}
	return res.StatusCode, answer
}

// citizen is somebody signed in at a provider.
type citizen struct {
	*country
	provider    int
	user, token string
}

// signIn is the first time of an administrator that a registration has made.
func (c *country) signIn(provider int, a *registration.Admin) *citizen {
	c.Helper()
	if a == nil || a.Password == "" {
		c.Fatal("no administrator")
	}
	return c.enter(provider, string(a.User), a.Password)
}

// enter signs somebody in for the first time as people do: by the password, and the code of an app that they get on the page, for a client that gets a
// login token. The password alone opens nothing (A_22936).
func (c *country) enter(provider int, user, password string) *citizen {
	c.Helper()
	who := &citizen{country: c, provider: provider, user: user}
	who.do(http.MethodPost, "/_matrix/client/v3/login", map[string]any{"type": "m.login.password",
		"identifier": map[string]any{"type": "m.id.user", "user": user}, "password": password}, 403)
	d := c.newBrowser(provider)
	page := "/_matrix/sign-in?redirectUrl=" + url.QueryEscape("http://"+c.clients[provider]+"/_matrix/client/versions")
	d.visit(http.MethodGet, page, nil)
	d.send(page, 200, "do", "sign-in", "username", user, "password", password)
	d.secret = strings.ReplaceAll(d.find(`<code>([A-Z2-7 ]+)</code>`), " ", "")
	d.send(page, 403, "do", "second", "username", user, "code", "000000")
	d.send(page, 200, "do", "second", "username", user, "code", d.code(0))
	d.send(page, 200, "do", "approve")
	answer := who.do(http.MethodPost, "/_matrix/client/v3/login", map[string]any{"type": "m.login.token", "token": d.at.Query().Get("loginToken")}, 200)
	if answer["user_id"] != user {
		c.Fatalf("signed in as %v, not %s", answer["user_id"], user)
	}
	who.token = answer["access_token"].(string)
	return who
}

// do sends a request of the client-server API and wants a status.
func (w *citizen) do(method, path string, body any, want int) map[string]any {
	w.Helper()
	status, answer := w.ask(method, "http://"+w.clients[w.provider]+path, map[string]string{"Authorization": "Bearer " + w.token}, body)
	if status != want {
		w.Fatalf("%s %s: %d %v", method, path, status, answer)
	}
	return answer
}

// publish puts the own address into the directory, as an organisation's administrator does (AF_10059).
func (w *citizen) publish(r registration.Client, service string) {
	w.Helper()
	vouched, err := r.OwnerToken(w.Context(), w.token)
	if err != nil {
		w.Fatal(err)
	}
	status, access := w.ask(http.MethodGet, w.central+"/owner-authenticate", map[string]string{"Authorization": "Bearer " + vouched}, nil)
	if status != 200 {
		w.Fatalf("owner-authenticate: %d %v", status, access)
	}
	owner := map[string]string{"Authorization": "Bearer " + access["access_token"].(string)}
	status, endpoint := w.ask(http.MethodPost, w.central+"/owner/Endpoint", owner, map[string]any{
		"resourceType": "Endpoint", "status": "active", "name": "Empfang", "address": "matrix:u/" + strings.TrimPrefix(w.user, "@"),
		"connectionType": map[string]any{"system": "https://gematik.de/fhir/directory/CodeSystem/EndpointDirectoryConnectionType", "code": "tim"},
		"payloadType": []any{map[string]any{"coding": []any{map[string]any{
			"system": "https://gematik.de/fhir/directory/CodeSystem/EndpointDirectoryPayloadType", "code": "tim-chat"}}}},
	})
	if status != 201 {
		w.Fatalf("endpoint: %d %v", status, endpoint)
	}
	_, entry := w.ask(http.MethodGet, w.central+"/owner/"+service, owner, nil)
	entry["endpoint"] = []any{map[string]any{"reference": "Endpoint/" + endpoint["id"].(string)}}
	if status, answer := w.ask(http.MethodPut, w.central+"/owner/"+service, owner, entry); status != 200 {
		w.Fatalf("link: %d %v", status, answer)
	}
}

// search finds an organisation's messenger by name with the own OpenID token (AF_10235).
func (w *citizen) search(name string) string {
	w.Helper()
	openID := w.do(http.MethodPost, "/_matrix/client/v3/user/"+url.PathEscape(w.user)+"/openid/request_token", map[string]any{}, 200)
	status, access := w.ask(http.MethodGet, w.central+"/tim-authenticate?mxId="+string(id.User(w.user).Server()),
		map[string]string{"X-Matrix-OpenID-Token": openID["access_token"].(string)}, nil)
	if status != 200 {
		w.Fatalf("tim-authenticate: %d %v", status, access)
	}
	query := url.Values{"organization.active": {"true"}, "organization.name": {name}, "_include": {"HealthcareService:endpoint"}}
	status, bundle := w.ask(http.MethodGet, w.central+"/search/HealthcareService?"+query.Encode(), map[string]string{"Authorization": "Bearer " + access["access_token"].(string)}, nil)
	if status != 200 {
		w.Fatalf("search: %d %v", status, bundle)
	}
	for _, e := range bundle["entry"].([]any) {
		resource := e.(map[string]any)["resource"].(map[string]any)
		if address, ok := resource["address"].(string); ok && resource["resourceType"] == "Endpoint" {
			return "@" + strings.TrimPrefix(address, "matrix:u/")
		}
	}
	return ""
}

// SPDX-License-Identifier: Apache-2.0

package directory_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/directory"
	"github.com/konsil-health/konsil/internal/telematik/idp"
)

// form posts form values.
func (r *rig) form(path string, values url.Values, headers ...string) (int, map[string]any) {
	r.t.Helper()
	status, body, _ := r.call(http.MethodPost, path, "", values.Encode(), append(headers, "Content-Type", "application/x-www-form-urlencoded")...)
	return status, body
}

// TestClientCredentials: providers and services for insured people come with client credentials, whose token is exchanged.
func TestClientCredentials(t *testing.T) {
	t.Parallel()
	r := newRig(t, databasetest.Open(t, databasetest.SQLite(t)))
	r.options.Clients = func(provider bool, id, secret string) bool {
		return provider && id == "p" && secret == "ps" || !provider && id == "s" && secret == "ss"
	}
	r.service = directory.New(r.options)
	token := func(realm, id, secret string) string {
		t.Helper()
		status, body := r.form("/auth/realms/"+realm+"/protocol/openid-connect/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {secret}})
		if status != 200 || body["expires_in"] != float64(300) {
			t.Fatalf("%s: %d %v", realm, status, body)
		}
		return body["access_token"].(string)
	}
	for name, c := range map[string]struct {
		realm string
		form  url.Values
		want  int
	}{
		"wrong secret": {"TI-Provider", url.Values{"grant_type": {"client_credentials"}, "client_id": {"p"}, "client_secret": {"x"}}, 401},
		"other realm":  {"TI-Provider", url.Values{"grant_type": {"client_credentials"}, "client_id": {"s"}, "client_secret": {"ss"}}, 401},
		"no realm":     {"Nobody", url.Values{"grant_type": {"client_credentials"}, "client_id": {"p"}, "client_secret": {"ps"}}, 404},
		"other grant":  {"TI-Provider", url.Values{"grant_type": {"password"}, "client_id": {"p"}, "client_secret": {"ps"}}, 400},
		"nobody":       {"TI-Provider", url.Values{"grant_type": {"client_credentials"}}, 401},
	} {
		if status, body := r.form("/auth/realms/"+c.realm+"/protocol/openid-connect/token", c.form); status != c.want || body["error"] == nil {
			t.Errorf("%s: %d %v", name, status, body)
		}
	}
	provider, service := token("TI-Provider", "p", "ps"), token("Service-Authenticate", "s", "ss")
	status, body, _ := r.call(http.MethodGet, "/ti-provider-authenticate", provider, "")
	if status != 200 || body["expires_in"] != float64(86400) {
		t.Fatalf("%d %v", status, body)
	}
	access := body["access_token"].(string)
	if name, ok := r.service.Provider(access); !ok || name != "p" {
		t.Errorf("provider %q %v", name, ok)
	}
	for _, wrong := range []string{provider, service, "", "x"} {
		if name, ok := r.service.Provider(wrong); ok {
			t.Errorf("%q was taken for provider %q", wrong, name)
		}
	}
	for path, wrong := range map[string]string{"/ti-provider-authenticate": service, "/service-authenticate": provider} {
		if status, _, _ := r.call(http.MethodGet, path, wrong, ""); status != 401 {
			t.Errorf("%s: %d", path, status)
		}
	}
	status, body, _ = r.call(http.MethodGet, "/service-authenticate", service, "")
	if status != 200 {
		t.Fatalf("%d %v", status, body)
	}
	access = body["access_token"].(string)
	for path, want := range map[string]int{"/fdv/search/PractitionerRole?practitioner.active=true": 200, "/search/PractitionerRole?practitioner.active=true": 401,
		"/fdv/search/HealthcareService?_query=near&latitude=52.48&longitude=13.43&distance=10": 200, "/fdv/search/HealthcareService?_query=far": 400,
		"/fdv/search/HealthcareService?_query=near&latitude=52.48": 400} {
		if status, body, _ := r.call(http.MethodGet, path, access, ""); status != want {
			t.Errorf("%s: %d %v", path, status, body)
		}
	}
	r.now = r.now.Add(6 * time.Minute)
	if status, _, _ := r.call(http.MethodGet, "/ti-provider-authenticate", provider, ""); status != 401 {
		t.Errorf("an expired client token: %d", status)
	}
}

const decoupledGrant = "urn:telematik:params:grant-type:decoupled"

// TestDecoupled: the client waits while the authenticator presents the card.
func TestDecoupled(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		r := newRig(t, db)
		begin := func() (request, address string) {
			t.Helper()
			status, body := r.form("/owner-authenticate-decoupled", url.Values{"grant_type": {decoupledGrant}})
			if status != 200 || body["interval"] != float64(5) || body["poll_uri"] != r.base+"/owner-authenticate-poll" {
				t.Fatalf("%d %v", status, body)
			}
			return body["auth_req_id"].(string), body["redirect_uri"].(string)
		}
		poll := func(request, want string) map[string]any {
			t.Helper()
			status, body := r.form("/owner-authenticate-poll", url.Values{"grant_type": {decoupledGrant}, "auth_req_id": {request}})
			if want == "" && status != 200 || want != "" && (status != 400 || body["error"] != want) {
				t.Fatalf("poll: %d %v, want %q", status, body, want)
			}
			return body
		}
		present := func(address string, c card.Signer) {
			t.Helper()
			_, body, _ := r.call(http.MethodGet, strings.TrimPrefix(address, r.base), "", "")
			answer, err := idp.Answer(body["challenge"].(string), c, r.issuer.Certificate(), r.issuer.Key())
			if err != nil {
				t.Fatal(err)
			}
			status, _, header := r.call(http.MethodPost, "/idp/auth", "", url.Values{"signed_challenge": {answer}}.Encode(), "Content-Type", "application/x-www-form-urlencoded")
			if status != 302 {
				t.Fatal(status)
			}
			location := strings.TrimPrefix(header.Get("Location"), r.base)
			if status, _, _ := r.call(http.MethodGet, location, "", ""); status != 200 {
				t.Fatal(status)
			}
			if status, _, _ := r.call(http.MethodGet, strings.Replace(location, "-decoupled", "", 1), "", ""); status != 401 {
				t.Errorf("the ordinary sign-in takes a decoupled state: %d", status)
			}
		}
		request, address := begin()
		poll(request, "authorization_pending")
		present(address, r.unlock(r.pki.IssueHBA(card.Person{GivenName: "Jürgen", FamilyName: "Müller", TelematikID: mueller.TelematikID, ProfessionOID: certificate.Physician, PIN: "123456"})))
		token := poll(request, "")["access_token"].(string)
		if status, list, _ := r.call(http.MethodGet, "/owner/PractitionerRole", token, ""); status != 200 || list["total"] != float64(1) {
			t.Errorf("%d %v", status, list)
		}
		poll(request, "authorization_pending") // the token was given once
		request, address = begin()
		present(address, r.unlock(r.pki.IssueEGK(card.Insured{GivenName: "Eva", FamilyName: "Muster", KVNR: "A123456780", Insurer: "Kasse", IK: "109500969", PIN: "123456"})))
		poll(request, "access_denied")
		poll("nonsense", "access_denied")
		r.now = r.now.Add(11 * time.Minute)
		poll(request, "expired_token")
		if status, body := r.form("/owner-authenticate-decoupled", url.Values{"grant_type": {"password"}}); status != 400 || body["message"] == nil {
			t.Errorf("%d %v", status, body)
		}
	})
}

// TestLog: owners read what was changed of their entries, and nothing of others.
func TestLog(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		r := newRig(t, db)
		owner := r.ownerToken(r.unlock(r.pki.IssueHBA(card.Person{GivenName: "Jürgen", FamilyName: "Müller", TelematikID: mueller.TelematikID, ProfessionOID: certificate.Physician, PIN: "123456"})))
		status, endpoint, _ := r.call(http.MethodPost, "/owner/Endpoint", owner, chat)
		if status != 201 {
			t.Fatalf("%d %v", status, endpoint)
		}
		id := endpoint["id"].(string)
		if status, _, _ := r.call(http.MethodDelete, "/owner/Endpoint/"+id, owner, ""); status != 204 {
			t.Fatal(status)
		}
		entries := func(query string) []any {
			t.Helper()
			status, body, _ := r.call(http.MethodGet, "/log"+query, owner, "")
			if status != 200 || body["moreAvailable"] != false {
				t.Fatalf("%s: %d %v", query, status, body)
			}
			return body["logEntries"].([]any)
		}
		own := entries("?resourceId=" + id)
		if len(own) != 2 {
			t.Fatalf("%v", own)
		}
		operations := map[any]bool{}
		for _, e := range own {
			m := e.(map[string]any)
			operations[m["operation"]] = true
			if m["editorIdType"] != "Owner" || m["editorId"] != mueller.TelematikID || m["resourceType"] != "Endpoint" || m["telematikId"] != mueller.TelematikID {
				t.Errorf("%v", m)
			}
		}
		if !operations["create"] || !operations["delete"] {
			t.Errorf("%v", own)
		}
		for query, want := range map[string]int{"?resourceId=" + id + "&operation=delete": 1, "?operation=create&resourceType=Endpoint": 1, "?editorId=" + mueller.TelematikID + "&editorIdType=Owner": 2,
			"?telematikId=" + mueller.TelematikID + "&resourceType=Endpoint": 2, "?resourceId=" + id + "&logTimeFrom=2099-01-01T00:00:00Z": 0, "?ldapUid=x": 0} {
			if got := entries(query); len(got) != want {
				t.Errorf("%s: %v, want %d", query, got, want)
			}
		}
		if len(entries("")) != 2+3 { // the card issuers' three resources
			t.Errorf("%v", entries(""))
		}
		for query, want := range map[string]int{"?editorId=x": 400, "?resourceId=a&telematikId=b": 400, "?logTimeFrom=yesterday": 400, "?x=y": 400, "?telematikId=" + clinic.TelematikID: 403} {
			if status, body, _ := r.call(http.MethodGet, "/log"+query, owner, ""); status != want || body["message"] == nil {
				t.Errorf("%s: %d %v", query, status, body)
			}
		}
		if status, body, _ := r.call(http.MethodGet, "/fachliches-log/log", owner, ""); status != 200 {
			t.Errorf("at the address of the interface's file: %d %v", status, body)
		}
		if status, _, _ := r.call(http.MethodGet, "/log", r.searchToken("praxis.example"), ""); status != 401 {
			t.Errorf("a search token reads the log: %d", status)
		}
	})
}

// TestBulk: what is exported can be imported again, and a wrong line is named.
func TestBulk(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		s := filled(t, db)
		var text strings.Builder
		n, err := s.Export(t.Context(), &text)
		if err != nil || n != strings.Count(text.String(), "\n") || n != 21 {
			t.Fatalf("%d %v", n, err)
		}
		other := directory.NewStore(databasetest.Open(t, databasetest.SQLite(t)), nil)
		for range 2 { // twice: what is there is replaced
			if got, err := other.Import(t.Context(), strings.NewReader(text.String())); err != nil || got != n {
				t.Fatalf("%d %v", got, err)
			}
		}
		if got := found(t, other, "PractitionerRole", "practitioner.active=true&practitioner.name=Mueller", directory.View{}); len(got) != 1 || got[0] != mueller.TelematikID {
			t.Errorf("%v", got)
		}
		_, err = other.Import(t.Context(), strings.NewReader("\n"+`{"resourceType":"Endpoint","id":"x"}`))
		if err == nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%v", err)
		}
	})
}

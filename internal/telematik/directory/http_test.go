// SPDX-License-Identifier: Apache-2.0

package directory_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/fhir"
	"github.com/konsil-health/konsil/internal/health/jose"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/directory"
	"github.com/konsil-health/konsil/internal/telematik/idp"
)

type rig struct {
	t       *testing.T
	pki     *card.PKI
	store   *directory.Store
	service *directory.Service
	options directory.Options
	issuer  *idp.Issuer
	base    string
	idpURL  string
	now     time.Time
}

func newRig(t *testing.T, db *database.DB) *rig {
	t.Helper()
	r := &rig{t: t, now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	clock := func() time.Time { return r.now }
	var err error
	if r.pki, err = card.Open(card.Options{Folder: t.TempDir(), Now: clock}); err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	r.base, r.idpURL = srv.URL, srv.URL+"/idp"
	signer, err := r.pki.Component("idp", certificate.RoleIDP)
	if err != nil {
		t.Fatal(err)
	}
	encryption, err := r.pki.ComponentKey("idp", certificate.RoleIDP)
	if err != nil {
		t.Fatal(err)
	}
	r.issuer = idp.New(idp.Options{URL: r.idpURL, Signer: signer, Key: encryption, Trust: r.pki.Trust(), Revoked: r.pki.Revoked, Now: clock,
		Clients: map[string][]string{"vzd": directory.RedirectURIs(r.base)}})
	r.store = filled(t, db)
	options := directory.Options{
		Store: r.store, Base: r.base, TokenKey: key, Trust: r.pki.Trust(), Revoked: r.pki.Revoked, Now: clock,
		UserInfo: func(_ context.Context, server id.Server, token string) (id.User, error) {
			switch token {
			case "good":
				return id.User("@anna:" + string(server)), nil
			case "liar":
				return "@anna:elsewhere.example", nil
			case "down":
				return "", errors.New("connection refused")
			}
			return "", mxerror.UnknownToken
		},
		Member: func(_ context.Context, server id.Server) (bool, bool, error) {
			switch server {
			case "praxis.example":
				return true, false, nil
			case "kasse.example":
				return true, true, nil
			case "broken.example":
				return false, false, errors.New("stale")
			}
			return false, false, nil
		},
		IDP: &directory.IDP{ClientID: "vzd", AuthURL: r.idpURL + "/auth", Redeem: func(ctx context.Context, redirect, code, verifier string) (certificate.Identity, error) {
			p, err := r.issuer.Redeem(ctx, "vzd", redirect, code, verifier)
			if err != nil {
				return certificate.Identity{}, err
			}
			return p.Identity, nil
		}},
	}
	r.options = options
	r.service = directory.New(options)
	mux.Handle("/idp/", r.issuer.Routes("/idp"))
	mux.HandleFunc("/", func(w http.ResponseWriter, req *http.Request) { r.service.Routes().ServeHTTP(w, req) })
	return r
}

// limit replaces the service by one with limits.
func (r *rig) limit(l *limit.Limiter) {
	r.options.Limiter = l
	r.service = directory.New(r.options)
}

// call sends a request and decodes the answer.
func (r *rig) call(method, path, token, body string, headers ...string) (int, map[string]any, http.Header) {
	r.t.Helper()
	req, err := http.NewRequest(method, r.base+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	var out map[string]any
	if len(raw) > 0 && bytes.HasPrefix(raw, []byte("{")) {
		if err := json.Unmarshal(raw, &out); err != nil {
			r.t.Fatalf("%s %s: %v: %s", method, path, err, raw)
		}
	}
	return resp.StatusCode, out, resp.Header
}

func (r *rig) searchToken(domain string) string {
	r.t.Helper()
	status, body, _ := r.call("GET", "/tim-authenticate?mxId="+domain, "", "", "X-Matrix-OpenID-Token", "good")
	if status != 200 || body["token_type"] != "Bearer" || body["expires_in"] != float64(86400) {
		r.t.Fatalf("%d %v", status, body)
	}
	return body["access_token"].(string)
}

func (r *rig) unlock(c *card.Card, err error) card.Signer {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
	s, err := c.Unlock("123456")
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// ownerToken goes the whole way of a card holder over HTTP.
func (r *rig) ownerToken(c card.Signer) string {
	r.t.Helper()
	status, _, header := r.call("GET", "/owner-authenticate", "", "")
	if status != 302 {
		r.t.Fatal(status)
	}
	status, body, _ := r.call("GET", strings.TrimPrefix(header.Get("Location"), r.base), "", "")
	if status != 200 {
		r.t.Fatalf("%d %v", status, body)
	}
	answer, err := idp.Answer(body["challenge"].(string), c, r.issuer.Certificate(), r.issuer.Key())
	if err != nil {
		r.t.Fatal(err)
	}
	status, body, header = r.call("POST", "/idp/auth", "", url.Values{"signed_challenge": {answer}}.Encode(), "Content-Type", "application/x-www-form-urlencoded")
	if status != 302 {
		r.t.Fatalf("%d %v", status, body)
	}
	status, body, _ = r.call("GET", strings.TrimPrefix(header.Get("Location"), r.base), "", "")
	if status != 200 {
		r.t.Fatalf("%d %v", status, body)
	}
	return body["access_token"].(string)
}

const chat = `{"resourceType":"Endpoint","status":"active","name":"Messenger","address":"matrix:u/jm:praxis.example",
	"connectionType":{"system":"https://gematik.de/fhir/directory/CodeSystem/EndpointDirectoryConnectionType","code":"tim"},
	"payloadType":[{"coding":[{"system":"https://gematik.de/fhir/directory/CodeSystem/EndpointDirectoryPayloadType","code":"tim-chat"}]}]}`

// TestOwner: a physician enters the own address with an eHBA, others find it, the physician hides and removes it.
//
// Requirements: AF_10058, AF_10376, A_26172-01, ML-123482.
func TestOwner(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		r := newRig(t, db)
		owner := r.ownerToken(r.unlock(r.pki.IssueHBA(card.Person{GivenName: "Jürgen", FamilyName: "Müller", TelematikID: mueller.TelematikID, ProfessionOID: certificate.Physician, PIN: "123456"})))
		stranger := r.ownerToken(r.unlock(r.pki.IssueSMCB(card.Institution{Name: "Klinikum Isar", TelematikID: clinic.TelematikID, ProfessionOID: certificate.Hospital, PIN: "123456"})))
		status, endpoint, header := r.call("POST", "/owner/Endpoint", owner, chat)
		if status != 201 || !strings.HasSuffix(header.Get("Location"), endpoint["id"].(string)) {
			t.Fatalf("%d %v", status, endpoint)
		}
		_, list, _ := r.call("GET", "/owner/PractitionerRole", owner, "")
		entry := list["entry"].([]any)[0].(map[string]any)["resource"].(map[string]any)
		entry["endpoint"] = []any{map[string]any{"reference": "Endpoint/" + endpoint["id"].(string)}}
		encode := func(v any) string {
			raw, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			return string(raw)
		}
		if status, body, _ := r.call("PUT", "/owner/PractitionerRole/"+entry["id"].(string), owner, encode(entry)); status != 200 {
			t.Fatalf("%d %v", status, body)
		}
		professional, insured := r.searchToken("praxis.example"), r.searchToken("kasse.example")
		byAddress := "PractitionerRole?practitioner.active=true&endpoint.address=matrix:u/jm:praxis.example&endpoint.status=active&_include=PractitionerRole:endpoint"
		count := func(token, path string) (matches, includes int) {
			t.Helper()
			status, body, _ := r.call("GET", path, token, "")
			if status != 200 {
				t.Fatalf("%d %v", status, body)
			}
			entries, _ := body["entry"].([]any)
			for _, e := range entries {
				if e.(map[string]any)["search"].(map[string]any)["mode"] == "match" {
					matches++
				} else {
					includes++
				}
			}
			return matches, includes
		}
		for _, path := range []string{"/search/" + byAddress, "/search/Endpoint?status=active&connection-type=tim"} {
			if m, _ := count(professional, path); m != 1 {
				t.Errorf("%s: %d matches", path, m)
			}
		}
		if m, i := count(owner, "/search/"+byAddress); m != 1 || i != 1 {
			t.Errorf("owner's search: %d, %d", m, i)
		}
		if m, i := count(insured, "/fdv/search/"+byAddress); m != 1 || i != 1 {
			t.Errorf("insured: %d, %d", m, i)
		}
		if where, err := r.store.WhereIs(t.Context(), "@jm:praxis.example"); err != nil || where != directory.InPractitioners {
			t.Errorf("%s %v", where, err)
		}
		// hidden from insured people: neither found by it, nor included, nor readable
		endpoint["extension"] = append(endpoint["extension"].([]any), map[string]any{"url": fhir.ExtensionEndpointVisible, "valueCoding": map[string]any{"system": fhir.SystemEndpointVisibility, "code": "hide-versicherte"}})
		own := "/owner/Endpoint/" + endpoint["id"].(string)
		if status, body, _ := r.call("PUT", own, owner, encode(endpoint)); status != 200 {
			t.Fatalf("%d %v", status, body)
		}
		if m, _ := count(insured, "/fdv/search/"+byAddress); m != 0 {
			t.Error("insured people find a hidden endpoint by its address")
		}
		if m, i := count(insured, "/fdv/search/PractitionerRole?practitioner.active=true&practitioner.name=m%C3%BCller&_include=*"); m != 1 || i != 2 {
			t.Errorf("insured people get %d matches and %d includes", m, i)
		}
		if m, _ := count(insured, "/fdv/search/Endpoint?status=active"); m != 0 {
			t.Error("insured people find a hidden endpoint")
		}
		if status, _, _ := r.call("GET", "/fdv/search/Endpoint/"+endpoint["id"].(string), insured, ""); status != 404 {
			t.Errorf("insured people read a hidden endpoint: %d", status)
		}
		if m, i := count(professional, "/search/"+byAddress); m != 1 || i != 1 {
			t.Errorf("professionals: %d, %d", m, i)
		}
		// refusals
		entry["practitioner"] = map[string]any{"reference": "Practitioner/x"}
		for name, c := range map[string]struct {
			method, path, token, body string
			want                      int
		}{
			"no token":                {"GET", own, "", "", 401},
			"search token":            {"GET", own, professional, "", 401},
			"insured at search":       {"GET", "/search/" + byAddress, insured, "", 401},
			"professional at fdv":     {"GET", "/fdv/search/" + byAddress, professional, "", 401},
			"somebody else's":         {"PUT", own, stranger, encode(endpoint), 403},
			"delete somebody else's":  {"DELETE", own, stranger, "", 403},
			"still linked":            {"DELETE", own, owner, "", 422},
			"other fields":            {"PUT", "/owner/PractitionerRole/" + entry["id"].(string), owner, encode(entry), 422},
			"another type":            {"POST", "/owner/Practitioner", owner, `{"resourceType":"Practitioner"}`, 422},
			"no JSON":                 {"POST", "/owner/Endpoint", owner, `{`, 400},
			"member twice":            {"POST", "/owner/Endpoint", owner, `{"resourceType":"Endpoint","status":"active","status":"off"}`, 400},
			"too large":               {"POST", "/owner/Endpoint", owner, strings.Repeat(" ", 300<<10), 413},
			"KIM address":             {"POST", "/owner/Endpoint", owner, strings.Replace(chat, `"tim"`, `"kim"`, 1), 422},
			"no Matrix address":       {"POST", "/owner/Endpoint", owner, strings.Replace(chat, "matrix:u/jm:praxis.example", "https://x", 1), 422},
			"id differs":              {"PUT", own, owner, strings.Replace(chat, `"resourceType":"Endpoint"`, `"resourceType":"Endpoint","id":"other"`, 1), 400},
			"unknown":                 {"GET", "/owner/Endpoint/nothing", owner, "", 404},
			"path with NUL":           {"GET", "/search/Endpoint/a%00b", professional, "", 404},
			"type with NUL":           {"GET", "/owner/End%00point/x", owner, "", 404},
			"value with NUL":          {"GET", "/search/PractitionerRole?practitioner.active=true&specialty=%00", professional, "", 400},
			"code with NUL":           {"POST", "/owner/Endpoint", owner, strings.Replace(chat, `"tim-chat"`, `"tim-\u0000chat"`, 1), 422},
			"unknown in search":       {"GET", "/search/Endpoint/nothing", professional, "", 404},
			"search without active":   {"GET", "/search/PractitionerRole", professional, "", 400},
			"search by unknown field": {"GET", "/search/PractitionerRole?practitioner.active=true&x=y", professional, "", 400},
		} {
			status, body, _ := r.call(c.method, c.path, c.token, c.body)
			if status != c.want || body["resourceType"] != "OperationOutcome" {
				t.Errorf("%s: %d %v", name, status, body)
			}
		}
		if err := r.store.RemoveMessenger(t.Context(), mueller.TelematikID, "@jm:praxis.example"); err != nil {
			t.Fatal(err)
		}
		if m, _ := count(professional, "/search/"+byAddress); m != 0 {
			t.Error("a removed address is found")
		}
		// the same through the Go API, for an organisation
		for range 2 {
			if err := r.store.SetMessenger(t.Context(), clinic.TelematikID, directory.Messenger{User: "@empfang:isar.example", Name: "Empfang", Kind: "tim-fa"}); err != nil {
				t.Fatal(err)
			}
		}
		if m, i := count(professional, "/search/HealthcareService?organization.active=true&endpoint.connection-type=tim-fa&_include=HealthcareService:endpoint"); m != 1 || i != 1 {
			t.Errorf("%d, %d", m, i)
		}
		r.now = r.now.Add(25 * time.Hour)
		if status, _, _ := r.call("GET", "/search/"+byAddress, professional, ""); status != 401 {
			t.Errorf("an expired token: %d", status)
		}
	})
}

func TestTokens(t *testing.T) {
	t.Parallel()
	r := newRig(t, databasetest.Open(t, databasetest.SQLite(t)))
	for name, c := range map[string]struct {
		query, token string
		want         int
	}{
		"no domain": {"", "good", 401}, "no token": {"?mxId=praxis.example", "", 401}, "wrong token": {"?mxId=praxis.example", "bad", 401}, "not listed": {"?mxId=stranger.example", "good", 401},
		"another server's user": {"?mxId=praxis.example", "liar", 401}, "server down": {"?mxId=praxis.example", "down", 503}, "list too old": {"?mxId=broken.example", "good", 503},
		"no server name": {"?mxId=https://x/", "good", 401},
	} {
		status, body, _ := r.call("GET", "/tim-authenticate"+c.query, "", "", "X-Matrix-OpenID-Token", c.token)
		if status != c.want || body["message"] == nil {
			t.Errorf("%s: %d %v", name, status, body)
		}
	}
	provider, err := r.pki.Component("provider", certificate.RoleTIM)
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := r.pki.Component("list", certificate.RoleDirectory)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		signer card.Signer
		change func(map[string]any)
		want   int
	}{
		"good":       {provider, func(map[string]any) {}, 200},
		"wrong role": {wrong, func(map[string]any) {}, 401},
		"expired":    {provider, func(m map[string]any) { m["exp"] = r.now.Unix() - 1 }, 401},
		"elsewhere":  {provider, func(m map[string]any) { m["aud"] = "https://x" }, 401},
		"nobody":     {provider, func(m map[string]any) { m["idNummer"] = "" }, 401},
	} {
		claims := map[string]any{"iss": "https://provider", "sub": "admin", "aud": r.base + "/owner-authenticate", "idNummer": clinic.TelematikID, "professionOID": certificate.Hospital, "exp": r.now.Unix() + 60}
		c.change(claims)
		token, err := jose.SignClaims(jose.Header{Typ: "JWT", X5c: [][]byte{c.signer.Certificate().DER()}}, claims, c.signer)
		if err != nil {
			t.Fatal(err)
		}
		status, body, _ := r.call("GET", "/owner-authenticate", token, "")
		if status != c.want {
			t.Errorf("%s: %d %v", name, status, body)
		}
		if c.want == 200 {
			if status, list, _ := r.call("GET", "/owner/HealthcareService", body["access_token"].(string), ""); status != 200 || list["total"] != float64(1) {
				t.Errorf("%d %v", status, list)
			}
		}
	}
	for _, path := range []string{"/signin-gematik-idp-dienst", "/signin-gematik-idp-dienst?state=a&code=b"} {
		if status, _, _ := r.call("GET", path, "", ""); status != 401 {
			t.Errorf("%s: %d", path, status)
		}
	}
	if status, _, _ := r.call("GET", "/owner-authenticate", "nonsense", ""); status != 401 {
		t.Error(status)
	}
	for id, want := range map[string]bool{practice.TelematikID: true, closed.TelematikID: false, "1-nobody": false, mueller.TelematikID: false} {
		if got, err := r.store.Active(t.Context(), id); err != nil || got != want {
			t.Errorf("%s active: %v %v", id, got, err)
		}
	}
}

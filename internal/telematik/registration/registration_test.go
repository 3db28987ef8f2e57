// SPDX-License-Identifier: Apache-2.0

package registration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/jose"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/directory"
	"github.com/konsil-health/konsil/internal/telematik/fedlist"
	"github.com/konsil-health/konsil/internal/telematik/idp"
	"github.com/konsil-health/konsil/internal/telematik/registration"
)

var start = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// network is the central services and one provider over one database, with the list over real HTTP.
type network struct {
	t         *testing.T
	pki       *card.PKI
	issuer    *idp.Issuer
	directory *directory.Store
	publisher *fedlist.Publisher
	tenants   *tenant.Store
	listURL   string
	service   *registration.Service
	now       time.Time
}

func newNetwork(t *testing.T, db *database.DB) *network {
	t.Helper()
	n := &network{t: t, now: start, directory: directory.NewStore(db, nil), tenants: tenant.NewStore(db)}
	clock := func() time.Time { return n.now }
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	n.pki, err = card.Open(card.Options{Folder: t.TempDir(), Now: clock})
	check(err)
	idpSigner, err := n.pki.Component("idp", certificate.RoleIDP)
	check(err)
	idpKey, err := n.pki.ComponentKey("idp", certificate.RoleIDP)
	check(err)
	listSigner, err := n.pki.Component("list", certificate.RoleDirectory)
	check(err)
	n.issuer = idp.New(idp.Options{URL: "https://idp.example", Signer: idpSigner, Key: idpKey, Trust: n.pki.Trust(), Revoked: n.pki.Revoked, Now: clock,
		Clients: map[string][]string{"provider-b": {"https://b.example/callback"}, "other": {"https://o.example/callback"}}})
	n.publisher = fedlist.NewPublisher(fedlist.PublisherOptions{DB: db, Signer: listSigner, Certificate: listSigner.Certificate(), Active: n.directory.Active})
	srv := httptest.NewServer(n.publisher.Handler("/tim-provider-services", func(token string) (string, bool) {
		return map[string]string{"token-b": "B", "token-c": "C"}[token], token == "token-b" || token == "token-c"
	}))
	t.Cleanup(srv.Close)
	n.listURL = srv.URL + "/tim-provider-services"
	n.service = n.provider(nil)
	for _, i := range []directory.Institution{
		{TelematikID: "1-2.1", Name: "Praxis Sonnenallee", ProfessionOID: certificate.Practice, Street: "x", Place: directory.Places[0]},
		{TelematikID: "1-2.2", Name: "Praxis Zwei", ProfessionOID: certificate.Practice, Street: "x", Place: directory.Places[0]},
		{TelematikID: "8-1.1", Name: "Testkasse", ProfessionOID: certificate.Insurer, Street: "x", Place: directory.Places[0]},
		{TelematikID: "1-2.9", Name: "Praxis Zu", ProfessionOID: certificate.Practice, Street: "x", Place: directory.Places[0], Inactive: true},
	} {
		entries, err := i.Entries()
		check(err)
		check(n.directory.Put(t.Context(), entries...))
	}
	return n
}

func (n *network) provider(change func(*registration.Options)) *registration.Service {
	n.t.Helper()
	signer, err := n.pki.Component("provider-b", certificate.RoleTIM)
	if err != nil {
		n.t.Fatal(err)
	}
	o := registration.Options{
		IDP: n.issuer, ClientID: "provider-b", RedirectURI: "https://b.example/callback", Tenants: n.tenants, List: &registration.ListClient{URL: n.listURL, Token: "token-b"},
		Active: n.directory.Active, URL: "https://b.example", Signer: signer, Now: func() time.Time { return n.now },
		Domain: func(d id.Server) error {
			if d == "reserved.example" {
				return errors.New("reserved")
			}
			return nil
		},
	}
	if change != nil {
		change(&o)
	}
	return registration.New(o)
}

func (n *network) smcb(telematikID, profession, name string) card.Signer {
	n.t.Helper()
	c, err := n.pki.IssueSMCB(card.Institution{Name: name, TelematikID: telematikID, ProfessionOID: profession, PIN: "123456"})
	if err != nil {
		n.t.Fatal(err)
	}
	s, err := c.Unlock("123456")
	if err != nil {
		n.t.Fatal(err)
	}
	return s
}

func (n *network) answer(s *registration.Service, c card.Signer) string {
	n.t.Helper()
	challenge, err := s.Begin()
	if err != nil {
		n.t.Fatal(err)
	}
	answer, err := s.Answer(challenge, c)
	if err != nil {
		n.t.Fatal(err)
	}
	return answer
}

func (n *network) listed() map[id.Server]fedlist.Domain {
	n.t.Helper()
	all, err := n.publisher.Domains(n.t.Context(), "")
	if err != nil {
		n.t.Fatal(err)
	}
	out := map[id.Server]fedlist.Domain{}
	for _, d := range all {
		out[d.Domain] = d
	}
	return out
}

func TestRegistration(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		n := newNetwork(t, db)
		practice := n.smcb("1-2.1", certificate.Practice, "Praxis Sonnenallee")
		result, err := n.service.Complete(t.Context(), n.answer(n.service, practice), registration.Order{Domain: "praxis.example"})
		if err != nil {
			t.Fatal(err)
		}
		if result.Tenant.Name != "praxis.example" || result.Tenant.TelematikID != "1-2.1" || result.Tenant.DisplayName != "Praxis Sonnenallee" || result.Tenant.Insurance || result.Again || result.Profession != certificate.Practice {
			t.Errorf("%+v %+v", result, result.Tenant)
		}
		if found, err := n.tenants.ByName(t.Context(), "praxis.example"); err != nil || found.ID != result.Tenant.ID {
			t.Errorf("%+v %v", found, err)
		}
		if d := n.listed()["praxis.example"]; d.TelematikID != "1-2.1" || d.Provider != "B" || d.IsInsurance {
			t.Errorf("%+v", d)
		}
		again, err := n.service.Complete(t.Context(), n.answer(n.service, practice), registration.Order{Domain: "praxis.example"})
		if err != nil || !again.Again || again.Tenant.ID != result.Tenant.ID {
			t.Errorf("%+v %v", again, err)
		}
		insurer := n.smcb("8-1.1", certificate.Insurer, "Testkasse")
		insured, err := n.service.Complete(t.Context(), n.answer(n.service, insurer), registration.Order{Domain: "kasse.example", Insurance: true, IK: []string{"109500969"}})
		if err != nil || !insured.Tenant.Insurance {
			t.Fatalf("%+v %v", insured, err)
		}
		if d := n.listed()["kasse.example"]; !d.IsInsurance || len(d.IK) != 1 {
			t.Errorf("%+v", d)
		}
		// a crash after the list and before the tenant: the order is finished when it is repeated
		list := &registration.ListClient{URL: n.listURL, Token: "token-b"}
		if err := list.Add(t.Context(), fedlist.Domain{Domain: "halb.example", TelematikID: "1-2.1"}); err != nil {
			t.Fatal(err)
		}
		if r, err := n.service.Complete(t.Context(), n.answer(n.service, practice), registration.Order{Domain: "halb.example"}); err != nil || r.Again {
			t.Errorf("%+v %v", r, err)
		}
		// tenant creation fails: no entry is left
		broken := n.provider(func(o *registration.Options) { o.Tenants = brokenTenants{n.tenants} })
		if _, err := broken.Complete(t.Context(), n.answer(broken, practice), registration.Order{Domain: "bruch.example"}); !errors.Is(err, registration.ErrUnavailable) {
			t.Error(err)
		}
		if _, left := n.listed()["bruch.example"]; left {
			t.Error("a domain without tenant is on the list")
		}
		inactive, err := list.Inactive(t.Context())
		if err != nil || len(inactive) != 0 {
			t.Errorf("%+v %v", inactive, err)
		}
		closed, err := directory.Institution{TelematikID: "1-2.1", Name: "Praxis Sonnenallee", ProfessionOID: certificate.Practice, Street: "x", Place: directory.Places[0], Inactive: true}.Entries()
		if err != nil {
			t.Fatal(err)
		}
		if err := n.directory.Put(t.Context(), closed...); err != nil {
			t.Fatal(err)
		}
		if inactive, err = list.Inactive(t.Context()); err != nil || len(inactive) != 2 {
			t.Errorf("%+v %v", inactive, err)
		}
	})
}

type brokenTenants struct{ registration.Tenants }

func (brokenTenants) Create(context.Context, tenant.Spec) (*tenant.Tenant, error) {
	return nil, errors.New("disk full")
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, databasetest.Open(t, databasetest.SQLite(t)))
	practice := n.smcb("1-2.1", certificate.Practice, "Praxis Sonnenallee")
	second := n.smcb("1-2.2", certificate.Practice, "Praxis Zwei")
	insurer := n.smcb("8-1.1", certificate.Insurer, "Testkasse")
	doctor, err := n.pki.IssueHBA(card.Person{GivenName: "Anna", FamilyName: "Sommer", TelematikID: "1-2.1", ProfessionOID: certificate.Physician, PIN: "123456"})
	if err != nil {
		t.Fatal(err)
	}
	hba, err := doctor.Unlock("123456")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.service.Complete(t.Context(), n.answer(n.service, practice), registration.Order{Domain: "praxis.example"}); err != nil {
		t.Fatal(err)
	}
	foreign := &registration.ListClient{URL: n.listURL, Token: "token-c"}
	if err := foreign.Add(t.Context(), fedlist.Domain{Domain: "elsewhere.example", TelematikID: "1-2.1"}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		c     card.Signer
		order registration.Order
		want  error
	}{
		"a person's card":           {hba, registration.Order{Domain: "x.example"}, registration.ErrCard},
		"no institution":            {n.smcb("1-2.1", certificate.Physician, "x"), registration.Order{Domain: "x.example"}, registration.ErrProfession},
		"not in the directory":      {n.smcb("1-nobody", certificate.Practice, "x"), registration.Order{Domain: "x.example"}, registration.ErrInactive},
		"inactive":                  {n.smcb("1-2.9", certificate.Practice, "x"), registration.Order{Domain: "x.example"}, registration.ErrInactive},
		"no domain":                 {practice, registration.Order{}, registration.ErrDomain},
		"no server name":            {practice, registration.Order{Domain: "https://x"}, registration.ErrDomain},
		"upper case":                {practice, registration.Order{Domain: "X.example"}, registration.ErrDomain},
		"not given out":             {practice, registration.Order{Domain: "reserved.example"}, registration.ErrDomain},
		"somebody else's":           {second, registration.Order{Domain: "praxis.example"}, registration.ErrTaken},
		"at another provider":       {practice, registration.Order{Domain: "elsewhere.example"}, registration.ErrTaken},
		"practice as insurer":       {practice, registration.Order{Domain: "x.example", Insurance: true, IK: []string{"109500969"}}, registration.ErrInsurance},
		"insurer without IK":        {insurer, registration.Order{Domain: "x.example", Insurance: true}, registration.ErrIK},
		"IK with wrong check digit": {insurer, registration.Order{Domain: "x.example", Insurance: true, IK: []string{"109500968"}}, registration.ErrIK},
		"practice with IK":          {practice, registration.Order{Domain: "x.example", IK: []string{"109500969"}}, registration.ErrIK},
	} {
		if _, err := n.service.Complete(t.Context(), n.answer(n.service, c.c), c.order); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if d := n.listed(); len(d) != 2 {
		t.Errorf("refused orders left something: %+v", d)
	}
	other, err := n.issuer.Challenge(idp.Authorization{ClientID: "other", ResponseType: "code", RedirectURI: "https://o.example/callback", State: "s", Scope: idp.Scope, CodeChallenge: idp.PKCE("v"), CodeChallengeMethod: "S256"})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := n.service.Answer(other, practice)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.service.Complete(t.Context(), answer, registration.Order{Domain: "x.example"}); !errors.Is(err, idp.ErrClient) {
		t.Errorf("an answer for another relying party: %v", err)
	}
	down := n.provider(func(o *registration.Options) { o.List = &registration.ListClient{URL: "http://127.0.0.1:1/x"} })
	if _, err := down.Complete(t.Context(), n.answer(down, practice), registration.Order{Domain: "y.example"}); !errors.Is(err, registration.ErrUnavailable) {
		t.Errorf("list down: %v", err)
	}
	unauthorised := n.provider(func(o *registration.Options) { o.List = &registration.ListClient{URL: n.listURL, Token: "wrong"} })
	if _, err := unauthorised.Complete(t.Context(), n.answer(unauthorised, practice), registration.Order{Domain: "y.example"}); !errors.Is(err, registration.ErrUnavailable) {
		t.Errorf("wrong token: %v", err)
	}
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, databasetest.Open(t, databasetest.SQLite(t)))
	srv := httptest.NewServer(n.service.Routes("/registration"))
	t.Cleanup(srv.Close)
	practice := n.smcb("1-2.1", certificate.Practice, "Praxis Sonnenallee")
	post := func(path string, body any) (int, map[string]any) {
		t.Helper()
		raw, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.Post(srv.URL+path, "application/json", bytes.NewReader(raw))
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
	// an authenticator that knows only what the interface says
	answer := func(c card.Signer) string {
		t.Helper()
		resp, err := http.Post(srv.URL+"/registration/challenge", "application/json", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var begun struct {
			Challenge string
			X5c       [][]byte
			Key       jose.Key `json:"puk_idp_enc"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&begun); err != nil {
			t.Fatal(err)
		}
		provider, err := certificate.Parse(begun.X5c[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := n.pki.Trust().Check(provider, certificate.Expect{Types: []certificate.Type{certificate.ServiceSIG}, Professions: []string{certificate.RoleIDP}, At: start}); err != nil {
			t.Fatal(err)
		}
		key, err := begun.Key.Public()
		if err != nil {
			t.Fatal(err)
		}
		out, err := idp.Answer(begun.Challenge, c, provider, key)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, c := range []struct {
		order  map[string]any
		status int
		error  string
	}{
		{map[string]any{"signed_challenge": answer(practice), "domain": "praxis.example"}, 201, ""},
		{map[string]any{"signed_challenge": answer(practice), "domain": "praxis.example"}, 200, ""},
		{map[string]any{"signed_challenge": "x", "domain": "praxis.example"}, 400, "invalid_request"},
		{map[string]any{"signed_challenge": answer(practice), "domain": 7}, 400, "invalid_request"},
		{map[string]any{"signed_challenge": answer(practice), "domain": "x.example", "isInsurance": true, "ik": []string{"109500969"}}, 403, "insurance"},
		{map[string]any{"signed_challenge": answer(n.smcb("1-2.2", certificate.Practice, "Zwei")), "domain": "praxis.example"}, 409, "taken"},
	} {
		status, body := post("/registration/order", c.order)
		if status != c.status || c.error != "" && body["error"] != c.error {
			t.Errorf("%v: %d %v", c.order["domain"], status, body)
		}
	}
	found, err := n.tenants.ByName(t.Context(), "praxis.example")
	if err != nil {
		t.Fatal(err)
	}
	token, err := n.service.OwnerToken(found, certificate.Practice, "https://directory.example")
	if err != nil {
		t.Fatal(err)
	}
	signed, err := jose.Parse(token)
	if err != nil || signed.Header.Alg != jose.BP256R1 || len(signed.Header.X5c) != 1 {
		t.Errorf("%+v %v", signed.Header, err)
	}
	if _, err := n.provider(func(o *registration.Options) { o.Signer = nil }).OwnerToken(found, certificate.Practice, "https://d"); !errors.Is(err, registration.ErrUnavailable) {
		t.Error(err)
	}
}

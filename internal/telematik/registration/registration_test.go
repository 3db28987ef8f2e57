// SPDX-License-Identifier: Apache-2.0

package registration_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/jose"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/directory"
	"github.com/konsil-health/konsil/internal/telematik/fedlist"
	"github.com/konsil-health/konsil/internal/telematik/registration"
)

// Requirements: AF_10060, AF_10103.
func TestRegistration(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		n := newNetwork(t, db)
		client := n.client(n.service)
		smcb := n.smcb("1-2.1", certificate.Practice, "Praxis Sonnenallee")
		result, err := client.Register(t.Context(), smcb, pin, registration.Order{ServerName: "praxis.example", Admin: "verwaltung"})
		if err != nil {
			t.Fatal(err)
		}
		if result.ServerName != "praxis.example" || result.TelematikID != "1-2.1" || result.DisplayName != "Praxis Sonnenallee" || result.Insurance || result.Again || result.Profession != certificate.Practice {
			t.Errorf("%+v", result)
		}
		made, err := n.tenants.ByName(t.Context(), "praxis.example")
		if err != nil || made.TelematikID != "1-2.1" || made.DisplayName != "Praxis Sonnenallee" || made.State != tenant.Active {
			t.Errorf("%+v %v", made, err)
		}
		if d := n.listed()["praxis.example"]; d.TelematikID != "1-2.1" || d.Provider != "B" || d.IsInsurance {
			t.Errorf("%+v", d)
		}
		// the administrator: a random user id, and a password that comes again only as long as nobody has used it
		admin := result.Admin
		if admin == nil || admin.User.Server() != "praxis.example" || admin.User.Localpart() == "verwaltung" || n.accounts.made[admin.User].password != admin.Password || len(admin.Password) < 20 {
			t.Fatalf("%+v", admin)
		}
		again, err := client.Register(t.Context(), smcb, pin, registration.Order{ServerName: "praxis.example", Admin: "verwaltung"})
		if err != nil || !again.Again || again.Admin.User != admin.User || again.Admin.Password == admin.Password || n.accounts.made[admin.User].password != again.Admin.Password {
			t.Errorf("%+v %+v %v", again, again.Admin, err)
		}
		n.accounts.signIn(admin.User)
		for _, login := range []string{"verwaltung", "", "zweite"} {
			again, err = client.Register(t.Context(), smcb, pin, registration.Order{ServerName: "praxis.example", Admin: login})
			if err != nil || !again.Again || again.Admin == nil || again.Admin.User != admin.User || again.Admin.Password != "" {
				t.Errorf("%q: %+v %v", login, again.Admin, err)
			}
		}
		// an insurer's service for insured people
		insurer := n.smcb("8-1.1", certificate.Insurer, "Testkasse")
		insured, err := client.Register(t.Context(), insurer, pin, registration.Order{ServerName: "kasse.example", DisplayName: "Testkasse für Versicherte", Insurance: true, IK: []string{"109500969"}})
		if err != nil || !insured.Insurance || insured.DisplayName != "Testkasse für Versicherte" || insured.Admin != nil {
			t.Fatalf("%+v %v", insured, err)
		}
		if d := n.listed()["kasse.example"]; !d.IsInsurance || len(d.IK) != 1 {
			t.Errorf("%+v", d)
		}
		// the directory asks for those who left it
		inactive, err := n.list().Inactive(t.Context())
		if err != nil || len(inactive) != 0 {
			t.Errorf("%+v %v", inactive, err)
		}
		n.enter(directory.Institution{TelematikID: "1-2.1", Name: "Praxis Sonnenallee", ProfessionOID: certificate.Practice, Inactive: true})
		if inactive, err = n.list().Inactive(t.Context()); err != nil || len(inactive) != 1 {
			t.Errorf("%+v %v", inactive, err)
		}
	})
}

// TestHalfMade: whatever stops between two steps, the repeated order ends in one messenger, and nobody is left half-made.
func TestHalfMade(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		n := newNetwork(t, db)
		smcb := n.unlock(n.smcb("1-2.1", certificate.Practice, "Praxis Sonnenallee"))
		order := func(s *registration.Service, o registration.Order) (*registration.Result, error) {
			t.Helper()
			challenge, err := s.Begin()
			if err != nil {
				t.Fatal(err)
			}
			answer, err := s.Answer(challenge, smcb)
			if err != nil {
				t.Fatal(err)
			}
			return s.Complete(t.Context(), answer, o)
		}
		// after the list, before the tenant
		if err := n.list().Add(t.Context(), fedlist.Domain{Domain: "halb.example", TelematikID: "1-2.1"}); err != nil {
			t.Fatal(err)
		}
		if r, err := order(n.service, registration.Order{ServerName: "halb.example"}); err != nil || r.Again {
			t.Errorf("%+v %v", r, err)
		}
		// the tenant cannot be made: the entry is taken back
		broken := n.provider(func(o *registration.Options) { o.Tenants = tenants{n.tenants, errors.New("disk full")} })
		if _, err := order(broken, registration.Order{ServerName: "bruch.example"}); !errors.Is(err, registration.ErrUnavailable) {
			t.Error(err)
		}
		if _, left := n.listed()["bruch.example"]; left {
			t.Error("a domain without tenant is on the list")
		}
		// the same order won elsewhere in this moment: its entry stays
		late := n.provider(func(o *registration.Options) { o.Tenants = tenants{n.tenants, tenant.ErrExists} })
		if _, err := order(late, registration.Order{ServerName: "eilig.example"}); !errors.Is(err, registration.ErrUnavailable) {
			t.Error(err)
		}
		if _, left := n.listed()["eilig.example"]; !left {
			t.Error("the winner's entry is gone from the list")
		}
		// the administrator's account cannot be made: with the repeated order it is there, under the user id that was reserved
		n.accounts.fail = errors.New("disk full")
		if _, err := order(n.service, registration.Order{ServerName: "konto.example", Admin: "verwaltung"}); !errors.Is(err, registration.ErrUnavailable) {
			t.Error(err)
		}
		var reserved string
		if err := db.QueryRow(t.Context(), "SELECT m.admin FROM registration_messenger m JOIN tenant t ON t.tenant = m.tenant WHERE t.name = 'konto.example'").Scan(&reserved); err != nil || reserved == "" {
			t.Fatalf("%q %v", reserved, err)
		}
		n.accounts.fail = nil
		r, err := order(n.service, registration.Order{ServerName: "konto.example", Admin: "verwaltung"})
		if err != nil || !r.Again || r.Admin.User != id.User(reserved) || r.Admin.Password == "" {
			t.Errorf("%+v %v", r, err)
		}
		// a login name that somebody has, and then another
		n.accounts.made["@x:anmelden.example"] = account{login: "verwaltung"}
		if _, err := order(n.service, registration.Order{ServerName: "anmelden.example", Admin: "verwaltung"}); !errors.Is(err, registration.ErrLogin) {
			t.Error(err)
		}
		if r, err := order(n.service, registration.Order{ServerName: "anmelden.example", Admin: "verwaltung2"}); err != nil || r.Admin.Login != "verwaltung2" || r.Admin.Password == "" {
			t.Errorf("%+v %v", r, err)
		}
		// the list is away, or does not know the provider: nothing is made
		for name, l := range map[string]*registration.ListClient{"away": {URL: "http://127.0.0.1:1/x"}, "unauthorised": {URL: n.listURL, Token: fedlist.StaticToken("wrong")}} {
			s := n.provider(func(o *registration.Options) { o.List = l })
			if _, err := order(s, registration.Order{ServerName: "ohne.example"}); !errors.Is(err, registration.ErrUnavailable) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := n.tenants.ByName(t.Context(), "ohne.example"); !errors.Is(err, tenant.ErrUnknown) {
			t.Errorf("a tenant that is not on the list: %v", err)
		}
		// many at once
		var group sync.WaitGroup
		results := make([]*registration.Result, 6)
		errs := make([]error, len(results))
		for i := range results {
			group.Go(func() {
				results[i], errs[i] = order(n.service, registration.Order{ServerName: "viele.example", Admin: "verwaltung"})
			})
		}
		group.Wait()
		fresh := 0
		for i, r := range results {
			if errs[i] != nil {
				t.Errorf("%d: %v", i, errs[i])
				continue
			}
			if !r.Again {
				fresh++
			}
			if r.Tenant.ID != results[0].Tenant.ID || r.Admin.User != results[0].Admin.User {
				t.Errorf("%d: %+v %+v", i, r.Tenant, r.Admin)
			}
		}
		if _, there := n.listed()["viele.example"]; fresh != 1 || !there {
			t.Errorf("made %d times, on the list: %v", fresh, there)
		}
	})
}

// tenants fails to create.
type tenants struct {
	registration.Tenants
	err error
}

func (s tenants) Create(context.Context, tenant.Spec) (*tenant.Tenant, error) { return nil, s.err }

// TestAdministrator: who has an administrator needs no second proof by card.
func TestAdministrator(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		n := newNetwork(t, db)
		client := n.client(n.service)
		if _, err := client.Order(t.Context(), "admin-praxis", registration.Order{ServerName: "zweig.example"}); err == nil || errors.Is(err, registration.ErrSession) {
			t.Errorf("the tenant of the session is not there: %v", err)
		}
		if _, err := client.Register(t.Context(), n.smcb("1-2.1", certificate.Practice, "Praxis Sonnenallee"), pin, registration.Order{ServerName: "praxis.example", Admin: "verwaltung"}); err != nil {
			t.Fatal(err)
		}
		second, err := client.Order(t.Context(), "admin-praxis", registration.Order{ServerName: "zweig.example", DisplayName: "Zweigpraxis", Admin: "verwaltung"})
		if err != nil || second.TelematikID != "1-2.1" || second.DisplayName != "Zweigpraxis" || second.Profession != certificate.Practice || second.Admin.Password == "" {
			t.Errorf("%+v %v", second, err)
		}
		if d := n.listed()["zweig.example"]; d.TelematikID != "1-2.1" {
			t.Errorf("%+v", d)
		}
		if _, err := n.tenants.Create(t.Context(), tenant.Spec{Name: "config.example", TelematikID: "1-2.2"}); err != nil {
			t.Fatal(err)
		}
		for token, want := range map[string]error{"": registration.ErrSession, "stranger": registration.ErrSession, "admin-config": registration.ErrSession} {
			_, err := client.Order(t.Context(), token, registration.Order{ServerName: "drei.example"})
			if token == "" {
				want = nil // without session and answer it is an answer that is missing
			}
			if err == nil || want != nil && !errors.Is(err, want) {
				t.Errorf("%q: %v", token, err)
			}
			if _, err := client.OwnerToken(t.Context(), token); !errors.Is(err, registration.ErrSession) {
				t.Errorf("token for %q: %v", token, err)
			}
		}
		if _, err := client.Order(t.Context(), "admin-praxis", registration.Order{ServerName: "drei.example", Insurance: true, IK: []string{"109500969"}}); !errors.Is(err, registration.ErrInsurance) {
			t.Error(err)
		}
		token, err := client.OwnerToken(t.Context(), "admin-praxis")
		if err != nil {
			t.Fatal(err)
		}
		signed, err := jose.Parse(token)
		if err != nil || signed.Header.Alg != jose.BP256R1 || len(signed.Header.X5c) != 1 {
			t.Errorf("%+v %v", signed.Header, err)
		}
		var claims struct {
			Audience string `json:"aud"`
			Number   string `json:"idNummer"`
			OID      string `json:"professionOID"`
		}
		if err := signed.Claims(&claims); err != nil || claims.Audience != "https://directory.example/owner-authenticate" || claims.Number != "1-2.1" || claims.OID != certificate.Practice {
			t.Errorf("%+v %v", claims, err)
		}
		n.enter(directory.Institution{TelematikID: "1-2.1", Name: "Praxis Sonnenallee", ProfessionOID: certificate.Practice, Inactive: true})
		if _, err := client.Order(t.Context(), "admin-praxis", registration.Order{ServerName: "drei.example"}); !errors.Is(err, registration.ErrInactive) {
			t.Errorf("inactive by now: %v", err)
		}
		// the list asks the directory where the provider cannot
		blind := n.client(n.provider(func(o *registration.Options) { o.Active = nil }))
		if _, err := blind.Order(t.Context(), "admin-praxis", registration.Order{ServerName: "drei.example"}); !errors.Is(err, registration.ErrInactive) {
			t.Errorf("inactive for the list: %v", err)
		}
		deaf := n.client(n.provider(func(o *registration.Options) { o.Session, o.Signer = nil, nil }))
		if _, err := deaf.Order(t.Context(), "admin-praxis", registration.Order{ServerName: "drei.example"}); !errors.Is(err, registration.ErrSession) {
			t.Errorf("a service without sessions: %v", err)
		}
	})
}

func TestRefusedOrders(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		n := newNetwork(t, db)
		client := n.client(n.service)
		practice := n.unlock(n.smcb("1-2.1", certificate.Practice, "Praxis Sonnenallee"))
		second := n.unlock(n.smcb("1-2.2", certificate.Practice, "Praxis Zwei"))
		insurer := n.unlock(n.smcb("8-1.1", certificate.Insurer, "Testkasse"))
		if _, err := client.RegisterWith(t.Context(), practice, registration.Order{ServerName: "praxis.example"}); err != nil {
			t.Fatal(err)
		}
		foreign := &registration.ListClient{URL: n.listURL, Token: fedlist.StaticToken("token-c")}
		if err := foreign.Add(t.Context(), fedlist.Domain{Domain: "elsewhere.example", TelematikID: "1-2.1"}); err != nil {
			t.Fatal(err)
		}
		gone, err := n.tenants.Create(t.Context(), tenant.Spec{Name: "gone.example", TelematikID: "1-2.1"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.Exec(t.Context(), "UPDATE tenant SET state = $2 WHERE tenant = $1", int64(gone.ID), string(tenant.Tombstone)); err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]struct {
			c     card.Signer
			order registration.Order
			want  error
		}{
			"no domain":                 {practice, registration.Order{}, registration.ErrDomain},
			"no server name":            {practice, registration.Order{ServerName: "https://x"}, registration.ErrDomain},
			"a port":                    {practice, registration.Order{ServerName: "x.example:8448"}, registration.ErrDomain},
			"an address":                {practice, registration.Order{ServerName: "192.0.2.1"}, registration.ErrDomain},
			"a bare name":               {practice, registration.Order{ServerName: "praxis"}, registration.ErrDomain},
			"upper case":                {practice, registration.Order{ServerName: "X.example"}, registration.ErrDomain},
			"not given out":             {practice, registration.Order{ServerName: "reserved.example"}, registration.ErrDomain},
			"a line in the name":        {practice, registration.Order{ServerName: "neu.example", DisplayName: "a\nb"}, registration.ErrOrder},
			"a login with a colon":      {practice, registration.Order{ServerName: "neu.example", Admin: "a:b"}, registration.ErrOrder},
			"somebody else's":           {second, registration.Order{ServerName: "praxis.example"}, registration.ErrTaken},
			"given once":                {practice, registration.Order{ServerName: "gone.example"}, registration.ErrTaken},
			"at another provider":       {practice, registration.Order{ServerName: "elsewhere.example"}, registration.ErrTaken},
			"practice as insurer":       {practice, registration.Order{ServerName: "neu.example", Insurance: true, IK: []string{"109500969"}}, registration.ErrInsurance},
			"insurer without IK":        {insurer, registration.Order{ServerName: "neu.example", Insurance: true}, registration.ErrIK},
			"IK with wrong check digit": {insurer, registration.Order{ServerName: "neu.example", Insurance: true, IK: []string{"109500968"}}, registration.ErrIK},
			"practice with IK":          {practice, registration.Order{ServerName: "neu.example", IK: []string{"109500969"}}, registration.ErrIK},
		} {
			if r, err := client.RegisterWith(t.Context(), c.c, c.order); !errors.Is(err, c.want) {
				t.Errorf("%s: %+v %v", name, r, err)
			}
		}
		if d := n.listed(); len(d) != 2 {
			t.Errorf("refused orders left something: %+v", d)
		}
	})
}

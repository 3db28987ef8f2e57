// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/konsiltest"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/fedlist"
)

// ownScene is the scene without any proxy: Konsil under policy ti, with a signed federation list. The same table has to hold.
func ownScene(t *testing.T, together bool) *scene {
	t.Helper()
	s := &scene{T: t, own: true, list: members(), behind: map[id.Server]*konsiltest.Cell{}}
	s.through = s.behind
	cards := filepath.Join(t.TempDir(), "cards")
	pki, err := card.Open(card.Options{Folder: cards})
	if err != nil {
		t.Fatal(err)
	}
	list, roots := publish(t, pki), []string{filepath.Join(cards, "root-ca.pem"), filepath.Join(cards, "komp-ca.pem")}
	var specs []konsiltest.Spec
	for _, group := range groupsOf(together) {
		var tenants []config.Tenant
		var names []string
		for _, tn := range group {
			names = append(names, string(tn.Name))
			tenants = append(tenants, config.Tenant{Name: tn.Name, Insurance: tn.Insurance})
		}
		specs = append(specs, konsiltest.Spec{Tenants: names, Configure: func(c *config.Config) {
			c.Policy, c.Tenants, c.Registration = config.PolicyTI, tenants, config.Registration{Mode: config.RegistrationClosed}
			c.SecondFactor = config.SecondFactorOff
			c.Telematik.FederationList, c.Telematik.ListRoots = list+config.FederationListPath, roots
		}})
	}
	n := konsiltest.New(t, append(specs, konsiltest.Spec{Tenants: []string{"fremd.test"}})...)
	for i, group := range groupsOf(together) {
		for _, tn := range group {
			s.behind[tn.Name] = n.Cell(i)
		}
	}
	s.stranger = n.Cell(len(specs))
	s.people()
	return s
}

func groupsOf(together bool) [][]*tenant.Tenant {
	if together {
		return [][]*tenant.Tenant{serversBehind}
	}
	return [][]*tenant.Tenant{serversBehind[0:1], serversBehind[1:2], serversBehind[2:3]}
}

// publish serves the federation list, signed, and returns its address.
func publish(t *testing.T, pki *card.PKI) string {
	t.Helper()
	signer, err := pki.Component("federation-list", certificate.RoleDirectory)
	if err != nil {
		t.Fatal(err)
	}
	p := fedlist.NewPublisher(fedlist.PublisherOptions{DB: databasetest.Open(t, databasetest.SQLite(t)), Signers: []card.Signer{signer}})
	for _, tn := range serversBehind {
		d := fedlist.Domain{Domain: tn.Name, TelematikID: "1-" + string(tn.Name), IsInsurance: tn.Insurance}
		if tn.Insurance {
			d.IK = []string{"109500969"}
		}
		if err := p.Add(t.Context(), "provider", d); err != nil {
			t.Fatal(err)
		}
	}
	front := httptest.NewServer(p.Handler("", func(string) (string, bool) { return "provider", true }))
	t.Cleanup(front.Close)
	return front.URL
}

// account makes somebody who signs in by password: by registration behind a proxy, by the organisation under policy ti.
func (s *scene) account(user string) *konsiltest.Session {
	s.Helper()
	_, server, _ := strings.Cut(user, ":")
	cell := s.behind[id.Server(server)]
	if !s.own {
		made := cell.SignIn(s, user)
		return s.through[id.Server(server)].Login(s, user, made.Password)
	}
	at, err := cell.Server.Tenants().ByName(s.Context(), id.Server(server))
	if err != nil {
		s.Fatal(err)
	}
	const password = "correct horse battery staple"
	if _, err := cell.Server.Accounts().Create(s.Context(), at, account.NewUser{Localpart: id.User(user).Localpart(), Password: password}); err != nil {
		s.Fatal(err)
	}
	return cell.Login(s, user, password)
}

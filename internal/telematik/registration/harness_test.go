// SPDX-License-Identifier: Apache-2.0

package registration_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/directory"
	"github.com/konsil-health/konsil/internal/telematik/fedlist"
	"github.com/konsil-health/konsil/internal/telematik/idp"
	"github.com/konsil-health/konsil/internal/telematik/registration"
)

const pin = "123456"

var start = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// network is the central services and one provider over one database, with the list over real HTTP.
type network struct {
	t         testing.TB
	db        *database.DB
	pki       *card.PKI
	issuer    *idp.Issuer
	directory *directory.Store
	publisher *fedlist.Publisher
	tenants   *tenant.Store
	accounts  *accounts
	listURL   string
	service   *registration.Service
	now       time.Time
}

func newNetwork(t testing.TB, db *database.DB) *network {
	t.Helper()
	n := &network{t: t, db: db, now: start, directory: directory.NewStore(db, nil), tenants: tenant.NewStore(db), accounts: &accounts{made: map[id.User]account{}}}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	n.pki, err = card.Open(card.Options{Folder: t.TempDir(), Now: n.clock})
	check(err)
	idpSigner, err := n.pki.Component("idp", certificate.RoleIDP)
	check(err)
	idpKey, err := n.pki.ComponentKey("idp", certificate.RoleIDP)
	check(err)
	listSigner, err := n.pki.Component("list", certificate.RoleDirectory)
	check(err)
	n.issuer = idp.New(idp.Options{URL: "https://idp.example", Signer: idpSigner, Key: idpKey, Trust: n.pki.Trust(), Revoked: n.pki.Revoked, Now: n.clock, Used: idp.UsedIn(db),
		Clients: map[string][]string{"provider-b": {"https://b.example/callback"}, "other": {"https://o.example/callback"}}})
	n.publisher = fedlist.NewPublisher(fedlist.PublisherOptions{DB: db, Signers: []card.Signer{listSigner}, Active: n.directory.Active})
	srv := httptest.NewServer(n.publisher.Handler("/tim-provider-services", func(token string) (string, bool) {
		return map[string]string{"token-b": "B", "token-c": "C"}[token], token == "token-b" || token == "token-c"
	}))
	t.Cleanup(srv.Close)
	n.listURL = srv.URL + "/tim-provider-services"
	n.service = n.provider(nil)
	for _, i := range []directory.Institution{
		{TelematikID: "1-2.1", Name: "Praxis Sonnenallee", ProfessionOID: certificate.Practice},
		{TelematikID: "1-2.2", Name: "Praxis Zwei", ProfessionOID: certificate.Practice},
		{TelematikID: "8-1.1", Name: "Testkasse", ProfessionOID: certificate.Insurer},
		{TelematikID: "1-2.9", Name: "Praxis Zu", ProfessionOID: certificate.Practice, Inactive: true},
	} {
		n.enter(i)
	}
	return n
}

func (n *network) clock() time.Time { return n.now }

// enter puts an organisation into the directory, as card issuers do.
func (n *network) enter(i directory.Institution) {
	n.t.Helper()
	i.Street, i.Place = "x", directory.Places[0]
	entries, err := i.Entries()
	if err == nil {
		err = n.directory.Put(n.t.Context(), entries...)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *network) list() *registration.ListClient {
	return &registration.ListClient{URL: n.listURL, Token: fedlist.StaticToken("token-b")}
}

func (n *network) provider(change func(*registration.Options)) *registration.Service {
	n.t.Helper()
	signer, err := n.pki.Component("provider-b", certificate.RoleTIM)
	if err != nil {
		n.t.Fatal(err)
	}
	o := registration.Options{
		DB: n.db, IDP: n.issuer, ClientID: "provider-b", RedirectURI: "https://b.example/callback", Tenants: n.tenants, List: n.list(),
		Active: n.directory.Active, URL: "https://b.example", Signer: signer, Directory: "https://directory.example", Now: n.clock,
		Domain: func(_ context.Context, d id.Server) error {
			if d == "reserved.example" {
				return errors.New("reserved")
			}
			return nil
		},
		Base:      "example",
		MakeAdmin: n.accounts.make,
		Session: func(ctx context.Context, token string) (*tenant.Tenant, error) {
			name, ok := map[string]id.Server{"admin-praxis": "praxis.example", "admin-config": "config.example"}[token]
			if !ok {
				return nil, registration.ErrSession
			}
			return n.tenants.ByName(ctx, name)
		},
	}
	if change != nil {
		change(&o)
	}
	return registration.New(o)
}

// client serves a provider and returns an organisation's client of it, which trusts this network's identity provider alone.
func (n *network) client(s *registration.Service) registration.Client {
	n.t.Helper()
	srv := httptest.NewServer(s.Handler("/registration"))
	n.t.Cleanup(srv.Close)
	return registration.Client{URL: srv.URL + "/registration", Trust: n.pki.Trust(), Now: n.clock}
}

func (n *network) card(i card.Institution) *card.Card {
	n.t.Helper()
	i.PIN = pin
	c, err := n.pki.IssueSMCB(i)
	if err != nil {
		n.t.Fatal(err)
	}
	return c
}

func (n *network) smcb(telematikID, profession, name string) *card.Card {
	n.t.Helper()
	return n.card(card.Institution{Name: name, TelematikID: telematikID, ProfessionOID: profession})
}

func (n *network) unlock(c *card.Card) card.Signer {
	n.t.Helper()
	s, err := c.Unlock(pin)
	if err != nil {
		n.t.Fatal(err)
	}
	return s
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

// accounts stands for the homeserver's.
type accounts struct {
	mu   sync.Mutex
	made map[id.User]account
	fail error
}

type account struct {
	login, password string
	used            bool
}

func (a *accounts) make(_ context.Context, t *tenant.Tenant, admin registration.Admin) (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fail != nil {
		return false, a.fail
	}
	if a.made[admin.User].used {
		return false, nil
	}
	for user, other := range a.made {
		if user != admin.User && user.Server() == t.Name && other.login == admin.Login {
			return false, registration.ErrLogin
		}
	}
	a.made[admin.User] = account{login: admin.Login, password: admin.Password}
	return true, nil
}

func (a *accounts) signIn(user id.User) {
	a.mu.Lock()
	defer a.mu.Unlock()
	x := a.made[user]
	x.used = true
	a.made[user] = x
}

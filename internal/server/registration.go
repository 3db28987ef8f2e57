// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/konsil-health/konsil/internal/admin/console"
	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/keyring"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	certs "github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/federation"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/idp"
	"github.com/konsil-health/konsil/internal/telematik/registration"
)

// registrationPath is where clients find the registration service: organisations come from outside, so it stands on the client listeners, not on
// the operator's.
const registrationPath = "/registration"

// clients answers what comes in on the client listeners. Matrix paths carry encoded slashes, which a standard mux would clean away.
func (n *node) clients() http.Handler {
	if n.registry == nil {
		return n.router
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, path := range []string{registrationPath + "/", idpPath + "/", console.Prefix + "/", console.SCIMPrefix + "/"} {
			if strings.HasPrefix(r.URL.Path+"/", path) {
				n.registry.ServeHTTP(w, r)
				return
			}
		}
		n.router.ServeHTTP(w, r)
	})
}

// registration wires role registration. The identity provider that proves cards is of this process and knows the cards of a test PKI; whether an
// organisation is active, the federation list asks the directory.
func (n *node) registration(ctx context.Context, c *config.Config, ring *keyring.Ring, mails func(ctx context.Context, to, subject, text string) error, log *slog.Logger) (http.Handler, error) {
	pki, err := card.Open(card.Options{Folder: c.Telematik.Cards, Production: c.Environment == config.Production})
	if err != nil {
		return nil, err
	}
	issuer, err := pki.Component("idp", certs.RoleIDP)
	if err != nil {
		return nil, err
	}
	decryption, err := pki.ComponentKey("idp", certs.RoleIDP)
	if err != nil {
		return nil, err
	}
	own, err := pki.Component("provider-"+c.Telematik.Provider, certs.RoleTIM)
	if err != nil {
		return nil, err
	}
	pool, err := roots(c.CA)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	address, clientID := c.PublicURL+registrationPath, "registration-"+c.Telematik.Provider
	limits := limit.New(limit.Options{Off: !c.RateLimits})
	trusted := pki.Trust()
	issuing := idp.New(idp.Options{URL: c.PublicURL + idpPath, Signer: issuer, Key: decryption, Trust: trusted, Revoked: n.cardRevocation(c, client, pki, trusted, log),
		Clients: map[string][]string{clientID: {address, c.PublicURL + console.CardPath}}, Used: idp.UsedIn(n.db), Seal: ring.Derive("identity provider codes", 32)})
	service := registration.New(registration.Options{
		DB: n.db, IDP: issuing,
		ClientID: clientID, RedirectURI: address, Tenants: n.tenants,
		List:    &registration.ListClient{URL: strings.TrimSuffix(c.Telematik.FederationList, config.FederationListPath), Token: providerToken(c, client), Client: client},
		Domain:  n.orderable(c),
		Base:    c.Telematik.MessengerDomain,
		Proves:  registration.Proofs{Client: registration.ProofClient(federation.Guard(c.PrivateAddresses), pool)}.Shows,
		Created: n.welcome(log), MakeAdmin: n.makeAdmin, Session: n.adminSession,
		URL: address, Signer: own, Directory: c.Telematik.Directory, HTTP: client, SendMail: mails, Log: log,
		Allow: func(r *http.Request) (bool, time.Duration) {
			return limits.Allow(limit.Login, "", n.router.Address(r).String())
		},
	})
	n.background(ctx, service.Watch)
	routes := issuing.Routes(idpPath)
	party := &idp.Party{Discovery: c.PublicURL + idpPath + "/.well-known/openid-configuration", Issuer: c.PublicURL + idpPath, ClientID: clientID,
		RedirectURI: c.PublicURL + console.CardPath, Trust: trusted, Client: &http.Client{Transport: inside{routes}}}
	if c.Telematik.IDP.Issuer != "" { // institutions prove themselves where people do
		if party, err = n.cardParty(ctx, c, console.CardPath, log); err != nil {
			return nil, err
		}
	}
	pages := console.New(console.Options{DB: n.db, Keyring: ring, Tenants: n.tenants, Accounts: n.accounts, Rooms: n.rooms, Registration: service,
		Party: party, Agent: c.Telematik.CardService, URL: c.PublicURL, Directory: c.Telematik.Directory, HTTP: client, Limiter: limits,
		Address: func(r *http.Request) string { return n.router.Address(r).String() }, Log: log}).Handler()
	mux := http.NewServeMux()
	mux.Handle(registrationPath+"/", service.Handler(registrationPath))
	mux.Handle(idpPath+"/", routes)
	for _, prefix := range []string{console.Prefix, console.SCIMPrefix} {
		mux.Handle(prefix+"/", pages)
	}
	mux.Handle(console.Prefix, pages)
	return mux, nil
}

// inside calls a handler of this process as if it were elsewhere: the identity provider of the test cards, which stands beside its relying party.
type inside struct{ http.Handler }

// RoundTrip implements http.RoundTripper.
func (i inside) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	i.ServeHTTP(w, r)
	return w.Result(), nil
}

// orderable refuses the names by which this node and its tenants are reached.
func (n *node) orderable(c *config.Config) func(context.Context, id.Server) error {
	public := ""
	if u, err := url.Parse(c.PublicURL); err == nil {
		public = u.Hostname()
	}
	return func(ctx context.Context, name id.Server) error {
		if string(name) == public || slices.Contains(c.SharedClientHosts, string(name)) {
			return errors.New("it is an address of the provider")
		}
		t, err := n.tenants.ByHost(ctx, string(name))
		if err == nil && t.Name != name {
			return errors.New("it is an address of another messenger")
		}
		if errors.Is(err, tenant.ErrUnknown) {
			err = nil
		}
		return err
	}
}

// welcome fetches the list that holds the new domain, so that its people are members at once. Where that fails, the next regular look will do.
func (n *node) welcome(log *slog.Logger) func(context.Context, *tenant.Tenant) error {
	return func(ctx context.Context, t *tenant.Tenant) error {
		if err := n.members.Refresh(ctx); err != nil {
			log.Warn("registration: the federation list could not be fetched again", "tenant", string(t.Name), "error", err)
		}
		return nil
	}
}

// makeAdmin makes an administrator's account, or gives a new password to one without any session.
func (n *node) makeAdmin(ctx context.Context, t *tenant.Tenant, a registration.Admin) (fresh bool, err error) {
	_, err = n.accounts.Create(ctx, t, account.NewUser{LoginName: a.Login, Localpart: a.User.Localpart(), Password: a.Password, Admin: true})
	if !errors.Is(err, mxerror.UserInUse) {
		return err == nil, err
	}
	there, err := n.accounts.Account(ctx, t.ID, a.User)
	if errors.Is(err, mxerror.NotFound) {
		return false, registration.ErrLogin // it was not the id, which is random
	}
	if err != nil || there.Deactivated {
		return false, err
	}
	devices, err := n.accounts.Devices(ctx, t.ID, a.User)
	if err != nil || len(devices) > 0 {
		return false, err
	}
	return true, n.accounts.SetPassword(ctx, t, a.User, a.Password)
}

// adminSession finds the tenant whose administrator an access token belongs to.
func (n *node) adminSession(ctx context.Context, token string) (*tenant.Tenant, error) {
	of, ok := httpapi.TokenTenant(token)
	if !ok {
		return nil, registration.ErrSession
	}
	t, err := n.tenants.ByID(ctx, of)
	if errors.Is(err, tenant.ErrUnknown) {
		return nil, registration.ErrSession
	}
	if err != nil {
		return nil, err
	}
	session, err := n.accounts.Authenticate(ctx, t, token)
	if mxerror.From(err) != nil || err == nil && (!session.Admin || t.State != tenant.Active) {
		return nil, registration.ErrSession
	}
	return t, err
}

// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/keyring"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/foundation/observe"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
)

// node is everything behind the listeners.
type node struct {
	db        *database.DB
	metrics   *observe.Metrics
	router    *httpapi.Router
	tenants   *tenant.Store
	committer *stream.Committer
	starts    []func()
	closes    []func() error // run in reverse
}

func (n *node) start() {
	for _, f := range n.starts {
		f()
	}
}

func (n *node) close() error {
	var errs []error
	for i := len(n.closes) - 1; i >= 0; i-- {
		errs = append(errs, n.closes[i]())
	}
	return errors.Join(errs...)
}

// ends registers what must end; the last one registered ends first.
func (n *node) ends(f func() error) { n.closes = append(n.closes, f) }

// ping says whether the database answers.
func (n *node) ping(ctx context.Context) error {
	var one int
	return n.db.QueryRow(ctx, "SELECT 1").Scan(&one)
}

// wire joins all packages in the order in which data flows: what is made first stands on nothing that is made later.
func wire(ctx context.Context, c *config.Config, master []byte, log *slog.Logger) (_ *node, err error) {
	n := &node{metrics: observe.NewMetrics()}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()

	// The ground: the database, the tenants in it, their keys, the stream of their changes.
	if n.db, err = database.Open(ctx, database.Options{URL: c.Database.URL, Readers: c.Database.Readers}); err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	n.ends(n.db.Close)
	n.tenants = tenant.NewStore(n.db)
	if err := createTenants(ctx, n.tenants, c.Tenants); err != nil {
		return nil, err
	}
	_, err = keyring.New(n.db, master)
	if err != nil {
		return nil, err
	}
	feed := stream.NewFeed(n.db)
	if n.committer, err = stream.NewCommitter(ctx, n.db, feed, log); err != nil {
		return nil, fmt.Errorf("committer: %w", err)
	}
	n.ends(func() error { n.committer.Close(); return nil })

	// What may be decided from outside, and the edge that asks it about every request.
	var rules policy.Policy = policy.Open{RoomVersion: c.Rooms.DefaultVersion}
	var proxies []netip.Prefix
	for _, p := range c.TrustedProxies {
		prefix, err := netip.ParsePrefix(p)
		if err != nil {
			return nil, err
		}
		proxies = append(proxies, prefix)
	}
	n.router = httpapi.NewRouter(httpapi.Options{
		Tenants:        n.tenants,
		SharedHosts:    c.SharedClientHosts,
		Sole:           c.SoleTenant(),
		TrustedProxies: proxies,
		Limiter:        limit.New(limit.Options{Off: !c.RateLimits}),
		Policy:         rules.Route,
		Admit:          rules.Federate,
		Log:            log,
		QuietAccess:    !c.Logging.Access,
		Metrics:        n.metrics.Registerer(),
	})

	// The homeserver's slices.
	accounts := account.New(account.Options{
		DB: n.db, Committer: n.committer, Feed: feed, Policy: rules, Log: log,
		Config: accountConfig(c),
	})

	n.router.Authenticate(accounts, nil)
	n.router.Add(accounts.Routes()...)
	return n, nil
}

// createTenants makes the configured tenants that are not there yet.
func createTenants(ctx context.Context, store *tenant.Store, wanted []config.Tenant) error {
	for _, w := range wanted {
		_, err := store.ByName(ctx, w.Name)
		if errors.Is(err, tenant.ErrUnknown) {
			_, err = store.Create(ctx, tenant.Spec{Name: w.Name, DisplayName: w.DisplayName, TelematikID: w.TelematikID, Insurance: w.Insurance,
				ClientHosts: w.ClientHosts, FederationHosts: w.FederationHosts})
			if errors.Is(err, tenant.ErrExists) {
				if _, again := store.ByName(ctx, w.Name); again == nil {
					err = nil // another node of the cell was faster
				}
			}
		}
		if err != nil {
			return fmt.Errorf("tenant %s: %w", w.Name, err)
		}
	}
	return nil
}

func accountConfig(c *config.Config) account.Config {
	a := account.Config{Registration: account.RegistrationClosed, SharedSecret: c.Registration.Secret, Guests: c.Guests}
	if c.Registration.Mode == config.RegistrationOpen {
		a.Registration = account.RegistrationOpen
	}
	a.BaseURL = func(*tenant.Tenant) string { return c.PublicURL }
	return a
}

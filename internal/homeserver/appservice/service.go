// SPDX-License-Identifier: Apache-2.0

package appservice

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/background"
	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/encryption"
	"github.com/konsil-health/konsil/internal/homeserver/ephemeral"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// Options are what the service stands on.
type Options struct {
	DB        *database.DB
	Feed      *stream.Feed
	Tenants   *tenant.Store
	Registry  *Registry
	Accounts  *account.Service
	Rooms     *room.Service
	Ephemeral *ephemeral.Service
	Keys      *encryption.Service
	Log       *slog.Logger
	// RetryMin is the first pause after a failed transaction (default 1 s), which doubles up to RetryMax (default 5 min).
	RetryMin, RetryMax time.Duration
	// Patience is how long a service may take for an answer about a user, an alias or a network (default 10 s).
	Patience time.Duration
}

// Service sends to the application services of a node and asks them. It is safe for concurrent use.
type Service struct {
	o      Options
	node   int64 // names this node's claims
	client *http.Client

	work *background.Work

	mu      sync.Mutex
	started bool
	closed  bool
	// senders are the services of the tenants looked at so far; a tenant without any has an empty entry.
	senders map[tenant.ID][]*sender
	byKey   map[key]*sender
}

// New returns the service. It subscribes to the feed, so it is called before the first commit; nothing is sent before Start.
func New(o Options) *Service {
	if o.RetryMin <= 0 {
		o.RetryMin = time.Second
	}
	if o.RetryMax <= 0 {
		o.RetryMax = 5 * time.Minute
	}
	o.RetryMax = max(o.RetryMax, o.RetryMin)
	if o.Patience <= 0 {
		o.Patience = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{o: o, node: database.NewID(), client: newClient(), senders: map[tenant.ID][]*sender{}, byKey: map[key]*sender{}, work: background.New()}
	if len(o.Registry.byID) > 0 {
		o.Registry.seen = s.heard
		o.Feed.OnCommit(s.committed)
	}
	return s
}

// Start makes the services' own users and begins to send. Services of tenants that do not exist yet follow with their tenant.
func (s *Service) Start() {
	s.mu.Lock()
	s.started = true
	s.mu.Unlock()
	servers := map[id.Server]bool{}
	for k := range s.o.Registry.byID {
		servers[k.server] = true
	}
	for server := range servers {
		s.work.Go(func(ctx context.Context) {
			t, err := s.o.Tenants.ByName(ctx, server)
			if err == nil {
				err = s.bind(ctx, t)
			}
			if err != nil && ctx.Err() == nil {
				s.o.Log.Warn("application services of a server do not run", "tenant", string(server), "error", err)
			}
		})
	}
}

// Close ends what is under way. A transaction that was not answered is sent again after the next start.
func (s *Service) Close() {
	s.mu.Lock()
	s.closed = true
	for _, list := range s.senders {
		for _, d := range list {
			if d.timer != nil {
				d.timer.Stop()
			}
		}
	}
	s.mu.Unlock()
	s.work.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	s.release(ctx)
	s.client.CloseIdleConnections()
}

// bind makes the senders of a tenant.
func (s *Service) bind(ctx context.Context, t *tenant.Tenant) error {
	var list []*sender
	for _, svc := range s.o.Registry.of(t.Name) {
		if err := s.o.Accounts.EnsureSender(ctx, t, svc.account); err != nil {
			return fmt.Errorf("sender of %s: %w", svc.ID, err)
		}
		if svc.url == nil {
			continue
		}
		// A service hears what comes after its registration, not the history before.
		_, err := s.o.DB.Exec(ctx, `INSERT INTO appservice_stream (tenant, service, position, txn_id, up_to, body, taken, sender, claimed_until)
			SELECT tenant, CAST($2 AS TEXT), position, '', 0, '', '', 0, 0 FROM tenant WHERE tenant = $1 ON CONFLICT (tenant, service) DO NOTHING`, int64(t.ID), svc.ID)
		if err != nil {
			return err
		}
		list = append(list, &sender{service: svc, t: t})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.senders[t.ID]) > 0 || s.closed {
		return nil
	}
	s.senders[t.ID] = list
	for _, d := range list {
		s.byKey[key{t.Name, d.ID}] = d
		s.run(d)
	}
	return nil
}

// committed nudges the services of a tenant that has something new. It must not block.
func (s *Service) committed(t tenant.ID, changes []stream.Positioned, _ []id.Server) {
	if len(changes) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.started || s.closed {
		return
	}
	list, known := s.senders[t]
	if !known {
		s.senders[t] = nil
		s.work.Go(func(ctx context.Context) { s.discover(ctx, t) })
		return
	}
	for _, d := range list {
		if d.timer == nil { // a service that has to wait waits on
			s.run(d)
		}
	}
}

// discover looks whether a tenant that came to be after the start has services.
func (s *Service) discover(ctx context.Context, t tenant.ID) {
	found, err := s.o.Tenants.ByID(ctx, t)
	if err == nil && len(s.o.Registry.of(found.Name)) > 0 {
		err = s.bind(ctx, found)
	}
	if err != nil && ctx.Err() == nil {
		s.o.Log.Warn("application services of a server were not looked for", "tenant", int64(t), "error", err)
		s.mu.Lock()
		delete(s.senders, t) // the next commit looks again
		s.mu.Unlock()
	}
}

// heard ends the back-off of a service that is there: it has called.
func (s *Service) heard(svc *service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.byKey[key{svc.server, svc.ID}]
	if d != nil && d.timer != nil && time.Since(d.wokenAt) > s.o.RetryMin {
		d.wokenAt = time.Now()
		s.run(d)
	}
}

// caller finds the service that a request came from, which must be the one named. Error: M_FORBIDDEN.
func (s *Service) caller(t *tenant.Tenant, session string) (*service, error) {
	if svc := s.o.Registry.byID[key{t.Name, session}]; session != "" && svc != nil {
		return svc, nil
	}
	return nil, mxerror.Forbidden.With("Only application services may do this.")
}

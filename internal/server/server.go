// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/foundation/observe"
)

// The stop has ten seconds. Long polls are answered at once; what else is still under way after the first grace is cancelled, after the second cut.
const (
	cancelGrace = 3 * time.Second
	stopGrace   = 7 * time.Second
)

// Options are for those who embed a node; the zero value is what `konsil serve` uses.
type Options struct {
	// Log replaces the configured log.
	Log *slog.Logger
	// Client, Federation and Central are listeners used instead of those of the configuration, in its order (tests that must know ports beforehand).
	Client, Federation, Central []net.Listener
	// Around stands between the client and federation listeners and the node (tests that look at every answer); nil is nothing.
	Around func(http.Handler) http.Handler
}

// Server is one node.
type Server struct {
	config    *config.Config
	log       *slog.Logger
	logFile   *os.File
	node      *node
	health    *observe.Health
	listeners []*listener

	mu      sync.Mutex
	closing bool
	guests  sync.WaitGroup // requests by way of Handler
}

// New opens the database, joins all parts and begins to listen; connections wait until [Server.Run]. The caller runs or closes the server.
func New(ctx context.Context, c *config.Config, o Options) (*Server, error) {
	s := &Server{config: c, log: o.Log, health: &observe.Health{}}
	if err := s.open(ctx, o); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Server) open(ctx context.Context, o Options) error {
	if err := refuseDemoRoots(s.config); err != nil {
		return err
	}
	if err := os.MkdirAll(s.config.Data, 0o700); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	master, err := masterKey(s.config)
	if err != nil {
		return err
	}
	if s.log == nil {
		if s.log, s.logFile, err = openLog(s.config, master); err != nil {
			return err
		}
	}
	for _, name := range s.config.Ignored {
		s.log.Warn("variable is no key of the configuration", "variable", name)
	}
	if s.config.Policy == config.PolicyTI && !s.config.NeedsSecondFactor() {
		s.log.Error("second_factor is off: a password alone lets people in, which the network forbids (A_22936); this is for test networks only")
	}
	if s.node, err = wire(ctx, s.config, master, s.log); err != nil {
		return err
	}
	s.health.Check("database", s.node.ping)
	return s.listen(ctx, o)
}

// Handler answers requests as the node's client listeners do, for a front that hands requests to several cells. A node that is stopping answers 503.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, leave := s.enter()
		if n == nil {
			unavailable(w)
			return
		}
		defer leave()
		n.clients().ServeHTTP(w, r)
	})
}

// enter gives the node to a request that came by no listener of its own, nil when it is stopping. The stop waits until the caller leaves.
func (s *Server) enter() (n *node, leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || s.node == nil {
		return nil, nil
	}
	s.guests.Add(1)
	return s.node, s.guests.Done
}

// unavailable says that whoever is meant is away for a moment; a client keeps its session and tries again.
func unavailable(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Retry-After", "1")
	w.WriteHeader(http.StatusServiceUnavailable)
	io.WriteString(w, `{"errcode":"M_UNKNOWN","error":"The server is restarting."}`) //nolint:errcheck // a client that went away needs no answer
}

// ClientAddress returns the first client listener's address, with the port that it really has; empty without one.
func (s *Server) ClientAddress() string { return s.address("client") }

// OutboundAddress is ClientAddress for the forward proxy of the role proxy.
func (s *Server) OutboundAddress() string { return s.address("outbound") }

// FederationAddress is ClientAddress for the first federation listener.
func (s *Server) FederationAddress() string { return s.address("federation") }

func (s *Server) address(purpose string) string {
	for _, l := range s.listeners {
		if l.purpose == purpose {
			return l.Addr().String()
		}
	}
	return ""
}

// Run serves until the context ends, then stops cleanly: no new connections, answers to what is under way, everything acknowledged on disk.
// It returns nil after a clean stop.
func (s *Server) Run(ctx context.Context) error {
	base, cancelLate := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancelLate(nil)
	failed := make(chan error, len(s.listeners))
	for _, l := range s.listeners {
		l.server.BaseContext = func(net.Listener) context.Context { return base }
		go func() { failed <- l.serve() }()
	}
	s.node.start()
	s.health.SetReady(true)
	s.log.Info("ready", "client", s.ClientAddress(), "federation", s.FederationAddress(), "central", s.CentralAddress(), "operator", s.address("operator"), "policy", s.config.Policy)

	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		s.log.Error("listener failed", "error", err)
	}
	s.health.SetReady(false)
	s.log.Info("stopping")
	s.node.stopping()
	late := time.AfterFunc(cancelGrace, func() { cancelLate(errStopping) })
	defer late.Stop()
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
	defer cancel()
	for _, l := range s.listeners {
		if shutdownErr := l.server.Shutdown(deadline); shutdownErr != nil {
			s.log.Warn("connections had to be cut", "listener", l.purpose, "error", shutdownErr)
			l.server.Close()
		}
	}
	err = errors.Join(err, s.Close())
	return err
}

var errStopping = errors.New("the server is stopping")

// Close ends everything behind the listeners: senders first, then rooms, then the committer, which writes what it was handed, the database
// last. Run calls it; call it only for a server that never ran.
func (s *Server) Close() error {
	for _, l := range s.listeners {
		l.Close()
	}
	s.listeners = nil
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.guests.Wait() // they have been told by node.stopping, as what waits at the listeners
	var err error
	if s.node != nil {
		err = s.node.close()
		s.node = nil
		s.log.Info("stopped")
	}
	if s.logFile != nil {
		err = errors.Join(err, s.logFile.Close())
		s.logFile = nil
	}
	return err
}

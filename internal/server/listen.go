// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/config"
)

// listener is an open port and the HTTP server behind it.
type listener struct {
	net.Listener
	purpose string
	server  *http.Server
}

func (l *listener) serve() error {
	var err error
	if l.server.TLSConfig != nil {
		err = l.server.ServeTLS(l.Listener, "", "")
	} else {
		err = l.server.Serve(l.Listener)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("%s listener: %w", l.purpose, err)
}

// listen opens all listeners, so that a busy port is an error before anything runs.
func (s *Server) listen(ctx context.Context, o Options) error {
	if s.config.IsCentral() {
		for i, c := range s.config.Listeners.Central {
			if err := s.add(ctx, "central", c, nth(o.Central, i), s.node.central.handler); err != nil {
				return err
			}
		}
	}
	clients, servers := s.node.proxy, s.node.proxy
	switch {
	case s.config.HasRole(config.RoleHomeserver):
		clients, servers = s.node.clients(), s.node.router
	case s.node.proxy == nil:
		return s.listenOperator(ctx)
	}
	around := o.Around
	if around == nil {
		around = func(h http.Handler) http.Handler { return h }
	}
	for i, c := range s.config.Listeners.Client {
		if err := s.add(ctx, "client", c, nth(o.Client, i), around(clients)); err != nil {
			return err
		}
	}
	for i, c := range s.config.Listeners.Federation {
		if err := s.add(ctx, "federation", c, nth(o.Federation, i), around(servers)); err != nil {
			return err
		}
	}
	if s.node.outbound != nil {
		if err := s.add(ctx, "outbound", config.Listener{Address: s.config.Proxy.Outbound}, nil, s.node.outbound); err != nil {
			return err
		}
	}
	return s.listenOperator(ctx)
}

func (s *Server) listenOperator(ctx context.Context) error {
	if a := s.config.Listeners.Operator; a != "" {
		return s.add(ctx, "operator", config.Listener{Address: a}, nil, s.operator())
	}
	return nil
}

func nth(l []net.Listener, i int) net.Listener {
	if i < len(l) {
		return l[i]
	}
	return nil
}

func (s *Server) add(ctx context.Context, purpose string, c config.Listener, open net.Listener, h http.Handler) error {
	l := &listener{Listener: open, purpose: purpose, server: &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // broken handshakes of strangers
	}}
	if l.Listener == nil {
		var err error
		if l.Listener, err = new(net.ListenConfig).Listen(ctx, "tcp", c.Address); err != nil {
			return fmt.Errorf("%s listener: %w", purpose, err)
		}
	}
	s.listeners = append(s.listeners, l)
	if c.Certificate == "" {
		return nil
	}
	files := &certificate{certFile: c.Certificate, keyFile: c.Key}
	if _, err := files.get(nil); err != nil {
		return fmt.Errorf("%s listener: %w", purpose, err)
	}
	l.server.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: files.get}
	return nil
}

// certificate reads a pair of files again when they have changed, so that a renewed certificate needs no restart.
type certificate struct {
	certFile, keyFile string

	mu      sync.Mutex
	looked  time.Time
	changed time.Time
	pair    *tls.Certificate
}

// certificateAge is how often the files are looked at.
const certificateAge = 10 * time.Second

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.pair != nil && now.Sub(c.looked) < certificateAge {
		return c.pair, nil
	}
	c.looked = now
	info, err := os.Stat(c.certFile)
	if c.pair != nil && (err != nil || info.ModTime().Equal(c.changed)) {
		return c.pair, nil
	}
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		if c.pair != nil { // half written: the next look will find it whole
			return c.pair, nil
		}
		return nil, err
	}
	c.pair, c.changed = &pair, info.ModTime()
	return c.pair, nil
}

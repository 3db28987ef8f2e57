// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/server"
	"github.com/konsil-health/konsil/internal/server/authority"
)

// Options shape a demonstration network.
type Options struct {
	// Folder keeps everything; it is made when it is not there.
	Folder string
	// Port is the clients' port on loopback; when it is busy the next free one is taken. 0 takes any.
	Port int
	// AgentPort is the card service's port on loopback, in the same way.
	AgentPort int
	// Databases are the URLs for the providers' cells and the central services; empty is SQLite in the folder.
	Databases [3]string
	// Entries is how many directory entries are invented beside the cast.
	Entries int
	Log     *slog.Logger
	// Steps is told each step of the start with how long it took; nil says nothing.
	Steps io.Writer
	// Configure changes each node's configuration before its start; nil changes nothing (tests).
	Configure func(*config.Config)
}

// Network is a running demonstration.
type Network struct {
	// URL is the address for every client of every organisation.
	URL string
	// Agent is the address of the card service, with everybody's card inserted.
	Agent   string
	Central *Central
	// Providers are the two providers' cells.
	Providers [2]*Provider

	o         Options
	authority *authority.Authority
	front     *http.Server
	agent     *http.Server

	agentListener net.Listener
	handler       *swap
	state         *state
	started       time.Time
	running       running
}

// Provider is one of the two, with its own cell.
type Provider struct {
	Name string
	// Server is the running node; another value after a restart.
	Server *server.Server

	network    *Network
	index      int
	folder     string
	federation string // address, kept over restarts
	stop       context.CancelFunc
	ended      chan error
}

// Start brings the network up. The first start fills it.
func Start(ctx context.Context, o Options) (*Network, error) {
	n := &Network{o: o, started: time.Now(), handler: &swap{}}
	if err := n.start(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Network) start(ctx context.Context) error {
	o := n.o
	if err := os.MkdirAll(o.Folder, 0o700); err != nil {
		return err
	}
	var err error
	if n.state, err = readState(filepath.Join(o.Folder, "demo.json")); err != nil {
		return err
	}
	client, err := listen(o.Port)
	if err != nil {
		return err
	}
	n.URL = "http://" + client.Addr().String()
	if n.agentListener, err = listen(o.AgentPort); err != nil {
		return errors.Join(err, client.Close())
	}
	n.Agent = "http://" + n.agentListener.Addr().String()
	// The page is there from the first moment and says that the rest is starting.
	n.handler.set(n.page())
	n.front = &http.Server{Handler: n.handler, ReadHeaderTimeout: 10 * time.Second}
	go n.front.Serve(client) //nolint:errcheck // it ends with Close
	if n.authority, err = authority.Open(filepath.Join(o.Folder, "authority")); err != nil {
		return err
	}
	var listeners [2]net.Listener
	for i := range n.Providers {
		folder := filepath.Join(o.Folder, "provider-"+fold(Providers[i]))
		if listeners[i], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return err
		}
		n.Providers[i] = &Provider{Name: Providers[i], network: n, index: i, folder: folder, federation: listeners[i].Addr().String()}
	}
	err = n.step("central services: directory, cards, federation list", func() (err error) {
		n.Central, err = n.startCentral(ctx, filepath.Join(o.Folder, "central"), o.Databases[2])
		if err != nil {
			return err
		}
		return n.fillCentral(ctx)
	})
	if err != nil {
		return err
	}
	n.startAgent()
	for i, p := range n.Providers {
		err := n.step("provider "+p.Name, func() error { return p.start(ctx, listeners[i]) })
		if err != nil {
			return err
		}
	}
	if err := n.step("people and their addresses", func() error { return n.fillPeople(ctx) }); err != nil {
		return err
	}
	n.open()
	n.running.set()
	return nil
}

// open lets clients in. Institutions register at the newcomer's provider.
func (n *Network) open() {
	n.handler.set(&server.Front{Cells: []*server.Server{n.Providers[0].Server, n.Providers[1].Server}, Registrar: n.Providers[Newcomer.Provider].Server, Home: n.page()})
}

// step runs one step of the start and says how long it took.
func (n *Network) step(what string, f func() error) error {
	begin := time.Now()
	if err := f(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if n.o.Steps != nil {
		fmt.Fprintf(n.o.Steps, "  %-55s %6.0f ms\n", what, float64(time.Since(begin).Microseconds())/1000)
	}
	return nil
}

func (n *Network) log(part string) *slog.Logger {
	if n.o.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return n.o.Log.With("part", part)
}

// listen takes the wished port on loopback or the next free one after it.
func listen(port int) (net.Listener, error) {
	if port == 0 {
		return net.Listen("tcp", "127.0.0.1:0")
	}
	for p := port; p < port+50; p++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
		if err == nil || !errors.Is(err, syscall.EADDRINUSE) {
			return l, err
		}
	}
	return nil, fmt.Errorf("ports %d to %d are all in use; choose another with --port", port, port+49)
}

// Close stops everything, the front first.
func (n *Network) Close() error {
	var errs []error
	if n.front != nil {
		errs = append(errs, n.front.Close())
	}
	switch {
	case n.agent != nil:
		errs = append(errs, n.agent.Close())
	case n.agentListener != nil:
		errs = append(errs, n.agentListener.Close())
	}
	for _, p := range n.Providers {
		if p != nil && p.stop != nil {
			errs = append(errs, p.halt())
		}
	}
	if n.Central != nil {
		errs = append(errs, n.Central.close())
	}
	return errors.Join(errs...)
}

// start boots the provider's cell on its federation address.
func (p *Provider) start(ctx context.Context, listener net.Listener) error {
	c, err := p.config()
	if err != nil {
		return err
	}
	if listener == nil {
		if listener, err = net.Listen("tcp", p.federation); err != nil {
			return err
		}
	}
	s, err := server.New(ctx, c, server.Options{Log: p.network.log(p.Name), Federation: []net.Listener{listener}})
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	p.Server, p.stop, p.ended = s, stop, make(chan error, 1)
	go func() { p.ended <- s.Run(running) }()
	return nil
}

// halt stops the cell as SIGTERM does.
func (p *Provider) halt() error {
	p.stop()
	p.stop = nil
	return <-p.ended
}

// Registration is the address of the provider's registration service.
func (p *Provider) Registration() string {
	return "http://" + p.Server.ClientAddress() + "/registration"
}

// Restart stops the provider's cell and starts it again on the same database and addresses.
func (p *Provider) Restart(ctx context.Context) error {
	if err := p.halt(); err != nil {
		return err
	}
	if err := p.start(ctx, nil); err != nil {
		return err
	}
	p.network.open()
	return nil
}

// config writes the provider's configuration as an operator would, and reads it.
func (p *Provider) config() (*config.Config, error) {
	n := p.network
	if err := os.MkdirAll(p.folder, 0o700); err != nil {
		return nil, err
	}
	ca := filepath.Join(p.folder, "authority.pem")
	if err := os.WriteFile(ca, n.authority.PEM(), 0o600); err != nil {
		return nil, err
	}
	certFile, keyFile, err := n.authority.IssueFiles(p.folder, "federation", "127.0.0.1", "localhost", "*.localhost")
	if err != nil {
		return nil, err
	}
	text := fmt.Appendf(nil, `environment: demo
policy: ti
roles: [homeserver, registration]
data: %q
database: {url: %q}
public_url: %q
listeners:
  client: ["127.0.0.1:0"]
  federation: [{address: %q, certificate: %q, key: %q}]
telematik:
  federation_list: %q
  list_roots: [%q, %q]
  roots: "%s/roots.json"
  ocsp: "%s/ocsp"
  provider: %q
  messenger_domain: localhost
  provider_token: %q
  directory: %q
  cards: %q
  card_service: %q
  idp: {issuer: "%s/idp", client_id: %q, agent: %q}
presence: false
logging: {access: false}
tenants:
`, p.folder, n.o.Databases[p.index], n.URL, p.federation, certFile, keyFile, n.Central.listURL(), n.Central.listRoots()[0], n.Central.listRoots()[1], n.Central.URL, n.Central.URL,
		p.Name, providerToken(p.Name), n.Central.URL, n.Central.cards(), n.Agent, n.Central.URL, partyID(p.Name), n.Agent)
	for _, o := range Cast {
		if o.Provider == p.index {
			text = fmt.Appendf(text, "  - {name: %q, display_name: %q, telematik_id: %q, insurance: %v}\n", o.Server, o.Name, o.TelematikID, o.Insurance)
		}
	}
	text = fmt.Appendf(text, "federation:\n  retry: {first: 1s, max: 10m}\n  resolve:\n")
	for _, o := range append(Cast[:len(Cast):len(Cast)], Newcomer) {
		text = fmt.Appendf(text, "    %q: {address: %q, ca: %q}\n", o.Server, n.Providers[o.Provider].federation, ca)
	}
	if err := os.WriteFile(filepath.Join(p.folder, "konsil.yaml"), text, 0o600); err != nil {
		return nil, err
	}
	c, err := config.Load(config.Source{Text: text, Environ: []string{}})
	if err == nil && n.o.Configure != nil {
		n.o.Configure(c)
	}
	return c, err
}

// swap is a handler that can be replaced while requests come.
type swap struct {
	mu sync.RWMutex
	h  http.Handler
}

func (s *swap) set(h http.Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.h = h
}

// ServeHTTP hands the request to the newest handler.
func (s *swap) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.RLock()
	h := s.h
	s.mu.RUnlock()
	h.ServeHTTP(w, r)
}

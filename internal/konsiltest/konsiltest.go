// SPDX-License-Identifier: Apache-2.0

// Package konsiltest boots the real program in tests: any number of cells in one process, each with its own database, ports, signing keys and TLS
// certificate, joined by real HTTPS on loopback. Only tests import it.
package konsiltest

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/httpapi/spectest"
	"github.com/konsil-health/konsil/internal/foundation/observe"
	"github.com/konsil-health/konsil/internal/server"
	"github.com/konsil-health/konsil/internal/server/authority"
)

// Spec is what a cell of a [Network] is made from.
type Spec struct {
	// Tenants are the cell's server names.
	Tenants []string
	// Database is the URL of its database; empty is SQLite in the cell's own folder.
	Database string
	// Configure changes the configuration before the start; it cannot reach a cell in a process of its own.
	Configure func(*config.Config)
	// Program is the konsil binary. With it the cell is a child process that [Cell.Kill] can end at any instant.
	Program string
}

// Network is a number of cells that know each other.
type Network struct {
	t     testing.TB
	ca    *authority.Authority
	cells []*Cell
	wire  wire
}

// Cell is one running node with its own database.
type Cell struct {
	// Server is the running node; it is another value after a restart.
	Server *server.Server
	Config *config.Config
	// URL is the client API's base address, shared by all tenants of the cell.
	URL string

	t                  testing.TB
	wire               *wire
	client, federation string // addresses, kept over restarts
	stop               context.CancelFunc
	ended              chan error
	program, file      string // binary and configuration of a cell in a process of its own
	process            *exec.Cmd
}

// stopWithin bounds how long a node may take to stop (issue 3: 10 s); it only ends a test that hangs.
const stopWithin = 30 * time.Second

// New boots one cell per spec. All of them stop when the test ends.
func New(t testing.TB, specs ...Spec) *Network {
	t.Helper()
	ca, err := authority.New()
	if err != nil {
		t.Fatal(err)
	}
	n := &Network{t: t, ca: ca}
	// Ports come first: every cell's configuration names the others' addresses.
	clients, federations := make([]net.Listener, len(specs)), make([]net.Listener, len(specs))
	resolve := map[string]config.Resolve{}
	for i, spec := range specs {
		clients[i], federations[i] = free(t), free(t)
		for _, name := range spec.Tenants {
			resolve[name] = config.Resolve{Address: federations[i].Addr().String()}
		}
	}
	for i, spec := range specs {
		c := &Cell{t: t, wire: &n.wire, client: clients[i].Addr().String(), federation: federations[i].Addr().String(), program: spec.Program}
		c.URL = "http://" + c.client
		c.Config = n.config(spec, c, resolve)
		n.cells = append(n.cells, c)
		if c.program != "" {
			clients[i].Close()
			federations[i].Close()
		}
		c.start(server.Options{Client: clients[i : i+1], Federation: federations[i : i+1]})
		t.Cleanup(func() {
			if c.stop != nil {
				c.Stop()
			}
		})
	}
	return n
}

// Each runs f once per database, with the URLs of as many databases of that kind as asked for.
func Each(t *testing.T, databases int, f func(t *testing.T, urls []string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		f(t, make([]string, databases))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		urls := make([]string, databases)
		for i := range urls {
			urls[i] = databasetest.Postgres(t)
		}
		f(t, urls)
	})
}

// Ports of cells lie below the range from which systems take the ports of outgoing connections: otherwise such a connection could sit on a cell's port
// while the cell restarts.
const firstPort, lastPort = 12_000, 32_000

// free takes a port that nobody has.
func free(t testing.TB) net.Listener {
	t.Helper()
	for {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(firstPort+rand.IntN(lastPort-firstPort))))
		if err == nil {
			return l
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
	}
}

// sharedSecret registers accounts in plain Matrix mode.
const sharedSecret = "konsiltest"

func (n *Network) config(spec Spec, cell *Cell, resolve map[string]config.Resolve) *config.Config {
	n.t.Helper()
	folder := n.t.TempDir()
	caFile := filepath.Join(folder, "ca.pem")
	if err := os.WriteFile(caFile, n.ca.PEM(), 0o600); err != nil {
		n.t.Fatal(err)
	}
	hosts := []string{"127.0.0.1"}
	for _, name := range spec.Tenants {
		host, _, err := net.SplitHostPort(name)
		if err != nil {
			host = name
		}
		hosts = append(hosts, host)
	}
	certFile, keyFile, err := n.ca.IssueFiles(folder, "server", hosts...)
	if err != nil {
		n.t.Fatal(err)
	}
	text := fmt.Appendf(nil, `
policy: open
data: %q
database: {url: %q}
tenants: [%s]
listeners:
  client: [%q]
  federation: [{address: %q, certificate: %q, key: %q}]
registration: {mode: open, secret: %s}
rate_limits: false
logging: {access: false, level: %s}
federation:
  retry: {first: 50ms, max: 1s}
  resolve:
`, folder, spec.Database, quoted(spec.Tenants), cell.client, cell.federation, certFile, keyFile, sharedSecret, cell.logLevel())
	for name, r := range resolve {
		text = fmt.Appendf(text, "    %q: {address: %q, ca: %q}\n", name, r.Address, caFile)
	}
	c, err := config.Load(config.Source{Environ: []string{}, Text: text})
	if err != nil {
		n.t.Fatal(err)
	}
	cell.file = filepath.Join(folder, "konsil.yaml")
	if err := os.WriteFile(cell.file, text, 0o600); err != nil {
		n.t.Fatal(err)
	}
	if spec.Configure != nil {
		spec.Configure(c)
	}
	return c
}

func quoted(names []string) string {
	q := make([]string, len(names))
	for i, n := range names {
		q[i] = fmt.Sprintf("%q", n)
	}
	return strings.Join(q, ", ")
}

// Cell returns the i-th cell.
func (n *Network) Cell(i int) *Cell { return n.cells[i] }

// Roots holds the authority that signed all federation certificates of the network.
func (n *Network) Roots() *x509.CertPool { return n.ca.Pool() }

func (c *Cell) start(o server.Options) {
	c.t.Helper()
	if c.program != "" {
		c.startProcess()
		return
	}
	o.Log = observe.NewLogger(observe.LogOptions{Output: logWriter{c.t}, Level: slog.LevelWarn})
	o.Around = func(h http.Handler) http.Handler { return c.wire.around(spectest.Handler(c.t, h)) }
	ctx, stop := context.WithCancel(context.Background())
	s, err := server.New(ctx, c.Config, o)
	if err != nil {
		stop()
		c.t.Fatal(err)
	}
	c.Server, c.stop, c.ended = s, stop, make(chan error, 1)
	go func() { c.ended <- s.Run(ctx) }()
}

// FederationAddress is the host:port on which other servers are answered.
func (c *Cell) FederationAddress() string { return c.federation }

// Stop ends the node as SIGTERM does and waits until it has ended.
func (c *Cell) Stop() {
	c.t.Helper()
	c.stop()
	c.stop = nil
	select {
	case err := <-c.ended:
		if err != nil {
			c.t.Errorf("stop of %s: %v", c.URL, err)
		}
	case <-time.After(stopWithin):
		c.t.Errorf("%s did not stop within %v", c.URL, stopWithin)
	}
}

// Start boots a stopped node again, on the same ports and database.
func (c *Cell) Start() {
	c.t.Helper()
	c.start(server.Options{})
}

// Restart is Stop and Start.
func (c *Cell) Restart() {
	c.t.Helper()
	c.Stop()
	c.Start()
}

// logWriter shows a node's log with the test that it belongs to.
type logWriter struct{ t testing.TB }

func (w logWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", strings.TrimSpace(string(b)))
	return len(b), nil
}

// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Options is what the edge stands on. Tenants is required, everything else may be left out.
type Options struct {
	Tenants *tenant.Store
	// SharedHosts are client hosts of all tenants, without ports; "*" makes every host that no tenant claims one.
	SharedHosts []string
	// Sole is the only tenant of a cell in plain Matrix mode: shared hosts are simply its own.
	Sole id.Server
	// TrustedProxies are the networks whose X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix
	Limiter        *limit.Limiter
	// Policy may refuse a route for a caller (nil session: nobody known). Package policy gives it.
	Policy func(ctx context.Context, t *tenant.Tenant, method, pattern string, s *Session) error
	// Admit may refuse another server, whichever way it came. Package policy gives it.
	Admit func(ctx context.Context, t *tenant.Tenant, origin id.Server) error
	Log   *slog.Logger
	// BodyTime is how long a JSON body may take to arrive (default 1 min): who sends slower only means to keep a connection. Answers may take as
	// long, and a second more for each 16 KiB.
	BodyTime time.Duration
	// MaxUnproven is how many bytes of bodies are held at once whose senders have not been recognised yet (default 128 MiB).
	MaxUnproven int64
	// QuietAccess writes a line only for what failed inside the server.
	QuietAccess bool
	Metrics     prometheus.Registerer
}

// Router is the route table of one node. Add all routes before the first request; then it is safe for concurrent use.
type Router struct {
	o         Options
	root      node
	routes    []Route
	shared    map[string]bool
	sharedAll bool
	users     Authenticator
	servers   ServerAuthenticator
	metrics   metrics
	unproven  unproven
}

// NewRouter returns an empty table.
func NewRouter(o Options) *Router {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.BodyTime <= 0 {
		o.BodyTime = time.Minute
	}
	if o.MaxUnproven <= 0 {
		o.MaxUnproven = maxUnproven
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	m := &Router{o: o, shared: map[string]bool{}, metrics: newMetrics(o.Metrics), unproven: unproven{most: o.MaxUnproven, by: map[string]int64{}}}
	for _, h := range o.SharedHosts {
		m.sharedAll = m.sharedAll || h == "*"
		m.shared[strings.ToLower(strings.Trim(h, "[]"))] = true
	}
	return m
}

// Authenticate sets who recognises users and servers. Both stand below the edge and are made after it.
func (m *Router) Authenticate(users Authenticator, servers ServerAuthenticator) {
	m.users, m.servers = users, servers
}

// Add puts routes into the table. A path that is there already is a programming error and panics.
func (m *Router) Add(routes ...Route) {
	for _, r := range routes {
		if r.Handle == nil || !strings.HasPrefix(r.Path, "/") || r.Method == "" {
			panic("httpapi: incomplete route " + r.Method + " " + r.Path)
		}
		m.root.add(r)
		m.routes = append(m.routes, r)
	}
}

// Routes lists the table in the order in which it was built.
func (m *Router) Routes() []Route { return m.routes }

var corsHeaders = map[string][]string{
	"Access-Control-Allow-Origin":   {"*"},
	"Access-Control-Allow-Methods":  {"GET, POST, PUT, DELETE, PATCH, OPTIONS"},
	"Access-Control-Allow-Headers":  {"Origin, X-Requested-With, Content-Type, Accept, Authorization, Date, If-Match, If-None-Match, Mxid"},
	"Access-Control-Expose-Headers": {"ETag, Location, Retry-After"},
	"X-Content-Type-Options":        {"nosniff"},
}

// ServeHTTP answers a request of the network.
func (m *Router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	for k, v := range corsHeaders {
		h[k] = v
	}
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	m.serveNetwork(w, r)
}

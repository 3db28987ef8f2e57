// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/federation"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/telematik/permission"
)

// errClosed is the answer to what the homeserver may not ask (dossier 2.1). It is 404 whatever the rule would say to somebody outside: after a 404
// homeservers keep what they could not deliver and try again, after a 403 older Synapse gives up, and an outdated federation list must cost no message.
var errClosed = mxerror.NotFound.With("The proxy lets nobody ask this.")

// findTime bounds the search for where a server is.
const findTime = 10 * time.Second

// allow decides about a request of the homeserver to a host. An answer is the proxy's own; without one the request is handed on. Let through is Matrix
// federation with members of the list, the configured push gateways and identity providers, nothing else.
func (p *Outbound) allow(t *tunnel, r *http.Request) (answer any, err error) {
	if !sameHost(r.Host, t.name) { // the certificate is verified for one, and the other one would be asked
		return nil, errClosed
	}
	if t.configured() {
		return nil, p.allowConfigured(t, r)
	}
	q, err := read(r)
	if err != nil {
		return nil, errClosed
	}
	ctx, cancel := context.WithTimeout(r.Context(), findTime)
	defer cancel()
	switch {
	case q.path == "/.well-known/matrix/server":
		return p.wellKnown(ctx, t, r.Method)
	case isFederation(q.path):
		return nil, p.allowServer(ctx, t, q)
	case strings.HasPrefix(q.path, "/_matrix/media/") && r.Method == http.MethodGet:
		return nil, p.allowMedia(ctx, t, q)
	}
	return nil, errClosed
}

// sameHost compares a Host header with a name, whatever port it has.
func sameHost(host, name string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.EqualFold(strings.Trim(host, "[]"), name)
}

// configured says whether a push gateway or an identity provider is at the other end.
func (t *tunnel) configured() bool {
	for _, gateway := range t.p.push {
		if t.is(gateway.Hostname(), gateway.Port()) {
			return true
		}
	}
	for _, host := range t.p.o.SSOHosts {
		if t.isHost(host) {
			return true
		}
	}
	return false
}

// is compares the host that the homeserver connects to, by name and by address alike.
func (t *tunnel) is(host, port string) bool {
	if port == "" {
		port = "443"
	}
	return strings.EqualFold(t.name, host) && strings.EqualFold(t.host, host) && t.port == port
}

func (t *tunnel) isHost(configured string) bool {
	if host, port, err := net.SplitHostPort(configured); err == nil {
		return t.is(host, port)
	}
	return t.is(configured, "")
}

// allowConfigured lets anything through to an identity provider, and notifications to a push gateway.
func (p *Outbound) allowConfigured(t *tunnel, r *http.Request) error {
	for _, host := range p.o.SSOHosts {
		if t.isHost(host) {
			return nil
		}
	}
	for _, gateway := range p.push {
		if t.is(gateway.Hostname(), gateway.Port()) && r.Method == http.MethodPost && r.URL.EscapedPath() == gateway.EscapedPath() {
			return nil
		}
	}
	return errClosed
}

// wellKnown answers where a member is, by asking itself: so redirects are followed as the specification says, and what is answered is known to be so.
func (p *Outbound) wellKnown(ctx context.Context, t *tunnel, method string) (any, error) {
	server := id.Server(strings.ToLower(t.name))
	if method != http.MethodGet || t.port != "443" || p.member(ctx, server) != nil {
		return nil, errClosed
	}
	to := p.o.Finder.Delegation(ctx, string(server))
	if to == "" {
		return nil, mxerror.NotFound.With("%s delegates to nobody.", server)
	}
	p.Met(ctx, server)
	return map[string]id.Server{"m.server": to}, nil
}

// allowServer lets a request of the server-server API through to a member who is at the other end: who is meant says the signature's destination, or,
// where nothing is signed (keys), whose host it is.
func (p *Outbound) allowServer(ctx context.Context, t *tunnel, q *request) error {
	headers := q.Header.Values("Authorization")
	if len(headers) == 0 {
		_, err := p.at(ctx, t)
		return err
	}
	if len(headers) > maxSignatures {
		return errClosed
	}
	for _, h := range headers {
		from, to, err := federation.Parties(h)
		if err != nil || to == "" || p.tenant(from) == nil || !p.standsFor(ctx, t, to) {
			return errClosed
		}
		if err := p.o.Rules.Federate(ctx, p.tenant(from), to); err != nil {
			return closed(err)
		}
	}
	return nil
}

// allowMedia lets the unsigned downloads of older servers through, of a member's own files.
func (p *Outbound) allowMedia(ctx context.Context, t *tunnel, q *request) error {
	named := false
	for _, route := range []string{"/_matrix/media/*/download/*/...", "/_matrix/media/*/thumbnail/*/..."} {
		named = named || permission.Names(route, q.Method, q.path)
	}
	if !named {
		return errClosed
	}
	server, err := id.ParseServer(q.segments[4])
	if err != nil || !p.standsFor(ctx, t, server) {
		return errClosed
	}
	return p.member(ctx, server)
}

func (p *Outbound) tenant(name id.Server) *tenant.Tenant {
	for _, t := range p.o.Tenants {
		if t.Name == name {
			return t
		}
	}
	return nil
}

// member refuses who is no member for any of the servers behind.
func (p *Outbound) member(ctx context.Context, server id.Server) (err error) {
	for _, t := range p.o.Tenants {
		if err = p.o.Rules.Federate(ctx, t, server); err == nil {
			return nil
		}
	}
	return closed(err)
}

// closed turns a rule's refusal into 404, with its text. A failure stays one.
func closed(err error) error {
	if e := mxerror.From(err); e != nil {
		return mxerror.NotFound.With("%s", e.Message)
	}
	return err
}

// at finds the member whose host is at the other end.
func (p *Outbound) at(ctx context.Context, t *tunnel) (id.Server, error) {
	name := strings.ToLower(t.name)
	if err := p.member(ctx, id.Server(name)); err == nil {
		return id.Server(name), nil
	}
	server, ok := p.places.Get(name)
	if !ok {
		return "", errClosed
	}
	return server, p.member(ctx, server)
}

// standsFor says whether the host at the other end is a server's: its own name, or that which it delegates to.
func (p *Outbound) standsFor(ctx context.Context, t *tunnel, server id.Server) bool {
	name := strings.ToLower(t.name)
	if strings.EqualFold(strings.Trim(server.Host(), "[]"), name) {
		return true
	}
	if known, ok := p.places.Get(name); ok && known == server {
		return true
	}
	host, err := p.o.Finder.CertificateName(ctx, server)
	if err != nil || !strings.EqualFold(host, name) {
		return false
	}
	p.places.Set(name, server)
	return true
}

// Met learns where a member is that has sent something or is about to be asked: its host will be asked for its keys, by requests that name nobody.
func (p *Outbound) Met(ctx context.Context, server id.Server) {
	if _, known := p.known.Get(server); known {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, findTime)
	defer cancel()
	host, err := p.o.Finder.CertificateName(ctx, server)
	if err != nil {
		p.o.Log.Debug("a server was not found", "server", string(server), "error", err)
		return
	}
	p.places.Set(strings.ToLower(host), server)
	p.known.Set(server, struct{}{})
}

// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/cache"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// defaultPort is where a server listens whose name, delegation and SRV records say nothing else.
const defaultPort = 8448

// resolveTTL is how long a resolution holds; the delegation below it keeps its own, longer time.
const resolveTTL = 5 * time.Minute

// dnsRetry is how long service records are not asked for after the name server did not answer at all.
const dnsRetry = 30 * time.Second

var (
	errPrivateAddress = errors.New("address lies in a private range, which the configuration does not allow")
	errNoService      = errors.New("its service record says that it is not available")
)

// Override says where a server is, in place of discovery; for networks without DNS.
type Override struct {
	// Address is host:port to connect to. A private address is allowed, since it is configured.
	Address string
	// Roots verify its certificate, which must be for the host of the server name; nil means the service's roots.
	Roots *x509.CertPool
}

// target is where a server is reached.
type target struct {
	host    string   // Host header
	name    string   // whom the certificate must be for: a DNS name, or an IP address as text
	addrs   []string // host:port, tried in order
	roots   *x509.CertPool
	trusted bool // configured by the operator: any address goes
}

type cachedTarget struct {
	target
	expires time.Time
}

// serviceLookup is the part of net.Resolver that finds service records.
type serviceLookup interface {
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// resolver finds servers by the rules of the server-server API, "Resolving server names". It is safe for concurrent use.
type resolver struct {
	overrides     map[id.Server]Override
	roots         *x509.CertPool
	lookupTimeout time.Duration
	dns           serviceLookup
	dial          func(ctx context.Context, network, address string) (net.Conn, error) // guarded
	dialAny       func(ctx context.Context, network, address string) (net.Conn, error) // for overrides
	wellKnown     *http.Client
	now           func() time.Time

	delegations cache.Cache[string, delegation]
	targets     cache.Cache[id.Server, cachedTarget]
	dnsSilent   atomic.Int64 // ms since the epoch until which no service record is asked for
}

func newResolver(c *Config, now func() time.Time) *resolver {
	dialer := net.Dialer{Timeout: c.ConnectTimeout, KeepAlive: 30 * time.Second}
	guarded := dialer
	if !c.AllowPrivate {
		guarded.Control = guard(c.AllowPrefixes)
	}
	r := &resolver{
		overrides: c.Resolve, roots: c.Roots, lookupTimeout: c.LookupTimeout, dns: net.DefaultResolver,
		dial: guarded.DialContext, dialAny: dialer.DialContext, now: now,
		delegations: cache.New(cache.Options[string, delegation]{Entries: 10_000}),
		targets:     cache.New(cache.Options[id.Server, cachedTarget]{Entries: 10_000}),
	}
	r.wellKnown = &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				return r.dial(ctx, network, address)
			},
			TLSClientConfig:        &tls.Config{RootCAs: c.Roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    c.ConnectTimeout,
			ResponseHeaderTimeout:  c.LookupTimeout,
			MaxIdleConns:           8,
			IdleConnTimeout:        5 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > wellKnownRedirects {
				return fmt.Errorf("more than %d redirects", wellKnownRedirects)
			}
			if req.URL.Scheme != "https" {
				return errors.New("redirect leaves https")
			}
			return nil
		},
	}
	return r
}

// resolve answers where a server is. Nothing is asked for names that are configured, are addresses or name a port.
func (r *resolver) resolve(ctx context.Context, server id.Server) (target, error) {
	if o, ok := r.overrides[server]; ok {
		return target{host: string(server), name: bareHost(server), addrs: []string{o.Address}, roots: o.Roots, trusted: true}, nil
	}
	if t, ok := r.targets.Get(server); ok && r.now().Before(t.expires) {
		return t.target, nil
	}
	t, err := r.discover(ctx, server)
	if err != nil {
		return target{}, err
	}
	r.targets.Set(server, cachedTarget{target: t, expires: r.now().Add(resolveTTL)})
	return t, nil
}

// forget drops a resolution, after a connection failed that rested on it.
func (r *resolver) forget(server id.Server) { r.targets.Invalidate(server) }

// forgetAll drops also the delegation that a resolution rests on, so that all is asked for anew.
func (r *resolver) forgetAll(server id.Server) {
	r.delegations.Invalidate(string(server))
	r.forget(server)
}

func (r *resolver) discover(ctx context.Context, server id.Server) (target, error) {
	if t, ok := direct(server); ok { // steps 1 and 2
		return t, nil
	}
	host := server
	if delegate := r.delegated(ctx, string(server)); delegate != "" { // step 3
		if t, ok := direct(delegate); ok { // steps 3.1 and 3.2
			return t, nil
		}
		host = delegate
	}
	// Steps 3.3 to 3.5 for the delegate and 4 to 6 for the server itself are the same.
	addrs, err := r.services(ctx, string(host))
	if err != nil {
		return target{}, fmt.Errorf("%s: %w", server, err)
	}
	if len(addrs) == 0 {
		addrs = []string{net.JoinHostPort(string(host), strconv.Itoa(defaultPort))}
	}
	return target{host: string(host), name: string(host), addrs: addrs}, nil
}

// direct is the target of a name that needs no look-up beyond its address: an IP literal or a name with a port.
func direct(server id.Server) (target, bool) {
	host, port := bareHost(server), server.Port()
	if _, err := netip.ParseAddr(host); err != nil && port == 0 {
		return target{}, false
	}
	if port == 0 {
		port = defaultPort
	}
	return target{host: string(server), name: host, addrs: []string{net.JoinHostPort(host, strconv.Itoa(port))}}, true
}

// bareHost is the host of a server name without port and without the brackets of an IPv6 literal.
func bareHost(server id.Server) string {
	return strings.TrimSuffix(strings.TrimPrefix(server.Host(), "["), "]")
}

// maxServices bounds how many service records of one name are tried.
const maxServices = 4

// services looks up both service records of a host at once; the registered one wins. None is no error. When no name server answers, service
// records are left alone for a while, so that each request is not held up by them.
func (r *resolver) services(ctx context.Context, host string) ([]string, error) {
	if r.now().UnixMilli() < r.dnsSilent.Load() {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.lookupTimeout)
	defer cancel()
	type answer struct {
		records []*net.SRV
		err     error
	}
	ask := func(service string) <-chan answer {
		c := make(chan answer, 1)
		go func() {
			_, records, err := r.dns.LookupSRV(ctx, service, "tcp", host)
			c <- answer{records, err}
		}()
		return c
	}
	registered, deprecated := ask("matrix-fed"), ask("matrix")
	a := <-registered
	if len(a.records) == 0 {
		a = <-deprecated
	}
	if len(a.records) == 0 {
		if silent(a.err) {
			r.dnsSilent.Store(r.now().Add(dnsRetry).UnixMilli())
		}
		return nil, nil
	}
	var addrs []string
	for _, s := range a.records[:min(len(a.records), maxServices)] {
		name := strings.TrimSuffix(s.Target, ".")
		if name == "" {
			return nil, errNoService
		}
		addrs = append(addrs, net.JoinHostPort(name, strconv.Itoa(int(s.Port))))
	}
	return addrs, nil
}

// silent says whether a look-up failed because no name server answered, rather than because the name has no record.
func silent(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && !dns.IsNotFound
}

// connect opens a verified TLS connection to a server.
func (r *resolver) connect(ctx context.Context, t target) (net.Conn, error) {
	dial := r.dial
	if t.trusted {
		dial = r.dialAny
	}
	roots := t.roots
	if roots == nil {
		roots = r.roots
	}
	var errs []error
	for _, addr := range t.addrs {
		raw, err := dial(ctx, "tcp", addr)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		conn := tls.Client(raw, &tls.Config{
			ServerName: t.name, RootCAs: roots, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		})
		if err := conn.HandshakeContext(ctx); err != nil {
			raw.Close()
			errs = append(errs, fmt.Errorf("%s: %w", addr, err))
			continue
		}
		return conn, nil
	}
	return nil, errors.Join(errs...)
}

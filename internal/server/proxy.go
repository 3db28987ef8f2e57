// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/federation"
	"github.com/konsil-health/konsil/internal/server/authority"
	"github.com/konsil-health/konsil/internal/telematik/permission"
	"github.com/konsil-health/konsil/internal/telematik/proxy"
)

// wireProxy wires the role proxy: the rules over the federation list, in front of somebody else's homeserver.
func (n *node) wireProxy(ctx context.Context, c *config.Config, log *slog.Logger) error {
	n.stopping = func() {}
	if err := n.follow(ctx, c, log); err != nil {
		return err
	}
	settings := proxy.NewSettings(n.db)
	o := proxy.Options{Settings: settings, MatrixVersion: c.Telematik.MatrixVersion, MaxUpload: int64(c.Media.MaxUpload), Refused: n.countRefusals(), Log: log,
		Rules: permission.New(permission.Options{Members: n.members, AccountData: settings.AccountData, Log: log, BlockByDefault: c.Proxy.BlockByDefault,
			ByClients: c.Telematik.PermissionCheck == config.PermissionClient})}
	for _, wanted := range c.Tenants {
		t, err := n.tenants.ByName(ctx, wanted.Name)
		if err != nil {
			return err
		}
		o.Tenants = append(o.Tenants, t)
	}
	var err, errFederation error
	o.Client, err = url.Parse(c.Proxy.Homeserver)
	if o.Federation = o.Client; c.Proxy.Federation != "" {
		o.Federation, errFederation = url.Parse(c.Proxy.Federation)
	}
	if err := errors.Join(err, errFederation); err != nil {
		return err
	}
	if o.TrustedProxies, err = trustedProxies(c); err != nil {
		return err
	}
	if c.Proxy.Outbound != "" {
		if n.outbound, err = n.forwardProxy(c, &o); err != nil {
			return fmt.Errorf("proxy.outbound: %w", err)
		}
		o.Met = n.outbound.Met
	}
	router := httpapi.NewRouter(httpapi.Options{Tenants: n.tenants, SharedHosts: c.SharedClientHosts, Sole: o.Tenants[0].Name, TrustedProxies: o.TrustedProxies,
		Limiter: limit.New(limit.Options{Off: !c.RateLimits}), Log: log, QuietAccess: !c.Logging.Access, Metrics: n.metrics.Registerer()})
	o.Information = router
	p := proxy.New(o)
	n.ends(func() error { p.Close(); return nil })
	router.Add(n.members.InformationRoutes(func(ctx context.Context, _ *tenant.Tenant, token string) error { return p.ProveOpenID(ctx, token) })...)
	n.proxy = p
	return nil
}

// forwardProxy makes what the homeserver reaches the world by, of the same rules.
func (n *node) forwardProxy(c *config.Config, in *proxy.Options) (*proxy.Outbound, error) {
	ca, err := ProxyAuthority(c)
	if err != nil {
		return nil, err
	}
	search, err := federationConfig(c)
	if err != nil {
		return nil, err
	}
	finder := federation.NewLookup(search)
	n.ends(func() error { finder.Close(); return nil })
	anywhere := net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	guarded := anywhere
	guarded.Control = federation.Guard(c.PrivateAddresses)
	p, err := proxy.NewOutbound(proxy.OutboundOptions{Rules: in.Rules, Tenants: in.Tenants, Finder: finder, Dial: guarded.DialContext, DialAny: anywhere.DialContext,
		Resolve: search.Resolve, Roots: search.Roots, PushGateways: c.Proxy.PushGateways, SSOHosts: c.Proxy.SSOHosts, Refused: in.Refused, Log: in.Log,
		Certificate: func(host string) (*tls.Certificate, error) {
			chain, key, err := ca.Issue(host)
			if err != nil {
				return nil, err
			}
			pair, err := tls.X509KeyPair(chain, key)
			return &pair, err
		}})
	if err != nil {
		return nil, err
	}
	n.ends(p.Close)
	return p, nil
}

// proxyAuthorityName is the subject of the authority by which a proxy stands for the world towards its homeserver.
const proxyAuthorityName = "Konsil proxy authority"

// ProxyAuthority is the local authority of the forward proxy, kept in the data folder. The homeserver behind must trust it, and nobody else may.
func ProxyAuthority(c *config.Config) (*authority.Authority, error) {
	return authority.OpenAs(filepath.Join(c.Data, "proxy-ca"), proxyAuthorityName)
}

// countRefusals counts what the proxy refuses.
func (n *node) countRefusals() func(direction string) {
	counter := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "konsil_proxy_refused_total", Help: "Requests that the rules refused, by direction: client, federation, outbound."}, []string{"direction"})
	n.metrics.Registerer().MustRegister(counter)
	for _, direction := range []string{"client", "federation", "outbound"} {
		counter.WithLabelValues(direction)
	}
	return func(direction string) { counter.WithLabelValues(direction).Inc() }
}

// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"log/slog"
	"net/url"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
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
		Rules: permission.New(permission.Options{Members: n.members, AccountData: settings.AccountData, Log: log, BlockByDefault: c.Proxy.BlockByDefault})}
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
	router := httpapi.NewRouter(httpapi.Options{Tenants: n.tenants, SharedHosts: c.SharedClientHosts, Sole: o.Tenants[0].Name, TrustedProxies: o.TrustedProxies,
		Limiter: limit.New(limit.Options{Off: !c.RateLimits}), Log: log, QuietAccess: !c.Logging.Access, Metrics: n.metrics.Registerer()})
	o.Information = router
	p := proxy.New(o)
	n.ends(func() error { p.Close(); return nil })
	router.Add(n.members.InformationRoutes(func(ctx context.Context, _ *tenant.Tenant, token string) error { return p.ProveOpenID(ctx, token) })...)
	n.proxy = p
	return nil
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

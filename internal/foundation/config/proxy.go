// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/netip"
	"net/url"

	"github.com/konsil-health/konsil/internal/matrix/id"
)

// PushPath is the only path at which push gateways are called (push gateway API, POST /_matrix/push/v1/notify).
const PushPath = "/_matrix/push/v1/notify"

// proxy checks what the role proxy needs.
func (l *loader) proxy(c *Config) {
	p := &c.Proxy
	for key, address := range map[string]string{"proxy.homeserver": p.Homeserver, "proxy.federation": p.Federation} {
		l.webAddress(key, address)
		if u, err := url.Parse(address); err == nil && (u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.User != nil) {
			l.fail(key, "%q must be an address without path", address)
		}
	}
	for i, gateway := range p.PushGateways {
		if u, err := url.Parse(gateway); err != nil || u.Scheme != "https" || u.Host == "" || u.Path != PushPath || u.RawQuery != "" || u.User != nil {
			l.fail(fmt.Sprintf("proxy.push_gateways[%d]", i), "%q is no address such as https://push.example.org%s", gateway, PushPath)
		}
	}
	for i, host := range p.SSOHosts {
		if _, err := id.ParseServer(host); err != nil {
			l.fail(fmt.Sprintf("proxy.sso_hosts[%d]", i), "%q is no host such as idp.example.org or idp.example.org:8443", host)
		}
	}
	l.outbound(p)
	if !c.HasRole(RoleProxy) {
		if p.Homeserver+p.Federation+p.Outbound != "" || p.BlockByDefault || len(p.PushGateways)+len(p.SSOHosts) > 0 {
			l.fail("proxy", "has a meaning for role proxy only")
		}
		return
	}
	if len(c.Roles) > 1 {
		l.fail("roles", "role proxy stands alone")
	}
	if c.Policy != PolicyTI {
		l.fail("roles", "role proxy is only for policy ti")
	}
	if p.Homeserver == "" {
		l.fail("proxy.homeserver", "role proxy needs the homeserver behind it")
	}
	if len(c.Tenants) == 0 {
		l.fail("tenants", "role proxy needs the names of the servers that the homeserver behind it is")
	}
	if c.Telematik.FederationList == "" {
		l.fail("telematik.federation_list", "role proxy lets members of the federation list in")
	}
	if len(c.Listeners.Client) == 0 && len(c.Listeners.Federation) == 0 {
		l.fail("listeners.client", "role proxy needs an address to listen on")
	}
}

// outbound checks that the forward proxy is no open door of the internet.
func (l *loader) outbound(p *Proxy) {
	if p.Outbound == "" {
		if len(p.PushGateways)+len(p.SSOHosts) > 0 {
			l.fail("proxy.outbound", "missing, although there are push_gateways or sso_hosts")
		}
		return
	}
	l.address("proxy.outbound", p.Outbound)
	if at, err := netip.ParseAddrPort(p.Outbound); err == nil && !at.Addr().IsLoopback() && !at.Addr().IsPrivate() && !at.Addr().IsUnspecified() {
		l.fail("proxy.outbound", "%q is a public address, where everybody could send through it", p.Outbound)
	}
}

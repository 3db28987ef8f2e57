// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// byHost finds the tenant that the Host header names. shared says that the host is a client address of all tenants, or that no tenant claims it
// but the cell has a sole one. Neither: tenant.ErrUnknown.
func (m *Router) byHost(ctx context.Context, host string) (t *tenant.Tenant, shared bool, err error) {
	if host != "" && len(host) <= 255 {
		t, err = m.o.Tenants.ByHost(ctx, host)
		if !errors.Is(err, tenant.ErrUnknown) {
			return t, false, err
		}
	}
	if !m.isShared(host) {
		return nil, false, tenant.ErrUnknown
	}
	if m.o.Sole != "" {
		t, err = m.o.Tenants.ByName(ctx, m.o.Sole)
		return t, false, err
	}
	return nil, true, nil
}

func (m *Router) isShared(host string) bool {
	if m.sharedAll {
		return true
	}
	name := strings.ToLower(host)
	if h, _, err := net.SplitHostPort(name); err == nil {
		name = h
	}
	return m.shared[strings.Trim(name, "[]")]
}

// TenantOf says which tenant a request on a shared client host is for, in this order: the prefix of its token, the full user id in its path,
// query or body, the prefix of another token in its body. found is false where nothing names one. Whoever hands requests to cells (the demo's
// front) asks it too. body may be nil.
func TenantOf(r *http.Request, userInPath string, body []byte) (t tenant.ID, name id.Server, found bool) {
	if tok := token(r); tok != "" {
		if t, ok := TokenTenant(tok); ok {
			return t, "", true
		}
	}
	names := append(make([]string, 0, 8), userInPath)
	if r.URL.RawQuery != "" {
		q := r.URL.Query()
		names = append(names, q.Get("user_id"), q.Get("username"))
	}
	var tokens []string
	if len(body) > 0 && body[0] != '[' {
		var b struct {
			User         string `json:"user"`
			Username     string `json:"username"`
			UserID       string `json:"user_id"`
			Token        string `json:"token"`
			RefreshToken string `json:"refresh_token"`
			Identifier   struct {
				User string `json:"user"`
			} `json:"identifier"`
			Auth struct {
				Identifier struct {
					User string `json:"user"`
				} `json:"identifier"`
				User string `json:"user"`
			} `json:"auth"`
		}
		if json.Unmarshal(body, &b) == nil { // a body that is no such object names nobody; its handler will say what is wrong with it
			names = append(names, b.Identifier.User, b.User, b.Username, b.UserID, b.Auth.Identifier.User, b.Auth.User)
			tokens = []string{b.RefreshToken, b.Token}
		}
	}
	for _, n := range names {
		if user, err := id.ParseUser(n); err == nil {
			return 0, user.Server(), true
		}
	}
	for _, n := range tokens {
		if t, ok := TokenTenant(n); ok {
			return t, "", true
		}
	}
	return 0, "", false
}

// TenantOfPage says which tenant a browser's form or an OAuth 2.0 client's request is for: the user id in the form, our own state, the secrets in the form, then the cookie of
// who is signed in. Only whoever hands requests to cells asks it; within a cell those pages find their tenant themselves.
func TenantOfPage(r *http.Request, body []byte) (t tenant.ID, name id.Server, found bool) {
	secrets := []string{r.URL.Query().Get("state")} // of a browser that comes back from an identity provider
	if form, err := url.ParseQuery(string(body)); err == nil {
		if user, err := id.ParseUser(strings.ToLower(strings.TrimSpace(form.Get("username")))); err == nil {
			return 0, user.Server(), true
		}
		secrets = append(secrets, form.Get("code"), form.Get("refresh_token"), form.Get("token"), form.Get("device_code"))
	}
	for _, c := range r.Cookies() {
		secrets = append(secrets, c.Value)
	}
	for _, secret := range secrets {
		if t, ok := TokenTenant(secret); ok {
			return t, "", true
		}
	}
	return 0, "", false
}

// onSharedHost finds the tenant of a request on a shared client host. A nil tenant without error lets the provider answer.
func (m *Router) onSharedHost(ctx context.Context, r *Request) (*tenant.Tenant, error) {
	if r.route.Shared == Hidden || r.route.Access == Server {
		return nil, mxerror.NotFound
	}
	key, name, found := TenantOf(r.HTTP, r.Var("userId"), r.Body)
	switch {
	case !found && r.route.Shared == ForProvider:
		return nil, nil
	case !found && token(r.HTTP) != "":
		return nil, mxerror.UnknownToken
	case !found:
		return nil, mxerror.MissingParam.With("This address serves many servers: say who you are as @user:server")
	}
	var t *tenant.Tenant
	var err error
	if name != "" {
		t, err = m.o.Tenants.ByName(ctx, name)
	} else {
		t, err = m.o.Tenants.ByID(ctx, key)
	}
	switch {
	case !errors.Is(err, tenant.ErrUnknown):
		return t, err
	case r.route.Shared == ForProvider:
		return nil, nil
	case name == "":
		return nil, mxerror.UnknownToken
	}
	return nil, mxerror.Forbidden.With("no such user here")
}

// Address is the caller's network address as the routes see it, for what is served beside them.
func (m *Router) Address(r *http.Request) netip.Addr { return m.address(r) }

// address is the caller's network address. Behind a trusted proxy it is the last address of X-Forwarded-For that no trusted proxy has.
func (m *Router) address(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	addr := ap.Addr().Unmap()
	if !m.trusted(addr) {
		return addr
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		addr = hop.Unmap()
		if !m.trusted(addr) {
			break
		}
	}
	return addr
}

// secure says whether the caller speaks TLS, with us or with a trusted proxy.
func (m *Router) secure(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && m.trusted(ap.Addr().Unmap()) && strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")
}

func (m *Router) trusted(a netip.Addr) bool {
	for _, p := range m.o.TrustedProxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// rateKey is the address as rate limits count it: one subscriber owns a whole IPv6 /64.
func rateKey(a netip.Addr) string {
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}

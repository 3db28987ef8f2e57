// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
)

// maxForm bounds the body of a form, in bytes.
const maxForm = 16 << 10

// Routes lists every route of the slice. All of them answer on a client host of all tenants too.
func (s *Service) Routes() []httpapi.Route {
	const (
		get, post, put, del = "GET", "POST", "PUT", "DELETE"
		unstable            = client + "/unstable/org.matrix.msc2965"
	)
	rows := []struct {
		method, path string
		rate         limit.Class
		max          int64
		handle       httpapi.Handler
	}{
		{get, client + "/v1/auth_metadata", limit.Public, 0, s.authMetadata},
		{get, unstable + "/auth_metadata", limit.Public, 0, s.authMetadata},
		{get, unstable + "/auth_issuer", limit.Public, 0, s.authIssuer},
		{get, "/.well-known/oauth-authorization-server", limit.Public, 0, s.authMetadata},
		{get, "/.well-known/openid-configuration", limit.Public, 0, s.authMetadata},

		{post, pathRegister, limit.OAuth, maxRegistration, s.register},
		{get, pathAuthorize, limit.Public, maxForm, s.authorize},
		{post, pathAuthorize, limit.Public, maxForm, s.authorize},
		{post, pathToken, limit.OAuth, maxForm, s.token},
		{post, pathRevoke, limit.OAuth, maxForm, s.revoke},
		{post, pathDevice, limit.OAuth, maxForm, s.deviceAuthorization},
		{get, pathLink, limit.Public, maxForm, s.link},
		{post, pathLink, limit.Public, maxForm, s.link},
		{get, pathAccount, limit.Public, maxForm, s.accountPage},
		{post, pathAccount, limit.Public, maxForm, s.accountPage},

		{get, client + "/v3/login/sso/redirect", limit.Public, 0, s.ssoRedirect},
		{get, client + "/v3/login/sso/redirect/{idpId}", limit.Public, 0, s.ssoRedirect},
		{get, client + "/r0/login/sso/redirect", limit.Public, 0, s.ssoRedirect},
		{get, client + "/r0/login/sso/redirect/{idpId}", limit.Public, 0, s.ssoRedirect},
		{get, pathSSO, limit.Public, maxForm, s.sso},
		{post, pathSSO, limit.Public, maxForm, s.sso},

		{get, pathCallback, limit.Public, 0, s.callback},
		{get, CardCallbackPath, limit.Public, 0, s.cardCallback},

		{post, pathRendezvous, limit.Login, maxPayload, s.openRendezvous},
		{get, pathRendezvous + "/{name}", limit.Public, 0, s.readRendezvous},
		{put, pathRendezvous + "/{name}", limit.OAuth, maxPayload, s.writeRendezvous},
		{del, pathRendezvous + "/{name}", limit.OAuth, 0, s.closeRendezvous},
	}
	routes := make([]httpapi.Route, len(rows))
	for i, r := range rows {
		routes[i] = httpapi.Route{Method: r.method, Path: r.path, Access: httpapi.Public, Rate: r.rate, MaxBody: r.max, Shared: httpapi.ForProvider, Handle: r.handle}
	}
	return routes
}

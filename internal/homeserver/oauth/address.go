// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"net"
	"net/netip"
	"net/url"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
)

// The paths of the endpoints and pages. All lie under /_matrix, which is what proxies in front of a homeserver pass on.
const (
	client = "/_matrix/client"

	pathAuthorize = "/_matrix/oauth2/authorize"
	pathToken     = "/_matrix/oauth2/token"
	pathRevoke    = "/_matrix/oauth2/revoke"
	pathRegister  = RegistrationPath
	pathDevice    = "/_matrix/oauth2/device"
	pathLink      = "/_matrix/link"
	pathAccount   = "/_matrix/account"
	pathSSO       = "/_matrix/sign-in"
)

// RegistrationPath is where clients register. Whoever hands requests to several cells gives a registration to all of them: it has the same id in each.
const RegistrationPath = "/_matrix/oauth2/register"

// base is the address of the host that a request came to, without a slash at the end. Everything that a client is told stands on the host that it
// asked, because that is the one it can reach.
func (s *Service) base(r *httpapi.Request) string {
	host := strings.ToLower(r.HTTP.Host)
	if s.public != nil && strings.EqualFold(host, s.public.Host) {
		return strings.TrimRight(s.public.String(), "/")
	}
	if r.Secure || s.public != nil && s.public.Scheme == "https" && !loopback(host) {
		return "https://" + host
	}
	return "http://" + host
}

// issuer is the server's identifier (RFC 8414), repeated in every answer of the authorisation endpoint (RFC 9207).
func (s *Service) issuer(r *httpapi.Request) string { return s.base(r) + "/" }

func loopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// Issuer tells the older way of discovery, in /.well-known/matrix/client, who the issuer is and where accounts are managed.
func (s *Service) Issuer(r *httpapi.Request) (issuer, accountPage string) {
	return s.issuer(r), s.AccountPage(r, nil)
}

// AccountPage is the address of the page on which people manage their account, with a query.
func (s *Service) AccountPage(r *httpapi.Request, query url.Values) string {
	if len(query) == 0 {
		return s.base(r) + pathAccount
	}
	return s.base(r) + pathAccount + "?" + query.Encode()
}

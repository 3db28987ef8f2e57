// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"net/http"

	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Access says who may call a route. The edge checks it before the handler runs.
type Access uint8

// The access classes.
const (
	// Public routes look at no token.
	Public Access = iota
	// OptionalUser routes take a token when there is one (a wrong one is refused) and know nobody otherwise.
	OptionalUser
	// User routes need an access token of this tenant; guests are refused with M_GUEST_ACCESS_FORBIDDEN.
	User
	// AnyUser is User with guests.
	AnyUser
	// Admin routes need the token of an administrator of this tenant.
	Admin
	// Server routes need a signed request of another server (X-Matrix), or come by [Router.Dispatch].
	Server
)

// Shared says what a route answers on a client host that all tenants share, when the request names nobody (engine rule 19).
type Shared uint8

// The behaviours on a shared client host. There a token, or the full user id in path, query or body, names the tenant.
const (
	// NeedsTenant answers 400 M_MISSING_PARAM when nothing names the tenant.
	NeedsTenant Shared = iota
	// ForProvider runs the handler with a nil Tenant: it answers for the provider (versions, login flows, well-known).
	ForProvider
	// Hidden answers 404 (unauthenticated legacy media, federation).
	Hidden
)

// DefaultMaxBody bounds a request's body in bytes where the route says nothing else.
const DefaultMaxBody = 1 << 20

// Handler answers a request. It returns nil for {}, a [*Reply] for full control, or any value that is then sent as JSON with status 200. An
// error that holds an mxerror.Error is sent as it is; any other one becomes 500 M_UNKNOWN and is logged.
type Handler = func(ctx context.Context, r *Request) (any, error)

// Route is one row of the table.
type Route struct {
	// Method is the HTTP method; GET answers HEAD too.
	Method string
	// Path is a pattern such as "/_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}". A variable takes exactly one non-empty segment,
	// "{name...}" at the end takes the rest. A trailing slash means nothing, in the pattern and in the request.
	Path   string
	Access Access
	// Rate is the bucket a request takes from: the user's, the origin's or, without either, the address's. Zero is unlimited.
	Rate limit.Class
	// MaxBody bounds the body in bytes; 0 is DefaultMaxBody, negative is unbounded.
	MaxBody int64
	// Raw leaves the body to the handler, in Request.HTTP.Body.
	Raw    bool
	Shared Shared
	// AfterEnd keeps the route answering for a tenant that is closing or gone (engine rule 25: its public keys).
	AfterEnd bool
	Handle   Handler
}

// Session is who calls with an access token.
type Session struct {
	// User and Device are those acted for; Device is empty for application services without one.
	User    id.User
	Device  id.Device
	TokenID int64
	Admin   bool
	Guest   bool
	// AppService is the registration's id when the token is an application service's.
	AppService string
	// OAuthClient is the id of the OAuth 2.0 client that signed the device in; empty for the legacy API.
	OAuthClient string
	// Unlimited lifts rate limits (an application service registered with rate_limited: false).
	Unlimited bool
}

// Authenticator finds the session of an access token within a tenant. It answers mxerror.UnknownToken where there is none. Package account
// implements it.
type Authenticator interface {
	Authenticate(ctx context.Context, t *tenant.Tenant, token string) (*Session, error)
}

// Masquerader is an [Authenticator] that also knows application services: a request with their token and user_id (and device_id) in the query
// acts for that user, when it is in the registration's namespace.
type Masquerader interface {
	Masquerade(ctx context.Context, t *tenant.Tenant, s *Session, user id.User, device id.Device) (*Session, error)
}

// ServerAuthenticator checks that a request was signed by another server for this tenant (X-Matrix, specification: server-server API, request
// authentication) and returns that server. Package federation implements it.
type ServerAuthenticator interface {
	AuthenticateServer(ctx context.Context, t *tenant.Tenant, r *http.Request, body []byte) (id.Server, error)
}

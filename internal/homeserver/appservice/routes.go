// SPDX-License-Identifier: Apache-2.0

package appservice

import (
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
)

const (
	client   = "/_matrix/client"
	v3       = client + "/v3"
	legacyR0 = client + "/r0"
)

// Routes lists what application services call beside the ordinary client API, and the look-ups in third-party networks.
func (s *Service) Routes() []httpapi.Route {
	const (
		user        = httpapi.User
		read, write = limit.Read, limit.Write
		thirdparty  = v3 + "/thirdparty"
	)
	routes := []httpapi.Route{
		{Method: "POST", Path: client + "/v1/appservice/{appserviceId}/ping", Access: httpapi.AnyUser, Rate: write, Handle: s.ping},
		{Method: "POST", Path: client + "/unstable/fi.mau.msc2659/appservice/{appserviceId}/ping", Access: httpapi.AnyUser, Rate: write, Handle: s.ping},
		{Method: "PUT", Path: v3 + "/directory/list/appservice/{networkId}/{roomId}", Access: httpapi.AnyUser, Rate: write, Handle: s.putListing},

		{Method: "GET", Path: thirdparty + "/protocols", Access: user, Rate: read, Handle: s.getProtocols},
		{Method: "GET", Path: thirdparty + "/protocol/{protocol}", Access: user, Rate: read, Handle: s.getProtocol},
		{Method: "GET", Path: thirdparty + "/location", Access: user, Rate: read, Handle: s.find("location", "alias", "alias")},
		{Method: "GET", Path: thirdparty + "/location/{protocol}", Access: user, Rate: read, Handle: s.find("location", "alias", "")},
		{Method: "GET", Path: thirdparty + "/user", Access: user, Rate: read, Handle: s.find("user", "userid", "userid")},
		{Method: "GET", Path: thirdparty + "/user/{protocol}", Access: user, Rate: read, Handle: s.find("user", "userid", "")},
	}
	for _, r := range routes {
		if rest, ok := strings.CutPrefix(r.Path, v3); ok {
			r.Path = legacyR0 + rest
			routes = append(routes, r)
		}
	}
	return routes
}

// SPDX-License-Identifier: Apache-2.0

package ephemeral

import (
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
)

const (
	v3       = "/_matrix/client/v3"
	legacyR0 = "/_matrix/client/r0"
)

// Routes lists receipts, read markers, typing and presence, under r0 too, where older clients still call them.
func (s *Service) Routes() []httpapi.Route {
	const (
		user = httpapi.User
		room = v3 + "/rooms/{roomId}"
	)
	routes := []httpapi.Route{
		{Method: "POST", Path: room + "/receipt/{receiptType}/{eventId}", Access: user, Rate: limit.Write, Handle: s.postReceipt},
		{Method: "POST", Path: room + "/read_markers", Access: user, Rate: limit.Write, Handle: s.postMarkers},
		{Method: "PUT", Path: room + "/typing/{userId}", Access: user, Rate: limit.Write, Handle: s.putTyping},
		{Method: "GET", Path: v3 + "/presence/{userId}/status", Access: user, Rate: limit.Read, Handle: s.getPresence},
		{Method: "PUT", Path: v3 + "/presence/{userId}/status", Access: user, Rate: limit.Write, Handle: s.putPresence},
	}
	for _, r := range routes {
		if rest, ok := strings.CutPrefix(r.Path, v3); ok {
			r.Path = legacyR0 + rest
			routes = append(routes, r)
		}
	}
	return routes
}

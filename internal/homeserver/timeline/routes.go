// SPDX-License-Identifier: Apache-2.0

package timeline

import (
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
)

const (
	v1       = "/_matrix/client/v1"
	v3       = "/_matrix/client/v3"
	legacyR0 = "/_matrix/client/r0"
	unstable = "/_matrix/client/unstable"
)

// Routes lists what reads rooms. Those of v3 are served under r0 too, where older clients still call them.
func (s *Service) Routes() []httpapi.Route {
	const (
		get  = "GET"
		user = httpapi.AnyUser
		read = limit.Read
		room = v3 + "/rooms/{roomId}"
	)
	routes := []httpapi.Route{
		{Method: get, Path: v3 + "/joined_rooms", Access: user, Rate: read, Handle: s.joinedRooms},
		{Method: "POST", Path: v3 + "/search", Access: httpapi.User, Rate: limit.Search, Handle: s.search},
		{Method: "POST", Path: room + "/report", Access: httpapi.User, Rate: limit.Write, Handle: s.reportRoom},
		{Method: "POST", Path: room + "/report/{eventId}", Access: httpapi.User, Rate: limit.Write, Handle: s.reportEvent},
		{Method: "POST", Path: v3 + "/users/{userId}/report", Access: httpapi.User, Rate: limit.Write, Handle: s.reportUser},
		{Method: get, Path: "/_konsil/admin/v1/reports", Access: httpapi.Admin, Rate: read, Handle: s.reports},
		{Method: get, Path: v1 + "/mutual_rooms", Access: httpapi.User, Rate: read, Handle: s.mutualRooms},
		{Method: get, Path: unstable + "/uk.half-shot.msc2666/user/mutual_rooms", Access: httpapi.User, Rate: read, Handle: s.mutualRooms},
		{Method: get, Path: room + "/initialSync", Access: user, Rate: read, Handle: s.roomInitialSync},
		{Method: get, Path: v3 + "/events/{eventId}", Access: user, Rate: read, Handle: s.oldEvent},
		{Method: get, Path: room + "/messages", Access: user, Rate: read, Handle: s.messages},
		{Method: get, Path: room + "/context/{eventId}", Access: user, Rate: read, Handle: s.context},
		{Method: get, Path: room + "/event/{eventId}", Access: user, Rate: read, Handle: s.event},
		{Method: get, Path: room + "/state", Access: user, Rate: read, Handle: s.getState},
		{Method: get, Path: room + "/state/{eventType}", Access: user, Rate: read, Handle: s.getStateEvent},
		{Method: get, Path: room + "/state/{eventType}/{stateKey}", Access: user, Rate: read, Handle: s.getStateEvent},
		{Method: get, Path: room + "/members", Access: user, Rate: read, Handle: s.members},
		{Method: get, Path: room + "/joined_members", Access: user, Rate: read, Handle: s.joinedMembers},

		{Method: get, Path: v1 + "/rooms/{roomId}/relations/{eventId}", Access: user, Rate: read, Handle: s.relations},
		{Method: get, Path: v1 + "/rooms/{roomId}/relations/{eventId}/{relType}", Access: user, Rate: read, Handle: s.relations},
		{Method: get, Path: v1 + "/rooms/{roomId}/relations/{eventId}/{relType}/{eventType}", Access: user, Rate: read, Handle: s.relations},
		{Method: get, Path: v1 + "/rooms/{roomId}/threads", Access: user, Rate: read, Handle: s.threads},
		{Method: get, Path: v1 + "/rooms/{roomId}/timestamp_to_event", Access: user, Rate: read, Handle: s.timestampToEvent},
	}
	for _, r := range routes {
		if rest, ok := strings.CutPrefix(r.Path, v3); ok {
			r.Path = legacyR0 + rest
			routes = append(routes, r)
		}
	}
	return routes
}

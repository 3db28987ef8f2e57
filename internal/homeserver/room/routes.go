// SPDX-License-Identifier: Apache-2.0

package room

import (
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
)

const (
	v3       = "/_matrix/client/v3"
	legacyR0 = "/_matrix/client/r0"
	// maxEventBody is the request body of an event: the event's own limit of 65,536 bytes is checked with a better error later.
	maxEventBody = 256 << 10
)

// Routes lists what changes rooms. Reading them is package timeline's. Those of v3 are served under r0 too, where older clients still call them.
func (s *Service) Routes() []httpapi.Route {
	const (
		get, post, put, del = "GET", "POST", "PUT", "DELETE"
		user                = httpapi.User
		read, write         = limit.Read, limit.Write
		room                = v3 + "/rooms/{roomId}"
	)
	routes := []httpapi.Route{
		{Method: post, Path: v3 + "/createRoom", Access: user, Rate: limit.Join, Handle: s.handleCreate},
		{Method: put, Path: room + "/send/{eventType}/{txnId}", Access: user, Rate: limit.Send, MaxBody: maxEventBody, Handle: s.handleSend},
		{Method: put, Path: room + "/state/{eventType}", Access: user, Rate: limit.Send, MaxBody: maxEventBody, Handle: s.handleState},
		{Method: put, Path: room + "/state/{eventType}/{stateKey}", Access: user, Rate: limit.Send, MaxBody: maxEventBody, Handle: s.handleState},
		{Method: put, Path: room + "/redact/{eventId}/{txnId}", Access: user, Rate: limit.Send, Handle: s.handleRedact},

		{Method: post, Path: room + "/invite", Access: user, Rate: limit.Join, Handle: s.handleInvite},
		{Method: post, Path: room + "/join", Access: user, Rate: limit.Join, Handle: s.handleJoin},
		{Method: post, Path: v3 + "/join/{roomIdOrAlias}", Access: user, Rate: limit.Join, Handle: s.handleJoin},
		{Method: post, Path: v3 + "/knock/{roomIdOrAlias}", Access: user, Rate: write, Handle: s.handleKnock},
		{Method: post, Path: room + "/leave", Access: user, Rate: write, Handle: s.handleLeave},
		{Method: post, Path: room + "/forget", Access: user, Rate: write, Handle: s.handleForget},
		{Method: post, Path: room + "/kick", Access: user, Rate: write, Handle: s.handleTarget(s.Kick)},
		{Method: post, Path: room + "/ban", Access: user, Rate: write, Handle: s.handleTarget(s.Ban)},
		{Method: post, Path: room + "/unban", Access: user, Rate: write, Handle: s.handleTarget(s.Unban)},
		{Method: post, Path: room + "/upgrade", Access: user, Rate: write, Handle: s.handleUpgrade},

		{Method: get, Path: room + "/aliases", Access: user, Rate: read, Handle: s.handleAliases},
		{Method: get, Path: v3 + "/directory/room/{roomAlias}", Access: httpapi.OptionalUser, Rate: read, Handle: s.handleResolve},
		{Method: put, Path: v3 + "/directory/room/{roomAlias}", Access: user, Rate: write, Handle: s.handlePutAlias},
		{Method: del, Path: v3 + "/directory/room/{roomAlias}", Access: user, Rate: write, Handle: s.handleDeleteAlias},
		{Method: get, Path: v3 + "/directory/list/room/{roomId}", Access: httpapi.OptionalUser, Rate: read, Handle: s.handleGetVisibility},
		{Method: put, Path: v3 + "/directory/list/room/{roomId}", Access: user, Rate: write, Handle: s.handlePutVisibility},
		{Method: get, Path: v3 + "/publicRooms", Access: httpapi.OptionalUser, Rate: read, Handle: s.handlePublicRooms},
		{Method: post, Path: v3 + "/publicRooms", Access: httpapi.OptionalUser, Rate: read, Handle: s.handlePublicRooms}, // asks for the token itself: see there
	}
	for _, r := range routes {
		if rest, ok := strings.CutPrefix(r.Path, v3); ok {
			r.Path = legacyR0 + rest
			routes = append(routes, r)
		}
	}
	return routes
}

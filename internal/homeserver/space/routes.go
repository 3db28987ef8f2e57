// SPDX-License-Identifier: Apache-2.0

package space

import (
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
)

// Routes lists the client's endpoints. Clients older than v1.15 call the summary by the paths of its proposal.
func (s *Service) Routes() []httpapi.Route {
	const unstable = "/_matrix/client/unstable/im.nheko.summary"
	summary := func(path string, handle httpapi.Handler) httpapi.Route {
		return httpapi.Route{Method: "GET", Path: path, Access: httpapi.OptionalUser, Rate: limit.Search, Handle: handle}
	}
	return []httpapi.Route{
		{Method: "GET", Path: "/_matrix/client/v1/rooms/{roomId}/hierarchy", Access: httpapi.AnyUser, Rate: limit.Search, Handle: s.hierarchy},
		summary("/_matrix/client/v1/room_summary/{roomIdOrAlias}", s.summary),
		summary(unstable+"/summary/{roomIdOrAlias}", s.unstableSummary),
		summary(unstable+"/rooms/{roomIdOrAlias}/summary", s.unstableSummary),
	}
}

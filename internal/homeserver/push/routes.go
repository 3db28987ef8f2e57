// SPDX-License-Identifier: Apache-2.0

package push

import (
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
)

const (
	v3       = "/_matrix/client/v3"
	unstable = "/_matrix/client/unstable"
	legacyR0 = "/_matrix/client/r0"
)

// Routes lists push rules, subscriptions to threads, pushers and notifications, under r0 too, where older clients still call them.
func (s *Service) Routes() []httpapi.Route {
	const (
		get, put, del = "GET", "PUT", "DELETE"
		user          = httpapi.AnyUser
		read, write   = limit.Read, limit.Write
		rule          = v3 + "/pushrules/global/{kind}/{ruleId}"
		subscription  = unstable + "/io.element.msc4306/rooms/{roomId}/thread/{threadRootId}/subscription"
	)
	routes := []httpapi.Route{
		{Method: get, Path: v3 + "/pushrules", Access: user, Rate: read, Handle: s.getRules},
		{Method: get, Path: v3 + "/pushrules/global", Access: user, Rate: read, Handle: s.getGlobal},
		{Method: get, Path: rule, Access: user, Rate: read, Handle: s.getRule},
		{Method: put, Path: rule, Access: user, Rate: write, Handle: s.putRule},
		{Method: del, Path: rule, Access: user, Rate: write, Handle: s.deleteRule},
		{Method: get, Path: rule + "/enabled", Access: user, Rate: read, Handle: s.getEnabled},
		{Method: put, Path: rule + "/enabled", Access: user, Rate: write, Handle: s.putEnabled},
		{Method: get, Path: rule + "/actions", Access: user, Rate: read, Handle: s.getActions},
		{Method: put, Path: rule + "/actions", Access: user, Rate: write, Handle: s.putActions},

		{Method: get, Path: subscription, Access: user, Rate: read, Handle: s.getSubscription},
		{Method: put, Path: subscription, Access: user, Rate: write, Handle: s.putSubscription},
		{Method: del, Path: subscription, Access: user, Rate: write, Handle: s.deleteSubscription},
		{Method: get, Path: unstable + "/io.element.msc4308/thread_subscriptions", Access: user, Rate: read, Handle: s.listSubscriptions},

		{Method: get, Path: v3 + "/notifications", Access: user, Rate: read, Handle: s.getNotifications},
		{Method: get, Path: v3 + "/pushers", Access: user, Rate: read, Handle: s.getPushers},
		{Method: "POST", Path: v3 + "/pushers/set", Access: user, Rate: write, Handle: s.setPusher},
	}
	for _, r := range routes {
		if rest, ok := strings.CutPrefix(r.Path, v3); ok {
			r.Path = legacyR0 + rest
			routes = append(routes, r)
		}
	}
	return routes
}

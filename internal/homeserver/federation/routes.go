// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"net/http"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
)

// maxTransaction bounds the body of a transaction: 50 PDUs of 64 KiB and 100 EDUs.
const maxTransaction = 24 << 20

// Routes are the server-server API. The media routes belong to package media.
func (s *Service) Routes() []httpapi.Route {
	type r = httpapi.Route
	signed := func(method, path string, handle httpapi.Handler) r {
		return r{Method: method, Path: path, Access: httpapi.Server, Rate: limit.Federation, Shared: httpapi.Hidden, Handle: handle}
	}
	public := func(method, path string, handle httpapi.Handler) r {
		return r{Method: method, Path: path, Access: httpapi.Public, Rate: limit.Public, Shared: httpapi.Hidden, Handle: handle}
	}
	ownKeys := func(path string) r { // they outlive the tenant (engine rule 25)
		return r{Method: http.MethodGet, Path: path, Access: httpapi.Public, Rate: limit.Public, Shared: httpapi.Hidden, AfterEnd: true, Handle: s.ownKeys}
	}
	send := signed(http.MethodPut, v1+"/send/{txnId}", s.receiveTransaction)
	send.Rate, send.MaxBody = limit.Transact, maxTransaction
	return []r{
		public(http.MethodGet, v1+"/version", s.version),
		public(http.MethodGet, "/.well-known/matrix/policy_server", s.policyServerKeys),
		signed(http.MethodPost, "/_matrix/policy/v1/sign", s.policySign),

		ownKeys("/_matrix/key/v2/server"),
		ownKeys("/_matrix/key/v2/server/{keyId}"), // of older servers; the specification has dropped the key id
		public(http.MethodGet, "/_matrix/key/v2/query/{serverName}", s.notaryOne),
		public(http.MethodPost, "/_matrix/key/v2/query", s.notaryMany),

		send,
		signed(http.MethodGet, v1+"/event/{eventId}", s.getEvent),
		signed(http.MethodGet, v1+"/event_auth/{roomId}/{eventId}", s.getEventAuth),
		signed(http.MethodGet, v1+"/state/{roomId}", s.getState),
		signed(http.MethodGet, v1+"/state_ids/{roomId}", s.getStateIDs),
		signed(http.MethodGet, v1+"/backfill/{roomId}", s.getBackfill),
		signed(http.MethodPost, v1+"/get_missing_events/{roomId}", s.getMissingEvents),
		signed(http.MethodGet, v1+"/timestamp_to_event/{roomId}", s.timestampToEvent),

		signed(http.MethodGet, v1+"/make_join/{roomId}/{userId}", s.makeJoin),
		signed(http.MethodPut, v2+"/send_join/{roomId}/{eventId}", s.sendJoin),
		signed(http.MethodGet, v1+"/make_leave/{roomId}/{userId}", s.makeLeave),
		signed(http.MethodPut, v2+"/send_leave/{roomId}/{eventId}", s.sendLeave),
		signed(http.MethodGet, v1+"/make_knock/{roomId}/{userId}", s.makeKnock),
		signed(http.MethodPut, v1+"/send_knock/{roomId}/{eventId}", s.sendKnock),
		signed(http.MethodPut, v1+"/invite/{roomId}/{eventId}", s.inviteV1),
		signed(http.MethodPut, v2+"/invite/{roomId}/{eventId}", s.inviteV2),
		signed(http.MethodPut, v1+"/exchange_third_party_invite/{roomId}", s.exchangeThirdPartyInvite),
		public(http.MethodPut, v1+"/3pid/onbind", s.onBind),

		signed(http.MethodGet, v1+"/query/profile", s.queryProfile),
		signed(http.MethodGet, v1+"/query/directory", s.queryDirectory),
		signed(http.MethodGet, v1+"/publicRooms", s.publicRooms),
		signed(http.MethodPost, v1+"/publicRooms", s.publicRooms),
		signed(http.MethodGet, v1+"/hierarchy/{roomId}", s.getHierarchy),
		signed(http.MethodGet, v1+"/user/devices/{userId}", s.userDevices),
		signed(http.MethodPost, v1+"/user/keys/query", s.userKeysQuery),
		signed(http.MethodPost, v1+"/user/keys/claim", s.userKeysClaim),
		public(http.MethodGet, v1+"/openid/userinfo", s.openIDUser),
	}
}

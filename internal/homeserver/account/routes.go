// SPDX-License-Identifier: Apache-2.0

package account

import (
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
)

const (
	client   = "/_matrix/client"
	v1       = client + "/v1"
	v3       = client + "/v3"
	legacyR0 = client + "/r0"
	unstable = client + "/unstable"
)

// Routes lists every route of the slice. Those of v3 are served under r0 too, where older clients still call them.
func (s *Service) Routes() []httpapi.Route {
	const (
		get, post, put, del = "GET", "POST", "PUT", "DELETE"
		public, any, user   = httpapi.Public, httpapi.AnyUser, httpapi.User
		read, write         = limit.Read, limit.Write
	)
	routes := []httpapi.Route{
		{Method: get, Path: client + "/versions", Access: httpapi.OptionalUser, Rate: limit.Public, Shared: httpapi.ForProvider, Handle: s.versions},
		{Method: get, Path: "/.well-known/matrix/client", Access: public, Rate: limit.Public, Shared: httpapi.ForProvider, Handle: s.wellKnownClient},
		{Method: get, Path: "/.well-known/matrix/server", Access: public, Rate: limit.Public, Shared: httpapi.Hidden, Handle: s.wellKnownServer},
		{Method: get, Path: "/.well-known/matrix/support", Access: public, Rate: limit.Public, Shared: httpapi.ForProvider, Handle: s.wellKnownSupport},
		{Method: get, Path: registrationTokens, Access: httpapi.Admin, Rate: read, Handle: s.listRegistrationTokens},
		{Method: post, Path: registrationTokens + "/new", Access: httpapi.Admin, Rate: write, Handle: s.newRegistrationToken},
		{Method: get, Path: registrationTokens + "/{token}", Access: httpapi.Admin, Rate: read, Handle: s.getRegistrationToken},
		{Method: put, Path: registrationTokens + "/{token}", Access: httpapi.Admin, Rate: write, Handle: s.putRegistrationToken},
		{Method: del, Path: registrationTokens + "/{token}", Access: httpapi.Admin, Rate: write, Handle: s.deleteRegistrationToken},
		{Method: get, Path: "/_konsil/admin/v1/support", Access: httpapi.Admin, Rate: read, Handle: s.wellKnownSupport},
		{Method: put, Path: "/_konsil/admin/v1/support", Access: httpapi.Admin, Rate: write, Handle: s.putSupport},
		{Method: del, Path: "/_konsil/admin/v1/support", Access: httpapi.Admin, Rate: write, Handle: s.deleteSupport},
		{Method: get, Path: v3 + "/capabilities", Access: any, Rate: read, Handle: s.capabilities},
		{Method: get, Path: client + "/unstable/org.matrix.msc4143/rtc/transports", Access: any, Rate: read, Handle: s.rtcTransports},

		{Method: post, Path: v3 + "/register", Access: public, Rate: limit.Register, Handle: s.register},
		{Method: get, Path: v3 + "/register/available", Access: public, Rate: limit.Login, Handle: s.registerAvailable},
		{Method: post, Path: v3 + "/register/email/requestToken", Access: public, Rate: limit.Register, Handle: s.requestEmailToken(purposeRegister)},
		{Method: post, Path: v3 + "/register/msisdn/requestToken", Access: public, Rate: limit.Register, Handle: s.requestPhoneToken},
		{Method: get, Path: v1 + "/register/m.login.registration_token/validity", Access: public, Rate: limit.Login, Handle: s.tokenValidity},
		{Method: get, Path: "/_synapse/admin/v1/register", Access: public, Rate: limit.Register, Handle: s.secretNonce},
		{Method: post, Path: "/_synapse/admin/v1/register", Access: public, Rate: limit.Register, Handle: s.secretRegister},
		{Method: get, Path: v3 + "/login", Access: public, Rate: limit.Public, Shared: httpapi.ForProvider, Handle: s.loginFlows},
		{Method: post, Path: v3 + "/login", Access: public, Rate: limit.Login, Handle: s.login},
		{Method: post, Path: v1 + "/login/get_token", Access: user, Rate: limit.Login, Handle: s.getLoginToken},
		{Method: post, Path: v3 + "/refresh", Access: public, Rate: limit.Login, Handle: s.refresh},
		{Method: post, Path: v3 + "/logout", Access: any, Rate: write, Handle: s.logout},
		{Method: post, Path: v3 + "/logout/all", Access: any, Rate: write, Handle: s.logoutAll},

		{Method: get, Path: v3 + "/account/whoami", Access: any, Rate: read, Handle: s.whoami},
		{Method: post, Path: v3 + "/account/password", Access: httpapi.OptionalUser, Rate: limit.Login, Handle: s.changePassword},
		{Method: post, Path: v3 + "/account/password/email/requestToken", Access: public, Rate: limit.Register, Handle: s.requestEmailToken(purposePassword)},
		{Method: post, Path: v3 + "/account/password/msisdn/requestToken", Access: public, Rate: limit.Register, Handle: s.requestPhoneToken},
		{Method: post, Path: v3 + "/account/deactivate", Access: httpapi.OptionalUser, Rate: limit.Login, Handle: s.deactivate},
		{Method: get, Path: v3 + "/account/3pid", Access: user, Rate: read, Handle: s.getThreepids},
		{Method: post, Path: v3 + "/account/3pid", Access: user, Rate: write, Handle: s.postThreepid},
		{Method: post, Path: v3 + "/account/3pid/add", Access: user, Rate: limit.Login, Handle: s.addThreepid},
		{Method: post, Path: v3 + "/account/3pid/bind", Access: user, Rate: write, Handle: s.bindThreepid},
		{Method: post, Path: v3 + "/account/3pid/delete", Access: user, Rate: write, Handle: s.deleteThreepid},
		{Method: post, Path: v3 + "/account/3pid/unbind", Access: user, Rate: write, Handle: s.unbindThreepid},
		{Method: post, Path: v3 + "/account/3pid/email/requestToken", Access: public, Rate: limit.Register, Handle: s.requestEmailToken(purposeAdd)},
		{Method: post, Path: v3 + "/account/3pid/msisdn/requestToken", Access: public, Rate: limit.Register, Handle: s.requestPhoneToken},
		{Method: get, Path: submitPath, Access: public, Rate: limit.Login, Handle: s.submitToken},
		{Method: post, Path: submitPath, Access: public, Rate: limit.Login, Handle: s.submitToken},
		{Method: get, Path: v3 + "/auth/{authType}/fallback/web", Access: public, Rate: limit.Login, Handle: s.fallback},
		{Method: post, Path: v3 + "/auth/{authType}/fallback/web", Access: public, Rate: limit.Login, Handle: s.fallback},
		{Method: get, Path: v3 + "/admin/whois/{userId}", Access: user, Rate: read, Handle: s.whois},
		{Method: get, Path: v1 + "/admin/lock/{userId}", Access: httpapi.Admin, Rate: read, Handle: s.getFlag("locked")},
		{Method: put, Path: v1 + "/admin/lock/{userId}", Access: httpapi.Admin, Rate: write, Handle: s.putFlag("locked")},
		{Method: get, Path: v1 + "/admin/suspend/{userId}", Access: httpapi.Admin, Rate: read, Handle: s.getFlag("suspended")},
		{Method: put, Path: v1 + "/admin/suspend/{userId}", Access: httpapi.Admin, Rate: write, Handle: s.putFlag("suspended")},

		{Method: get, Path: v3 + "/voip/turnServer", Access: any, Rate: read, Handle: s.turnServer},
		{Method: get, Path: v3 + "/devices", Access: any, Rate: read, Handle: s.getDevices},
		{Method: get, Path: v3 + "/devices/{deviceId}", Access: any, Rate: read, Handle: s.getDevice},
		{Method: put, Path: v3 + "/devices/{deviceId}", Access: any, Rate: write, Handle: s.putDevice},
		{Method: del, Path: v3 + "/devices/{deviceId}", Access: user, Rate: limit.Login, Handle: s.deleteDevice},
		{Method: post, Path: v3 + "/delete_devices", Access: user, Rate: limit.Login, Handle: s.deleteDevices},

		{Method: get, Path: v3 + "/profile/{userId}", Access: httpapi.OptionalUser, Rate: read, Handle: s.getProfile},
		{Method: get, Path: v3 + "/profile/{userId}/{keyName}", Access: httpapi.OptionalUser, Rate: read, Handle: s.getProfileField},
		{Method: put, Path: v3 + "/profile/{userId}/{keyName}", Access: any, Rate: write, Handle: s.putProfileField},
		{Method: del, Path: v3 + "/profile/{userId}/{keyName}", Access: any, Rate: write, Handle: s.deleteProfileField},
		{Method: post, Path: v3 + "/user_directory/search", Access: user, Rate: limit.Search, Handle: s.searchUsers},

		{Method: get, Path: v3 + "/user/{userId}/account_data/{type}", Access: any, Rate: read, Handle: s.getAccountData},
		{Method: put, Path: v3 + "/user/{userId}/account_data/{type}", Access: any, Rate: write, Handle: s.putAccountData},
		{Method: get, Path: v3 + "/user/{userId}/rooms/{roomId}/account_data/{type}", Access: any, Rate: read, Handle: s.getAccountData},
		{Method: put, Path: v3 + "/user/{userId}/rooms/{roomId}/account_data/{type}", Access: any, Rate: write, Handle: s.putAccountData},
		{Method: del, Path: v3 + "/user/{userId}/account_data/{type}", Access: any, Rate: write, Handle: s.deleteAccountData},
		{Method: del, Path: v3 + "/user/{userId}/rooms/{roomId}/account_data/{type}", Access: any, Rate: write, Handle: s.deleteAccountData},
		{Method: del, Path: unstable + "/org.matrix.msc3391/user/{userId}/account_data/{type}", Access: any, Rate: write, Handle: s.deleteAccountData},
		{Method: del, Path: unstable + "/org.matrix.msc3391/user/{userId}/rooms/{roomId}/account_data/{type}", Access: any, Rate: write, Handle: s.deleteAccountData},
		{Method: get, Path: v3 + "/user/{userId}/rooms/{roomId}/tags", Access: any, Rate: read, Handle: s.getTags},
		{Method: put, Path: v3 + "/user/{userId}/rooms/{roomId}/tags/{tag}", Access: any, Rate: write, Handle: s.putTag},
		{Method: del, Path: v3 + "/user/{userId}/rooms/{roomId}/tags/{tag}", Access: any, Rate: write, Handle: s.deleteTag},
		{Method: post, Path: v3 + "/user/{userId}/filter", Access: any, Rate: write, Handle: s.postFilter},
		{Method: get, Path: v3 + "/user/{userId}/filter/{filterId}", Access: any, Rate: read, Handle: s.getFilter},
		{Method: post, Path: v3 + "/user/{userId}/openid/request_token", Access: user, Rate: write, Handle: s.requestOpenIDToken},
	}
	for _, r := range routes {
		if rest, ok := strings.CutPrefix(r.Path, v3); ok {
			r.Path = legacyR0 + rest
			routes = append(routes, r)
		}
	}
	return routes
}

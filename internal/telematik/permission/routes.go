// SPDX-License-Identifier: Apache-2.0

package permission

import (
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
)

// The verdicts about a feature's routes.
const (
	Served     = "served"
	ForMembers = "served to members of the federation list"
	Limited    = "served with a limit"
	Refused    = "refused"
)

// Feature is one row of the table of routes: what the service offers under policy ti, and what not. Every route of the server belongs to the first
// row that names it; a route that no row names is refused, so that nothing new is open by accident (a test fails for it).
type Feature struct {
	Name, Verdict string
	// Routes are paths, with a method before them where only that one is meant. "*" is one segment, "/..." at the end whatever follows, and "~" at the
	// beginning any version of the client-server API.
	Routes []string
	// refused says by which rule somebody is refused; nil in the row serves everybody whom the route's access class lets in, nil as result too.
	refused func(t *tenant.Tenant, s *httpapi.Session) *Rule
	// Why is the rule's name of what is refused or limited, and else a remark.
	Why string
}

func always(r *Rule) func(*tenant.Tenant, *httpapi.Session) *Rule {
	return func(*tenant.Tenant, *httpapi.Session) *Rule { return r }
}

func forInsured(r *Rule) func(*tenant.Tenant, *httpapi.Session) *Rule {
	return func(t *tenant.Tenant, _ *httpapi.Session) *Rule {
		if t.Insurance {
			return r
		}
		return nil
	}
}

func withoutSession(r *Rule) func(*tenant.Tenant, *httpapi.Session) *Rule {
	return func(_ *tenant.Tenant, s *httpapi.Session) *Rule {
		if s == nil {
			return r
		}
		return nil
	}
}

// features is the table. What is refused stands first.
var features = []*Feature{
	{"third networks", Refused, []string{"~/thirdparty/...", "PUT ~/directory/list/appservice/...", "/_matrix/federation/v1/3pid/...",
		"/_matrix/federation/v1/exchange_third_party_invite/..."}, always(ruleThird), ruleThird.Name},
	{"previews of links", Refused, []string{"~/media/preview_url", "/_matrix/media/*/preview_url"}, always(rulePreview), rulePreview.Name},
	{"third-party identifiers", Refused, []string{"POST ~/account/3pid/...", "~/account/password/email/requestToken", "~/account/password/msisdn/requestToken",
		"~/register/email/requestToken", "~/register/msisdn/requestToken", "/_konsil/client/v1/email/confirm"}, always(ruleIdentity), ruleIdentity.Name},
	{"registration by a shared secret", Refused, []string{"/_synapse/admin/v1/register", "~/register/m.login.registration_token/validity"}, always(ruleSecret), ruleSecret.Name},
	{"signing in for others", Refused, []string{"POST /_synapse/admin/v1/users/*/login"}, always(ruleForOthers), ruleForOthers.Name},
	{"threads", Refused, []string{"~/rooms/*/threads", "/_matrix/client/unstable/io.element.msc4306/...", "/_matrix/client/unstable/io.element.msc4308/..."}, always(ruleThreads), ruleThreads.Name},
	{"lists of public rooms", Limited, []string{"~/publicRooms", "/_matrix/federation/v1/publicRooms"}, forInsured(ruleNoList), ruleNoList.Name},
	{"profiles of others", Limited, []string{"GET ~/profile/..."}, withoutSession(ruleSession), ruleSession.Name + ", " + ruleAcquainted.Name},
	{"user directory", Limited, []string{"~/user_directory/search"}, nil, ruleDirectory.Name},

	{"what the server is", Served, []string{"/_matrix/client/versions", "/.well-known/...", "~/capabilities", "/_synapse/admin/v1/server_version"}, nil,
		"`telematik.matrix_version` caps the versions; capabilities name what this table leaves"},
	{"registration", Served, []string{"~/register", "~/register/available"}, nil, "closed by the configuration: `registration.mode` may only be `closed`, `guests` only off"},
	{"sign-in", Served, []string{"~/login/...", "~/refresh", "~/logout/...", "~/auth/*/fallback/web", "~/auth_metadata", "/_matrix/client/unstable/org.matrix.msc2965/...",
		"/_matrix/sign-in", "/_synapse/client/...", "/_matrix/link", "/_matrix/account", "/_matrix/oauth2/...", "/_matrix/client/unstable/org.matrix.msc4108/..."}, nil,
		"a client may introduce itself to the OAuth 2.0 API: that gives it no right before somebody signs in; `/_synapse/client` are Synapse's pages of a sign-in, behind `konsil proxy`"},
	{"own account", Served, []string{"~/account/password", "~/account/deactivate", "~/account/whoami", "GET ~/account/3pid", "~/devices/...", "~/delete_devices", "~/profile/...",
		"~/user/*/account_data/...", "~/user/*/rooms/*/account_data/...", "~/user/*/rooms/*/tags/...", "~/user/*/filter/...", "/_matrix/client/unstable/org.matrix.msc3391/..."}, nil, ""},
	{"OpenID tokens", Served, []string{"~/user/*/openid/request_token"}, nil, "the directory's search asks for one"},
	{"rooms", Served, []string{"~/createRoom", "~/join/*", "~/knock/*", "~/joined_rooms", "~/rooms/*/aliases", "~/rooms/*/ban", "~/rooms/*/unban", "~/rooms/*/kick", "~/rooms/*/invite",
		"~/rooms/*/join", "~/rooms/*/leave", "~/rooms/*/forget", "~/rooms/*/upgrade", "~/directory/room/*", "~/directory/list/room/*", "~/room_summary/*", "~/rooms/*/hierarchy",
		"~/mutual_rooms", "/_matrix/client/unstable/im.nheko.summary/...", "/_matrix/client/unstable/uk.half-shot.msc2666/..."}, nil, "with the rules above"},
	{"messages", Served, []string{"~/rooms/*/send/*/*", "~/rooms/*/state/...", "~/rooms/*/redact/*/*", "~/rooms/*/messages", "~/rooms/*/context/*", "~/rooms/*/event/*", "~/rooms/*/members",
		"~/rooms/*/joined_members", "~/rooms/*/initialSync", "~/rooms/*/relations/...", "~/rooms/*/timestamp_to_event", "~/rooms/*/receipt/*/*", "~/rooms/*/read_markers",
		"~/rooms/*/typing/*", "~/search", "/_matrix/client/unstable/org.matrix.msc4140/..."}, nil, "with the rules above"},
	{"presence", Limited, []string{"~/presence/*/status"}, nil, ruleStatus.Name},
	{"sync", Served, []string{"~/sync", "~/events/...", "~/initialSync", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"}, nil, ""},
	{"encryption", Served, []string{"~/keys/...", "~/room_keys/...", "~/sendToDevice/*/*", "/_matrix/client/unstable/org.matrix.msc3814.v1/..."}, nil, ""},
	{"media", Served, []string{"~/media/config", "~/media/download/...", "~/media/thumbnail/...", "/_matrix/media/*/create", "/_matrix/media/*/upload/..."}, nil, ""},
	{"older media paths", Served, []string{"/_matrix/media/*/download/...", "/_matrix/media/*/thumbnail/...", "/_matrix/media/*/config"}, nil,
		"A_26263; without a session only what was there before, where `media.legacy_unauthenticated` says so"},
	{"notifications", Served, []string{"~/pushers/...", "~/pushrules/...", "~/notifications"}, nil, ""},
	{"calls", Served, []string{"~/voip/turnServer", "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports"}, nil, ""},
	{"reports", Served, []string{"~/rooms/*/report/...", "~/users/*/report"}, nil, "they go to the organisation's administrator"},
	{"application services", Served, []string{"~/appservice/*/ping", "/_matrix/client/unstable/fi.mau.msc2659/..."}, nil, "those of the operator; none leads into a third network"},
	{"administration", Served, []string{"~/admin/...", "/_synapse/admin/...", "/_konsil/admin/..."}, nil, "administrators of the organisation only"},
	{"I_TiMessengerInformation", Served, []string{"/tim-information/..."}, nil, "with a Matrix OpenID token"},
	{"I_TiMessengerContactManagement", Served, []string{"/tim-contact-mgmt/..."}, nil,
		"with a Matrix OpenID token, where `telematik.contact_management` switches it on for clients of the line 1.x"},
	{"proof of a user for the directory", Served, []string{"/_matrix/federation/v1/openid/userinfo", "/_matrix/federation/v1/version"}, nil, "the directory asks without being a member"},
	{"keys of servers", Served, []string{"/_matrix/key/..."}, nil, "public, A_26224, A_26244"},
	{"federation", ForMembers, []string{"/_matrix/federation/...", "/_matrix/policy/v1/sign"}, nil, ruleListed.Name + ", " + ruleFresh.Name},
}

// FeatureOf finds the row of a route by its method and pattern, nil where there is none.
func FeatureOf(method, pattern string) *Feature {
	for _, f := range features {
		for _, route := range f.Routes {
			if Names(route, method, pattern) {
				return f
			}
		}
	}
	return nil
}

// Names says whether a route, written as in the table ("GET ~/profile/..."), means a method and path.
func Names(route, method, path string) bool {
	if only, rest, ok := strings.Cut(route, " "); ok {
		if only != method {
			return false
		}
		route = rest
	}
	return matches(route, path)
}

// matches compares a route of the table with a route's pattern, segment by segment.
func matches(route, pattern string) bool {
	if rest, ok := strings.CutPrefix(route, "~"); ok {
		route = "/_matrix/client/*" + rest
	}
	base, open := strings.CutSuffix(route, "/...")
	want, got := strings.Split(base, "/"), strings.Split(strings.TrimSuffix(pattern, "/"), "/")
	if len(got) < len(want) || len(got) > len(want) && !open {
		return false
	}
	for i, w := range want {
		if w != "*" && w != got[i] {
			return false
		}
	}
	return true
}

// feature is [FeatureOf], remembered: there are some hundred routes, and each request asks.
func (r *Rules) feature(method, pattern string) *Feature {
	key := [2]string{method, pattern}
	r.mu.RLock()
	f, known := r.routes[key]
	r.mu.RUnlock()
	if known {
		return f
	}
	f = FeatureOf(method, pattern)
	r.mu.Lock()
	r.routes[key] = f
	r.mu.Unlock()
	return f
}

// Features lists all rows.
func Features() []*Feature { return features }

// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"slices"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// supportedVersions are the versions of the client-server API that clients may count on.
var supportedVersions = []string{
	"r0.0.1", "r0.1.0", "r0.2.0", "r0.3.0", "r0.4.0", "r0.5.0", "r0.6.0", "r0.6.1",
	"v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10", "v1.11", "v1.12", "v1.13", "v1.14", "v1.15", "v1.16", "v1.17", "v1.18", "v1.19",
}

// unstableFeatures are asked for by older clients before they use what is long part of the specification, or not yet. Each with a route (method and
// path) without which there is no such feature; empty where it changes other routes only.
var unstableFeatures = map[string][2]string{
	"fi.mau.msc2659.stable":                          {"POST", v1 + "/appservice/{appserviceId}/ping"},
	"org.matrix.e2e_cross_signing":                   {"POST", v3 + "/keys/device_signing/upload"},
	"org.matrix.msc2432":                             {"GET", v3 + "/rooms/{roomId}/aliases"},
	"org.matrix.msc3391":                             {"DELETE", unstable + "/org.matrix.msc3391/user/{userId}/account_data/{type}"},
	"org.matrix.msc3814":                             {"PUT", unstable + "/org.matrix.msc3814.v1/dehydrated_device"},
	"org.matrix.msc3814.v1":                          {"PUT", unstable + "/org.matrix.msc3814.v1/dehydrated_device"},
	"org.matrix.msc3827.stable":                      {"POST", v3 + "/publicRooms"},
	"org.matrix.msc3916.stable":                      {"GET", v1 + "/media/download/{serverName}/{mediaId}"},
	"org.matrix.msc4108":                             {"POST", unstable + "/org.matrix.msc4108/rendezvous"},
	"org.matrix.msc4140":                             {"GET", unstable + "/org.matrix.msc4140/delayed_events"},
	"org.matrix.msc4143":                             {"GET", unstable + "/org.matrix.msc4143/rtc/transports"},
	"org.matrix.msc4155":                             {},
	"org.matrix.msc4222":                             {"GET", v3 + "/sync"},
	"org.matrix.msc4306":                             {"PUT", unstable + "/io.element.msc4306/rooms/{roomId}/thread/{threadRootId}/subscription"},
	"org.matrix.msc4308":                             {"GET", unstable + "/io.element.msc4308/thread_subscriptions"},
	"org.matrix.msc4380.stable":                      {},
	"org.matrix.simplified_msc3575":                  {"POST", unstable + "/org.matrix.simplified_msc3575/sync"},
	"uk.half-shot.msc2666.query_mutual_rooms":        {"GET", unstable + "/uk.half-shot.msc2666/user/mutual_rooms"},
	"uk.half-shot.msc2666.query_mutual_rooms.stable": {"GET", v1 + "/mutual_rooms"},
	"uk.tcpip.msc4133":                               {"PUT", v3 + "/profile/{userId}/{keyName}"},
	"uk.tcpip.msc4133.stable":                        {"PUT", v3 + "/profile/{userId}/{keyName}"},
}

// offered are the features whose routes the policy serves. Who asks the provider, as nobody's user, is told what an ordinary tenant has.
func (s *Service) offered(ctx context.Context, r *httpapi.Request) map[string]bool {
	t := r.Tenant
	if t == nil {
		t = &tenant.Tenant{}
	}
	out := make(map[string]bool, len(unstableFeatures))
	for name, route := range unstableFeatures {
		out[name] = route[1] == "" || s.o.Policy.Route(ctx, t, route[0], route[1], r.Session) == nil
	}
	return out
}

type versionsReply struct {
	Versions []string        `json:"versions"`
	Unstable map[string]bool `json:"unstable_features"`
}

func (s *Service) versions(ctx context.Context, r *httpapi.Request) (any, error) {
	names := supportedVersions
	if last := slices.Index(names, s.o.Config.MaxVersion); last >= 0 {
		names = names[:last+1]
	}
	return versionsReply{names, s.offered(ctx, r)}, nil
}

type enabled struct {
	Enabled bool `json:"enabled"`
}

type roomVersions struct {
	Default   string            `json:"default"`
	Available map[string]string `json:"available"`
}

type moderation struct {
	Suspend bool `json:"suspend"`
	Lock    bool `json:"lock"`
}

type capabilities struct {
	ChangePassword  enabled      `json:"m.change_password"`
	RoomVersions    roomVersions `json:"m.room_versions"`
	SetDisplayName  enabled      `json:"m.set_displayname"`
	SetAvatar       enabled      `json:"m.set_avatar_url"`
	Change3PID      enabled      `json:"m.3pid_changes"`
	GetLoginToken   enabled      `json:"m.get_login_token"`
	ProfileFields   enabled      `json:"m.profile_fields"`
	ForgetOnLeave   enabled      `json:"m.forget_forced_upon_leave"`
	AccountModerate *moderation  `json:"m.account_moderation,omitempty"`
}

type capabilitiesReply struct {
	Capabilities capabilities `json:"capabilities"`
}

func (s *Service) capabilities(ctx context.Context, r *httpapi.Request) (any, error) {
	yes := enabled{true}
	legacy := r.Session.OAuthClient == "" // sessions of OAuth 2.0 clients change the account on its pages
	c := capabilities{
		ChangePassword: enabled{legacy && !s.o.Config.NoPasswordLogin},
		RoomVersions:   roomVersions{s.o.Policy.DefaultRoomVersion(), map[string]string{}},
		SetDisplayName: yes, SetAvatar: yes, ProfileFields: yes,
		GetLoginToken: enabled{legacy && !s.o.Config.NoPasswordLogin}, Change3PID: enabled{legacy && s.o.SendMail != nil && s.o.Policy.Route(ctx, r.Tenant, "POST", v3+"/account/3pid/add", r.Session) == nil},
	}
	creatable := s.o.Policy.RoomVersions()
	for _, v := range roomversion.Supported() {
		c.RoomVersions.Available[v] = "stable"
		if creatable != nil && !slices.Contains(creatable, v) {
			c.RoomVersions.Available[v] = "unstable" // may be joined, but is no version to upgrade to
		}
	}
	if r.Session.Admin {
		c.AccountModerate = &moderation{true, true}
	}
	return capabilitiesReply{c}, nil
}

type baseURL struct {
	BaseURL string `json:"base_url"`
}

// clientDetails is the document of /.well-known/matrix/client, which login answers too.
type clientDetails struct {
	HomeServer     baseURL         `json:"m.homeserver"`
	Foci           []transport     `json:"org.matrix.msc4143.rtc_foci,omitempty"`
	Authentication *authentication `json:"org.matrix.msc2965.authentication,omitempty"`
}

// authentication is where clients looked for the OAuth 2.0 issuer before there was auth_metadata.
type authentication struct {
	Issuer  string `json:"issuer"`
	Account string `json:"account"`
}

func (s *Service) clientDetails(t *tenant.Tenant) *clientDetails {
	if s.o.Config.BaseURL == nil {
		return nil
	}
	url := s.o.Config.BaseURL(t)
	if url == "" {
		return nil
	}
	return &clientDetails{HomeServer: baseURL{url}, Foci: s.transports()}
}

func (s *Service) wellKnownClient(_ context.Context, r *httpapi.Request) (any, error) {
	if d := s.clientDetails(r.Tenant); d != nil {
		if s.o.Issuer != nil {
			d.Authentication = &authentication{}
			d.Authentication.Issuer, d.Authentication.Account = s.o.Issuer(r)
		}
		return d, nil
	}
	return nil, mxerror.NotFound.With("no client address is configured")
}

// transport is what carries the media of calls (MSC4143, MSC4195).
type transport struct {
	Type    string `json:"type"`
	LiveKit string `json:"livekit_service_url"`
}

type transportsReply struct {
	Transports []transport `json:"rtc_transports"`
}

func (s *Service) transports() []transport {
	list := make([]transport, len(s.o.Config.LiveKit))
	for i, url := range s.o.Config.LiveKit {
		list[i] = transport{"livekit", url}
	}
	return list
}

// rtcTransports answers which services carry calls here. Older clients read the same in /.well-known/matrix/client.
func (s *Service) rtcTransports(context.Context, *httpapi.Request) (any, error) {
	return transportsReply{s.transports()}, nil
}

type serverDetails struct {
	Server string `json:"m.server"`
}

func (s *Service) wellKnownServer(_ context.Context, r *httpapi.Request) (any, error) {
	if s.o.Config.FederationHost != nil {
		if host := s.o.Config.FederationHost(r.Tenant); host != "" {
			return serverDetails{host}, nil
		}
	}
	return nil, mxerror.NotFound.With("the server name is not delegated")
}

// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/media"
	"github.com/konsil-health/konsil/internal/homeserver/push"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// Options are what the service stands on.
type Options struct {
	DB       *database.DB
	Accounts *account.Service
	Rooms    *room.Service
	Push     *push.Service
	Media    *media.Service
	// Version is what server_version answers.
	Version string
	Log     *slog.Logger
	// Now is the clock; nil is the system's.
	Now func() time.Time
}

// Service answers administrators. It is safe for concurrent use.
type Service struct {
	o          Options
	background context.Context
	stop       context.CancelFunc
	work       sync.WaitGroup
}

// New returns the service. Close ends its background work.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{o: o}
	s.background, s.stop = context.WithCancel(context.Background())
	return s
}

// Close ends the shutting down of rooms that is under way; it is noted as failed.
func (s *Service) Close() {
	s.stop()
	s.work.Wait()
}

// Routes lists all routes.
func (s *Service) Routes() []httpapi.Route {
	const (
		v1, v2              = "/_synapse/admin/v1", "/_synapse/admin/v2"
		get, put, post, del = "GET", "PUT", "POST", "DELETE"
		user, device        = v2 + "/users/{userId}", v2 + "/users/{userId}/devices/{deviceId}"
		bots                = "/_konsil/admin/v1/users/{userId}/bot_credentials"
		card                = "/_konsil/admin/v1/users/{userId}/card"
	)
	route := func(method, path string, handle httpapi.Handler) httpapi.Route {
		rate := limit.Write
		if method == get {
			rate = limit.Read
		}
		return httpapi.Route{Method: method, Path: path, Access: httpapi.Admin, Rate: rate, Handle: handle}
	}
	return []httpapi.Route{
		{Method: get, Path: v1 + "/server_version", Access: httpapi.Public, Rate: limit.Public, Shared: httpapi.ForProvider, Handle: s.version},

		route(get, v2+"/users", s.listUsers),
		route(get, v1+"/username_available", s.available),
		route(get, user, s.getUser),
		route(put, user, s.putUser),
		route(post, v1+"/deactivate/{userId}", s.deactivate),
		route(post, v1+"/reset_password/{userId}", s.resetPassword),
		route(get, v1+"/users/{userId}/admin", s.getAdmin),
		route(put, v1+"/users/{userId}/admin", s.putAdmin),
		route(post, v1+"/users/{userId}/login", s.loginAs),
		route(get, v1+"/users/{userId}/joined_rooms", s.joinedRooms),
		route(get, v1+"/users/{userId}/pushers", s.pushers),
		route(put, v1+"/suspend/{userId}", s.suspend),
		route(get, v1+"/whois/{userId}", s.whois),

		route(post, v1+"/send_server_notice", s.sendNotice),
		route(put, v1+"/send_server_notice/{txnId}", s.sendNotice),

		route(get, bots, s.listBotCredentials),
		route(post, bots, s.issueBotCredential),
		route(del, bots+"/{credential}", s.revokeBotCredential),
		route(del, "/_konsil/admin/v1/users/{userId}/second_factor", s.removeSecondFactor),
		route(get, card, s.getCard),
		route(put, card, s.putCard),
		route(del, card, s.deleteCard),
		route(post, card+"_code", s.issueCardCode),

		route(get, user+"/devices", s.devices),
		route(post, user+"/devices", s.createDevice),
		route(get, device, s.getDevice),
		route(put, device, s.putDevice),
		route(del, device, s.deleteDevice),
		route(post, user+"/delete_devices", s.deleteDevices),

		route(get, v1+"/users/{userId}/media", s.listMedia),
		route(del, v1+"/users/{userId}/media", s.deleteUserMedia),
		route(post, v1+"/user/{userId}/media/quarantine", s.quarantineUser),
		route(del, v1+"/media/{serverName}/{mediaId}", s.deleteMedia),
		route(post, v1+"/media/quarantine/{serverName}/{mediaId}", s.quarantine(true)),
		route(post, v1+"/media/unquarantine/{serverName}/{mediaId}", s.quarantine(false)),

		route(get, v1+"/rooms", s.listRooms),
		route(get, v1+"/rooms/{roomId}", s.getRoom),
		route(get, v1+"/rooms/{roomId}/members", s.members),
		route(get, v1+"/rooms/{roomId}/state", s.state),
		route(get, v1+"/rooms/{roomId}/block", s.getBlock),
		route(put, v1+"/rooms/{roomId}/block", s.putBlock),
		route(del, v2+"/rooms/{roomId}", s.deleteRoom),
		route(post, v1+"/purge_history/{roomId}", s.purgeHistory),
		route(post, v1+"/purge_history/{roomId}/{eventId}", s.purgeHistory),
		route(get, v1+"/purge_history_status/{purgeId}", s.purgeStatus),
		route(get, v2+"/rooms/{roomId}/delete_status", s.deletesOf),
		route(get, v2+"/rooms/delete_status/{deleteId}", s.deleteStatus),
	}
}

func (s *Service) version(context.Context, *httpapi.Request) (any, error) {
	return map[string]string{"server_version": s.o.Version}, nil
}

// local reads the user of the path, who must be of the tenant.
func local(r *httpapi.Request) (id.User, error) {
	user, err := id.ParseUser(r.Var("userId"))
	if err != nil {
		return "", mxerror.InvalidParam.With("Invalid user id")
	}
	if user.Server() != r.Tenant.Name {
		return "", mxerror.New(400, "M_UNKNOWN", "Can only look up local users")
	}
	return user, nil
}

// known is local for somebody who exists.
func (s *Service) known(ctx context.Context, r *httpapi.Request) (*account.Account, error) {
	user, err := local(r)
	if err != nil {
		return nil, err
	}
	a, err := s.o.Accounts.Account(ctx, r.Tenant.ID, user)
	if errors.Is(err, mxerror.NotFound) {
		return nil, mxerror.NotFound.With("User not found")
	}
	return a, err
}

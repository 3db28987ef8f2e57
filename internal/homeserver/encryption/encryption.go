// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"context"
	"log/slog"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/singleflight"

	"github.com/konsil-health/konsil/internal/foundation/background"
	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Options joins the service with the rest of the house.
type Options struct {
	DB        *database.DB
	Committer *stream.Committer
	Feed      *stream.Feed
	Policy    policy.Policy
	Accounts  *account.Service
	Rooms     Rooms
	// Remote reaches other servers; nil fails everything about their users.
	Remote Remote
	// Position reads the position out of a sync token for /keys/changes.
	Position func(ctx context.Context, t *tenant.Tenant, token string) (int64, error)
	// KeysVisible says whether another server may see a local user's keys (engine rule 28: sharing a room, or on the way into one); nil lets
	// every server that the policy admits.
	KeysVisible func(ctx context.Context, t *tenant.Tenant, user id.User, server id.Server) (bool, error)
	Log         *slog.Logger
	// Now is the clock; nil is the system's.
	Now func() time.Time
}

// Rooms says who shares a room with whom. [OfRooms] makes it of package room.
type Rooms interface {
	// SharedUsers returns everybody, local or remote, joined to a room that the user is joined to.
	SharedUsers(ctx context.Context, t tenant.ID, user id.User) (map[id.User]struct{}, error)
	// SharingSince returns who joined, and who left, a room of the user's with positions in (from, to]. Where the user came or went, that is
	// everybody in the room.
	SharingSince(ctx context.Context, t tenant.ID, user id.User, from, to int64) (joined, left map[id.User]struct{}, err error)
	// JoinedUsers lists the users joined to a room.
	JoinedUsers(ctx context.Context, t tenant.ID, roomNID int64) ([]id.User, error)
}

// Remote asks other servers (server-server API, "End-to-end encryption"). Bodies are the specification's. Package federation implements it.
type Remote interface {
	// QueryKeys is POST /user/keys/query.
	QueryKeys(ctx context.Context, t *tenant.Tenant, server id.Server, body any) (jsontext.Value, error)
	// ClaimKeys is POST /user/keys/claim.
	ClaimKeys(ctx context.Context, t *tenant.Tenant, server id.Server, body any) (jsontext.Value, error)
	// UserDevices is GET /user/devices/{userId}.
	UserDevices(ctx context.Context, t *tenant.Tenant, user id.User) (jsontext.Value, error)
}

// Service is the encryption slice of a node. It is safe for concurrent use.
type Service struct {
	o  Options
	db *database.DB

	fetches singleflight.Group
	// resyncs bounds the background fetches of device lists; work counts them for Close.
	resyncs chan struct{}
	work    *background.Work
}

// maxResyncs is how many device lists are fetched in the background at once; what finds no place is fetched when a client asks for it.
const maxResyncs = 8

// New returns the service. Close ends its background work.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{o: o, db: o.DB, resyncs: make(chan struct{}, maxResyncs), work: background.New()}
}

// Close stops background fetches and waits for them. Lists that were not fetched stay marked as stale.
func (s *Service) Close() {
	s.work.Close()
}

func (s *Service) now() int64 { return s.o.Now().UnixMilli() }

// localAndServers splits who shares rooms with a user into the tenant's own users, the user included, and the other servers.
func (s *Service) localAndServers(ctx context.Context, t *tenant.Tenant, user id.User) (local []id.User, servers []id.Server, err error) {
	shared, err := s.o.Rooms.SharedUsers(ctx, t.ID, user)
	if err != nil {
		return nil, nil, err
	}
	if user.Server() == t.Name {
		shared[user] = struct{}{}
	}
	seen := map[id.Server]bool{t.Name: true}
	for u := range shared {
		server := u.Server()
		if server == t.Name {
			local = append(local, u)
		} else if !seen[server] {
			seen[server] = true
			servers = append(servers, server)
		}
	}
	return local, servers, nil
}

// shares says whether any of the tenant's users shares a room with a user of another server.
func (s *Service) shares(ctx context.Context, t *tenant.Tenant, user id.User) (bool, error) {
	local, _, err := s.localAndServers(ctx, t, user)
	return len(local) > 0, err
}

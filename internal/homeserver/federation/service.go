// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/background"
	"github.com/konsil-health/konsil/internal/foundation/cache"
	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/keyring"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/homeserver/space"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Options are what the service stands on. DB, Tenants, Keyring, Feed, Policy and Log are required; a missing slice answers its routes with
// M_UNRECOGNIZED and drops its EDUs.
type Options struct {
	DB      *database.DB
	Tenants *tenant.Store
	Keyring *keyring.Ring
	Feed    *stream.Feed
	Policy  policy.Policy
	Log     *slog.Logger
	Config  Config
	// Router carries requests between tenants of this cell; nil sends everything over HTTP.
	Router *httpapi.Router
	// Rooms is the rooms of the node. Room needs federation first (its Remote), so it may also come later, by SetRooms.
	Rooms *room.Service
	// Spaces shows rooms to servers that are not in them. It comes after New, since it stands on Rooms.
	Spaces *space.Service

	// Profile answers a local user's public profile fields; mxerror.NotFound when there is no such user.
	Profile func(ctx context.Context, t *tenant.Tenant, user id.User) (map[string]jsontext.Value, error)
	// OpenID finds the user of an OpenID token; mxerror.UnknownToken when it is none.
	OpenID func(ctx context.Context, t *tenant.Tenant, token string) (id.User, error)
	// PolicyServer returns how a tenant rules over rooms that have chosen it; nil (also the function) when it is no policy server.
	PolicyServer func(t *tenant.Tenant) *PolicyServer
	// Devices answers what other servers ask about local users' keys.
	Devices Devices
	// EDUs receive ephemeral units of other servers, by type. An error is a failure of this server: the transaction is then not acknowledged
	// and comes again; what is wrong with the unit itself is dropped by the receiver without an error.
	EDUs map[string]func(ctx context.Context, t *tenant.Tenant, origin id.Server, content jsontext.Value) error
	// Sources give durable EDUs for other servers (to-device messages, device lists).
	Sources []Source
}

// Devices is the part of package encryption that other servers ask. Bodies are the specification's, unread.
type Devices interface {
	// FederationQuery answers POST /user/keys/query.
	FederationQuery(ctx context.Context, t *tenant.Tenant, origin id.Server, body []byte) (any, error)
	// FederationClaim answers POST /user/keys/claim.
	FederationClaim(ctx context.Context, t *tenant.Tenant, origin id.Server, body []byte) (any, error)
	// FederationDevices answers GET /user/devices/{userId}.
	FederationDevices(ctx context.Context, t *tenant.Tenant, origin id.Server, user id.User) (any, error)
}

// EDU is an ephemeral data unit.
type EDU struct {
	Type    string         `json:"edu_type"`
	Content jsontext.Value `json:"content"`
	// Key makes a volatile unit replace an older one of the same type and key that has not been sent yet.
	Key string `json:"-"`
	// Position is that of a durable unit.
	Position int64 `json:"-"`
}

// Source gives the durable EDUs of a slice, in the order of the tenant's positions.
type Source interface {
	// Outgoing returns at most limit units for a destination with positions in (after, upTo], oldest first. complete is the position up to
	// which nothing is missing from the answer: upTo, or less when the limit cut it.
	Outgoing(ctx context.Context, t *tenant.Tenant, destination id.Server, after, upTo int64, limit int) (units []EDU, complete int64, err error)
	// Delivered tells that the destination has acknowledged everything up to a position. It runs in the sender's transaction.
	Delivered(ctx context.Context, tx *database.Tx, t *tenant.Tenant, destination id.Server, upTo int64) error
}

// Service is the federation of all tenants of a node. It is safe for concurrent use.
type Service struct {
	Options
	config     Config
	now        func() time.Time
	resolver   *resolver
	http       *overHTTP
	neighbours *inProcess
	keys       *keys
	verified   *verified
	reach      *reach
	outbox     *outbox
	incoming   *incoming
	joining    *joining
	delivered  cache.Cache[route, time.Time] // the last successes that were noted
	// identityClient asks identity servers.
	identityClient *http.Client

	work *background.Work
}

// New returns the service of a node. Start begins to send; Close ends it.
func New(o Options) *Service {
	s := &Service{Options: o, config: o.Config.withDefaults(), now: time.Now, verified: newVerified(), work: background.New()}
	clock := func() time.Time { return s.now() }
	s.resolver = newResolver(&s.config, clock)
	s.http = newHTTP(&s.config, s.resolver, s.authorize)
	s.identityClient = newIdentityClient(&s.config, s.resolver)
	s.neighbours = &inProcess{s.Tenants, s.Router, s.heard}
	s.reach = newReach(s.DB, &s.config, clock)
	s.keys = newKeys(s, clock)
	s.outbox = newOutbox(s)
	s.incoming, s.joining = newIncoming(), newJoining()
	s.delivered = cache.New(cache.Options[route, time.Time]{Entries: 10_000})
	s.Feed.OnCommit(func(t tenant.ID, _ []stream.Positioned, outbox []id.Server) {
		for _, destination := range outbox {
			s.outbox.nudge(t, destination)
		}
	})
	return s
}

// SetRooms joins federation and room, which know each other. Call it before Start and before the first request.
func (s *Service) SetRooms(r *room.Service) { s.Rooms = r }

// Start begins to send what is pending, also from before the start. Everything of Options must be set by then.
func (s *Service) Start() {
	s.outbox.start()
	s.work.Every(s.config.Sweep, s.Log, "outbox could not be read", s.pickUp)
	s.finishJoins()
}

// Close ends the senders and waits for them. What was under way is sent again after the next start, under the same transaction id.
func (s *Service) Close() {
	s.outbox.close()
	s.work.Close()
	s.http.close()
	s.identityClient.CloseIdleConnections()
}

// heard notes a valid request of another server: it is up, so what waits for it goes out now (engine rule 21).
func (s *Service) heard(ctx context.Context, t *tenant.Tenant, origin id.Server) {
	down, err := s.reach.isDown(ctx, origin)
	if err != nil {
		s.Log.WarnContext(ctx, "back-off of a server could not be read", "server", string(origin), "error", err)
	}
	if down {
		s.hostAnswered(ctx, origin)
	}
	s.outbox.forgive(ctx, t, origin)
}

// wakeAll lets all tenants' senders to a server try again.
func (s *Service) wakeAll(server id.Server) { s.outbox.wake(server) }

// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/konsil-health/konsil/internal/foundation/background"
	"github.com/konsil-health/konsil/internal/foundation/cache"
	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/keyring"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// Options are what the service stands on.
type Options struct {
	DB        *database.DB
	Committer *stream.Committer
	Feed      *stream.Feed
	Keyring   *keyring.Ring
	Tenants   *tenant.Store
	Policy    policy.Policy
	Log       *slog.Logger
	// Metrics, when set, are where causes are counted.
	Metrics prometheus.Registerer
	// Remote reaches other servers; nil refuses everything that needs one.
	Remote Remote
	// RemoteDirectory asks another server's public room directory; nil answers that it cannot be had.
	RemoteDirectory func(ctx context.Context, t *tenant.Tenant, server id.Server, q PublicQuery) (*PublicPage, error)
	// PolicySign asks a room's policy server for its signature of an event; nil sends nothing into rooms that have one.
	PolicySign func(ctx context.Context, t *tenant.Tenant, server id.Server, e *event.Event) ([]byte, error)
	// PolicyKey is the key with which the tenant itself is a policy server; nil (also the function) when it is none.
	PolicyKey func(ctx context.Context, t *tenant.Tenant) (ed25519.PublicKey, error)
	// Identity asks identity servers for third-party invites; nil offers none.
	Identity IdentityServers
	// RemoteByTime asks another server for the event of a room closest to a time (ms), and that event's time; nil asks nobody.
	RemoteByTime func(ctx context.Context, t *tenant.Tenant, server id.Server, room id.Room, ts int64, backwards bool) (id.Event, int64, error)
	// Class returns the push-rule class and thread root of an event, stored once with it (engine rule 31). Nil stores none.
	Class func(ctx context.Context, t tenant.ID, e *event.Event, joinedMembers int) int64
	// Profile returns a local user's display name and avatar for member events; nil for none.
	Profile func(ctx context.Context, t tenant.ID, user id.User) (displayName, avatarURL string, err error)
	// Exists says whether a local user exists; nil accepts every local user.
	Exists func(ctx context.Context, t tenant.ID, user id.User) (bool, error)
	// MayAlias, when set, says whether an alias may be made or removed by somebody; appService is the id of the application service that asks, if
	// one does.
	MayAlias func(t *tenant.Tenant, appService string, alias id.Alias) error
	// FindAlias and FindUser, when set, ask application services for an alias or a local user that does not exist and may be made by one now; they
	// say whether to look again.
	FindAlias func(ctx context.Context, t *tenant.Tenant, alias id.Alias) (bool, error)
	FindUser  func(ctx context.Context, t *tenant.Tenant, user id.User) (bool, error)
	// Networks, when set, lists the rooms that application services list for a third-party network instance, or for all of them ("").
	Networks func(ctx context.Context, t tenant.ID, instance string) ([]int64, error)
	// Delay, when set, keeps the event of a request that wants it to be sent later and returns its delay id, nothing for any other request.
	Delay func(ctx context.Context, r *httpapi.Request, d Draft) (string, error)
	// MayInvite refuses an invite that a local user does not want; nil accepts every one.
	MayInvite func(ctx context.Context, t tenant.ID, inviter, invitee id.User) error
	// Stored is told of every plan before it is handed over, so that slices may add rows to an event's transaction (push highlights); nil
	// for none.
	Stored func(ctx context.Context, t tenant.ID, e *Event, state State, plan *stream.Plan) error
	// Replaced, when set, is told that a local user of an upgraded room has come into its replacement.
	Replaced func(ctx context.Context, t *tenant.Tenant, user id.User, old, replacement id.Room) error
}

// Service is the rooms of all tenants of a node. It is safe for concurrent use.
type Service struct {
	Options
	now     func() time.Time
	heads   *heads
	rooms   cache.Cache[roomKey, *Room]
	events  *eventCache
	states  *stateCache
	txns    cache.Cache[txnKey, id.Event]
	erased  cache.Cache[tenant.ID, map[id.User]bool]
	joins   *flights
	stager  *stager
	metrics *metrics
	work    *background.Work
	// indexer gives state events their places in the index of the auth graph.
	indexer indexer
}

type roomKey struct {
	tenant tenant.ID
	id     id.Room
}

type eventKey struct {
	tenant tenant.ID
	id     id.Event
}

type snapshotKey struct {
	tenant   tenant.ID
	snapshot int64
}

// txnKey is a client's transaction.
type txnKey struct {
	tenant tenant.ID
	user   id.User
	Txn
}

// The caches' sizes, of events in bytes. eventOverhead is what an event needs beside its JSON.
const (
	eventOverhead   = 1 << 10
	eventCacheBytes = 32 << 20
	roomCacheSize   = 50_000
	txnCacheSize    = 10_000 // what clients repeat, they repeat soon
)

// New returns the service of a node. Close ends its background work.
func New(o Options) *Service {
	s := &Service{Options: o, metrics: newMetrics(o.Metrics), now: time.Now, joins: newFlights(), work: background.New()}
	s.heads = newHeads()
	s.rooms = cache.New(cache.Options[roomKey, *Room]{Entries: roomCacheSize})
	s.events = newEventCache(eventCacheBytes)
	s.states = newStateCache()
	s.txns = cache.New(cache.Options[txnKey, id.Event]{Entries: txnCacheSize})
	s.erased = cache.New(cache.Options[tenant.ID, map[id.User]bool]{Entries: erasedTenants, Written: erasedFor})
	s.stager = newStager(s)
	return s
}

// Close ends the background work and waits for that on staged PDUs; what is left is picked up after the next start.
func (s *Service) Close() {
	s.work.Close()
	s.stager.close()
	s.erased.Close()
}

// Room is a tenant's copy of a room.
type Room struct {
	NID     int64
	ID      id.Room
	Version *roomversion.Version
}

// Event is a stored event.
type Event struct {
	*event.Event
	NID, RoomNID int64
	// Position is 0 for events in no timeline: outliers, backfilled, rejected and soft-failed ones.
	Position int64
	// Topological is the room's own order for paging (engine rule 14).
	Topological int64
	// Snapshot is the state before, SnapshotAfter the state after the event; 0 for outliers.
	Snapshot, SnapshotAfter int64
	Rejected                bool
	SoftFailed              bool
	Outlier                 bool
	RedactedBy              id.Event
	// TxnDevice and TxnID name the sending device and its transaction id, for unsigned.transaction_id.
	TxnDevice id.Device
	TxnID     string
	// Class is what [Options.Class] said of the event, Thread the root of its thread, empty outside of threads.
	Class  int64
	Thread id.Event
}

// Lookup finds a room that the tenant knows; otherwise mxerror.NotFound.
func (s *Service) Lookup(ctx context.Context, t tenant.ID, room id.Room) (*Room, error) {
	key := roomKey{t, room}
	if r, ok := s.rooms.Get(key); ok {
		return r, nil
	}
	var nid int64
	var version string
	err := s.DB.QueryRow(ctx, "SELECT room, version FROM room WHERE tenant = $1 AND room_id = $2", int64(t), string(room)).Scan(&nid, &version)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, mxerror.NotFound.With("This room is not known here.")
	}
	if err != nil {
		return nil, err
	}
	v, ok := roomversion.Get(version)
	if !ok {
		return nil, mxerror.UnsupportedRoomVersion.With("Room version %s is not supported.", version)
	}
	r := &Room{nid, room, v}
	s.rooms.Set(key, r)
	return r, nil
}

// ByNID finds a room by its number.
func (s *Service) ByNID(ctx context.Context, t tenant.ID, nid int64) (*Room, error) {
	var rid id.Room
	err := s.DB.QueryRow(ctx, "SELECT room_id FROM room WHERE tenant = $1 AND room = $2", int64(t), nid).Scan(&rid)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, mxerror.NotFound.With("This room is not known here.")
	}
	if err != nil {
		return nil, err
	}
	return s.Lookup(ctx, t, rid)
}

// SPDX-License-Identifier: Apache-2.0

package clientsync

import (
	"context"
	"sync"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/cache"
	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/encryption"
	"github.com/konsil-health/konsil/internal/homeserver/ephemeral"
	"github.com/konsil-health/konsil/internal/homeserver/push"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/homeserver/timeline"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// Options are the slices that an answer is put together from; all are required.
type Options struct {
	DB         *database.DB
	Committer  *stream.Committer
	Feed       *stream.Feed
	Accounts   *account.Service
	Rooms      *room.Service
	Timeline   *timeline.Service
	Tokens     *timeline.Tokens
	Encryption *encryption.Service
	Ephemeral  *ephemeral.Service
	Push       *push.Service
}

// Service answers /sync for all tenants of a node. It is safe for concurrent use.
type Service struct {
	o Options
	// members are the member events that lazy clients have.
	members *sentMembers
	// readers are what answers to a user look at each time.
	readers cache.Cache[readerKey, *readerFacts]
	// connections are the rows of sliding sync, types what kind of room each room is.
	connections cache.Cache[connKey, *connection]
	types       cache.Cache[roomRef, string]
	// spans are what listeners of a room share.
	spans   cache.Cache[spanKey, *span]
	recalls recalls
	// closing ends what waits once it is closed.
	closing chan struct{}
	close   func()
}

// New returns the service.
func New(o Options) *Service {
	s := &Service{o: o, closing: make(chan struct{})}
	s.close = sync.OnceFunc(func() { close(s.closing) })
	s.forget()
	return s
}

// forget begins with empty caches.
func (s *Service) forget() {
	s.members = newSentMembers()
	s.readers = cache.New(cache.Options[readerKey, *readerFacts]{Entries: readerCacheSize})
	s.connections = cache.New(cache.Options[connKey, *connection]{Weight: connectionBytes,
		Weigh: func(_ connKey, c *connection) uint32 {
			return uint32(connOverhead + connRoomSize*(len(c.newest.rooms)+len(c.previous.rooms)))
		}})
	s.types = cache.New(cache.Options[roomRef, string]{Entries: typeCacheSize})
	s.spans = cache.New(cache.Options[spanKey, *span]{Entries: spanCacheSize, Written: spanLife})
	s.recalls = newRecalls(s.o.Feed)
}

// Close answers every waiting sync at once, so that a stopping node keeps nobody waiting.
func (s *Service) Close() { s.close() }

// Routes lists /sync, under r0 too, where older clients still call it, and simplified sliding sync under its stable and its unstable name.
func (s *Service) Routes() []httpapi.Route {
	return append(s.oldRoutes(), []httpapi.Route{
		{Method: "GET", Path: "/_matrix/client/v3/sync", Access: httpapi.AnyUser, Rate: limit.Sync, Handle: s.handle},
		{Method: "GET", Path: "/_matrix/client/r0/sync", Access: httpapi.AnyUser, Rate: limit.Sync, Handle: s.handle},
		{Method: "POST", Path: "/_matrix/client/v4/sync", Access: httpapi.AnyUser, Rate: limit.Sync, Handle: s.slide(true)},
		{Method: "POST", Path: "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", Access: httpapi.AnyUser, Rate: limit.Sync, Handle: s.slide(false)},
	}...)
}

// maxWait bounds how long a sync waits, in ms: intermediaries close quiet connections sooner or later.
const maxWait = 90_000

// handle reads the parameters, answers at once when there is something to say, and otherwise waits for it.
func (s *Service) handle(ctx context.Context, r *httpapi.Request) (any, error) {
	q, wait, err := s.read(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := s.acknowledge(ctx, q); err != nil {
		return nil, err
	}
	if err := s.o.Ephemeral.Active(ctx, q.t, q.user, q.presence); err != nil {
		return nil, err
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		// The counter of what takes no position is read before the position: what comes in between is only shown twice.
		ephemeral := s.o.Feed.Ephemeral()
		position, err := s.o.Feed.Position(ctx, q.t.ID)
		if err != nil {
			return nil, err
		}
		answer, err := s.answer(ctx, q, max(position, q.since.Position), ephemeral)
		if err != nil {
			return nil, err
		}
		if answer.empty() && wait > 0 && !answer.urgent {
			q.since = answer.token // nothing up to there concerns the user
			if s.o.Feed.WaitUntil(ctx, s.closing, timer.C, q.t.ID, q.user, answer.token.Position, ephemeral) == nil {
				continue
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
		answer.NextBatch = s.o.Tokens.Stream(q.t.ID, answer.token)
		s.recordMembers(q, answer)
		answer.trim(q.filter.EventFields)
		if err := s.countKeys(ctx, q, answer.reply, answer.token.Position); err != nil || !q.initial {
			return answer.reply, err
		}
		return &httpapi.Reply{Body: answer.reply, Streamed: true}, nil // of many rooms
	}
}

// read checks the request's parameters.
func (s *Service) read(ctx context.Context, r *httpapi.Request) (*query, time.Duration, error) {
	q := &query{t: r.Tenant, session: r.Session, user: r.Session.User, device: r.Session.Device, initial: true}
	wait, err := r.QueryInt("timeout", 0, maxWait)
	if err != nil {
		return nil, 0, err
	}
	if q.fullState, err = r.QueryBool("full_state", false); err != nil {
		return nil, 0, err
	}
	if q.stateAfter, err = r.QueryBool("use_state_after", false); err != nil {
		return nil, 0, err
	}
	if q.unstableAfter, err = r.QueryBool("org.matrix.msc4222.use_state_after", false); err != nil {
		return nil, 0, err
	}
	switch q.presence = r.Query("set_presence"); q.presence {
	case "", "online", "offline", "unavailable":
	default:
		return nil, 0, mxerror.InvalidParam.With("set_presence must be online, offline or unavailable")
	}
	if q.filter, err = s.filter(ctx, r); err != nil {
		return nil, 0, err
	}
	if token := r.Query("since"); token != "" {
		if q.since, err = s.o.Tokens.OpenStream(r.Tenant.ID, token); err != nil {
			return nil, 0, err
		}
		q.initial = false
		if q.since.Epoch != r.Tenant.Epoch { // answered as a gap (engine rule 7)
			q.initial, q.gap, q.since = true, true, timeline.StreamToken{}
		} else if q.since.Device != timeline.DeviceSum(q.user, q.device) {
			q.since.ToDevice = 0 // what another device has received says nothing about this one
		}
	}
	if q.initial || q.fullState {
		wait = 0
	}
	if key, ok := q.lazyKey(); ok {
		q.sent = s.members.begin(key, q.initial, q.since.Position)
		if q.filter.Room.State.IncludeRedundantMembers {
			q.sent = nil
		}
	}
	return q, time.Duration(wait) * time.Millisecond, nil
}

// acknowledge deletes the to-device messages that the device shows to have received by coming back with this token (engine rule 28).
func (s *Service) acknowledge(ctx context.Context, q *query) error {
	if q.initial || q.device == "" || q.since.Device != timeline.DeviceSum(q.user, q.device) {
		return nil
	}
	return s.emptyInbox(ctx, q, q.since.ToDevice)
}

// countKeys fills in how many keys others can still claim from the device. It is asked last, so that a sync that waits asks once.
func (s *Service) countKeys(ctx context.Context, q *query, r *reply, at int64) error {
	if q.device == "" {
		return nil
	}
	k, err := s.keyCounts(ctx, q, at)
	r.OneTimeKeys, r.Fallback = k.oneTime, k.fallback
	return err
}

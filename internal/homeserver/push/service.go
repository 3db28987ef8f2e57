// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"log/slog"
	"net/http"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/cache"
	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/ephemeral"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/homeserver/timeline"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/pushrule"
)

// Options are what the service stands on; DB to Tokens are required.
type Options struct {
	DB        *database.DB
	Committer *stream.Committer
	Feed      *stream.Feed
	Rooms     *room.Service
	Accounts  *account.Service
	Ephemeral *ephemeral.Service
	Tokens    *timeline.Tokens
	Log       *slog.Logger
	// Ignored lists whom a user ignores; nil for nobody.
	Ignored func(ctx context.Context, t tenant.ID, user id.User) (map[id.User]bool, error)
	// Guard is the check of the address that a gateway's connection is made to; nil lets all pass. AllowPrivate also takes gateways by plain HTTP.
	Guard        func(network, address string, c syscall.RawConn) error
	AllowPrivate bool
	// RetryMin is the first pause after a gateway failed (default 1 s), which doubles up to RetryMax (default 1 h).
	RetryMin, RetryMax time.Duration
	// Now is the clock; nil is the system's.
	Now func() time.Time
}

// Service is the push slice of a node. It is safe for concurrent use and keeps only caches.
type Service struct {
	o      Options
	counts cache.Cache[countKey, counted]
	// markers are how far users have read rooms.
	markers *stream.Recall[countKey, map[string]int64]
	recalls *recalls
	badges  cache.Cache[countKey, *badgeCount]
	send    *sending
	client  *http.Client
}

// countCacheSize is how many counts (one per user and room) stay in memory.
const countCacheSize = 50_000

// badgeCacheSize is how many users' counts of all their rooms stay in memory.
const badgeCacheSize = 5_000

// New returns the service. It subscribes to the feed, so it is called before the first commit; nothing is sent before Start.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.RetryMin <= 0 {
		o.RetryMin = time.Second
	}
	if o.RetryMax <= 0 {
		o.RetryMax = time.Hour
	}
	o.RetryMax = max(o.RetryMax, o.RetryMin)
	s := &Service{o: o, counts: cache.New(cache.Options[countKey, counted]{Entries: countCacheSize}),
		recalls: newRecalls(o.Feed),
		markers: stream.NewRecall[countKey, map[string]int64](o.Feed, countCacheSize),
		badges:  cache.New(cache.Options[countKey, *badgeCount]{Entries: badgeCacheSize}), send: newSending()}
	s.client = s.newClient()
	o.Feed.OnCommit(s.committed)
	return s
}

// ruleType is the account data that holds a user's rules.
const ruleType = "m.push_rules"

// stored is the content of m.push_rules.
type stored struct {
	Global pushrule.Ruleset `json:"global"`
}

// Rules returns a user's rules: what the user changed, on the server's present defaults.
func (s *Service) Rules(ctx context.Context, t tenant.ID, user id.User) (pushrule.Ruleset, error) {
	content, ok, err := s.o.Accounts.AccountDatum(ctx, t, user, "", ruleType)
	if err != nil {
		return pushrule.Ruleset{}, err
	}
	return readRules(content, ok, user), nil
}

func readRules(content jsontext.Value, exists bool, user id.User) pushrule.Ruleset {
	var c stored
	if !exists || json.Unmarshal(content, &c) != nil {
		return pushrule.Default(user)
	}
	return c.Global.Merge(user)
}

// Content returns the content of m.push_rules for a user, the default one when nothing is stored.
func (s *Service) Content(ctx context.Context, t tenant.ID, user id.User) (jsontext.Value, error) {
	rules, err := s.Rules(ctx, t, user)
	if err != nil {
		return nil, err
	}
	return json.Marshal(stored{rules}, json.Deterministic(true))
}

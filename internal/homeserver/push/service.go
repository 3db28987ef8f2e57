// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
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

// Options are what the service stands on; all but Now are required.
type Options struct {
	DB        *database.DB
	Feed      *stream.Feed
	Rooms     *room.Service
	Accounts  *account.Service
	Ephemeral *ephemeral.Service
	Tokens    *timeline.Tokens
	// Now is the clock; nil is the system's.
	Now func() time.Time
}

// Service is the push slice of a node. It is safe for concurrent use and keeps only caches.
type Service struct {
	o      Options
	counts cache.Cache[countKey, counted]
}

// countCacheSize is how many counts (one per user and room) stay in memory.
const countCacheSize = 50_000

// New returns the service.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Service{o: o, counts: cache.New(cache.Options[countKey, counted]{Entries: countCacheSize})}
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

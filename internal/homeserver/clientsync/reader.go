// SPDX-License-Identifier: Apache-2.0

package clientsync

import (
	"context"
	"slices"

	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/push"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// readerCacheSize is how many users' facts are remembered.
const readerCacheSize = 5000

type readerKey struct {
	tenant tenant.ID
	user   id.User
}

// readerFacts are what a user's account data says about its answers, as it is at a position: whom it ignores, and by which rules it counts. They
// stay true as long as the feed knows of no change of the user's account data.
type readerFacts struct {
	at      int64
	ignored map[id.User]bool
	counter *push.Reader
}

// reader returns a user's facts at a position; they are not to be changed.
func (s *Service) reader(ctx context.Context, q *query, to int64) (*readerFacts, error) {
	key := readerKey{q.t.ID, q.user}
	if f, ok := s.readers.Get(key); ok && s.stillTrue(q, f, to) {
		if f.at < to {
			next := *f
			next.at = to
			s.readers.Set(key, &next)
		}
		return f, nil
	}
	ignored, err := s.o.Timeline.Ignored(ctx, q.t.ID, q.user)
	if err != nil {
		return nil, err
	}
	counter, err := s.o.Push.For(ctx, q.t.ID, q.user, to)
	if err != nil {
		return nil, err
	}
	f := &readerFacts{to, ignored, counter}
	s.readers.Set(key, f)
	return f, nil
}

// stillTrue says whether the user's account data is known not to have changed since the facts were read.
func (s *Service) stillTrue(q *query, f *readerFacts, to int64) bool {
	if to <= f.at {
		return true
	}
	changes, known := s.o.Feed.Recent(q.t.ID, f.at, to)
	return known && !slices.ContainsFunc(changes, func(c stream.Positioned) bool {
		return c.Kind == stream.AccountData && slices.Contains(c.Users, q.user)
	})
}

// SPDX-License-Identifier: Apache-2.0

package stream_test

import (
	"context"
	"slices"
	"testing"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// TestRecallForgetsWhatTheFeedCannotProve: a value stays until a change concerns it, and is not given out for positions that memory does not hold.
func TestRecallForgetsWhatTheFeedCannotProve(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		f := start(t, db)
		ctx := context.Background()
		if _, err := f.feed.Position(ctx, f.a); err != nil {
			t.Fatal(err)
		}
		anna := id.User("@anna:t0.example")
		mine := func(c *stream.Change) bool { return slices.Contains(c.Users, anna) }
		commit := func(name string, users ...id.User) int64 {
			at, err := f.committer.Commit(ctx, insert(f.a, name, users...))
			if err != nil {
				t.Fatal(err)
			}
			return at
		}
		recall := stream.NewRecall[string, int](f.feed, 10)
		expect := func(what string, at int64, want bool) {
			t.Helper()
			if v, ok := recall.Get(f.a, "anna", at, mine); ok != want || ok && v != 7 {
				t.Errorf("%s: got %v, %v", what, v, ok)
			}
		}
		expect("nothing was read yet", 0, false)
		at := commit("one", anna)
		recall.Set("anna", at, 7)
		expect("as it was read", at, true)
		other := commit("two", "@ben:t0.example")
		expect("a change of somebody else", other, true)
		expect("a position that is not known here", other+1, false)
		mineToo := commit("three", anna)
		expect("her own change", mineToo, false)
		expect("what was true before it", other, true)
		recall.Set("anna", mineToo, 7)
		cold := stream.NewRecall[string, int](stream.NewFeed(db), 10)
		cold.Set("anna", at, 7)
		if _, ok := cold.Get(f.a, "anna", other, mine); ok {
			t.Error("a feed that knows nothing of the tenant proved something")
		}
	})
}

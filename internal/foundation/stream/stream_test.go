// SPDX-License-Identifier: Apache-2.0

package stream_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// bench is a database with two tenants, a feed, a committer and a table to write to.
type fixture struct {
	db        *database.DB
	feed      *stream.Feed
	committer *stream.Committer
	a, b      tenant.ID
}

func start(t *testing.T, db *database.DB) *fixture {
	t.Helper()
	ctx := context.Background()
	if _, err := db.Exec(ctx, "CREATE TABLE thing (tenant BIGINT NOT NULL, position BIGINT NOT NULL, name TEXT NOT NULL, PRIMARY KEY (tenant, name))"); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(ctx, "CREATE TABLE head (tenant BIGINT NOT NULL, room BIGINT NOT NULL, version BIGINT NOT NULL, PRIMARY KEY (tenant, room))"); err != nil {
		t.Fatal(err)
	}
	f := &fixture{db: db, feed: stream.NewFeed(db)}
	store := tenant.NewStore(db)
	for i, p := range []*tenant.ID{&f.a, &f.b} {
		tn, err := store.Create(ctx, tenant.Spec{Name: id.Server(fmt.Sprintf("t%d.example", i))})
		if err != nil {
			t.Fatal(err)
		}
		*p = tn.ID
		if _, err := db.Exec(ctx, "INSERT INTO head (tenant, room, version) VALUES ($1, 1, 0)", int64(tn.ID)); err != nil {
			t.Fatal(err)
		}
	}
	c, err := stream.NewCommitter(ctx, db, f.feed, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	f.committer = c
	return f
}

// insert is a plan that writes one stamped row.
func insert(t tenant.ID, name string, users ...id.User) *stream.Plan {
	return &stream.Plan{Tenant: t,
		Positioned: []stream.Statement{{SQL: "INSERT INTO thing (tenant, position, name) VALUES ($1, $2, $3)", Args: []any{int64(t), stream.At(0), name}}},
		Changes:    []stream.Change{{Kind: stream.Other, Users: users}}}
}

func (f *fixture) positions(t *testing.T, tn tenant.ID) []int64 {
	t.Helper()
	rows, err := f.db.Query(context.Background(), "SELECT position FROM thing WHERE tenant = $1 ORDER BY position", int64(tn))
	got, err := database.All(rows, err, database.Column[int64])
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestPositionsHaveNoHoles: engine rule 1. Many senders, two tenants, some plans that lose their guard.
func TestPositionsHaveNoHoles(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		f := start(t, db)
		ctx := context.Background()
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for j := range 25 {
					tn := f.a
					if (i+j)%2 == 0 {
						tn = f.b
					}
					p := insert(tn, fmt.Sprintf("%d-%d", i, j))
					want := error(nil)
					if j%5 == 4 {
						p.Guard = &stream.Statement{SQL: "UPDATE head SET version = version + 1 WHERE tenant = $1 AND room = 1 AND version = -1", Args: []any{int64(tn)}}
						want = stream.ErrStale
					}
					if _, err := f.committer.Commit(ctx, p); !errors.Is(err, want) {
						t.Errorf("commit: %v, want %v", err, want)
					}
				}
			})
		}
		wg.Wait()
		total := 0
		for _, tn := range []tenant.ID{f.a, f.b} {
			got := f.positions(t, tn)
			total += len(got)
			for i, p := range got {
				if p != int64(i+1) {
					t.Fatalf("position %d at place %d", p, i)
				}
			}
			if p, err := f.feed.Position(ctx, tn); err != nil || p != int64(len(got)) {
				t.Fatalf("feed is at %d, %v; want %d", p, err, len(got))
			}
		}
		if total != 8*20 {
			t.Fatalf("%d rows, want %d", total, 8*20)
		}
	})
}

// TestOnlyTheCulpritFails: engine rule 3. A plan with a broken statement shares a batch with good ones.
func TestOnlyTheCulpritFails(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		f := start(t, db)
		var pending []*stream.Pending
		for i := range 20 {
			p := insert(f.a, fmt.Sprint(i))
			if i == 7 {
				p.Rows = []stream.Statement{{SQL: "INSERT INTO head (tenant, room, version) VALUES ($1, 1, 1)", Args: []any{int64(f.a)}}} // exists
			}
			pending = append(pending, f.committer.Submit(p))
		}
		for i, p := range pending {
			_, err := p.Wait(context.Background())
			if (err != nil) != (i == 7) {
				t.Errorf("plan %d: %v", i, err)
			}
		}
		if got := f.positions(t, f.a); len(got) != 19 || got[18] != 19 {
			t.Errorf("positions %v", got)
		}
	})
}

// TestChainOfOneRoom: plans of one room that build on each other go into the same transaction, and fall together with the one they build on.
func TestChainOfOneRoom(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		f := start(t, db)
		var pending []*stream.Pending
		for i := range 10 {
			from := i
			if i >= 6 {
				from = i + 1 // builds on a head that never was
			}
			p := insert(f.a, fmt.Sprint(i))
			p.Room = 1
			p.Guard = &stream.Statement{SQL: "UPDATE head SET version = $3 + 1 WHERE tenant = $1 AND room = $2 AND version = $3", Args: []any{int64(f.a), 1, from}}
			pending = append(pending, f.committer.Submit(p))
		}
		for i, p := range pending {
			_, err := p.Wait(context.Background())
			if (i < 6 && err != nil) || (i >= 6 && !errors.Is(err, stream.ErrStale)) {
				t.Errorf("plan %d: %v", i, err)
			}
		}
	})
}

// TestRepeatedKeyWaitsForTheNextBatch: two plans with one transaction id never share a batch, so that the second meets the first one's row.
func TestRepeatedKeyWaitsForTheNextBatch(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		f := start(t, db)
		var pending []*stream.Pending
		for i := range 6 {
			p := insert(f.a, fmt.Sprint(i))
			p.Unique = []string{"txn:1"}
			p.Guard = &stream.Statement{SQL: "UPDATE head SET version = version + 1 WHERE tenant = $1 AND room = 1 AND NOT EXISTS (SELECT 1 FROM thing WHERE tenant = $1)", Args: []any{int64(f.a)}}
			pending = append(pending, f.committer.Submit(p))
		}
		won := 0
		for _, p := range pending {
			if _, err := p.Wait(context.Background()); err == nil {
				won++
			} else if !errors.Is(err, stream.ErrStale) {
				t.Error(err)
			}
		}
		if won != 1 {
			t.Errorf("%d plans won, want 1", won)
		}
	})
}

func TestOutboxKeepsTheFirstPosition(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		f := start(t, db)
		ctx := context.Background()
		for i := range 3 {
			p := insert(f.a, fmt.Sprint(i))
			p.Outbox = []id.Server{"peer.example"}
			if _, err := f.committer.Commit(ctx, p); err != nil {
				t.Fatal(err)
			}
		}
		var from int64
		if err := db.QueryRow(ctx, "SELECT pending_from FROM outbox WHERE tenant = $1 AND destination = $2", int64(f.a), "peer.example").Scan(&from); err != nil || from != 1 {
			t.Fatalf("pending from %d, %v; want 1", from, err)
		}
	})
}

// TestWaitWakesTheConcerned: a waiter is woken by a change that names it or its room, not by others, and never misses one that came between
// its look and its wait.
func TestWaitWakesTheConcerned(t *testing.T) {
	t.Parallel()
	db := databasetest.Open(t, databasetest.SQLite(t))
	f := start(t, db)
	ctx := context.Background()
	f.feed.SetMembers(func(_ tenant.ID, room int64) ([]id.User, bool) {
		return map[int64][]id.User{7: {"@in:x"}}[room], true
	})
	at, err := f.feed.Position(ctx, f.a)
	if err != nil {
		t.Fatal(err)
	}
	eph := f.feed.Ephemeral()
	woken := make(chan id.User, 2)
	short, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for _, u := range []id.User{"@named:x", "@in:x", "@other:x"} {
		wg.Go(func() {
			if f.feed.Wait(short, f.a, u, at, eph) == nil {
				woken <- u
			}
		})
	}
	if _, err := f.committer.Commit(ctx, insert(f.a, "1", "@named:x")); err != nil {
		t.Fatal(err)
	}
	if got := <-woken; got != "@named:x" {
		t.Fatalf("%s was woken", got)
	}
	p := insert(f.a, "2")
	p.Changes[0].Room = 7
	if _, err := f.committer.Commit(ctx, p); err != nil {
		t.Fatal(err)
	}
	if got := <-woken; got != "@in:x" {
		t.Fatalf("%s was woken", got)
	}
	cancel()
	wg.Wait()
	if len(woken) != 0 {
		t.Fatalf("%s was woken", <-woken)
	}
	// Both changes are past for these waits: the first returns at once, the second has nothing to wait for until its context ends.
	if err := f.feed.Wait(ctx, f.a, "@named:x", at, eph); err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	if err := f.feed.Wait(gone, f.a, "@other:x", at, eph); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("wait for nothing: %v", err)
	}
	f.feed.WakeUsers(f.a, "@other:x")
	if err := f.feed.Wait(ctx, f.a, "@other:x", at, eph); err != nil {
		t.Fatal(err)
	}
}

func TestRecentReachesBack(t *testing.T) {
	t.Parallel()
	db := databasetest.Open(t, databasetest.SQLite(t))
	f := start(t, db)
	ctx := context.Background()
	if _, err := f.committer.Commit(ctx, insert(f.a, "before")); err != nil {
		t.Fatal(err)
	}
	if _, ok := f.feed.Recent(f.a, 0, 1); ok {
		t.Fatal("memory claims to know a change from before the tenant was looked at")
	}
	if _, err := f.feed.Position(ctx, f.a); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if _, err := f.committer.Commit(ctx, insert(f.a, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	got, ok := f.feed.Recent(f.a, 2, 4)
	var positions []int64
	for _, c := range got {
		positions = append(positions, c.Position)
	}
	if !ok || !slices.Equal(positions, []int64{3, 4}) {
		t.Fatalf("recent: %v %v", positions, ok)
	}
}

func TestClosedCommitterRefuses(t *testing.T) {
	t.Parallel()
	db := databasetest.Open(t, databasetest.SQLite(t))
	f := start(t, db)
	p := f.committer.Submit(insert(f.a, "1"))
	f.committer.Close()
	if _, err := p.Wait(context.Background()); err != nil {
		t.Fatalf("a plan handed over before Close was not committed: %v", err)
	}
	if _, err := f.committer.Commit(context.Background(), insert(f.a, "2")); !errors.Is(err, stream.ErrClosed) {
		t.Fatalf("after Close: %v", err)
	}
}

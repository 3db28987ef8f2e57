// SPDX-License-Identifier: Apache-2.0

package database_test

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"testing"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
)

func TestMigrateTwice(t *testing.T) {
	t.Parallel()
	databasetest.EachURL(t, func(t *testing.T, url string) {
		for range 2 {
			db, err := database.Open(context.Background(), database.Options{URL: url})
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestWriteRollsBack(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		ctx := context.Background()
		boom := errors.New("boom")
		err := db.Write(ctx, func(tx *database.Tx) error {
			if _, err := tx.Exec(ctx, "INSERT INTO commit_batch (committer, batch) VALUES ($1, $2)", 1, 1); err != nil {
				return err
			}
			return boom
		})
		if !errors.Is(err, boom) {
			t.Fatalf("got %v, want the function's own error", err)
		}
		var n int64
		if err := db.QueryRow(ctx, "SELECT batch FROM commit_batch WHERE committer = $1", 1).Scan(&n); !errors.Is(err, sql.ErrNoRows) {
			t.Fatalf("a rolled back row is visible: %v", err)
		}
	})
}

func TestConcurrentWritesAndReads(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		ctx := context.Background()
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if _, err := db.Exec(ctx, "INSERT INTO commit_batch (committer, batch) VALUES ($1, $2)", i, i); err != nil {
					t.Error(err)
				}
				var n int64
				if err := db.QueryRow(ctx, "SELECT batch FROM commit_batch WHERE committer = $1", i).Scan(&n); err != nil || n != int64(i) {
					t.Errorf("read own write: %d, %v", n, err)
				}
			})
		}
		wg.Wait()
		rows, err := db.Query(ctx, "SELECT committer FROM commit_batch WHERE committer IN ("+database.Marks(1, 3)+") ORDER BY committer", 3, 5, 99)
		got, err := database.All(rows, err, database.Column[int64])
		if err != nil || len(got) != 2 || got[0] != 3 || got[1] != 5 {
			t.Fatalf("IN list: %v, %v", got, err)
		}
	})
}

func TestNewIDGrows(t *testing.T) {
	t.Parallel()
	last := int64(0)
	for range 10000 {
		n := database.NewID()
		if n <= last {
			t.Fatalf("%d after %d", n, last)
		}
		last = n
	}
}

func TestOpenRefusesUnknownURL(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", "mysql://x", "sqlite:"} {
		if _, err := database.Open(context.Background(), database.Options{URL: url}); err == nil {
			t.Errorf("%q was accepted", url)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

// Package databasetest gives tests databases of their own: a file in a temporary folder for SQLite, a schema of its own for PostgreSQL. Only
// tests import it.
package databasetest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/konsil-health/konsil/internal/foundation/database"
)

// Each runs f on SQLite and, where a server is there, on PostgreSQL.
func Each(t *testing.T, f func(t *testing.T, db *database.DB)) {
	t.Helper()
	EachURL(t, func(t *testing.T, url string) {
		f(t, Open(t, url))
	})
}

// EachURL is Each for tests that open the database themselves, for example twice.
func EachURL(t *testing.T, f func(t *testing.T, url string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		f(t, SQLite(t))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		f(t, Postgres(t))
	})
}

// Open opens a database and closes it when the test ends.
func Open(t testing.TB, url string) *database.DB {
	t.Helper()
	db, err := database.Open(context.Background(), database.Options{URL: url, Readers: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// SQLite returns the URL of a new database file.
func SQLite(t testing.TB) string {
	return "sqlite:" + filepath.Join(t.TempDir(), "konsil.db")
}

// Postgres returns the URL of a new empty schema, dropped when the test ends. The server is KONSIL_TEST_POSTGRES or the local one; without
// any the test is skipped, unless KONSIL_TEST_POSTGRES asked for it.
func Postgres(t testing.TB) string {
	t.Helper()
	server, asked := os.LookupEnv("KONSIL_TEST_POSTGRES")
	if !asked {
		server = "postgres://postgres@127.0.0.1:5432/test?sslmode=disable"
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		if asked {
			t.Fatalf("KONSIL_TEST_POSTGRES: %v", err)
		}
		t.Skip("no PostgreSQL on 127.0.0.1:5432; set KONSIL_TEST_POSTGRES to test with one")
	}
	defer conn.Close(ctx)
	name := make([]byte, 8)
	rand.Read(name)
	schema := "konsil_test_" + hex.EncodeToString(name)
	if _, err := conn.Exec(ctx, "CREATE SCHEMA "+schema); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dropSchema(t, server, schema) })
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("search_path", schema)
	q.Set("synchronous_commit", "off") // tests kill programs, not the database server
	u.RawQuery = q.Encode()
	return u.String()
}

func dropSchema(t testing.TB, server, schema string) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		t.Log(err)
		return
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "DROP SCHEMA "+schema+" CASCADE"); err != nil {
		t.Log(err)
	}
}

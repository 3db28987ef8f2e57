// SPDX-License-Identifier: Apache-2.0

package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// Options says where the database is and how much of it one node may use.
type Options struct {
	// URL is "sqlite:/path/to/file.db" or "postgres://…" (any pgx connection string).
	URL string
	// Readers bounds the concurrent read connections (0: 4 on SQLite, 8 on PostgreSQL), so that the committer keeps processor time
	// (commit.md, 5.14).
	Readers int
}

// DB is one cell's database. It is safe for concurrent use.
type DB struct {
	dialect dialect
	read    *sql.DB
	stmts   sync.Map // SQL text → *sql.Stmt, readers only
	cached  atomic.Int64

	counters counters
}

// dialect is what differs between the two databases: how a write transaction is held and how the committer's batches reach the server.
type dialect interface {
	postgres() bool
	write(ctx context.Context, f func(*Tx) error) error
	pipeline(ctx context.Context) (Pipeline, error)
	retryable(err error) bool
	close() error
}

// maxCachedStatements bounds the readers' statement cache: IN lists of many lengths would otherwise fill memory.
const maxCachedStatements = 2000

// Open connects, applies outstanding migrations and returns the database. The caller closes it.
func Open(ctx context.Context, o Options) (*DB, error) {
	kind, rest, ok := strings.Cut(o.URL, ":")
	if !ok {
		return nil, fmt.Errorf("database URL %q: expected sqlite:/path or postgres://…", o.URL)
	}
	var db *DB
	var err error
	switch kind {
	case "sqlite":
		db, err = openSQLite(ctx, rest, o)
	case "postgres", "postgresql":
		db, err = openPostgres(ctx, o)
	default:
		return nil, fmt.Errorf("database URL %q: unknown scheme %q, expected sqlite or postgres", o.URL, kind)
	}
	if err != nil {
		return nil, err
	}
	if err := db.migrate(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// Close releases all connections; open transactions are rolled back.
func (db *DB) Close() error {
	return errors.Join(db.read.Close(), db.dialect.close())
}

// Postgres says whether the database is PostgreSQL; only search and bulk writes may ask.
func (db *DB) Postgres() bool { return db.dialect.postgres() }

// Query reads on the reader pool. The caller closes the rows. No read may last over 5 s (engine rule 8): page instead.
func (db *DB) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	db.counters.queries.Add(1)
	stmt, err := db.prepared(ctx, query)
	if err != nil {
		return nil, err
	}
	if stmt == nil {
		return db.read.QueryContext(ctx, query, args...)
	}
	return stmt.QueryContext(ctx, args...)
}

// QueryRow reads one row on the reader pool; Scan answers sql.ErrNoRows when there is none.
func (db *DB) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	db.counters.queries.Add(1)
	stmt, err := db.prepared(ctx, query)
	if err != nil || stmt == nil {
		return db.read.QueryRowContext(ctx, query, args...)
	}
	return stmt.QueryRowContext(ctx, args...)
}

// prepared returns the cached statement of a query, or nil when it should run unprepared: on PostgreSQL, whose driver caches by itself per
// connection, and when the cache is full.
func (db *DB) prepared(ctx context.Context, query string) (*sql.Stmt, error) {
	if db.Postgres() {
		return nil, nil
	}
	if s, ok := db.stmts.Load(query); ok {
		return s.(*sql.Stmt), nil
	}
	if db.cached.Load() >= maxCachedStatements {
		return nil, nil
	}
	stmt, err := db.read.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	if other, loaded := db.stmts.LoadOrStore(query, stmt); loaded {
		return other.(*sql.Stmt), stmt.Close()
	}
	db.cached.Add(1)
	return stmt, nil
}

// Write runs f in one small transaction that takes no tenant's position: bulk data and bookkeeping (engine rule 2). f may run again after
// a serialisation failure, so it must not change anything outside the transaction. Inside f use only the transaction: a second connection
// would wait for itself on SQLite.
func (db *DB) Write(ctx context.Context, f func(tx *Tx) error) error {
	var err error
	counted := func(tx *Tx) error {
		tx.counters = &db.counters
		return f(tx)
	}
	for range 4 {
		if err = db.dialect.write(ctx, counted); err == nil || !db.dialect.retryable(err) {
			return err
		}
	}
	return err
}

// Exec is Write of a single statement; it returns the number of rows it touched.
func (db *DB) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	var n int64
	err := db.Write(ctx, func(tx *Tx) error {
		var err error
		n, err = tx.Exec(ctx, query, args...)
		return err
	})
	return n, err
}

// Pipeline returns a connection for the committer of package stream.
func (db *DB) Pipeline(ctx context.Context) (Pipeline, error) {
	p, err := db.dialect.pipeline(ctx)
	return countedPipeline{p, &db.counters}, err
}

// Retryable says whether an error of a transaction may vanish when it is run again: serialisation failure, deadlock, lost connection.
func (db *DB) Retryable(err error) bool { return db.dialect.retryable(err) }

// querier is what a transaction runs on.
type querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// Tx is a write transaction handed to the function given to [DB.Write].
type Tx struct {
	q        querier
	counters *counters
}

// Exec runs a statement and returns the number of rows it touched.
func (tx *Tx) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	r, err := tx.q.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	n, err := r.RowsAffected()
	tx.counters.wrote(1, n)
	return n, err
}

// Query reads inside the transaction. Close the rows before the next statement.
func (tx *Tx) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	tx.counters.wrote(1, 0)
	return tx.q.QueryContext(ctx, query, args...)
}

// QueryRow reads one row inside the transaction.
func (tx *Tx) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	tx.counters.wrote(1, 0)
	return tx.q.QueryRowContext(ctx, query, args...)
}

// All scans every row and closes them; it takes the two results of Query, so that a read is one expression.
func All[T any](rows *sql.Rows, err error, scan func(*sql.Rows) (T, error)) ([]T, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

// Column scans rows of one column; use it as the scan function of [All].
func Column[T any](rows *sql.Rows) (T, error) {
	var v T
	err := rows.Scan(&v)
	return v, err
}

// MaxMarks is the longest IN list a statement should have; chunk longer ones.
const MaxMarks = 500

// Marks writes n placeholders beginning at from, for an IN list: Marks(3, 2) is "$3,$4".
func Marks(from, n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(from + i))
	}
	return b.String()
}

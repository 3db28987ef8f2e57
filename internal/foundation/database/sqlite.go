// SPDX-License-Identifier: Apache-2.0

package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"modernc.org/sqlite" // the driver
	sqlite3 "modernc.org/sqlite/lib"
)

// sqliteDialect holds the one writer connection. SQLite allows one writer at a time anyway; with a pinned connection statements stay
// prepared and nobody waits in the busy handler.
type sqliteDialect struct {
	pool   *sql.DB
	conn   *sql.Conn
	turn   chan struct{} // capacity 1: holding it is holding the writer
	stmts  map[string]*sql.Stmt
	closed bool
}

func openSQLite(ctx context.Context, path string, o Options) (*DB, error) {
	if path == "" {
		return nil, errors.New("database URL sqlite: needs a file path")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("database folder: %w", err)
	}
	dsn := func(extra ...string) string {
		q := url.Values{"_txlock": {"immediate"}, "_pragma": append([]string{
			"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(0)", "temp_store(MEMORY)"}, extra...)}
		return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + q.Encode()
	}
	pool, err := sql.Open("sqlite", dsn("wal_autocheckpoint(4000)", "cache_size(-8000)"))
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(1)
	conn, err := pool.Conn(ctx)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), pool.Close())
	}
	// Every reader has a page cache of its own; beyond a little the system's cache of the file serves them all.
	read, err := sql.Open("sqlite", dsn("query_only(1)", "cache_size(-2000)"))
	if err != nil {
		return nil, errors.Join(err, conn.Close(), pool.Close())
	}
	readers := o.Readers
	if readers == 0 {
		readers = 4
	}
	read.SetMaxOpenConns(readers)
	read.SetMaxIdleConns(readers)
	d := &sqliteDialect{pool: pool, conn: conn, turn: make(chan struct{}, 1), stmts: map[string]*sql.Stmt{}}
	return &DB{dialect: d, read: read}, nil
}

func (d *sqliteDialect) postgres() bool { return false }

func (d *sqliteDialect) acquire(ctx context.Context) error {
	select {
	case d.turn <- struct{}{}:
		if d.closed {
			<-d.turn
			return sql.ErrConnDone
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *sqliteDialect) release() { <-d.turn }

func (d *sqliteDialect) close() error {
	d.turn <- struct{}{}
	defer d.release()
	if d.closed {
		return nil
	}
	d.closed = true
	for _, s := range d.stmts {
		s.Close()
	}
	return errors.Join(d.conn.Close(), d.pool.Close())
}

func (d *sqliteDialect) write(ctx context.Context, f func(*Tx) error) error {
	if err := d.acquire(ctx); err != nil {
		return err
	}
	defer d.release()
	ctx = context.WithoutCancel(ctx) // an interrupted statement would leave the shared connection in an unknown state
	if _, err := d.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	done := false
	defer func() {
		if !done { // f failed or panicked
			d.ExecContext(ctx, "ROLLBACK") //nolint:errcheck // nothing was promised
		}
	}()
	if err := f(&Tx{q: d}); err != nil {
		return err
	}
	if _, err := d.ExecContext(ctx, "COMMIT"); err != nil {
		return err
	}
	done = true
	return nil
}

// stmt prepares a statement once for the writer connection. Only the holder of the turn calls it.
func (d *sqliteDialect) stmt(ctx context.Context, query string) (*sql.Stmt, error) {
	if s, ok := d.stmts[query]; ok {
		return s, nil
	}
	s, err := d.conn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	if len(d.stmts) >= maxCachedStatements {
		for k, old := range d.stmts { // any one: the set of hot statements is far smaller than the cache
			old.Close()
			delete(d.stmts, k)
			break
		}
	}
	d.stmts[query] = s
	return s, nil
}

// ExecContext implements querier on the writer connection.
func (d *sqliteDialect) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	s, err := d.stmt(ctx, query)
	if err != nil {
		return nil, err
	}
	return s.ExecContext(ctx, args...)
}

// QueryContext implements querier on the writer connection.
func (d *sqliteDialect) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return d.conn.QueryContext(ctx, query, args...)
}

// QueryRowContext implements querier on the writer connection.
func (d *sqliteDialect) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return d.conn.QueryRowContext(ctx, query, args...)
}

func (d *sqliteDialect) retryable(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Code()&0xff == sqlite3.SQLITE_BUSY || e.Code()&0xff == sqlite3.SQLITE_LOCKED)
}

func (d *sqliteDialect) pipeline(context.Context) (Pipeline, error) {
	return &sqlitePipeline{d: d}, nil
}

// sqlitePipeline runs the committer's batches with prepared row statements (commit.md, 5.5).
type sqlitePipeline struct {
	d    *sqliteDialect
	open bool
}

func (p *sqlitePipeline) Begin(ctx context.Context, stmts []Statement) ([]int64, error) {
	if err := p.d.acquire(ctx); err != nil {
		return nil, err
	}
	p.open = true
	if _, err := p.d.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		p.open = false
		p.d.release()
		return nil, err
	}
	return p.run(ctx, stmts)
}

func (p *sqlitePipeline) run(ctx context.Context, stmts []Statement) ([]int64, error) {
	affected := make([]int64, len(stmts))
	for i, s := range stmts {
		r, err := p.d.ExecContext(ctx, s.SQL, s.Args...)
		if err != nil {
			return nil, &StatementError{Index: i, Statement: s, Err: err}
		}
		if affected[i], err = r.RowsAffected(); err != nil {
			return nil, err
		}
	}
	return affected, nil
}

func (p *sqlitePipeline) Run(ctx context.Context, stmts, returning []Statement) ([]int64, error) {
	if _, err := p.run(ctx, stmts); err != nil {
		return nil, err
	}
	out := make([]int64, len(returning))
	for i, s := range returning {
		stmt, err := p.d.stmt(ctx, s.SQL)
		if err != nil {
			return nil, err
		}
		if err := stmt.QueryRowContext(ctx, s.Args...).Scan(&out[i]); err != nil {
			return nil, &StatementError{Index: i, Statement: s, Err: err}
		}
	}
	return out, nil
}

func (p *sqlitePipeline) Commit(ctx context.Context, stmts []Statement) error {
	if _, err := p.run(ctx, stmts); err != nil {
		return err
	}
	if _, err := p.d.ExecContext(ctx, "COMMIT"); err != nil {
		return err
	}
	p.open = false
	p.d.release()
	return nil
}

func (p *sqlitePipeline) Rollback(ctx context.Context) error {
	if !p.open {
		return nil
	}
	_, err := p.d.ExecContext(ctx, "ROLLBACK")
	p.open = false
	p.d.release()
	return err
}

func (p *sqlitePipeline) Close(ctx context.Context) error { return p.Rollback(ctx) }

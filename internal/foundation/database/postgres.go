// SPDX-License-Identifier: Apache-2.0

package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// postgresDialect keeps one pool for reads and small writes; the committer has a connection of its own.
type postgresDialect struct {
	config *pgx.ConnConfig
	pool   *sql.DB
}

func openPostgres(ctx context.Context, o Options) (*DB, error) {
	config, err := pgx.ParseConfig(o.URL)
	if err != nil {
		return nil, fmt.Errorf("database URL: %w", err)
	}
	pool := stdlib.OpenDB(*config)
	readers := o.Readers
	if readers == 0 {
		readers = 8
	}
	pool.SetMaxOpenConns(readers)
	pool.SetMaxIdleConns(readers) // reconnecting costs a peer of ours five times the query
	if err := pool.PingContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to PostgreSQL: %w", err), pool.Close())
	}
	return &DB{dialect: &postgresDialect{config: config, pool: pool}, read: pool}, nil
}

func (d *postgresDialect) postgres() bool { return true }

func (d *postgresDialect) close() error { return nil } // the pool is the DB's read pool

func (d *postgresDialect) write(ctx context.Context, f func(*Tx) error) error {
	tx, err := d.pool.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it does nothing
	if err := f(&Tx{q: tx}); err != nil {
		return err
	}
	return tx.Commit()
}

func (d *postgresDialect) retryable(err error) bool {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code == "40001" || e.Code == "40P01"
	}
	return pgconn.SafeToRetry(err)
}

// IsNotText says whether PostgreSQL refused a text because it holds a null character (SQLSTATE 22021), which a JSON string of a caller may.
func IsNotText(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.Code == "22021"
}

func (d *postgresDialect) pipeline(ctx context.Context) (Pipeline, error) {
	p := &postgresPipeline{config: d.config}
	return p, p.connect(ctx)
}

// postgresPipeline is the committer's own connection with plans pinned: a plan cached while a table was nearly empty would otherwise be
// kept as it grows (commit.md, section 2).
type postgresPipeline struct {
	config *pgx.ConnConfig
	conn   *pgx.Conn
}

func (p *postgresPipeline) connect(ctx context.Context) error {
	config := p.config.Copy()
	for _, off := range []string{"enable_seqscan", "enable_hashjoin", "enable_mergejoin"} {
		config.RuntimeParams[off] = "off"
	}
	config.RuntimeParams["plan_cache_mode"] = "force_generic_plan"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("connect the committer: %w", err)
	}
	p.conn = conn
	return nil
}

func (p *postgresPipeline) Begin(ctx context.Context, stmts []Statement) ([]int64, error) {
	if p.conn.IsClosed() {
		if err := p.connect(ctx); err != nil {
			return nil, err
		}
	}
	affected, err := p.send(ctx, append([]Statement{{SQL: "BEGIN"}}, stmts...))
	if err != nil {
		return nil, p.lost(err)
	}
	return affected[1:], nil
}

// send runs statements in one pipeline and returns the rows each touched.
func (p *postgresPipeline) send(ctx context.Context, stmts []Statement) ([]int64, error) {
	batch := &pgx.Batch{}
	for _, s := range stmts {
		batch.Queue(s.SQL, s.Args...)
	}
	results := p.conn.SendBatch(ctx, batch)
	affected := make([]int64, len(stmts))
	for i := range stmts {
		tag, err := results.Exec()
		if err != nil {
			results.Close() //nolint:errcheck // the first error is the one that counts
			return nil, &StatementError{Index: i, Statement: stmts[i], Err: err}
		}
		affected[i] = tag.RowsAffected()
	}
	return affected, results.Close()
}

// lost marks an error that came with the end of the connection.
func (p *postgresPipeline) lost(err error) error {
	if p.conn.IsClosed() {
		return errors.Join(ErrConnectionLost, err)
	}
	return err
}

func (p *postgresPipeline) Run(ctx context.Context, stmts, returning []Statement) ([]int64, error) {
	batch := &pgx.Batch{}
	for _, s := range stmts {
		batch.Queue(s.SQL, s.Args...)
	}
	for _, s := range returning {
		batch.Queue(s.SQL, s.Args...)
	}
	results := p.conn.SendBatch(ctx, batch)
	defer results.Close() //nolint:errcheck // errors are met below
	for i, s := range stmts {
		if _, err := results.Exec(); err != nil {
			return nil, p.lost(&StatementError{Index: i, Statement: s, Err: err})
		}
	}
	out := make([]int64, len(returning))
	for i, s := range returning {
		if err := results.QueryRow().Scan(&out[i]); err != nil {
			return nil, p.lost(&StatementError{Index: i, Statement: s, Err: err})
		}
	}
	return out, nil
}

func (p *postgresPipeline) Commit(ctx context.Context, stmts []Statement) error {
	_, err := p.send(ctx, append(append(make([]Statement, 0, len(stmts)+1), stmts...), Statement{SQL: "COMMIT"}))
	if err != nil && p.conn.IsClosed() {
		return errors.Join(ErrCommitUnknown, err)
	}
	return err
}

func (p *postgresPipeline) Rollback(ctx context.Context) error {
	if p.conn == nil || p.conn.IsClosed() {
		return nil
	}
	_, err := p.conn.Exec(ctx, "ROLLBACK")
	return err
}

func (p *postgresPipeline) Close(ctx context.Context) error {
	if p.conn == nil {
		return nil
	}
	return p.conn.Close(ctx)
}

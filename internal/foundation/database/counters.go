// SPDX-License-Identifier: Apache-2.0

package database

import (
	"context"
	"sync/atomic"
)

// Counters are totals since the start, for metrics and for the tests that hold budgets (engine rule 34).
type Counters struct {
	// Queries were answered by the readers.
	Queries int64
	// Statements ran in write transactions, BEGIN and COMMIT not counted; Rows is how many rows they touched.
	Statements, Rows int64
}

type counters struct{ queries, statements, rows atomic.Int64 }

// Counters returns what the database has been asked so far.
func (db *DB) Counters() Counters {
	return Counters{db.counters.queries.Load(), db.counters.statements.Load(), db.counters.rows.Load()}
}

func (c *counters) wrote(statements int, rows int64) {
	c.statements.Add(int64(statements))
	c.rows.Add(rows)
}

// countedPipeline counts what a pipeline runs.
type countedPipeline struct {
	Pipeline
	counters *counters
}

func (p countedPipeline) Begin(ctx context.Context, stmts []Statement) ([]int64, error) {
	affected, err := p.Pipeline.Begin(ctx, stmts)
	var rows int64
	for _, n := range affected {
		rows += n
	}
	p.counters.wrote(len(stmts), rows)
	return affected, err
}

func (p countedPipeline) Run(ctx context.Context, stmts, returning []Statement) ([]int64, error) {
	p.counters.wrote(len(stmts)+len(returning), int64(len(stmts)+len(returning)))
	return p.Pipeline.Run(ctx, stmts, returning)
}

func (p countedPipeline) Commit(ctx context.Context, stmts []Statement) error {
	p.counters.wrote(len(stmts), int64(len(stmts)))
	return p.Pipeline.Commit(ctx, stmts)
}

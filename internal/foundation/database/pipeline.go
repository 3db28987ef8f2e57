// SPDX-License-Identifier: Apache-2.0

package database

import (
	"context"
	"errors"
	"fmt"
)

// Statement is one SQL statement with its arguments.
type Statement struct {
	SQL  string
	Args []any
}

// Pipeline is the committer's connection: a transaction in at most three round trips (commit.md, 5.5–5.9). It is used by one goroutine.
type Pipeline interface {
	// Begin opens a transaction, runs stmts and returns how many rows each touched.
	Begin(ctx context.Context, stmts []Statement) ([]int64, error)
	// Run runs stmts, then each returning statement, whose single integer it returns.
	Run(ctx context.Context, stmts, returning []Statement) ([]int64, error)
	// Commit runs stmts and commits. After an [ErrCommitUnknown] nobody knows whether it went through.
	Commit(ctx context.Context, stmts []Statement) error
	// Rollback ends an open transaction without trace; without one it does nothing.
	Rollback(ctx context.Context) error
	// Close gives the connection back.
	Close(ctx context.Context) error
}

// ErrCommitUnknown is answered by Commit when the connection was lost before the answer came.
var ErrCommitUnknown = errors.New("connection lost during COMMIT")

// ErrConnectionLost is answered by Begin and Run when the connection was lost: nothing was committed, and the whole may be tried again.
var ErrConnectionLost = errors.New("connection lost")

// StatementError says which statement of a batch failed, so that a log line names the culprit.
type StatementError struct {
	Index     int
	Statement Statement
	Err       error
}

// Error names the statement, never its arguments, which may hold content.
func (e *StatementError) Error() string { return fmt.Sprintf("%v (in %s)", e.Err, e.Statement.SQL) }

// Unwrap returns the driver's error.
func (e *StatementError) Unwrap() error { return e.Err }

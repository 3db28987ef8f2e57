// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/health/fhir"
)

// Store keeps and finds resources. It is safe for concurrent use.
type Store struct {
	db      *database.DB
	now     func() time.Time
	numbers atomic.Int64 // the newest number given to a resource
	entries catalogue
}

// number gives a new resource its number. Numbers grow with time, so that what is imported together lies together; nodes that write at once differ by
// the microsecond, and a clash would only fail one transaction.
func (s *Store) number() int64 {
	for {
		last := s.numbers.Load()
		next := max(last+1, time.Now().UnixMicro()<<11)
		if s.numbers.CompareAndSwap(last, next) {
			return next
		}
	}
}

// NewStore returns the directory's store; a nil clock is the system's.
func NewStore(db *database.DB, now func() time.Time) *Store {
	if now == nil {
		now = time.Now
	}
	return &Store{db: db, now: now}
}

// Entry is a resource to store and the Telematik-ID of whoever may change it.
type Entry struct {
	Resource *fhir.Resource
	Owner    string
	// By is the owner who makes the change, for the log; empty: the directory itself.
	By string
	// Quiet leaves a new resource out of the log: a first delivery is no change that anybody would look up.
	Quiet bool
}

// perTransaction bounds how many resources one transaction writes: the more of them, the fewer rows of the index are written again and again.
const perTransaction = 12_000

// Put stores resources under the ids they have, new ones and changed ones, and indexes every entry that they are part of. A resource that carries
// the version it was read at (meta.versionId) is refused with 409 when another one has been stored since. References among them
// may point forward.
func (s *Store) Put(ctx context.Context, entries ...Entry) error {
	for len(entries) > 0 {
		n := min(perTransaction, len(entries))
		if err := s.db.Write(ctx, func(tx *database.Tx) error {
			return s.writer(tx).change(ctx, entries[:n], nil)
		}); err != nil {
			return err
		}
		entries = entries[n:]
	}
	return nil
}

// Get reads a resource by "Type/id". It answers nil where there is none, and the owner's Telematik-ID.
func (s *Store) Get(ctx context.Context, reference string) (r *fhir.Resource, owner string, err error) {
	if !fhir.IsReference(reference) {
		return nil, "", nil
	}
	kind, id, _ := strings.Cut(reference, "/")
	return scanOne(s.db.QueryRow(ctx, "SELECT json, owner FROM directory_resource WHERE type = $1 AND id = $2", kind, id))
}

// Owned lists the resources of a type that a Telematik-ID owns, by id.
func (s *Store) Owned(ctx context.Context, owner, kind string) ([]*fhir.Resource, error) {
	if !fhir.IsReference(kind + "/x") {
		return nil, nil
	}
	rows, err := s.db.Query(ctx, "SELECT json FROM directory_resource WHERE owner = $1 AND type = $2 ORDER BY id LIMIT 100", owner, kind)
	return database.All(rows, err, func(rows *sql.Rows) (*fhir.Resource, error) {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		return fhir.Parse([]byte(text))
	})
}

func scanOne(row *sql.Row) (*fhir.Resource, string, error) {
	var text, owner string
	err := row.Scan(&text, &owner)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("directory: %w", err)
	}
	r, err := fhir.Parse([]byte(text))
	return r, owner, err
}

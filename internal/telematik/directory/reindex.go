// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/konsil-health/konsil/internal/foundation/database"
)

// reindexed is how many entries one transaction of [Store.Prepare] indexes.
const reindexed = 3000

// Prepare indexes what was stored by an older program, and reads the entries, so that the first search need not wait. Searches work without it, but do
// not find what an older program has stored.
func (s *Store) Prepare(ctx context.Context) error {
	if err := s.renew(ctx); err != nil {
		return fmt.Errorf("directory: the index's format: %w", err)
	}
	for done := false; !done; {
		err := s.db.Write(ctx, func(tx *database.Tx) error {
			var err error
			done, err = s.writer(tx).catchUp(ctx)
			return err
		})
		if err != nil {
			return err
		}
	}
	_, err := s.entries.refresh(ctx, s.db)
	return err
}

// renew empties an index of another format and notes that all entries have to be indexed.
func (s *Store) renew(ctx context.Context) error {
	var format int64
	if err := s.db.QueryRow(ctx, "SELECT format FROM directory_clock WHERE one = 1").Scan(&format); err != nil || format == indexFormat || format == 0 {
		return err
	}
	return s.db.Write(ctx, func(tx *database.Tx) error {
		for _, statement := range []string{
			"DELETE FROM directory_posting", "DELETE FROM directory_text", "DELETE FROM directory_unindexed",
			"INSERT INTO directory_unindexed (nid) SELECT nid FROM directory_resource WHERE type IN ('PractitionerRole', 'HealthcareService', 'Endpoint')",
		} {
			if _, err := tx.Exec(ctx, statement); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, "UPDATE directory_clock SET format = $1 WHERE one = 1", indexFormat)
		return err
	})
}

// catchUp indexes some of the entries that are not yet, and says whether none are left.
func (w *writer) catchUp(ctx context.Context) (done bool, err error) {
	rows, err := w.tx.Query(ctx, fmt.Sprintf("SELECT u.nid, r.type, r.id FROM directory_unindexed u LEFT JOIN directory_resource r ON r.nid = u.nid ORDER BY u.nid LIMIT %d", reindexed))
	var roots []string
	var last int64
	_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
		var kind, id sql.NullString
		err := rows.Scan(&last, &kind, &id)
		if kind.Valid {
			roots = append(roots, kind.String+"/"+id.String)
		}
		return struct{}{}, err
	})
	if err != nil || last == 0 {
		return err == nil, err
	}
	if err := w.lock(ctx); err != nil {
		return false, err
	}
	if err := w.reindex(ctx, roots, true); err != nil {
		return false, err
	}
	if err := w.flush(ctx); err != nil {
		return false, err
	}
	_, err = w.tx.Exec(ctx, "DELETE FROM directory_unindexed WHERE nid <= $1", last)
	return false, err
}

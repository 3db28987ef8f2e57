// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
)

// TestPurgeConsidersEveryTable: a table that names a room, or hangs on what does, says what a purge makes of it.
func TestPurgeConsidersEveryTable(t *testing.T) {
	t.Parallel()
	db := databasetest.Open(t, databasetest.SQLite(t))
	rows, err := db.Query(context.Background(), `SELECT DISTINCT m.name FROM sqlite_master m JOIN pragma_table_info(m.name) p
		WHERE m.type = 'table' AND (p.name IN ('room', 'room_id') OR p.name LIKE '%snapshot%' AND m.name <> 'room_head' OR m.name = 'redaction')`)
	tables, err := database.All(rows, err, database.Column[string])
	if err != nil {
		t.Fatal(err)
	}
	if len(tables) < 25 {
		t.Fatalf("only %d tables name a room: the test looks in the wrong place", len(tables))
	}
	considered := slices.Concat(purgedByRoom, purgedByName, purgedApart)
	for table := range keptAfterPurge {
		considered = append(considered, table)
	}
	for _, table := range tables {
		if !slices.Contains(considered, table) {
			t.Errorf("table %s names a room; purge.go does not say what becomes of its rows", table)
		}
	}
	for _, table := range considered {
		if !slices.Contains(tables, table) {
			t.Errorf("purge.go names table %s, which names no room", table)
		}
	}
}

// LeftOf counts the rows that a purge should have removed, by table.
func LeftOf(ctx context.Context, db *database.DB, r *Room) (map[string]int, error) {
	out := map[string]int{}
	count := func(table, query string, arg any) error {
		var n int
		err := db.QueryRow(ctx, query, arg).Scan(&n)
		if n > 0 {
			out[table] = n
		}
		return err
	}
	for _, table := range slices.Concat(purgedByRoom, []string{"event", "snapshot", "room_head", "room", "room_purge"}) {
		if err := count(table, "SELECT COUNT(*) FROM "+table+" WHERE room = $1", r.NID); err != nil {
			return nil, err
		}
	}
	for _, table := range purgedByName {
		if err := count(table, "SELECT COUNT(*) FROM "+table+" WHERE room_id = $1", string(r.ID)); err != nil {
			return nil, err
		}
	}
	if err := count("account_data", "SELECT COUNT(*) FROM account_data WHERE room = $1", string(r.ID)); err != nil {
		return nil, err
	}
	for table, query := range map[string]string{
		"snapshot_entry": "SELECT COUNT(*) FROM snapshot_entry e WHERE NOT EXISTS (SELECT 1 FROM snapshot s WHERE s.tenant = e.tenant AND s.snapshot = e.snapshot)",
		"redaction":      "SELECT COUNT(*) FROM redaction e WHERE NOT EXISTS (SELECT 1 FROM event_id s WHERE s.tenant = e.tenant AND s.event_id = e.redacts)",
	} {
		var n int
		if err := db.QueryRow(ctx, query).Scan(&n); err != nil && !strings.Contains(err.Error(), sql.ErrNoRows.Error()) {
			return nil, err
		}
		if n > 0 {
			out[table] = n
		}
	}
	return out, nil
}

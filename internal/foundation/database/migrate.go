// SPDX-License-Identifier: Apache-2.0

package database

import (
	"context"
	"embed"
	"fmt"
	"sort"
	"strconv"
	"strings"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migration is one numbered step of the schema.
type migration struct {
	number int64
	name   string
	sql    string
}

// migrations lists the steps in order. Numbers may have gaps while slices are built side by side; they are applied in ascending order and
// each exactly once.
func migrations() ([]migration, error) {
	entries, err := migrationFiles.ReadDir("migrations")
	if err != nil {
		return nil, err
	}
	var list []migration
	for _, e := range entries {
		number, err := strconv.ParseInt(strings.SplitN(e.Name(), "_", 2)[0], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("migration %s: its name begins with no number", e.Name())
		}
		text, err := migrationFiles.ReadFile("migrations/" + e.Name())
		if err != nil {
			return nil, err
		}
		list = append(list, migration{number, e.Name(), string(text)})
	}
	sort.Slice(list, func(i, j int) bool { return list[i].number < list[j].number })
	for i := 1; i < len(list); i++ {
		if list[i].number == list[i-1].number {
			return nil, fmt.Errorf("migrations %s and %s have the same number", list[i-1].name, list[i].name)
		}
	}
	return list, nil
}

// migrate applies what is outstanding in one transaction under a lock, so that nodes starting together do not step on each other and a
// failed step leaves the schema as it was.
func (db *DB) migrate(ctx context.Context) error {
	list, err := migrations()
	if err != nil {
		return err
	}
	return db.Write(ctx, func(tx *Tx) error {
		if db.Postgres() {
			if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtext(current_schema()))"); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, "CREATE TABLE IF NOT EXISTS migration (number BIGINT PRIMARY KEY, name TEXT NOT NULL)"); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, "SELECT number FROM migration")
		applied, err := All(rows, err, Column[int64])
		if err != nil {
			return err
		}
		done := make(map[int64]bool, len(applied))
		for _, n := range applied {
			done[n] = true
		}
		for _, m := range list {
			if done[m.number] {
				continue
			}
			for _, statement := range split(m.sql) {
				if _, err := tx.Exec(ctx, statement); err != nil {
					return fmt.Errorf("migration %s: %w (in %s)", m.name, err, statement)
				}
			}
			if _, err := tx.Exec(ctx, "INSERT INTO migration (number, name) VALUES ($1, $2)", m.number, m.name); err != nil {
				return err
			}
		}
		return nil
	})
}

// split cuts a migration into statements: a semicolon at the end of a line ends one; lines that begin with -- are comments.
func split(text string) []string {
	var out []string
	var b strings.Builder
	for line := range strings.Lines(text) {
		trimmed := strings.TrimSpace(line)
		if trimmed == "" || strings.HasPrefix(trimmed, "--") {
			continue
		}
		if head, ok := strings.CutSuffix(trimmed, ";"); ok {
			b.WriteString(head)
			out = append(out, b.String())
			b.Reset()
			continue
		}
		b.WriteString(trimmed)
		b.WriteByte('\n')
	}
	if strings.TrimSpace(b.String()) != "" {
		out = append(out, b.String())
	}
	return out
}

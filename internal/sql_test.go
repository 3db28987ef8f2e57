// SPDX-License-Identifier: Apache-2.0

package internal_test

import (
	"context"
	"database/sql"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
)

// tables reads the schema as the migrations make it: each table with the columns of its primary key in order.
func tables(t *testing.T) map[string][]string {
	t.Helper()
	ctx := context.Background()
	db := databasetest.Open(t, databasetest.SQLite(t))
	rows, err := db.Query(ctx, "SELECT m.name, p.name FROM sqlite_master m JOIN pragma_table_info(m.name) p WHERE m.type = 'table' AND p.pk > 0 AND m.sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY m.name, p.pk")
	out := map[string][]string{}
	_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
		var table, column string
		err := rows.Scan(&table, &column)
		out[table] = append(out[table], column)
		return struct{}{}, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestEveryTableBelongsToATenant: engine rule 33.
func TestEveryTableBelongsToATenant(t *testing.T) {
	t.Parallel()
	for table, key := range tables(t) {
		_, shared := database.SharedTables[table]
		if key[0] != "tenant" && !shared && !strings.Contains(table, "_fts") {
			t.Errorf("table %s: its primary key %v does not begin with tenant, and database.SharedTables gives no reason why", table, key)
		}
	}
}

// named finds the tables that a statement reads or writes.
var named = regexp.MustCompile(`(?i)\b(?:FROM|JOIN|INTO|UPDATE)\s+([a-z_]+)\b`)

// TestEveryStatementNamesItsTenant reads every SQL text in the code: one on a tenant's table compares or sets the column tenant. It cannot
// prove that the value is the right one; the walk over all routes with another tenant's token does that.
func TestEveryStatementNamesItsTenant(t *testing.T) {
	t.Parallel()
	owned := map[string]bool{}
	for table, key := range tables(t) {
		owned[table] = key[0] == "tenant"
	}
	seen := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			text, ok := literal(n)
			if !ok {
				return true
			}
			for _, m := range named.FindAllStringSubmatch(text, -1) {
				if !owned[m[1]] || !statement(text) || unfinished(text) {
					continue
				}
				seen++
				if !strings.Contains(text, "tenant") {
					t.Errorf("%s: a statement on %s without its tenant: %s", fset.Position(n.Pos()), m[1], text)
				}
			}
			return false // the parts of a concatenation have been read with it
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 50 {
		t.Fatalf("only %d statements found: the test looks in the wrong place", seen)
	}
}

// statement says whether a text is SQL rather than prose that has "from" in it.
var statement = regexp.MustCompile(`^\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b`).MatchString

// unfinished says whether a text is the head of statements that are completed, with their condition, where they are used.
func unfinished(text string) bool {
	return strings.HasSuffix(text, " ") && !strings.Contains(text, "WHERE")
}

// literal returns the text of a string literal or of a concatenation of some; what is not literal in it is left out.
func literal(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.BasicLit:
		if n.Kind != token.STRING {
			return "", false
		}
		s, err := strconv.Unquote(n.Value)
		return s, err == nil
	case *ast.BinaryExpr:
		if n.Op != token.ADD {
			return "", false
		}
		x, okX := literal(n.X)
		y, okY := literal(n.Y)
		return x + y, okX || okY
	}
	return "", false
}

// session finds what rests on one session of the database: notifications and locks that outlive their transaction (engine rule 8). Behind a pooler the
// next statement may run in another one.
var session = regexp.MustCompile(`(?i)^\s*(LISTEN|UNLISTEN|NOTIFY)\s+[a-z_"]+\s*(,|;|$)|\bpg_notify\s*\(|\bpg_(try_)?advisory_(lock|unlock)`)

// TestNothingRestsOnASession: engine rule 8, in the code's statements and in the migrations.
func TestNothingRestsOnASession(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{"LISTEN changes": true, "notify changes, 'x'": true, "SELECT pg_notify($1, $2)": true, "SELECT pg_try_advisory_lock(1)": true,
		"SELECT pg_advisory_xact_lock(1)": false, "listen on 127.0.0.1": false, "notify": false} {
		if session.MatchString(text) != want {
			t.Errorf("%q: rests on a session: %v", text, !want)
		}
	}
	seen := 0
	check := func(where, text string) {
		seen++
		if session.MatchString(text) {
			t.Errorf("%s: a statement that rests on its session: %s", where, text)
		}
	}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, "_test.go") {
			return err
		}
		switch filepath.Ext(path) {
		case ".sql":
			text, err := os.ReadFile(path)
			for _, statement := range strings.SplitAfter(string(text), ";") {
				check(path, statement)
			}
			return err
		case ".go":
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if text, ok := literal(n); ok {
					check(fset.Position(n.Pos()).String(), text)
				}
				return true
			})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 1000 {
		t.Fatalf("only %d texts found: the test looks in the wrong place", seen)
	}
}

// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
)

// place is where one server of a bench keeps its data: a folder, and on PostgreSQL a schema of its own.
type place struct {
	folder string
	// url is the database as Konsil's configuration names it.
	url    string
	server string // the PostgreSQL server, empty on SQLite
	schema string
}

// newPlace makes an empty place; the caller removes it.
func newPlace(ctx context.Context, o Options) (*place, error) {
	folder, err := os.MkdirTemp(o.Folder, "konsil-bench-")
	if err != nil {
		return nil, err
	}
	p := &place{folder: folder, url: "sqlite:" + filepath.Join(folder, "konsil.db")}
	if o.Database == "sqlite" {
		return p, nil
	}
	name := make([]byte, 6)
	rand.Read(name)
	p.server, p.schema = o.Postgres, "konsil_bench_"+hex.EncodeToString(name)
	u, err := url.Parse(o.Postgres)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("PostgreSQL server: %w", err), os.RemoveAll(folder))
	}
	q := u.Query()
	q.Set("search_path", p.schema)
	u.RawQuery = q.Encode()
	p.url = u.String()
	if err := p.sql(ctx, "CREATE SCHEMA "+p.schema); err != nil {
		return nil, errors.Join(err, os.RemoveAll(folder))
	}
	return p, nil
}

// sql runs one statement on the PostgreSQL server.
func (p *place) sql(ctx context.Context, statement string) error {
	conn, err := pgx.Connect(ctx, p.server)
	if err != nil {
		return fmt.Errorf("PostgreSQL server: %w", err)
	}
	_, err = conn.Exec(ctx, statement)
	return errors.Join(err, conn.Close(ctx))
}

// remove deletes everything, also after the bench's context has ended.
func (p *place) remove() error {
	var err error
	if p.schema != "" {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err = p.sql(ctx, "DROP SCHEMA "+p.schema+" CASCADE")
	}
	return errors.Join(err, os.RemoveAll(p.folder))
}

// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"database/sql"
	"errors"
	"hash/maphash"
	"sync"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Settings are copies of people's permission configurations: an invitation comes from somebody else, whose token cannot read them. They are made when
// somebody is first seen, every few minutes while somebody is there, and whenever somebody changes the original.
type Settings struct {
	db    *database.DB
	seed  maphash.Seed
	turns [64]sync.Mutex // so that of two copies of one user's the later one stays
}

// NewSettings returns the settings kept in a database.
func NewSettings(db *database.DB) *Settings { return &Settings{db: db, seed: maphash.MakeSeed()} }

// AccountData answers what permission asks, whose type is that of the tenant's configuration always.
func (s *Settings) AccountData(ctx context.Context, t tenant.ID, user id.User, _ string) (content jsontext.Value, found bool, err error) {
	var text string
	err = s.db.QueryRow(ctx, "SELECT content FROM proxy_permission WHERE tenant = $1 AND user_id = $2", int64(t), string(user)).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, false, nil
	}
	return jsontext.Value(text), err == nil, err
}

// update keeps what read returns of the original; "" is none.
func (s *Settings) update(ctx context.Context, t tenant.ID, user id.User, read func() (string, error)) error {
	turn := &s.turns[maphash.String(s.seed, string(user))%uint64(len(s.turns))]
	turn.Lock()
	defer turn.Unlock()
	content, err := read()
	if err != nil {
		return err
	}
	kept, found, err := s.AccountData(ctx, t, user, "")
	if err != nil || found == (content != "") && string(kept) == content {
		return err
	}
	if content == "" {
		_, err = s.db.Exec(ctx, "DELETE FROM proxy_permission WHERE tenant = $1 AND user_id = $2", int64(t), string(user))
		return err
	}
	_, err = s.db.Exec(ctx, `INSERT INTO proxy_permission (tenant, user_id, content) VALUES ($1, $2, $3)
		ON CONFLICT (tenant, user_id) DO UPDATE SET content = excluded.content`, int64(t), string(user), content)
	return err
}

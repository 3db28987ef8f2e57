// SPDX-License-Identifier: Apache-2.0

package media

import (
	"context"
	"database/sql"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// errQuarantined is answered for what an administrator has taken out of sight.
var errQuarantined = mxerror.New(404, "M_NOT_FOUND", "This media has been taken out of sight by an administrator")

// Stored is a file of a user's, for administrators. Times are ms since the epoch; QuarantinedBy is empty for what is in sight.
type Stored struct {
	ID                    string
	ContentType, FileName string
	Size                  int64
	Created, Accessed     int64
	QuarantinedBy         id.User
}

// storedOrders are the columns to sort by.
var storedOrders = map[string]string{"": "m.created", "created_ts": "m.created", "last_access_ts": "m.accessed", "media_id": "m.media_id",
	"media_length": "m.size", "media_type": "m.content_type", "upload_name": "m.file_name", "quarantined_by": "quarantined_by", "safe_from_quarantine": "m.media_id"}

// OfUser lists what a user has uploaded and says how much there is in all. Error: M_INVALID_PARAM for an unknown order.
func (s *Service) OfUser(ctx context.Context, t tenant.ID, user id.User, order string, backwards bool, from, limit int) (list []Stored, total int64, err error) {
	column, ok := storedOrders[order]
	if !ok {
		return nil, 0, mxerror.InvalidParam.With("%q is nothing to order by", order)
	}
	if backwards {
		column += " DESC"
	}
	err = s.db.QueryRow(ctx, "SELECT COUNT(*) FROM media WHERE tenant = $1 AND user_id = $2 AND origin = '' AND hash <> ''", int64(t), string(user)).Scan(&total)
	if err != nil {
		return nil, 0, err
	}
	rows, err := s.db.Query(ctx, `SELECT m.media_id, m.content_type, m.file_name, m.size, m.created, m.accessed, COALESCE(q.user_id, '') AS quarantined_by
		FROM media m LEFT JOIN media_quarantine q ON q.tenant = m.tenant AND q.origin = m.origin AND q.media_id = m.media_id
		WHERE m.tenant = $1 AND m.user_id = $2 AND m.origin = '' AND m.hash <> '' ORDER BY `+column+`, m.media_id LIMIT $3 OFFSET $4`,
		int64(t), string(user), limit, from)
	list, err = database.All(rows, err, func(rows *sql.Rows) (m Stored, err error) {
		return m, rows.Scan(&m.ID, &m.ContentType, &m.FileName, &m.Size, &m.Created, &m.Accessed, &m.QuarantinedBy)
	})
	return list, total, err
}

// Delete deletes one of the tenant's own media with its thumbnails; content that another upload shares stays for that. Error: M_NOT_FOUND.
func (s *Service) Delete(ctx context.Context, t tenant.ID, media string) error {
	var hash string
	var files []string
	key := []any{int64(t), media}
	err := s.db.Write(ctx, func(tx *database.Tx) error {
		rows, err := tx.Query(ctx, "SELECT hash FROM media_thumbnail WHERE tenant = $1 AND origin = '' AND media_id = $2", key...)
		if files, err = database.All(rows, err, database.Column[string]); err != nil {
			return err
		}
		rows, err = tx.Query(ctx, "SELECT hash FROM media WHERE tenant = $1 AND origin = '' AND media_id = $2", key...)
		found, err := database.All(rows, err, database.Column[string])
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return errNotFound
		}
		hash = found[0]
		for _, table := range []string{"media_thumbnail", "media_quarantine", "media"} {
			if _, err := tx.Exec(ctx, "DELETE FROM "+table+" WHERE tenant = $1 AND origin = '' AND media_id = $2", key...); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || hash == "" {
		return err
	}
	for _, name := range append(files, hash) {
		known, err := s.known(ctx, t, name)
		if err == nil && !known {
			err = s.blobs.remove(ctx, t, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Quarantine takes media out of sight; origin is empty for the tenant's own. An empty by brings it back.
func (s *Service) Quarantine(ctx context.Context, t tenant.ID, origin id.Server, media string, by id.User) error {
	if by == "" {
		_, err := s.db.Exec(ctx, "DELETE FROM media_quarantine WHERE tenant = $1 AND origin = $2 AND media_id = $3", int64(t), string(origin), media)
		return err
	}
	_, err := s.db.Exec(ctx, `INSERT INTO media_quarantine (tenant, origin, media_id, user_id) VALUES ($1, $2, $3, $4)
		ON CONFLICT (tenant, origin, media_id) DO NOTHING`, int64(t), string(origin), media, string(by))
	return err
}

// QuarantineOfUser takes all of a user's media out of sight and says how much that was.
func (s *Service) QuarantineOfUser(ctx context.Context, t tenant.ID, user, by id.User) (int64, error) {
	return s.db.Exec(ctx, `INSERT INTO media_quarantine (tenant, origin, media_id, user_id)
		SELECT tenant, origin, media_id, CAST($3 AS TEXT) FROM media WHERE tenant = $1 AND user_id = $2 AND origin = ''
		ON CONFLICT (tenant, origin, media_id) DO NOTHING`, int64(t), string(user), string(by))
}

// inSight refuses what is in quarantine.
func (s *Service) inSight(ctx context.Context, t tenant.ID, origin, media string) error {
	var n int64
	err := s.db.QueryRow(ctx, "SELECT COUNT(*) FROM media_quarantine WHERE tenant = $1 AND origin = $2 AND media_id = $3", int64(t), origin, media).Scan(&n)
	if err == nil && n > 0 {
		err = errQuarantined
	}
	return err
}

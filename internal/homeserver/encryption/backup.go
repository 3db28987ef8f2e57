// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"context"
	"database/sql"
	"errors"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

var errNoBackup = mxerror.NotFound.With("there is no such backup")

type backupRequest struct {
	Algorithm string         `json:"algorithm"`
	AuthData  jsontext.Value `json:"auth_data"`
	Version   string         `json:"version"`
}

func (q *backupRequest) check() error {
	switch {
	case q.Algorithm == "":
		return mxerror.MissingParam.With("algorithm is missing")
	case len(q.AuthData) == 0:
		return mxerror.MissingParam.With("auth_data is missing")
	case q.AuthData.Kind() != '{':
		return mxerror.BadJSON.With("auth_data must be an object")
	}
	return nil
}

type versionReply struct {
	Version string `json:"version"`
}

type backupReply struct {
	Algorithm string         `json:"algorithm"`
	AuthData  jsontext.Value `json:"auth_data"`
	Count     int64          `json:"count"`
	ETag      string         `json:"etag"`
	Version   string         `json:"version"`
}

// backup is one version of a user's backup.
type backup struct {
	version   int64
	algorithm string
	authData  string
	etag      int64
	deleted   bool
}

// rowQuery is a reader, inside or outside a transaction.
type rowQuery interface {
	QueryRow(ctx context.Context, query string, args ...any) *sql.Row
}

const selectBackup = "SELECT version, algorithm, auth_data, etag, deleted FROM key_backup WHERE tenant = $1 AND user_id = $2 AND "

func readBackup(row *sql.Row) (backup, error) {
	var b backup
	err := row.Scan(&b.version, &b.algorithm, &b.authData, &b.etag, &b.deleted)
	if errors.Is(err, sql.ErrNoRows) {
		return b, errNoBackup
	}
	return b, err
}

// currentBackup is the newest version that has not been deleted.
func currentBackup(ctx context.Context, q rowQuery, t tenant.ID, user id.User) (backup, error) {
	return readBackup(q.QueryRow(ctx, selectBackup+"NOT deleted ORDER BY version DESC LIMIT 1", int64(t), string(user)))
}

// backupVersion is the one that a version text names; a deleted one is returned with its mark.
func backupVersion(ctx context.Context, q rowQuery, t tenant.ID, user id.User, version string) (backup, error) {
	n, err := strconv.ParseInt(version, 10, 64)
	if err != nil {
		return backup{}, errNoBackup
	}
	return readBackup(q.QueryRow(ctx, selectBackup+"version = $3", int64(t), string(user), n))
}

func (s *Service) createBackup(ctx context.Context, r *httpapi.Request) (any, error) {
	var q backupRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if err := q.check(); err != nil {
		return nil, err
	}
	t, user := r.Tenant.ID, r.Session.User
	var version int64
	// Numbers go up and are never given twice; two devices that create at once meet on the primary key and the later one tries again.
	for range 5 {
		err := s.db.QueryRow(ctx, "SELECT COALESCE(MAX(version), 0) + 1 FROM key_backup WHERE tenant = $1 AND user_id = $2", int64(t), string(user)).Scan(&version)
		if err != nil {
			return nil, err
		}
		n, err := s.db.Exec(ctx, `INSERT INTO key_backup (tenant, user_id, version, algorithm, auth_data, etag, deleted) VALUES ($1, $2, $3, $4, $5, 0, FALSE)
			ON CONFLICT DO NOTHING`, int64(t), string(user), version, q.Algorithm, string(q.AuthData))
		if err != nil {
			return nil, err
		}
		if n == 1 {
			return versionReply{strconv.FormatInt(version, 10)}, nil
		}
	}
	return nil, mxerror.Unknown.With("too many devices create a backup at once")
}

func (s *Service) getBackup(ctx context.Context, r *httpapi.Request) (any, error) {
	var b backup
	var err error
	if version := r.Var("version"); version == "" {
		b, err = currentBackup(ctx, s.db, r.Tenant.ID, r.Session.User)
	} else {
		b, err = backupVersion(ctx, s.db, r.Tenant.ID, r.Session.User, version)
	}
	if err == nil && b.deleted {
		err = errNoBackup
	}
	if err != nil {
		return nil, err
	}
	count, err := countSessions(ctx, s.db, r.Tenant.ID, r.Session.User, b.version)
	return backupReply{b.algorithm, jsontext.Value(b.authData), count, strconv.FormatInt(b.etag, 10), strconv.FormatInt(b.version, 10)}, err
}

func countSessions(ctx context.Context, q rowQuery, t tenant.ID, user id.User, version int64) (n int64, err error) {
	err = q.QueryRow(ctx, "SELECT COUNT(*) FROM key_backup_session WHERE tenant = $1 AND user_id = $2 AND version = $3", int64(t), string(user), version).Scan(&n)
	return n, err
}

func (s *Service) putBackup(ctx context.Context, r *httpapi.Request) (any, error) {
	var q backupRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if err := q.check(); err != nil {
		return nil, err
	}
	if q.Version != "" && q.Version != r.Var("version") {
		return nil, mxerror.InvalidParam.With("the version in the body is not the one in the path")
	}
	b, err := backupVersion(ctx, s.db, r.Tenant.ID, r.Session.User, r.Var("version"))
	if err == nil && b.deleted {
		err = errNoBackup
	}
	if err != nil {
		return nil, err
	}
	if b.algorithm != q.Algorithm {
		return nil, mxerror.InvalidParam.With("the algorithm of a backup cannot be changed")
	}
	_, err = s.db.Exec(ctx, "UPDATE key_backup SET auth_data = $4 WHERE tenant = $1 AND user_id = $2 AND version = $3",
		int64(r.Tenant.ID), string(r.Session.User), b.version, string(q.AuthData))
	return nil, err
}

func (s *Service) deleteBackup(ctx context.Context, r *httpapi.Request) (any, error) {
	b, err := backupVersion(ctx, s.db, r.Tenant.ID, r.Session.User, r.Var("version"))
	if err != nil {
		return nil, err
	}
	key := []any{int64(r.Tenant.ID), string(r.Session.User), b.version}
	return nil, s.db.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE key_backup SET deleted = TRUE, auth_data = '{}' WHERE tenant = $1 AND user_id = $2 AND version = $3", key...); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "DELETE FROM key_backup_session WHERE tenant = $1 AND user_id = $2 AND version = $3", key...)
		return err
	})
}

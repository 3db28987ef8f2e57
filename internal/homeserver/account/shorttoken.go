// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// The kinds of short-lived tokens. Each is looked up only under its own kind.
const (
	kindLogin  = "login"
	kindOpenID = "openid"
	kindNonce  = "nonce"
)

// openIDLife is how long an OpenID token may be exchanged.
const openIDLife = time.Hour

// putShortToken stores a token's hash and drops what has expired of its kind, so that nothing needs a sweeper.
func (s *Service) putShortToken(ctx context.Context, t tenant.ID, kind, token string, user id.User, life time.Duration) error {
	now := s.now()
	return s.db.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM short_token WHERE tenant = $1 AND kind = $2 AND expires < $3", int64(t), kind, now); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO short_token (tenant, kind, hash, user_id, expires) VALUES ($1, $2, $3, $4, $5)",
			int64(t), kind, hashToken(token), string(user), now+life.Milliseconds())
		return err
	})
}

// takeShortToken uses a token up and returns whom it stands for, or M_FORBIDDEN.
func (s *Service) takeShortToken(ctx context.Context, t tenant.ID, kind, token string) (id.User, error) {
	var user id.User
	err := s.db.Write(ctx, func(tx *database.Tx) error {
		err := tx.QueryRow(ctx, "DELETE FROM short_token WHERE tenant = $1 AND kind = $2 AND hash = $3 AND expires >= $4 RETURNING user_id",
			int64(t), kind, hashToken(token), s.now()).Scan(&user)
		if errors.Is(err, sql.ErrNoRows) {
			return mxerror.Forbidden.With("unknown or expired token")
		}
		return err
	})
	return user, err
}

type openIDReply struct {
	AccessToken string    `json:"access_token"`
	TokenType   string    `json:"token_type"`
	Server      id.Server `json:"matrix_server_name"`
	ExpiresIn   int64     `json:"expires_in"` // seconds
}

func (s *Service) requestOpenIDToken(ctx context.Context, r *httpapi.Request) (any, error) {
	var unused map[string]jsontext.Value // the specification reserves an object
	if err := r.DecodeOptional(&unused); err != nil {
		return nil, err
	}
	if _, err := ownUser(r); err != nil {
		return nil, err
	}
	token := httpapi.NewToken(httpapi.OpenIDToken, r.Tenant.ID)
	if err := s.putShortToken(ctx, r.Tenant.ID, kindOpenID, token, r.Session.User, openIDLife); err != nil {
		return nil, err
	}
	return openIDReply{token, "Bearer", r.Tenant.Name, int64(openIDLife.Seconds())}, nil
}

// OpenIDUser returns whom an OpenID token of the tenant stands for (server-server API, "OpenID"), or M_UNKNOWN_TOKEN. It may be asked any
// number of times while the token lives.
func (s *Service) OpenIDUser(ctx context.Context, t tenant.ID, token string) (id.User, error) {
	var user id.User
	err := s.db.QueryRow(ctx, `SELECT k.user_id FROM short_token k JOIN account a ON a.tenant = k.tenant AND a.user_id = k.user_id
		WHERE k.tenant = $1 AND k.kind = $2 AND k.hash = $3 AND k.expires >= $4 AND NOT a.deactivated AND NOT a.locked`,
		int64(t), kindOpenID, hashToken(token), s.now()).Scan(&user)
	if errors.Is(err, sql.ErrNoRows) {
		return "", mxerror.UnknownToken.With("unknown or expired OpenID token")
	}
	return user, err
}

// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// botToken marks bots' credentials, which stand in the field of a password.
const botToken = 'b'

// maxBotName bounds the name of a credential in characters.
const maxBotName = 100

// BotCredential is what a bot signs in with where passwords alone do not count. The secret itself is shown once, when it is issued.
type BotCredential struct {
	ID      string
	User    id.User
	Name    string
	Issuer  id.User // the administrator
	Created int64   // ms since the epoch
	Revoked int64   // the same; 0 while it counts
}

// IssueBotCredential makes a credential for an account and returns its id and the secret.
func (s *Service) IssueBotCredential(ctx context.Context, t *tenant.Tenant, user, issuer id.User, name string) (credential, secret string, err error) {
	if name = strings.TrimSpace(name); name == "" || len([]rune(name)) > maxBotName {
		return "", "", mxerror.InvalidParam.With("a credential needs a name of at most %d characters", maxBotName)
	}
	credential, secret = rand.Text(), httpapi.NewToken(botToken, t.ID)
	_, err = s.db.Exec(ctx, "INSERT INTO bot_credential (tenant, id, user_id, name, hash, issuer, created, revoked) VALUES ($1, $2, $3, $4, $5, $6, $7, 0)",
		int64(t.ID), credential, string(user), name, hashToken(secret), string(issuer), s.now())
	return credential, secret, err
}

// BotCredentials lists those of an account, the newest first.
func (s *Service) BotCredentials(ctx context.Context, t tenant.ID, user id.User) ([]BotCredential, error) {
	rows, err := s.db.Query(ctx, "SELECT id, user_id, name, issuer, created, revoked FROM bot_credential WHERE tenant = $1 AND user_id = $2 ORDER BY created DESC, id", int64(t), string(user))
	return database.All(rows, err, scanBotCredential)
}

// AllBotCredentials lists those of a tenant, the newest first.
func (s *Service) AllBotCredentials(ctx context.Context, t tenant.ID) ([]BotCredential, error) {
	rows, err := s.db.Query(ctx, "SELECT id, user_id, name, issuer, created, revoked FROM bot_credential WHERE tenant = $1 ORDER BY created DESC, id", int64(t))
	return database.All(rows, err, scanBotCredential)
}

func scanBotCredential(rows *sql.Rows) (b BotCredential, err error) {
	err = rows.Scan(&b.ID, &b.User, &b.Name, &b.Issuer, &b.Created, &b.Revoked)
	return b, err
}

// RevokeBotCredential ends a credential and all sessions of its account. Error: M_NOT_FOUND.
func (s *Service) RevokeBotCredential(ctx context.Context, t *tenant.Tenant, user id.User, credential string) error {
	n, err := s.db.Exec(ctx, "UPDATE bot_credential SET revoked = $4 WHERE tenant = $1 AND user_id = $2 AND id = $3 AND revoked = 0", int64(t.ID), string(user), credential, s.now())
	if err != nil {
		return err
	}
	if n == 0 {
		return mxerror.NotFound.With("there is no such credential")
	}
	return s.removeDevicesExcept(ctx, t, user, "")
}

// isBotCredential says whether a password looks like a bot's credential.
func isBotCredential(password string) bool {
	return strings.HasPrefix(password, "k"+string(botToken)+"_")
}

// botLogin takes a credential for the account that it was issued for.
func (s *Service) botLogin(ctx context.Context, t *tenant.Tenant, name, secret string) (id.User, error) {
	if err := httpapi.LimitError(s.o.Limiter.Allow(limit.Login, string(t.Name), "bot:"+foldLogin(name))); err != nil {
		return "", err
	}
	refused := mxerror.Forbidden.With("wrong name or credential")
	a, err := s.byLogin(ctx, t, name)
	if errors.Is(err, mxerror.NotFound) {
		return "", refused
	}
	if err != nil {
		return "", err
	}
	var user id.User
	err = s.db.QueryRow(ctx, "SELECT user_id FROM bot_credential WHERE tenant = $1 AND hash = $2 AND revoked = 0", int64(t.ID), hashToken(secret)).Scan(&user)
	if errors.Is(err, sql.ErrNoRows) || err == nil && (user != a.User || a.Deactivated || a.Locked) {
		return "", refused
	}
	return user, err
}

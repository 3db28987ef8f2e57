// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"errors"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// Grant is what a user allowed an OAuth 2.0 client (client-server API, "OAuth 2.0 API"). Its sessions are ordinary ones; only how they are renewed
// and ended differs.
type Grant struct {
	// Client is the client's id.
	Client string
	// Scope is what was granted, as scope tokens separated by spaces.
	Scope string
}

// familyLength is the length of the part at the end of a grant's refresh tokens that all tokens of one session share.
const familyLength = 43

// newFamily draws that part. It proves that somebody once had a refresh token of the session, so that a spent one is told from a made-up one without
// a row for each spent one.
func newFamily() string {
	var b [32]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func family(refreshToken string) string {
	return refreshToken[max(0, len(refreshToken)-familyLength):]
}

func (s *Service) insertGrant(ctx context.Context, tx *database.Tx, t tenant.ID, l *Login, g *Grant) error {
	_, err := tx.Exec(ctx, "INSERT INTO oauth_session (tenant, user_id, device, client_id, scope, family, created) VALUES ($1, $2, $3, $4, $5, $6, $7)",
		int64(t), string(l.User), string(l.Device), g.Client, g.Scope, hashToken(family(l.RefreshToken)), l.Created)
	return err
}

// RenewGrant exchanges a refresh token of an OAuth 2.0 client for a new pair of tokens. The old one stays valid until one of the new pair is used, so
// that a lost answer can be asked for again. Every error that is an mxerror means that the token is not valid for this client; a spent token ends
// its session besides, because somebody else may have it.
func (s *Service) RenewGrant(ctx context.Context, t *tenant.Tenant, token, client string) (*Login, error) {
	l, err := s.renew(ctx, t.ID, token, client)
	if !errors.Is(err, mxerror.UnknownToken) {
		return l, err
	}
	user, device, known, lookup := s.grantOfFamily(ctx, t.ID, token)
	if lookup != nil {
		return nil, lookup
	}
	if known {
		s.o.Log.Warn("a spent refresh token was shown: its session ends", "tenant", string(t.Name), "user", string(user))
		if err := s.RemoveDevices(ctx, t, user, []id.Device{device}); err != nil {
			return nil, err
		}
	}
	return nil, err
}

// grantOfFamily finds the session that a spent refresh token belonged to. A token that is still good, shown by the wrong client, is none.
func (s *Service) grantOfFamily(ctx context.Context, t tenant.ID, token string) (user id.User, device id.Device, known bool, err error) {
	err = s.db.QueryRow(ctx, `SELECT o.user_id, o.device FROM oauth_session o WHERE o.tenant = $1 AND o.family = $2
		AND NOT EXISTS (SELECT 1 FROM refresh_token r WHERE r.tenant = o.tenant AND r.hash = $3)`, int64(t), hashToken(family(token)), hashToken(token)).
		Scan(&user, &device)
	if errors.Is(err, sql.ErrNoRows) {
		return "", "", false, nil
	}
	return user, device, err == nil, err
}

// RevokeToken ends the session that an access or refresh token stands for, with its device, as logging out does. It does nothing for a token that is
// unknown, expired or revoked.
func (s *Service) RevokeToken(ctx context.Context, t *tenant.Tenant, token string) error {
	var user id.User
	var device id.Device
	err := s.db.QueryRow(ctx, `SELECT user_id, device FROM access_token WHERE tenant = $1 AND hash = $2
		UNION SELECT user_id, device FROM refresh_token WHERE tenant = $1 AND hash = $2`, int64(t.ID), hashToken(token)).Scan(&user, &device)
	if errors.Is(err, sql.ErrNoRows) {
		var known bool
		if user, device, known, err = s.grantOfFamily(ctx, t.ID, token); err != nil || !known {
			return err
		}
	}
	if err != nil {
		return err
	}
	return s.RemoveDevices(ctx, t, user, []id.Device{device})
}

// EndGrant ends a device's session if the given client still has it: an authorisation code was shown twice.
func (s *Service) EndGrant(ctx context.Context, t *tenant.Tenant, user id.User, device id.Device, since int64) error {
	var one int
	err := s.db.QueryRow(ctx, "SELECT 1 FROM oauth_session WHERE tenant = $1 AND user_id = $2 AND device = $3 AND created = $4",
		int64(t.ID), string(user), string(device), since).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.RemoveDevices(ctx, t, user, []id.Device{device})
}

// ClientInUse says whether any user of the tenant has a session of an OAuth 2.0 client.
func (s *Service) ClientInUse(ctx context.Context, t tenant.ID, client string) (bool, error) {
	var one int
	err := s.db.QueryRow(ctx, "SELECT 1 FROM oauth_session WHERE tenant = $1 AND client_id = $2 LIMIT 1", int64(t), client).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// DeviceClient returns the OAuth 2.0 client that a device was signed in by; empty for others.
func (s *Service) DeviceClient(ctx context.Context, t tenant.ID, user id.User, device id.Device) (string, error) {
	var client string
	err := s.db.QueryRow(ctx, "SELECT client_id FROM oauth_session WHERE tenant = $1 AND user_id = $2 AND device = $3",
		int64(t), string(user), string(device)).Scan(&client)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return client, err
}

// onAccountPages refuses what a session of an OAuth 2.0 client cannot do itself, because user-interactive authentication is not for it.
func (s *Service) onAccountPages(r *httpapi.Request) error {
	if s.o.AccountPage == nil {
		return mxerror.Forbidden.With("with this session the account is managed on the server's pages")
	}
	return mxerror.Forbidden.With("with this session the account is managed at %s", s.o.AccountPage(r, nil))
}

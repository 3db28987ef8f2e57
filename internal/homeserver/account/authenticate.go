// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"database/sql"
	"errors"
	"net/netip"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// Authenticate returns the session behind an access token of the tenant. Errors: M_UNKNOWN_TOKEN (with soft_logout when the token only
// expired), M_USER_LOCKED. A token of another tenant is as unknown as any other text.
func (s *Service) Authenticate(ctx context.Context, t *tenant.Tenant, token string) (*httpapi.Session, error) {
	if as, ok := s.appService(ctx, t, token); ok {
		return s.appServiceSession(ctx, t, as)
	}
	key := sessionKey{tenant: t.ID, hash: [32]byte(hashToken(token))}
	cached, generation := s.sessions.get(key, s.o.Now())
	if cached == nil {
		read, err := s.readSession(ctx, t, key)
		if err != nil {
			return nil, err
		}
		s.sessions.put(read, generation)
		cached = read
	}
	if cached.expires != 0 && cached.expires <= s.now() {
		return nil, mxerror.UnknownToken.With("the access token has expired").WithExtra("soft_logout", true)
	}
	return cached.session, nil
}

// readSession asks the database.
func (s *Service) readSession(ctx context.Context, t *tenant.Tenant, key sessionKey) (*cachedSession, error) {
	var session httpapi.Session
	var parent []byte
	var deactivated, locked bool
	var expires, lastSeen int64
	err := s.db.QueryRow(ctx, `SELECT k.token_id, k.user_id, k.device, k.parent, k.expires, a.admin, a.guest, a.deactivated, a.locked, d.last_seen,
			COALESCE(o.client_id, '')
		FROM access_token k JOIN account a ON a.tenant = k.tenant AND a.user_id = k.user_id
		JOIN device d ON d.tenant = k.tenant AND d.user_id = k.user_id AND d.device = k.device
		LEFT JOIN oauth_session o ON o.tenant = k.tenant AND o.user_id = k.user_id AND o.device = k.device WHERE k.tenant = $1 AND k.hash = $2`,
		int64(t.ID), key.hash[:]).
		Scan(&session.TokenID, &session.User, &session.Device, &parent, &expires, &session.Admin, &session.Guest, &deactivated, &locked, &lastSeen, &session.OAuthClient)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, mxerror.UnknownToken.With("unknown access token")
	}
	if err != nil {
		return nil, err
	}
	if deactivated {
		return nil, mxerror.UnknownToken.With("this account has been deactivated")
	}
	if locked {
		return nil, mxerror.UserLocked.With("this account is locked").WithExtra("soft_logout", true)
	}
	if len(parent) > 0 {
		if err := s.retire(ctx, t.ID, &session, key.hash[:], parent); err != nil {
			return nil, err
		}
	}
	s.seen(ctx, t.ID, &session, lastSeen)
	return &cachedSession{key: key, owner: userKey{t.ID, session.User}, session: &session, expires: expires, until: s.o.Now().Add(sessionTTL)}, nil
}

// seenAfter is how old the note of a device's last use may grow: requests do not write a row each.
const seenAfter = 10 * time.Minute

// seen notes that a device is used.
func (s *Service) seen(ctx context.Context, t tenant.ID, session *httpapi.Session, lastSeen int64) {
	now := s.now()
	if now-lastSeen < seenAfter.Milliseconds() {
		return
	}
	_, err := s.db.Exec(ctx, "UPDATE device SET last_seen = $4 WHERE tenant = $1 AND user_id = $2 AND device = $3",
		int64(t), string(session.User), string(session.Device), now)
	if err != nil {
		s.o.Log.Warn("use of a device not noted", "error", err) // the request goes on all the same
	}
}

// retire revokes the refresh token that made an access token, and that device's older access tokens, at the first use of the new one.
func (s *Service) retire(ctx context.Context, t tenant.ID, session *httpapi.Session, hash, parent []byte) error {
	return s.db.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM refresh_token WHERE tenant = $1 AND hash = $2", int64(t), parent); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "UPDATE access_token SET parent = $3 WHERE tenant = $1 AND hash = $2", int64(t), hash, []byte{}); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "DELETE FROM access_token WHERE tenant = $1 AND user_id = $2 AND device = $3 AND hash <> $4",
			int64(t), string(session.User), string(session.Device), hash)
		return err
	})
}

// committed forgets cached sessions that a commit of this node may have revoked.
func (s *Service) committed(t tenant.ID, changes []stream.Positioned, _ []id.Server) {
	for _, c := range changes {
		if c.Kind != stream.Device {
			continue
		}
		for _, u := range c.Users {
			s.sessions.forget(t, u)
		}
	}
}

// Login is a new session as the client gets it.
type Login struct {
	User         id.User
	Device       id.Device
	AccessToken  string
	RefreshToken string // empty unless asked for
	ExpiresIn    time.Duration
	Scope        string // of an OAuth 2.0 grant
	Created      int64  // ms since the epoch
}

// SessionSpec asks for a session.
type SessionSpec struct {
	User id.User
	// Device is the client's wish; empty lets the server choose. A known device loses its earlier tokens and keeps its name.
	Device      id.Device
	DisplayName string
	// Refresh gives an expiring access token together with a refresh token.
	Refresh bool
	// Grant makes it the session of an OAuth 2.0 client, which always has a refresh token.
	Grant *Grant
	// Address is where the client signs in from, for the user's own list of devices.
	Address netip.Addr
}

// maxDeviceID and maxDeviceName bound what a client may call its device.
const (
	maxDeviceID   = 512
	maxDeviceName = 100
)

// StartSession makes a session for a user who has proven who they are, by whatever means. The account must exist and be active.
func (s *Service) StartSession(ctx context.Context, t *tenant.Tenant, spec SessionSpec) (*Login, error) {
	l := &Login{User: spec.User, Device: spec.Device, AccessToken: httpapi.NewToken(httpapi.AccessToken, t.ID), Created: s.now()}
	if l.Device == "" {
		l.Device = id.Device(randomDevice())
	}
	if err := s.checkDevice(ctx, t, spec.User, l.Device); err != nil {
		return nil, err
	}
	var expires int64
	if spec.Refresh || spec.Grant != nil {
		l.RefreshToken = httpapi.NewToken(httpapi.RefreshToken, t.ID)
		if spec.Grant != nil {
			l.RefreshToken, l.Scope = l.RefreshToken+newFamily(), spec.Grant.Scope
		}
		l.ExpiresIn = s.o.Config.TokenLifetime
		expires = s.now() + l.ExpiresIn.Milliseconds()
	}
	address := ""
	if spec.Address.IsValid() {
		address = spec.Address.String()
	}
	err := s.db.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO device (tenant, user_id, device, display_name, last_seen, last_seen_ip, created)
			VALUES ($1, $2, $3, $4, $5, $6, $5)
			ON CONFLICT (tenant, user_id, device) DO UPDATE SET last_seen = excluded.last_seen, last_seen_ip = excluded.last_seen_ip`,
			int64(t.ID), string(l.User), string(l.Device), truncate(spec.DisplayName, maxDeviceName), l.Created, address); err != nil {
			return err
		}
		if err := dropTokens(ctx, tx, t.ID, l.User, l.Device); err != nil {
			return err
		}
		if err := s.insertAccess(ctx, tx, t.ID, l, nil, expires); err != nil {
			return err
		}
		if spec.Grant != nil {
			if err := s.insertGrant(ctx, tx, t.ID, l, spec.Grant); err != nil {
				return err
			}
		}
		if l.RefreshToken == "" {
			return nil
		}
		return s.insertRefresh(ctx, tx, t.ID, l, nil)
	})
	if err != nil {
		return nil, err
	}
	s.sessions.forget(t.ID, l.User)
	return l, nil
}

// checkDevice refuses device ids that may not be used.
func (s *Service) checkDevice(ctx context.Context, t *tenant.Tenant, user id.User, device id.Device) error {
	if len(device) > maxDeviceID {
		return mxerror.InvalidParam.With("the device id is longer than %d bytes", maxDeviceID)
	}
	if s.o.DeviceForbidden == nil {
		return nil
	}
	forbidden, err := s.o.DeviceForbidden(ctx, t, user, device)
	if err == nil && forbidden {
		err = mxerror.Forbidden.With("the device id is the id of a cross-signing key")
	}
	return err
}

func (s *Service) insertAccess(ctx context.Context, tx *database.Tx, t tenant.ID, l *Login, parent []byte, expires int64) error {
	if parent == nil {
		parent = []byte{}
	}
	_, err := tx.Exec(ctx, `INSERT INTO access_token (tenant, hash, token_id, user_id, device, parent, created, expires)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		int64(t), hashToken(l.AccessToken), database.NewID(), string(l.User), string(l.Device), parent, s.now(), expires)
	return err
}

func (s *Service) insertRefresh(ctx context.Context, tx *database.Tx, t tenant.ID, l *Login, parent []byte) error {
	if parent == nil {
		parent = []byte{}
	}
	var expires int64
	if l.Scope != "" {
		expires = s.now() + s.o.Config.GrantLifetime.Milliseconds()
	}
	_, err := tx.Exec(ctx, `INSERT INTO refresh_token (tenant, hash, user_id, device, parent, created, expires) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		int64(t), hashToken(l.RefreshToken), string(l.User), string(l.Device), parent, s.now(), expires)
	return err
}

// dropTokens ends a device's sessions, of whichever API.
func dropTokens(ctx context.Context, tx *database.Tx, t tenant.ID, user id.User, device id.Device) error {
	if _, err := tx.Exec(ctx, "DELETE FROM access_token WHERE tenant = $1 AND user_id = $2 AND device = $3", int64(t), string(user), string(device)); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "DELETE FROM oauth_session WHERE tenant = $1 AND user_id = $2 AND device = $3", int64(t), string(user), string(device)); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, "DELETE FROM refresh_token WHERE tenant = $1 AND user_id = $2 AND device = $3", int64(t), string(user), string(device))
	return err
}

// truncate cuts a text to at most n runes.
func truncate(text string, n int) string {
	runes := 0
	for i := range text {
		if runes == n {
			return text[:i]
		}
		runes++
	}
	return text
}

// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"database/sql"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// A browser stays signed in on the pages for a short while only: wards share their computers. browserLife is how long without use, browserMax in
// all; freshFor is how long after a proof of identity nobody is asked for another before something that cannot be undone.
const (
	browserLife = 15 * time.Minute
	browserMax  = 8 * time.Hour
	freshFor    = 5 * time.Minute
)

// browser is what a browser's cookie stands for.
type browser struct {
	cookie  string
	tenant  *tenant.Tenant
	account *account.Account
	proven  int64 // ms since the epoch
}

// cookieName is bound to the host by its prefix where there is TLS; without it browsers refuse that prefix.
func cookieName(secure bool) string {
	if secure {
		return "__Host-konsil"
	}
	return "konsil"
}

func (s *Service) setCookie(r *httpapi.Request, value string) *http.Cookie {
	secure := strings.HasPrefix(s.base(r), "https:")
	return &http.Cookie{Name: cookieName(secure), Value: value, Path: "/", HttpOnly: true, Secure: secure, SameSite: http.SameSiteLaxMode}
}

func (s *Service) readCookie(r *httpapi.Request) string {
	c, err := r.HTTP.Cookie(cookieName(strings.HasPrefix(s.base(r), "https:")))
	if err != nil || len(c.Value) > 128 || !strings.HasPrefix(c.Value, "k"+string(browserToken)+"_") {
		return ""
	}
	return c.Value
}

// formKind keeps the forms of these pages apart from others.
const formKind = "form"

// browser finds who is signed in in a browser; nil for nobody.
func (s *Service) browser(ctx context.Context, r *httpapi.Request, cookie string) (*browser, error) {
	key, ok := httpapi.TokenTenant(cookie)
	if !ok || r.Tenant != nil && r.Tenant.ID != key {
		return nil, nil
	}
	t, err := s.tenantOf(ctx, r, cookie)
	if err != nil || t == nil {
		return nil, err
	}
	b := &browser{cookie: cookie, tenant: t}
	var user id.User
	var created, expires int64
	now := s.now()
	err = s.db.QueryRow(ctx, "SELECT user_id, proven, created, expires FROM browser_session WHERE tenant = $1 AND hash = $2 AND expires > $3",
		int64(t.ID), hash(cookie), now).Scan(&user, &b.proven, &created, &expires)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b.account, err = s.o.Accounts.Account(ctx, t.ID, user)
	if errors.Is(err, mxerror.NotFound) || err == nil && (b.account.Deactivated || b.account.Locked) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if until := min(now+browserLife.Milliseconds(), created+browserMax.Milliseconds()); until-expires > time.Minute.Milliseconds() {
		_, err = s.db.Exec(ctx, "UPDATE browser_session SET expires = $3 WHERE tenant = $1 AND hash = $2", int64(t.ID), hash(cookie), until)
	}
	return b, err
}

// signBrowserIn makes a new cookie for who has proven who they are; the one from before is worth nothing afterwards.
func (s *Service) signBrowserIn(ctx context.Context, t tenant.ID, user id.User, before string) (string, error) {
	cookie, now := httpapi.NewToken(browserToken, t), s.now()
	return cookie, s.db.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM browser_session WHERE tenant = $1 AND (expires < $2 OR hash = $3)", int64(t), now, hash(before)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO browser_session (tenant, hash, user_id, proven, created, expires) VALUES ($1, $2, $3, $4, $4, $5)",
			int64(t), hash(cookie), string(user), now, now+browserLife.Milliseconds())
		return err
	})
}

func (s *Service) signBrowserOut(ctx context.Context, cookie string) error {
	key, ok := httpapi.TokenTenant(cookie)
	if !ok {
		return nil
	}
	_, err := s.db.Exec(ctx, "DELETE FROM browser_session WHERE tenant = $1 AND hash = $2", int64(key), hash(cookie))
	return err
}

// prove notes that the person at the browser has just proven who they are.
func (s *Service) prove(ctx context.Context, b *browser) error {
	b.proven = s.now()
	_, err := s.db.Exec(ctx, "UPDATE browser_session SET proven = $3 WHERE tenant = $1 AND hash = $2", int64(b.tenant.ID), hash(b.cookie), b.proven)
	return err
}

// EndBrowsers signs a user out of all browsers and forgets codes that wait for their clients: the password was changed, or all sessions ended.
func (s *Service) EndBrowsers(ctx context.Context, t *tenant.Tenant, user id.User) error {
	return s.db.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM oauth_code WHERE tenant = $1 AND user_id = $2 AND used = 0", int64(t.ID), string(user)); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "DELETE FROM oauth_device_code WHERE tenant IN ($1, $2) AND user_id = $3", int64(t.ID), int64(cell), string(user)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "DELETE FROM browser_session WHERE tenant = $1 AND user_id = $2", int64(t.ID), string(user))
		return err
	})
}

// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"database/sql"
	"strconv"
	"strings"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// Search asks for a tenant's accounts; what is empty does not restrict.
type Search struct {
	// Term is part of a user id or display name, UserID part of a user id.
	Term, UserID string
	// Guests and Deactivated include such accounts, Locked those that are locked.
	Guests, Deactivated, Locked bool
	Admins                      *bool
	// Order is name, displayname, avatar_url, creation_ts, is_guest, admin, deactivated, locked or last_seen_ts; Backwards turns it round.
	Order       string
	Backwards   bool
	From, Limit int
}

// Found is an account with its profile and when it was last used, in ms since the epoch.
type Found struct {
	Account
	DisplayName, AvatarURL string
	LastSeen               int64
}

// searchOrders are the columns to sort by.
var searchOrders = map[string]string{"": "a.user_id", "name": "a.user_id", "displayname": "n.value", "avatar_url": "v.value", "creation_ts": "a.created",
	"is_guest": "a.guest", "admin": "a.admin", "deactivated": "a.deactivated", "locked": "a.locked", "last_seen_ts": "last_seen", "user_type": "a.user_id",
	"shadow_banned": "a.user_id", "erased": "a.user_id"}

// Search lists accounts for administrators and says how many there are in all. Error: M_INVALID_PARAM for an unknown order.
func (s *Service) Search(ctx context.Context, t tenant.ID, q Search) (list []Found, total int64, err error) {
	order, ok := searchOrders[q.Order]
	if !ok {
		return nil, 0, mxerror.InvalidParam.With("%q is nothing to order by", q.Order)
	}
	where, args := "a.tenant = $1", []any{int64(t)}
	like := func(text string) string {
		args = append(args, "%"+strings.NewReplacer("!", "!!", "%", "!%", "_", "!_").Replace(strings.ToLower(text))+"%")
		return "$" + strconv.Itoa(len(args))
	}
	if q.UserID != "" {
		where += " AND LOWER(a.user_id) LIKE " + like(q.UserID) + " ESCAPE '!'"
	} else if q.Term != "" {
		mark := like(q.Term)
		where += " AND (LOWER(a.user_id) LIKE " + mark + " ESCAPE '!' OR n.folded LIKE " + mark + " ESCAPE '!')"
	}
	for _, flag := range []struct {
		column  string
		include bool
	}{{"guest", q.Guests}, {"deactivated", q.Deactivated}, {"locked", q.Locked}} {
		if !flag.include {
			where += " AND NOT a." + flag.column
		}
	}
	if q.Admins != nil && *q.Admins {
		where += " AND a.admin"
	} else if q.Admins != nil {
		where += " AND NOT a.admin"
	}
	const from = ` FROM account a LEFT JOIN profile n ON n.tenant = a.tenant AND n.user_id = a.user_id AND n.field = 'displayname'
		LEFT JOIN profile v ON v.tenant = a.tenant AND v.user_id = a.user_id AND v.field = 'avatar_url' WHERE `
	if err := s.db.QueryRow(ctx, "SELECT COUNT(*)"+from+where, args...).Scan(&total); err != nil {
		return nil, 0, err
	}
	direction := ""
	if q.Backwards {
		direction = " DESC"
	}
	rows, err := s.db.Query(ctx, `SELECT a.user_id, a.login_name, a.admin, a.guest, a.deactivated, a.locked, a.suspended, a.appservice, a.created,
		COALESCE(n.value, ''), COALESCE(v.value, ''),
		COALESCE((SELECT MAX(d.last_seen) FROM device d WHERE d.tenant = a.tenant AND d.user_id = a.user_id), 0) AS last_seen`+from+where+
		" ORDER BY "+order+direction+", a.user_id LIMIT "+strconv.Itoa(q.Limit)+" OFFSET "+strconv.Itoa(q.From), args...)
	list, err = database.All(rows, err, func(rows *sql.Rows) (f Found, err error) {
		var name, avatar string
		err = rows.Scan(&f.User, &f.LoginName, &f.Admin, &f.Guest, &f.Deactivated, &f.Locked, &f.Suspended, &f.AppService, &f.Created, &name, &avatar, &f.LastSeen)
		f.DisplayName, f.AvatarURL = plain(name), plain(avatar)
		return f, err
	})
	return list, total, err
}

// ByLogin finds the account that a login name or user id means. Error: M_NOT_FOUND.
func (s *Service) ByLogin(ctx context.Context, t *tenant.Tenant, name string) (*Account, error) {
	return s.byLogin(ctx, t, name)
}

// SetAdmin makes somebody an administrator of the tenant, or an ordinary user again.
func (s *Service) SetAdmin(ctx context.Context, t tenant.ID, user id.User, on bool) error {
	return s.setFlag(ctx, t, user, "admin", on)
}

// SetLocked locks an account, whose sessions stay but do nothing, or unlocks it.
func (s *Service) SetLocked(ctx context.Context, t tenant.ID, user id.User, on bool) error {
	return s.setFlag(ctx, t, user, "locked", on)
}

// SetSuspended suspends an account, which then may only read and leave, or lets it go on.
func (s *Service) SetSuspended(ctx context.Context, t tenant.ID, user id.User, on bool) error {
	return s.setFlag(ctx, t, user, "suspended", on)
}

func (s *Service) setFlag(ctx context.Context, t tenant.ID, user id.User, flag string, on bool) error {
	n, err := s.db.Exec(ctx, "UPDATE account SET "+flag+" = $3 WHERE tenant = $1 AND user_id = $2", int64(t), string(user), on)
	if err == nil && n == 0 {
		err = mxerror.NotFound.With("User not found")
	}
	s.sessions.forget(t, user)
	return err
}

// LoginAs makes a session of somebody for an administrator, on a device of its own; a zero until never ends.
func (s *Service) LoginAs(ctx context.Context, t *tenant.Tenant, user id.User, until time.Time) (string, error) {
	l, err := s.StartSession(ctx, t, SessionSpec{User: user, DisplayName: "Administrator"})
	if err != nil || until.IsZero() {
		if err != nil {
			return "", err
		}
		return l.AccessToken, nil
	}
	_, err = s.db.Exec(ctx, "UPDATE access_token SET expires = $4 WHERE tenant = $1 AND user_id = $2 AND device = $3",
		int64(t.ID), string(user), string(l.Device), until.UnixMilli())
	s.sessions.forget(t.ID, user)
	return l.AccessToken, err
}

// Available answers nil when somebody may register under the name. Errors: M_INVALID_USERNAME, M_USER_IN_USE, M_EXCLUSIVE.
func (s *Service) Available(ctx context.Context, t *tenant.Tenant, name string) error {
	return s.available(ctx, t, wished(t, name))
}

// CheckNewPassword refuses a password that is too weak. Error: M_WEAK_PASSWORD.
func (s *Service) CheckNewPassword(password string) error { return s.hasher.check(password) }

// RenameDevice gives a device another name. Error: M_NOT_FOUND.
func (s *Service) RenameDevice(ctx context.Context, t *tenant.Tenant, user id.User, device id.Device, name string) error {
	n, err := s.db.Exec(ctx, "UPDATE device SET display_name = $4 WHERE tenant = $1 AND user_id = $2 AND device = $3",
		int64(t.ID), string(user), string(device), truncate(name, maxDeviceName))
	if err == nil && n == 0 {
		err = mxerror.NotFound.With("Device not found")
	}
	return err
}

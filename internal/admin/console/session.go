// SPDX-License-Identifier: Apache-2.0

package console

import (
	"context"
	"database/sql"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/foundation/webpage"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

const (
	sessionCookie = "konsil-console"
	sessionToken  = 'w'
	// An administrator stays signed in while working; who has gone away is signed out. stepLife is for the second factor, long enough to install an app.
	sessionLife = 30 * time.Minute
	sessionMax  = 10 * time.Hour
	stepLife    = 15 * time.Minute
)

// session is what a browser's cookie stands for.
type session struct {
	cookie string
	tenant *tenant.Tenant
	user   id.User
	login  string
	second bool   // both factors were right
	secret string // offered for enrolment until then
}

func sealSession(t tenant.ID) string { return "console session " + strconv.FormatInt(int64(t), 10) }

// session finds who is signed in; nil for nobody. Who is no administrator any more is signed out by that.
func (s *Service) session(ctx context.Context, cookie string) (*session, error) {
	key, ok := httpapi.TokenTenant(cookie)
	if !ok {
		return nil, nil
	}
	t, err := s.o.Tenants.ByID(ctx, key)
	if errors.Is(err, tenant.ErrUnknown) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b := &session{cookie: cookie, tenant: t}
	var second, created, expires int64
	var secret []byte
	now := s.now()
	err = s.db.QueryRow(ctx, "SELECT user_id, second, secret, created, expires FROM console_session WHERE tenant = $1 AND hash = $2 AND expires > $3", int64(t.ID), hash(cookie), now).
		Scan(&b.user, &second, &secret, &created, &expires)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	a, err := s.o.Accounts.Account(ctx, t.ID, b.user)
	if errors.Is(err, mxerror.NotFound) || err == nil && (a.Deactivated || a.Locked || !a.Admin) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b.login, b.second = a.LoginName, second > 0
	if len(secret) > 0 {
		plain, err := s.o.Keyring.Unseal(sealSession(t.ID), secret)
		if err != nil {
			return nil, err
		}
		b.secret = string(plain)
	}
	if until := min(now+sessionLife.Milliseconds(), created+sessionMax.Milliseconds()); b.second && until-expires > time.Minute.Milliseconds() {
		_, err = s.db.Exec(ctx, "UPDATE console_session SET expires = $3 WHERE tenant = $1 AND hash = $2", int64(t.ID), hash(cookie), until)
	}
	return b, err
}

// begin makes a session: half a one that awaits the second factor, or a whole one. What the browser had before is worth nothing afterwards.
func (s *Service) begin(ctx context.Context, t tenant.ID, user id.User, second bool, secret, before string) (cookie string, err error) {
	cookie = httpapi.NewToken(sessionToken, t)
	now, life, counted := s.now(), stepLife, int64(0)
	if second {
		life, counted = sessionLife, now
	}
	sealed := []byte{}
	if secret != "" {
		sealed = s.o.Keyring.Seal(sealSession(t), []byte(secret))
	}
	return cookie, s.db.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM console_session WHERE tenant = $1 AND (expires < $2 OR hash = $3)", int64(t), now, hash(before)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO console_session (tenant, hash, user_id, second, secret, created, expires) VALUES ($1, $2, $3, $4, $5, $6, $7)",
			int64(t), hash(cookie), string(user), counted, sealed, now, now+life.Milliseconds())
		return err
	})
}

// endSessions signs somebody out of the console everywhere.
func (s *Service) endSessions(ctx context.Context, t tenant.ID, user id.User) error {
	_, err := s.db.Exec(ctx, "DELETE FROM console_session WHERE tenant = $1 AND user_id = $2", int64(t), string(user))
	return err
}

// signInData is what the page for signing in shows. With App the second factor is enrolled.
type signInData struct {
	Second       bool
	Name, Server string
	App          *webpage.App
}

func (s *Service) showSignIn(v *view) error {
	b, err := s.session(v.r.Context(), v.cookie(sessionCookie))
	if err != nil {
		return err
	}
	if b == nil {
		return v.show("sign_in", "sign-in", signInData{Server: v.r.URL.Query().Get("server")})
	}
	if b.second {
		return v.redirect(Prefix + "/")
	}
	return v.secondPage(b)
}

func (v *view) secondPage(b *session) error {
	d := signInData{Second: true, Name: b.login, Server: string(b.tenant.Name)}
	if b.secret != "" {
		var err error
		if d.App, err = webpage.NewApp(issuerName(b.tenant), b.login, b.secret); err != nil {
			return err
		}
	}
	return v.show("sign_in", b.cookie, d)
}

func issuerName(t *tenant.Tenant) string {
	if t.DisplayName != "" {
		return t.DisplayName
	}
	return string(t.Name)
}

// signIn takes the password, then the code.
func (s *Service) signIn(v *view) error {
	if v.form("do") == "code" {
		return s.takeCode(v)
	}
	d := signInData{Name: v.form("login"), Server: strings.ToLower(v.form("server"))}
	t, err := s.o.Tenants.ByName(v.r.Context(), id.Server(d.Server))
	if err != nil && !errors.Is(err, tenant.ErrUnknown) {
		return err
	}
	if v.slow() {
		v.again(http.StatusTooManyRequests, "too_many")
		return v.show("sign_in", "sign-in", d)
	}
	var a *account.Account
	if t != nil {
		a, err = s.o.Accounts.CheckPassword(v.r.Context(), t, d.Name, v.r.PostForm.Get("password"))
	}
	if known := mxerror.From(err); known != nil && known.Code == mxerror.LimitExceeded.Code {
		v.again(http.StatusTooManyRequests, "too_many")
		return v.show("sign_in", "sign-in", d)
	} else if known == nil && err != nil && t != nil {
		return err
	}
	if a == nil || !a.Admin {
		v.again(http.StatusForbidden, "wrong_sign_in")
		return v.show("sign_in", "sign-in", d)
	}
	has, err := s.o.Accounts.HasSecondFactor(v.r.Context(), t.ID, a.User)
	if err != nil {
		return err
	}
	secret := ""
	if !has {
		secret = account.NewTOTPSecret()
	}
	cookie, err := s.begin(v.r.Context(), t.ID, a.User, false, secret, v.cookie(sessionCookie))
	if err != nil {
		return err
	}
	v.setCookie(sessionCookie, cookie)
	return v.redirect(Prefix + "/sign-in")
}

// takeCode takes the second factor; a right one makes a session of its own.
func (s *Service) takeCode(v *view) error {
	ctx := v.r.Context()
	b, err := s.session(ctx, v.cookie(sessionCookie))
	if err != nil {
		return err
	}
	if b == nil || !v.own(b.cookie) {
		return errStale
	}
	if b.secret == "" {
		err = s.o.Accounts.CheckTOTP(ctx, b.tenant, b.user, v.form("code"))
	} else {
		err = s.o.Accounts.EnrolTOTP(ctx, b.tenant, b.user, b.secret, v.form("code"))
	}
	if known := mxerror.From(err); known != nil {
		v.again(http.StatusForbidden, "wrong_code")
		if known.Code == mxerror.LimitExceeded.Code {
			v.again(http.StatusTooManyRequests, "too_many")
		}
		return v.secondPage(b)
	}
	if err != nil {
		return err
	}
	return s.enter(v, b.tenant, b.user)
}

// enter signs somebody in whose two factors were right.
func (s *Service) enter(v *view, t *tenant.Tenant, user id.User) error {
	cookie, err := s.begin(v.r.Context(), t.ID, user, true, "", v.cookie(sessionCookie))
	if err != nil {
		return err
	}
	if err := s.note(v.r.Context(), t.ID, user, "sign_in", "", ""); err != nil {
		return err
	}
	v.setCookie(sessionCookie, cookie)
	return v.redirect(Prefix + "/")
}

func (s *Service) signOut(v *view) error {
	if _, err := s.db.Exec(v.r.Context(), "DELETE FROM console_session WHERE tenant = $1 AND hash = $2", int64(v.session.tenant.ID), hash(v.session.cookie)); err != nil {
		return err
	}
	v.setCookie(sessionCookie, "")
	return v.redirect(Prefix + "/sign-in")
}

// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"net/http"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/foundation/webpage"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// stepLife is how long somebody may take between the password and the second proof: long enough to install an app.
const stepLife = 15 * time.Minute

// secondData is what the page for the second proof shows. App is nil for who has enrolled already.
type secondData struct {
	Name string
	App  *webpage.App
}

// askSecond asks who has shown the right password for a second proof: a code of the app that they have, or one of an app that they get now.
func (s *Service) askSecond(ctx context.Context, v *visit, t *tenant.Tenant, user id.User) (*httpapi.Reply, error) {
	has, err := s.o.Accounts.HasSecondFactor(ctx, t.ID, user)
	if err != nil {
		return nil, err
	}
	secret := ""
	if !has {
		secret = account.NewTOTPSecret()
	}
	now := s.now()
	err = s.db.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM sign_in_step WHERE tenant = $1 AND (expires < $2 OR hash = $3)", int64(t.ID), now, hash(v.cookie)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO sign_in_step (tenant, hash, user_id, secret, expires) VALUES ($1, $2, $3, $4, $5)",
			int64(t.ID), hash(v.cookie), string(user), s.sealStep(secret), now+stepLife.Milliseconds())
		return err
	})
	if err != nil {
		return nil, err
	}
	return v.secondPage(t, user, secret, http.StatusOK)
}

const stepPurpose = "oauth sign-in step"

func (s *Service) sealStep(secret string) string {
	if secret == "" {
		return ""
	}
	return base64.RawStdEncoding.EncodeToString(s.o.Keyring.Seal(stepPurpose, []byte(secret)))
}

func (s *Service) unsealStep(sealed string) (string, error) {
	if sealed == "" {
		return "", nil
	}
	b, err := base64.RawStdEncoding.DecodeString(sealed)
	if err != nil {
		return "", err
	}
	plain, err := s.o.Keyring.Unseal(stepPurpose, b)
	return string(plain), err
}

// secondProof works off the form with the code.
func (s *Service) secondProof(ctx context.Context, v *visit) (*httpapi.Reply, error) {
	v.allowProvider(ctx)
	if reply := v.limited(limit.Login); reply != nil {
		return reply, nil
	}
	t, err := s.named(ctx, v.r, v.form.Get("username"))
	if err != nil {
		return nil, err
	}
	var user id.User
	var sealed string
	if t != nil {
		err = s.db.QueryRow(ctx, "SELECT user_id, secret FROM sign_in_step WHERE tenant = $1 AND hash = $2 AND expires > $3", int64(t.ID), hash(v.cookie), s.now()).Scan(&user, &sealed)
	}
	if t == nil || errors.Is(err, sql.ErrNoRows) {
		return s.errorPage(v.r, http.StatusForbidden, "stale_form", ""), nil
	}
	if err != nil {
		return nil, err
	}
	secret, err := s.unsealStep(sealed)
	if err != nil {
		return nil, err
	}
	if secret == "" {
		err = s.o.Accounts.CheckTOTP(ctx, t, user, v.form.Get("code"))
	} else {
		err = s.o.Accounts.EnrolTOTP(ctx, t, user, secret, v.form.Get("code"))
	}
	if known := mxerror.From(err); known != nil {
		v.problem = "wrong_code"
		status := http.StatusForbidden
		if known.Code == mxerror.LimitExceeded.Code {
			v.problem, status = "too_many", http.StatusTooManyRequests
		}
		return v.secondPage(t, user, secret, status)
	}
	if err != nil {
		return nil, err
	}
	if _, err := s.db.Exec(ctx, "DELETE FROM sign_in_step WHERE tenant = $1 AND hash = $2", int64(t.ID), hash(v.cookie)); err != nil {
		return nil, err
	}
	cookie, err := s.signBrowserIn(ctx, t.ID, user, v.cookie)
	if err != nil {
		return nil, err
	}
	return v.again(s.setCookie(v.r, cookie)), nil
}

func (v *visit) secondPage(t *tenant.Tenant, user id.User, secret string, status int) (*httpapi.Reply, error) {
	d := secondData{Name: string(user)}
	if secret != "" {
		issuer := t.DisplayName
		if issuer == "" {
			issuer = string(t.Name)
		}
		var err error
		if d.App, err = webpage.NewApp(issuer, string(user), secret); err != nil {
			return nil, err
		}
	}
	return v.page("second", d, status), nil
}

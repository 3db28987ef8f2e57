// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/subtle"
	"database/sql"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// Time-based codes (RFC 6238) as all authenticator apps make them: SHA-1, six digits, half a minute; a neighbouring step counts too.
const (
	totpSeconds = 30
	totpDigits  = 1_000_000
	totpSize    = 20 // bytes of a secret

	factorPurpose = "second factor"
)

var base32Plain = base32.StdEncoding.WithPadding(base32.NoPadding)

// SecondFactorNeeded says whether a password alone lets nobody in (A_22936).
func (s *Service) SecondFactorNeeded() bool { return s.o.Config.SecondFactor }

// HasSecondFactor says whether somebody has enrolled one.
func (s *Service) HasSecondFactor(ctx context.Context, t tenant.ID, user id.User) (bool, error) {
	var n int
	err := s.db.QueryRow(ctx, "SELECT COUNT(*) FROM second_factor WHERE tenant = $1 AND user_id = $2", int64(t), string(user)).Scan(&n)
	return n > 0, err
}

// NewTOTPSecret draws a secret for an authenticator app, in base32.
func NewTOTPSecret() string {
	var b [totpSize]byte
	rand.Read(b[:])
	return base32Plain.EncodeToString(b[:])
}

// EnrolTOTP makes a secret somebody's second factor, once a code shows that their app has it. Error: M_FORBIDDEN for a wrong code, or where there is a
// second factor already: only an administrator takes that away.
func (s *Service) EnrolTOTP(ctx context.Context, t *tenant.Tenant, user id.User, secret, code string) error {
	if err := s.limitCodes(t, user); err != nil {
		return err
	}
	key, err := base32Plain.DecodeString(secret)
	if err != nil {
		return fmt.Errorf("second factor: %w", err)
	}
	now := s.now() / 1000 / totpSeconds
	step := totpStep(key, code, now, now-2)
	if step == 0 {
		return mxerror.Forbidden.With("wrong code")
	}
	n, err := s.db.Exec(ctx, "INSERT INTO second_factor (tenant, user_id, secret, step, created) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant, user_id) DO NOTHING",
		int64(t.ID), string(user), s.o.Keyring.Seal(sealFactor(t.ID, user), key), step, s.now())
	if err == nil && n == 0 {
		err = mxerror.Forbidden.With("there is a second factor already")
	}
	return err
}

// FitsTOTP says whether a code is of a secret that nobody has yet: the app of somebody who gets an account in a moment.
func (s *Service) FitsTOTP(secret, code string) bool {
	key, err := base32Plain.DecodeString(secret)
	now := s.now() / 1000 / totpSeconds
	return err == nil && totpStep(key, code, now, now-2) != 0
}

// AdoptTOTP makes a secret whose code was checked ([Service.FitsTOTP]) the second factor of an account that has none. No code from before counts.
func (s *Service) AdoptTOTP(ctx context.Context, t tenant.ID, user id.User, secret string) error {
	key, err := base32Plain.DecodeString(secret)
	if err != nil {
		return fmt.Errorf("second factor: %w", err)
	}
	_, err = s.db.Exec(ctx, "INSERT INTO second_factor (tenant, user_id, secret, step, created) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant, user_id) DO NOTHING",
		int64(t), string(user), s.o.Keyring.Seal(sealFactor(t, user), key), s.now()/1000/totpSeconds, s.now())
	return err
}

// CheckTOTP takes a code for a proof, once. Errors: M_FORBIDDEN, M_LIMIT_EXCEEDED.
func (s *Service) CheckTOTP(ctx context.Context, t *tenant.Tenant, user id.User, code string) error {
	if err := s.limitCodes(t, user); err != nil {
		return err
	}
	return s.db.Write(ctx, func(tx *database.Tx) error {
		var sealed []byte
		var last int64
		err := tx.QueryRow(ctx, "SELECT secret, step FROM second_factor WHERE tenant = $1 AND user_id = $2", int64(t.ID), string(user)).Scan(&sealed, &last)
		if errors.Is(err, sql.ErrNoRows) {
			return mxerror.Forbidden.With("there is no second factor")
		}
		if err != nil {
			return err
		}
		key, err := s.o.Keyring.Unseal(sealFactor(t.ID, user), sealed)
		if err != nil {
			return fmt.Errorf("second factor: %w", err)
		}
		step := totpStep(key, code, s.now()/1000/totpSeconds, last)
		if step == 0 {
			return mxerror.Forbidden.With("wrong code")
		}
		// The condition makes the code count once, also when it comes twice at the same time.
		n, err := tx.Exec(ctx, "UPDATE second_factor SET step = $3 WHERE tenant = $1 AND user_id = $2 AND step < $3", int64(t.ID), string(user), step)
		if err == nil && n == 0 {
			err = mxerror.Forbidden.With("the code was used already")
		}
		return err
	})
}

// RemoveSecondFactor lets somebody enrol anew at the next sign-in, for administrators of people who lost their telephone. All sessions end.
func (s *Service) RemoveSecondFactor(ctx context.Context, t *tenant.Tenant, user id.User) error {
	n, err := s.db.Exec(ctx, "DELETE FROM second_factor WHERE tenant = $1 AND user_id = $2", int64(t.ID), string(user))
	if err != nil {
		return err
	}
	if n == 0 {
		return mxerror.NotFound.With("there is no second factor")
	}
	return s.removeDevicesExcept(ctx, t, user, "")
}

func (s *Service) limitCodes(t *tenant.Tenant, user id.User) error {
	return httpapi.LimitError(s.o.Limiter.Allow(limit.Login, string(t.Name), "code:"+string(user)))
}

func sealFactor(t tenant.ID, user id.User) string {
	return factorPurpose + " " + strconv.FormatInt(int64(t), 10) + " " + string(user)
}

// totpStep is the time step near now and after last that a code is of; 0 for none.
func totpStep(key []byte, code string, now, last int64) int64 {
	code = strings.ReplaceAll(strings.TrimSpace(code), " ", "")
	found := int64(0)
	for step := now - 1; step <= now+1; step++ {
		if subtle.ConstantTimeCompare([]byte(totp(key, step)), []byte(code)) == 1 && step > last {
			found = step
		}
	}
	return found
}

// totp is the code of a time step (RFC 4226, 5.3).
func totp(key []byte, step int64) string {
	mac := hmac.New(sha1.New, key)
	mac.Write(binary.BigEndian.AppendUint64(nil, uint64(step)))
	sum := mac.Sum(nil)
	at := sum[len(sum)-1] & 0x0f
	return fmt.Sprintf("%06d", (binary.BigEndian.Uint32(sum[at:at+4])&0x7fffffff)%totpDigits)
}

// TOTPCode is the code that an authenticator app with a secret shows at a moment.
func TOTPCode(secret string, at time.Time) (string, error) {
	key, err := base32Plain.DecodeString(secret)
	if err != nil {
		return "", fmt.Errorf("second factor: %w", err)
	}
	return totp(key, at.Unix()/totpSeconds), nil
}

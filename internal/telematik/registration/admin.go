// SPDX-License-Identifier: Apache-2.0

package registration

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Admin is the account of an organisation's administrator.
type Admin struct {
	User id.User `json:"user_id"`
	// Login is what the administrator types at login: the user id has a random localpart (A_22719).
	Login string `json:"login"`
	// Password is to be changed at the first login. It is kept nowhere but as the account's hash.
	Password string `json:"one_time_password,omitempty"`
}

// record remembers how an organisation proved itself for a messenger. A later proof replaces an earlier one.
func (s *Service) record(ctx context.Context, t tenant.ID, who Organisation) error {
	_, err := s.o.DB.Exec(ctx, `INSERT INTO registration_messenger (tenant, profession, proved, admin, login) VALUES ($1, $2, $3, '', '')
		ON CONFLICT (tenant) DO UPDATE SET profession = EXCLUDED.profession, proved = EXCLUDED.proved WHERE registration_messenger.proved < EXCLUDED.proved`,
		int64(t), who.Profession, who.Proved)
	return err
}

// admin makes the administrator that was ordered, or answers the one who is there; nil when there is none.
func (s *Service) admin(ctx context.Context, t *tenant.Tenant, login string) (*Admin, error) {
	found, err := s.reserve(ctx, t, login)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if login == "" || found.Login != login {
		if found.User == "" {
			return nil, nil
		}
		return found, nil
	}
	found.Password = oneTimePassword()
	fresh, err := s.o.MakeAdmin(ctx, t, *found)
	switch {
	case errors.Is(err, ErrLogin):
		if _, undo := s.o.DB.Exec(context.WithoutCancel(ctx), "UPDATE registration_messenger SET admin = '', login = '' WHERE tenant = $1 AND admin = $2", int64(t.ID), string(found.User)); undo != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, undo)
		}
		return nil, ErrLogin
	case err != nil:
		return nil, fmt.Errorf("%w: administrator: %w", ErrUnavailable, err)
	case !fresh:
		found.Password = ""
	}
	return found, nil
}

// reserve writes down the administrator's user id before the account is made, so that a repeated order finds a half-made one.
func (s *Service) reserve(ctx context.Context, t *tenant.Tenant, login string) (*Admin, error) {
	var a Admin
	err := s.o.DB.Write(ctx, func(tx *database.Tx) error {
		if login != "" {
			user, err := id.NewUser(strings.ToLower(rand.Text()), t.Name)
			if err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, "UPDATE registration_messenger SET admin = $2, login = $3 WHERE tenant = $1 AND admin = ''", int64(t.ID), string(user), login); err != nil {
				return err
			}
		}
		return tx.QueryRow(ctx, "SELECT admin, login FROM registration_messenger WHERE tenant = $1", int64(t.ID)).Scan(&a.User, &a.Login)
	})
	return &a, err
}

// administrator finds whom an access token lets order: the organisation of the tenant, as it proved itself.
func (s *Service) administrator(ctx context.Context, accessToken string) (*tenant.Tenant, Organisation, error) {
	if s.o.Session == nil {
		return nil, Organisation{}, ErrSession
	}
	t, err := s.o.Session(ctx, accessToken)
	if errors.Is(err, ErrSession) {
		return nil, Organisation{}, err
	}
	if err != nil {
		return nil, Organisation{}, fmt.Errorf("%w: session: %w", ErrUnavailable, err)
	}
	who := Organisation{TelematikID: t.TelematikID, Name: t.DisplayName}
	err = s.o.DB.QueryRow(ctx, "SELECT profession, proved FROM registration_messenger WHERE tenant = $1", int64(t.ID)).Scan(&who.Profession, &who.Proved)
	if errors.Is(err, sql.ErrNoRows) || err == nil && (t.TelematikID == "" || !certificate.IsInstitution(who.Profession)) {
		return nil, Organisation{}, ErrSession // the tenant came by another way
	}
	if err != nil {
		return nil, Organisation{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return t, who, nil
}

// AdminToken is [Service.OwnerToken] for the administrator with an access token and the configured directory.
func (s *Service) AdminToken(ctx context.Context, accessToken string) (string, error) {
	t, who, err := s.administrator(ctx, accessToken)
	if err != nil {
		return "", err
	}
	return s.OwnerToken(t, who.Profession, s.o.Directory)
}

// oneTimePassword draws a password of 120 bits in groups that can be read out.
func oneTimePassword() string {
	text := rand.Text()
	return strings.Join([]string{text[:6], text[6:12], text[12:18], text[18:24]}, "-")
}

// Profession is the professionOID with which a messenger's organisation proved itself last.
func (s *Service) Profession(ctx context.Context, t tenant.ID) (string, error) {
	var profession string
	err := s.o.DB.QueryRow(ctx, "SELECT profession FROM registration_messenger WHERE tenant = $1", int64(t)).Scan(&profession)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil // it came by another way
	}
	return profession, err
}

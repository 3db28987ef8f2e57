// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"strings"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

const (
	// cardCodeLife is how long a code for joining a card with an account counts.
	cardCodeLife = 7 * 24 * time.Hour
	// cardCodeLength is its letters and digits (5 bits each): too many to be guessed at the rate that limits allow.
	cardCodeLength = 12
	maxNumber      = 64
)

// CardLink is the health card by which somebody signs in.
type CardLink struct {
	User id.User
	// Number is the card's Telematik-ID, which a card that replaces it has too.
	Number string
	// Profession is the OID that the card named when it was shown first; empty before.
	Profession string
	Created    int64 // ms since the epoch
	Used       int64 // the same; 0 until the card was shown
	Published  int64 // the same; 0 unless the address stands in the directory by this card
}

const selectCard = "SELECT user_id, number, profession, created, used, published FROM card_link WHERE tenant = $1 AND "

func (s *Service) cardLink(ctx context.Context, query string, args ...any) (*CardLink, error) {
	var c CardLink
	err := s.db.QueryRow(ctx, selectCard+query, args...).Scan(&c.User, &c.Number, &c.Profession, &c.Created, &c.Used, &c.Published)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return &c, err
}

// CardByNumber finds whose card a Telematik-ID is; nil for nobody's.
func (s *Service) CardByNumber(ctx context.Context, t tenant.ID, number string) (*CardLink, error) {
	return s.cardLink(ctx, "number = $2", int64(t), number)
}

// CardOf finds somebody's card; nil for none.
func (s *Service) CardOf(ctx context.Context, t tenant.ID, user id.User) (*CardLink, error) {
	return s.cardLink(ctx, "user_id = $2", int64(t), string(user))
}

// RegisterCard lets the holder of a Telematik-ID in as a user at the first sign-in by card, on an administrator's word. Errors: M_INVALID_PARAM;
// M_USER_IN_USE where the card is somebody else's, or the user has another card.
func (s *Service) RegisterCard(ctx context.Context, t *tenant.Tenant, user id.User, number string) error {
	number = strings.TrimSpace(number)
	if number == "" || len(number) > maxNumber || !httpapi.IsText(number) {
		return mxerror.InvalidParam.With("a Telematik-ID has 1 to %d characters", maxNumber)
	}
	if number == t.TelematikID {
		return mxerror.InvalidParam.With("this is the institution's own Telematik-ID: its card signs in to the institution's account")
	}
	return s.linkCard(ctx, t, user, number, "", 0)
}

// LinkCard joins a card that was just shown with an account whose owner has just proven to be it. Errors as of [Service.RegisterCard].
func (s *Service) LinkCard(ctx context.Context, t *tenant.Tenant, user id.User, number, profession string) error {
	return s.linkCard(ctx, t, user, number, profession, s.now())
}

func (s *Service) linkCard(ctx context.Context, t *tenant.Tenant, user id.User, number, profession string, used int64) error {
	n, err := s.db.Exec(ctx, `INSERT INTO card_link (tenant, number, user_id, profession, created, used, published) VALUES ($1, $2, $3, $4, $5, $6, 0) ON CONFLICT DO NOTHING`,
		int64(t.ID), number, string(user), profession, s.now(), used)
	if err != nil || n > 0 {
		return err
	}
	there, err := s.CardOf(ctx, t.ID, user)
	if err == nil && (there == nil || there.Number != number) {
		err = mxerror.UserInUse.With("the card belongs to another account, or the account has another card")
	}
	return err
}

// CardShown notes that a card was shown: the first time tells the profession.
func (s *Service) CardShown(ctx context.Context, t tenant.ID, number, profession string) error {
	_, err := s.db.Exec(ctx, "UPDATE card_link SET profession = $3, used = $4 WHERE tenant = $1 AND number = $2 AND used = 0", int64(t), number, profession, s.now())
	return err
}

// CardPublished notes whether somebody's address stands in the directory by their card.
func (s *Service) CardPublished(ctx context.Context, t tenant.ID, user id.User, visible bool) error {
	at := int64(0)
	if visible {
		at = s.now()
	}
	_, err := s.db.Exec(ctx, "UPDATE card_link SET published = $3 WHERE tenant = $1 AND user_id = $2", int64(t), string(user), at)
	return err
}

// UnlinkCard takes somebody's card from their account, for an administrator. All sessions end. Error: M_NOT_FOUND.
func (s *Service) UnlinkCard(ctx context.Context, t *tenant.Tenant, user id.User) error {
	n, err := s.db.Exec(ctx, "DELETE FROM card_link WHERE tenant = $1 AND user_id = $2", int64(t.ID), string(user))
	if err != nil {
		return err
	}
	if n == 0 {
		return mxerror.NotFound.With("the account has no card")
	}
	return s.removeDevicesExcept(ctx, t, user, "")
}

// IssueCardCode makes a code with which somebody joins their card with an account; an earlier one counts no more. It is shown in groups of four.
func (s *Service) IssueCardCode(ctx context.Context, t *tenant.Tenant, user id.User) (code string, expires int64, err error) {
	code = rand.Text()[:cardCodeLength]
	expires = s.now() + cardCodeLife.Milliseconds()
	_, err = s.db.Exec(ctx, `INSERT INTO card_code (tenant, user_id, hash, expires) VALUES ($1, $2, $3, $4)
		ON CONFLICT (tenant, user_id) DO UPDATE SET hash = excluded.hash, expires = excluded.expires`, int64(t.ID), string(user), hashToken(code), expires)
	return code[:4] + "-" + code[4:8] + "-" + code[8:], expires, err
}

var codeSpelling = strings.NewReplacer(" ", "", "-", "", "0", "O", "1", "I", "8", "B")

// LinkCardByCode joins a card that was just shown with the account that a code of an administrator is for. The code counts once. Errors: M_FORBIDDEN for
// a wrong or expired code, M_LIMIT_EXCEEDED, and those of [Service.RegisterCard].
func (s *Service) LinkCardByCode(ctx context.Context, t *tenant.Tenant, code, number, profession string) (id.User, error) {
	if err := httpapi.LimitError(s.o.Limiter.Allow(limit.Login, string(t.Name), "card:"+number)); err != nil {
		return "", err
	}
	var user id.User
	err := s.db.Write(ctx, func(tx *database.Tx) error {
		return tx.QueryRow(ctx, "DELETE FROM card_code WHERE tenant = $1 AND hash = $2 AND expires > $3 RETURNING user_id", int64(t.ID),
			hashToken(codeSpelling.Replace(strings.ToUpper(code))), s.now()).Scan(&user)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return "", mxerror.Forbidden.With("wrong code")
	}
	if err != nil {
		return "", err
	}
	return user, s.LinkCard(ctx, t, user, number, profession)
}

// institutionLogin is the login name of an institution's own account, where it is free.
const institutionLogin = "institution"

// InstitutionAccount is the account of the institution itself, in which its card (SMC-B) signs in; the first sign-in makes it. Nobody has a password for
// it. name is what people read.
func (s *Service) InstitutionAccount(ctx context.Context, t *tenant.Tenant, name, profession string) (id.User, error) {
	there, err := s.CardByNumber(ctx, t.ID, t.TelematikID)
	if err != nil || there != nil {
		if there != nil {
			return there.User, err
		}
		return "", err
	}
	user, err := s.Create(ctx, t, NewUser{LoginName: institutionLogin, DisplayName: name})
	if errors.Is(err, mxerror.UserInUse) {
		user, err = s.Create(ctx, t, NewUser{DisplayName: name})
	}
	if err != nil {
		return "", err
	}
	err = s.LinkCard(ctx, t, user, t.TelematikID, profession)
	if errors.Is(err, mxerror.UserInUse) { // two browsers at once: the first one's account counts, and ours goes
		if there, err = s.CardByNumber(ctx, t.ID, t.TelematikID); err == nil && there != nil {
			return there.User, s.Deactivate(ctx, t, user)
		}
	}
	return user, err
}

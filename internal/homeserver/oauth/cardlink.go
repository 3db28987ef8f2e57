// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"database/sql"
	"errors"
	"net/http"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// A card that belongs to no account yet waits in the browser until its holder has shown which one is theirs: by password and, where there is one, second
// factor, or by a code of an administrator. The card itself is the second proof of who has none.

// cardStep is a browser in which such a card was shown.
type cardStep struct {
	tenant                   *tenant.Tenant
	number, profession, name string
}

// cardLinkData is what the page for it shows.
type cardLinkData struct {
	Card, Name, Server string
	Password           bool
}

// askForAccount remembers the card in the browser and sends it to the page where it began, which asks for the account.
func (s *Service) askForAccount(ctx context.Context, r *httpapi.Request, t *tenant.Tenant, c cardVisit, h *CardHolder) (any, error) {
	cookie, now := httpapi.NewToken(browserToken, t.ID), s.now()
	err := s.db.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM card_step WHERE tenant = $1 AND expires < $2", int64(t.ID), now); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO card_step (tenant, hash, number, profession, name, expires) VALUES ($1, $2, $3, $4, $5, $6)",
			int64(t.ID), hash(cookie), h.Number, h.Profession, h.Name(), now+stepLife.Milliseconds())
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.backTo(r, c.target, cookie), nil
}

// cardStepOf finds the card that waits in a browser; nil for none.
func (s *Service) cardStepOf(ctx context.Context, v *visit) (*cardStep, error) {
	key, ok := httpapi.TokenTenant(v.cookie)
	if s.o.Config.Card == nil || !ok || key == cell || v.r.Tenant != nil && v.r.Tenant.ID != key {
		return nil, nil
	}
	var step cardStep
	err := s.db.QueryRow(ctx, "SELECT number, profession, name FROM card_step WHERE tenant = $1 AND hash = $2 AND expires > $3", int64(key), hash(v.cookie), s.now()).
		Scan(&step.number, &step.profession, &step.name)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	step.tenant, err = s.tenantOf(ctx, v.r, v.cookie)
	if err != nil || step.tenant == nil {
		return nil, err
	}
	return &step, nil
}

func (s *Service) forgetCardStep(ctx context.Context, step *cardStep, cookie string) error {
	_, err := s.db.Exec(ctx, "DELETE FROM card_step WHERE tenant = $1 AND hash = $2", int64(step.tenant.ID), hash(cookie))
	return err
}

func (v *visit) cardLinkPage(step *cardStep, status int) *httpapi.Reply {
	d := cardLinkData{Card: step.name, Name: v.form.Get("username"), Server: step.tenant.DisplayName, Password: !v.s.o.Config.NoPasswords}
	if d.Server == "" {
		d.Server = string(step.tenant.Name)
	}
	return v.page("card_link", d, status)
}

// cardLinkForm works off the page's forms.
func (s *Service) cardLinkForm(ctx context.Context, v *visit) (*httpapi.Reply, error) {
	step, err := s.cardStepOf(ctx, v)
	if err != nil {
		return nil, err
	}
	if step == nil {
		return s.errorPage(v.r, http.StatusForbidden, "stale_form", ""), nil
	}
	if v.form.Get("do") == "card-cancel" {
		return v.again(), s.forgetCardStep(ctx, step, v.cookie)
	}
	if reply := v.limited(limit.Login); reply != nil {
		return reply, nil
	}
	user, problem, err := s.joinCard(ctx, v, step)
	if err != nil {
		return nil, err
	}
	if problem != "" {
		v.problem = problem
		status := http.StatusForbidden
		if problem == "too_many" {
			status = http.StatusTooManyRequests
		}
		return v.cardLinkPage(step, status), nil
	}
	if err := s.forgetCardStep(ctx, step, v.cookie); err != nil {
		return nil, err
	}
	cookie, err := s.signBrowserIn(ctx, step.tenant.ID, user, v.cookie)
	if err != nil {
		return nil, err
	}
	return v.again(s.setCookie(v.r, cookie)), nil
}

// joinCard joins the card with the account that the form proves. problem is the key of what to tell the person.
func (s *Service) joinCard(ctx context.Context, v *visit, step *cardStep) (user id.User, problem string, err error) {
	t := step.tenant
	if v.form.Get("do") == "card-code" {
		user, err = s.o.Accounts.LinkCardByCode(ctx, t, v.form.Get("link_code"), step.number, step.profession)
		if errors.Is(err, mxerror.Forbidden) {
			return "", "card_code_wrong", nil
		}
	} else {
		user, problem, err = s.prover(ctx, t, strings.TrimSpace(v.form.Get("username")), v.form, false)
		if err != nil || problem != "" {
			return "", problem, err
		}
		if problem, err = s.factorOf(ctx, t, user, v.form.Get("code")); err != nil || problem != "" {
			return "", problem, err
		}
		err = s.o.Accounts.LinkCard(ctx, t, user, step.number, step.profession)
	}
	if errors.Is(err, mxerror.UserInUse) {
		return "", "card_taken", nil
	}
	if known := mxerror.From(err); known != nil {
		return "", problemOf(known), nil
	}
	return user, "", err
}

// factorOf checks the second factor of who has one. problem is the key of what was wrong.
func (s *Service) factorOf(ctx context.Context, t *tenant.Tenant, user id.User, code string) (problem string, err error) {
	has, err := s.o.Accounts.HasSecondFactor(ctx, t.ID, user)
	if err != nil || !has {
		return "", err
	}
	if strings.TrimSpace(code) == "" {
		return "card_code_missing", nil
	}
	err = s.o.Accounts.CheckTOTP(ctx, t, user, code)
	if known := mxerror.From(err); known != nil {
		if known.Code == mxerror.LimitExceeded.Code {
			return "too_many", nil
		}
		return "wrong_code", nil
	}
	return "", err
}

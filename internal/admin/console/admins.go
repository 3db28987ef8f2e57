// SPDX-License-Identifier: Apache-2.0

package console

import (
	"errors"
	"net/http"
	"strings"

	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

type adminsData struct {
	Admins []account.Found
	People []account.Found
}

func (s *Service) showAdmins(v *view) error {
	on, off := true, false
	var d adminsData
	var err error
	if d.Admins, _, err = s.o.Accounts.Search(v.r.Context(), v.session.tenant.ID, account.Search{Admins: &on, Locked: true, Order: "displayname", Limit: maxPeople}); err != nil {
		return err
	}
	if d.People, _, err = s.o.Accounts.Search(v.r.Context(), v.session.tenant.ID, account.Search{Admins: &off, Order: "displayname", Limit: maxPeople}); err != nil {
		return err
	}
	return v.show("admins", v.session.cookie, d)
}

// doAdmins appoints an administrator or takes the office away. The last one stays: without any, only the card helps.
func (s *Service) doAdmins(v *view) error {
	ctx, t := v.r.Context(), v.session.tenant
	a, err := v.person(v.form("user"))
	if errors.Is(err, mxerror.NotFound) {
		v.errorPage(http.StatusNotFound, "nobody")
		return nil
	}
	if err != nil {
		return err
	}
	action := v.form("do")
	switch action {
	case "appoint":
		err = s.o.Accounts.SetAdmin(ctx, t.ID, a.User, true)
	case "dismiss":
		on := true
		_, total, countErr := s.o.Accounts.Search(ctx, t.ID, account.Search{Admins: &on, Limit: 2})
		if countErr != nil {
			return countErr
		}
		if total < 2 {
			v.again(http.StatusConflict, "last_admin")
			return s.showAdmins(v)
		}
		if err = s.o.Accounts.SetAdmin(ctx, t.ID, a.User, false); err == nil {
			err = s.endSessions(ctx, t.ID, a.User)
		}
	default:
		return errStale
	}
	if err != nil {
		return err
	}
	if err := v.noted("admin_"+action, string(a.User), a.LoginName); err != nil {
		return err
	}
	return v.redirect(Prefix + "/admins")
}

type botsData struct {
	Bots   []account.BotCredential
	Names  map[string]string
	Made   string // a secret, shown this once
	MadeBy string
}

func (s *Service) showBots(v *view) error { return s.bots(v, botsData{}) }

func (s *Service) bots(v *view, d botsData) error {
	var err error
	if d.Bots, err = s.o.Accounts.AllBotCredentials(v.r.Context(), v.session.tenant.ID); err != nil {
		return err
	}
	if d.Names, err = s.names(v.r.Context(), v.session.tenant.ID); err != nil {
		return err
	}
	return v.show("bots", v.session.cookie, d)
}

// doBots makes a bot with a credential, gives an existing one a further credential, or revokes one.
func (s *Service) doBots(v *view) error {
	ctx, t := v.r.Context(), v.session.tenant
	if v.form("do") == "revoke" {
		a, err := v.person(v.form("user"))
		if err == nil {
			err = s.o.Accounts.RevokeBotCredential(ctx, t, a.User, v.form("credential"))
		}
		if errors.Is(err, mxerror.NotFound) {
			v.again(http.StatusNotFound, "nobody")
			return s.showBots(v)
		}
		if err != nil {
			return err
		}
		if err := v.noted("bot_revoked", string(a.User), v.form("credential")); err != nil {
			return err
		}
		return v.redirect(Prefix + "/bots")
	}
	login, name := strings.ToLower(v.form("login")), v.form("name")
	if problem := checkPerson(login, name); problem != "" {
		v.again(http.StatusBadRequest, problem)
		return s.showBots(v)
	}
	a, err := s.o.Accounts.ByLogin(ctx, t, login)
	switch {
	case errors.Is(err, mxerror.NotFound):
		user, err := s.o.Accounts.Create(ctx, t, account.NewUser{LoginName: login, DisplayName: name})
		if err != nil {
			return err
		}
		a = &account.Account{User: user}
	case err != nil:
		return err
	case a.Admin || a.Deactivated:
		v.again(http.StatusConflict, "login_taken")
		return s.showBots(v)
	}
	_, secret, err := s.o.Accounts.IssueBotCredential(ctx, t, a.User, v.session.user, name)
	if err != nil {
		return err
	}
	if err := v.noted("bot_issued", string(a.User), name); err != nil {
		return err
	}
	return s.bots(v, botsData{Made: secret, MadeBy: name})
}

// SPDX-License-Identifier: Apache-2.0

package console

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/telematik/registration"
)

// maxPeople is how many people a list shows; who has more searches.
const maxPeople = 500

// newPerson is somebody who has just got an account. The password is shown this once and to be changed.
type newPerson struct {
	Login, Name, Password string
	User                  id.User
}

type peopleData struct {
	Term     string
	People   []account.Found
	Total    int64
	Made     []newPerson
	Inactive registration.Inactivity
	Login    string
	Name     string
}

func (s *Service) showPeople(v *view) error { return s.people(v, peopleData{}) }

func (s *Service) people(v *view, d peopleData) error {
	ctx, t := v.r.Context(), v.session.tenant.ID
	d.Term = v.r.URL.Query().Get("term")
	var err error
	if d.People, d.Total, err = s.o.Accounts.Search(ctx, t, account.Search{Term: d.Term, Locked: true, Order: "displayname", Limit: maxPeople}); err != nil {
		return err
	}
	if d.Inactive, err = s.o.Registration.Inactivity(ctx, t); err != nil {
		return err
	}
	return v.show("people", v.session.cookie, d)
}

// doPeople adds one person.
func (s *Service) doPeople(v *view) error {
	d := peopleData{Login: strings.ToLower(v.form("login")), Name: v.form("name")}
	p, problem, err := s.add(v.r.Context(), v.session.tenant, d.Login, d.Name)
	if err != nil {
		return err
	}
	if problem != "" {
		v.again(http.StatusBadRequest, problem)
		if problem == "login_taken" {
			v.status = http.StatusConflict
		}
		return s.people(v, d)
	}
	if err := v.noted("person_added", string(p.User), p.Login); err != nil {
		return err
	}
	return s.people(v, peopleData{Made: []newPerson{*p}})
}

// checkPerson names what is wrong with a person's data; empty: nothing.
func checkPerson(login, name string) (problem string) {
	switch {
	case !loginForm(login):
		return "bad_login"
	case name == "" || len(name) > 200:
		return "bad_name"
	}
	return ""
}

// add makes an account with a one-time password, or names what is wrong.
func (s *Service) add(ctx context.Context, t *tenant.Tenant, login, name string) (p *newPerson, problem string, err error) {
	if problem = checkPerson(login, name); problem != "" {
		return nil, problem, nil
	}
	p = &newPerson{Login: login, Name: name, Password: oneTimePassword()}
	p.User, err = s.o.Accounts.Create(ctx, t, account.NewUser{LoginName: login, Password: p.Password, DisplayName: name})
	if errors.Is(err, mxerror.UserInUse) {
		return nil, "login_taken", nil
	}
	return p, "", err
}

// oneTimePassword draws a password of 120 bits in groups that can be read out.
func oneTimePassword() string {
	text := rand.Text()
	return strings.Join([]string{text[:6], text[6:12], text[12:18], text[18:24]}, "-")
}

// names are what people are called, by their id: the display name, else what they type at login.
func (s *Service) names(ctx context.Context, t tenant.ID) (map[string]string, error) {
	all, _, err := s.o.Accounts.Search(ctx, t, account.Search{Locked: true, Deactivated: true, Limit: 10_000})
	names := map[string]string{}
	for i := range all {
		names[string(all[i].User)] = called(&all[i])
	}
	return names, err
}

func called(f *account.Found) string {
	if f.DisplayName != "" {
		return f.DisplayName
	}
	return f.LoginName
}

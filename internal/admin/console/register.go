// SPDX-License-Identifier: Apache-2.0

package console

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/foundation/webpage"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/telematik/idp"
	"github.com/konsil-health/konsil/internal/telematik/registration"
)

// registerData is what the pages of the registration show.
type registerData struct {
	Organisation, TelematikID string
	Agent                     string // where the card service takes over
	Login                     string
	App                       *webpage.App
	Base                      id.Server
	Insurer                   bool
	Existing                  []*tenant.Tenant
	Label, Domain             string
	Proof                     *registration.Proof // of a domain of one's own
	IK                        string
	Insurance                 bool
	KIM                       bool // proof by KIM is offered
	Refused                   string
}

// showRegister shows the step at which a browser is.
func (s *Service) showRegister(v *view) error {
	k, err := s.visit(v.r.Context(), v.cookie(visitCookie))
	if err != nil {
		return err
	}
	return s.step(v, k, registerData{})
}

// step is the page for what comes next: proof, terms, administrator, name.
func (s *Service) step(v *view, k *visit, d registerData) error {
	if k == nil || k.who.TelematikID == "" {
		d.KIM = s.o.Registration.OffersKIM()
		return v.show("register_start", cookieOf(k), d)
	}
	d.Organisation, d.TelematikID = k.who.Name, k.who.TelematikID
	switch {
	case k.terms == 0:
		return v.show("register_terms", k.cookie, d)
	case !k.confirmed:
		var err error
		if d.App, err = webpage.NewApp("Konsil", k.who.Name, k.secret); err != nil {
			return err
		}
		return v.show("register_admin", k.cookie, d)
	}
	d.Login, d.Base, d.Insurer = k.login, s.o.Registration.Base(), k.who.Profession == certificate.Insurer
	all, err := s.o.Tenants.OfOrganisation(v.r.Context(), k.who.TelematikID)
	if err != nil {
		return err
	}
	d.Existing = slices.DeleteFunc(all, func(t *tenant.Tenant) bool { return t.State != tenant.Active })
	return v.show("register_name", k.cookie, d)
}

func cookieOf(k *visit) string {
	if k == nil {
		return ""
	}
	return k.cookie
}

// register takes the form of a step.
func (s *Service) register(v *view) error {
	ctx := v.r.Context()
	if v.slow() {
		v.again(http.StatusTooManyRequests, "too_many")
		return s.step(v, nil, registerData{})
	}
	switch v.form("do") { // these two begin, and need no page of ours before
	case "card":
		return s.toCard(v)
	case "kim":
		return s.sendLink(v)
	}
	k, err := s.visit(ctx, v.cookie(visitCookie))
	if err != nil {
		return err
	}
	if k == nil || k.who.TelematikID == "" || !v.own(k.cookie) {
		return errStale
	}
	switch v.form("do") {
	case "terms":
		return s.takeTerms(v, k)
	case "admin":
		return s.takeAdmin(v, k)
	case "own":
		return s.ownDomain(v, k)
	case "order":
		return s.order(v, k)
	case "enter":
		return s.takeOver(v, k)
	case "cancel":
		if err := s.forgetVisit(ctx, k.cookie); err != nil {
			return err
		}
		v.setCookie(visitCookie, "")
	}
	return v.redirect(Prefix + "/register")
}

// toCard sends the browser to the card service of its own machine, which comes back with a code.
func (s *Service) toCard(v *view) error {
	k, err := s.newVisit(v.r.Context(), registration.Organisation{})
	if err != nil {
		return err
	}
	address, err := s.o.Party.Begin(v.r.Context(), k.state, k.nonce, k.verifier)
	if err != nil {
		return err
	}
	v.setCookie(visitCookie, k.cookie)
	return v.show("register_card", k.cookie, registerData{Agent: s.o.Agent + "/?" + url.Values{"challenge_path": {address}, "cardType": {"SMC-B"}}.Encode()})
}

// cardAnswered takes the identity provider's code (AF_10103).
func (s *Service) cardAnswered(v *view) error {
	ctx, q := v.r.Context(), v.r.URL.Query()
	k, err := s.visit(ctx, v.cookie(visitCookie))
	if err != nil {
		return err
	}
	if k == nil || k.who.TelematikID != "" || q.Get("state") != k.state || q.Get("code") == "" {
		return errStale
	}
	holder, err := s.o.Party.Redeem(ctx, q.Get("code"), k.verifier, k.nonce)
	if refused, ok := errors.AsType[*idp.Error](err); ok || errors.Is(err, idp.ErrProvider) {
		s.o.Log.Info("console: card refused", "error", err)
		v.again(http.StatusForbidden, "card_refused")
		v.detail = idp.Message(err, v.language)
		_ = refused
		return s.step(v, nil, registerData{})
	}
	if err != nil {
		return err
	}
	if !certificate.IsInstitution(holder.Profession) {
		v.again(http.StatusForbidden, "card_of_person")
		return s.step(v, nil, registerData{})
	}
	return s.proved(v, registration.Organisation{TelematikID: holder.Number, Profession: holder.Profession, Name: holder.Organization, Proved: s.now()}, k.cookie)
}

// proved goes on with an organisation that has proved itself, if the directory has it as active.
func (s *Service) proved(v *view, who registration.Organisation, before string) error {
	ctx := v.r.Context()
	switch err := s.o.Registration.Active(ctx, who.TelematikID); {
	case errors.Is(err, registration.ErrInactive):
		v.again(http.StatusForbidden, "inactive")
		return s.step(v, nil, registerData{})
	case err != nil:
		return err
	}
	if err := s.forgetVisit(ctx, before); err != nil {
		return err
	}
	k, err := s.newVisit(ctx, who)
	if err != nil {
		return err
	}
	v.setCookie(visitCookie, k.cookie)
	return v.redirect(Prefix + "/register")
}

func (s *Service) takeTerms(v *view, k *visit) error {
	if v.form("accept") != "yes" {
		v.again(http.StatusBadRequest, "terms_needed")
		return s.step(v, k, registerData{})
	}
	if err := s.acceptTerms(v.r.Context(), k); err != nil {
		return err
	}
	return v.redirect(Prefix + "/register")
}

// takeAdmin takes the first administrator's name, password and the code that shows that their app has the secret.
func (s *Service) takeAdmin(v *view, k *visit) error {
	d := registerData{Login: strings.ToLower(v.form("login"))}
	password := v.r.PostForm.Get("password")
	problem := ""
	switch {
	case k.terms == 0:
		return errStale
	case !loginForm(d.Login):
		problem = "bad_login"
	case password != v.r.PostForm.Get("repeat"):
		problem = "repeat_differs"
	case s.o.Accounts.CheckNewPassword(password) != nil:
		problem = "weak_password"
	case !s.o.Accounts.FitsTOTP(k.secret, v.form("code")):
		problem = "wrong_code"
	}
	if problem != "" {
		v.again(http.StatusBadRequest, problem)
		return s.step(v, k, d)
	}
	if err := s.setAdmin(v.r.Context(), k, d.Login, password); err != nil {
		return err
	}
	return v.redirect(Prefix + "/register")
}

// ownDomain shows what must be found at a domain of one's own.
func (s *Service) ownDomain(v *view, k *visit) error {
	d := registerData{Domain: strings.ToLower(v.form("domain"))}
	p, err := s.o.Registration.Proof(v.r.Context(), k.who, id.Server(d.Domain))
	if errors.Is(err, registration.ErrDomain) {
		v.again(http.StatusBadRequest, "domain_bad")
		return s.step(v, k, d)
	}
	if err != nil {
		return err
	}
	d.Proof = &p
	return s.step(v, k, d)
}

// orderProblems are the refusals of an order as people read them.
var orderProblems = []struct {
	err    error
	status int
	key    string
}{
	{registration.ErrTaken, http.StatusConflict, "name_taken"},
	{registration.ErrSimilar, http.StatusBadRequest, "name_similar"},
	{registration.ErrProof, http.StatusForbidden, "domain_unproved"},
	{registration.ErrDomain, http.StatusBadRequest, "name_bad"},
	{registration.ErrInactive, http.StatusForbidden, "inactive"},
	{registration.ErrInsurance, http.StatusForbidden, "insurance_only"},
	{registration.ErrIK, http.StatusBadRequest, "ik_bad"},
	{registration.ErrProfession, http.StatusForbidden, "card_of_person"},
}

// order makes the messenger with its first administrator (AF_10060).
func (s *Service) order(v *view, k *visit) error {
	d := registerData{Label: strings.ToLower(v.form("label")), Domain: strings.ToLower(v.form("domain")), IK: v.form("ik"), Insurance: v.form("insurance") == "yes"}
	order := registration.Order{ServerName: id.Server(d.Domain), Insurance: d.Insurance, IK: v.numbers("ik")}
	if d.Domain == "" {
		order.ServerName = s.o.Registration.Offer(d.Label)
	}
	return s.complete(v, k, d, order)
}

// takeOver makes a further administrator of a messenger that the organisation has.
func (s *Service) takeOver(v *view, k *visit) error {
	order, err := s.o.Registration.Existing(v.r.Context(), k.who, id.Server(v.form("domain")), v.numbers("ik"))
	if err != nil {
		return err
	}
	return s.complete(v, k, registerData{IK: v.form("ik")}, order)
}

// numbers is a field with several numbers.
func (v *view) numbers(name string) []string {
	return strings.FieldsFunc(v.form(name), func(c rune) bool { return c == ',' || c == ' ' })
}

// complete carries an order out and lets the administrator in.
func (s *Service) complete(v *view, k *visit, d registerData, order registration.Order) error {
	if !k.confirmed {
		return errStale
	}
	ctx := v.r.Context()
	result, err := s.o.Registration.CompleteFor(ctx, k.who, order)
	for _, p := range orderProblems {
		if errors.Is(err, p.err) {
			v.again(p.status, p.key)
			if d.Domain != "" && errors.Is(err, registration.ErrProof) {
				return s.ownDomain(v, k)
			}
			return s.step(v, k, d)
		}
	}
	if err != nil {
		return err
	}
	user, err := s.appoint(ctx, result.Tenant, k)
	if errors.Is(err, mxerror.UserInUse) {
		v.again(http.StatusConflict, "login_taken")
		k.confirmed = false
		return s.step(v, k, registerData{Login: k.login})
	}
	if err != nil {
		return err
	}
	if err := s.forgetVisit(ctx, k.cookie); err != nil {
		return err
	}
	v.setCookie(visitCookie, "")
	action := "registered"
	if result.Again {
		action = "registered_again"
	}
	if err := s.note(ctx, result.Tenant.ID, user, action, string(result.ServerName), k.who.TelematikID); err != nil {
		return err
	}
	return s.enter(v, result.Tenant, user)
}

// appoint makes the administrator's account with both factors. The address is random (A_22719), also at an insurer, whose insured people have theirs by
// their number.
func (s *Service) appoint(ctx context.Context, t *tenant.Tenant, k *visit) (id.User, error) {
	user, err := s.o.Accounts.Create(ctx, t, account.NewUser{LoginName: k.login, Localpart: strings.ToLower(rand.Text()), Password: k.password, DisplayName: k.login, Admin: true})
	if err != nil {
		return "", err
	}
	return user, s.o.Accounts.AdoptTOTP(ctx, t.ID, user, k.secret)
}

// loginForm says whether a text can be a login name.
func loginForm(login string) bool {
	for i, c := range login {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || i > 0 && strings.ContainsRune("._-", c)) {
			return false
		}
	}
	return login != "" && len(login) <= 64
}

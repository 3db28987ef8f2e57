// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/foundation/webpage"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// errSilent tells that nobody is signed in where no page may be shown.
var errSilent = errors.New("nobody is signed in")

// entry says how people come to a page.
type entry struct {
	// heading is the key of the sign-in page's heading.
	heading string
	// client is who wants them to sign in; nil for the server's own pages.
	client *registration
	// create begins with a new account, afresh asks who is signed in already to prove it again, silent shows no page.
	create, afresh, silent bool
	// way goes on to one of the ways of single sign-on at once; empty asks.
	way string
	// action is where the page's forms may lead besides here.
	action string
}

// visit is a request for a page by somebody who is signed in.
type visit struct {
	s *Service
	r *httpapi.Request
	*browser
	entry    entry
	language string
	form     url.Values // of a POST, proven to come from our page; empty otherwise
	header   http.Header
	problem  string // key of what went wrong with the last form
}

// enter is the door of every page: it finds out who is there, shows the sign-in page to whom nobody knows and works off its forms. It returns a reply
// where that was all. Forms count only when they come from a page that this browser got from us.
func (s *Service) enter(ctx context.Context, r *httpapi.Request, e entry) (*visit, *httpapi.Reply, error) {
	v := &visit{s: s, r: r, entry: e, language: pageLanguage(r), form: url.Values{}, header: http.Header{}}
	cookie := s.readCookie(r)
	var err error
	if v.browser, err = s.browser(ctx, r, cookie); err != nil {
		return nil, nil, err
	}
	known := v.browser != nil
	if !known {
		v.browser = &browser{cookie: cookie}
	}
	if r.HTTP.Method == http.MethodPost {
		if reply := v.readForm(); reply != nil {
			return nil, reply, nil
		}
	}
	switch v.form.Get("do") {
	case "switch", "sign-out":
		if err := s.signBrowserOut(ctx, v.cookie); err != nil {
			return nil, nil, err
		}
		return nil, v.again(s.setCookie(r, "")), nil
	case "sign-in", "register":
		reply, err := s.signIn(ctx, v)
		return nil, reply, err
	case "second":
		reply, err := s.secondProof(ctx, v)
		return nil, reply, err
	case "provider", "provider-again":
		reply, err := s.leaveForProvider(ctx, v, known)
		return nil, reply, err
	case "card":
		reply, err := s.leaveForCard(ctx, v, "")
		return nil, reply, err
	case "card-link", "card-code", "card-cancel":
		reply, err := s.cardLinkForm(ctx, v)
		return nil, reply, err
	}
	if known && e.afresh && s.now()-v.proven > freshFor.Milliseconds() {
		known = false
	}
	if known {
		return v, nil, nil
	}
	if e.silent {
		return nil, nil, errSilent
	}
	reply, err := s.otherWay(ctx, v)
	if reply != nil || err != nil {
		return nil, reply, err
	}
	v.allowProvider(ctx)
	return nil, v.signInPage(e.create && s.o.Config.Registration, http.StatusOK), nil
}

// otherWay goes on with a card that was shown in this browser, or to the way that the page's address names; nil asks for a password.
func (s *Service) otherWay(ctx context.Context, v *visit) (*httpapi.Reply, error) {
	step, err := s.cardStepOf(ctx, v)
	if err != nil {
		return nil, err
	}
	switch {
	case step != nil:
		return v.cardLinkPage(step, http.StatusOK), nil
	case v.r.HTTP.Method != http.MethodGet:
		return nil, nil
	case v.entry.way == ProviderID:
		return s.leaveForProvider(ctx, v, false)
	case v.entry.way == CardProvider && v.r.Tenant != nil:
		return s.leaveForCard(ctx, v, "")
	}
	return nil, nil
}

// allowProvider lets the page's forms lead to the tenant's identity provider too.
func (v *visit) allowProvider(ctx context.Context) {
	p := v.s.provider(v.r.Tenant)
	if p == nil {
		return
	}
	d, err := v.s.discover(ctx, p)
	if err != nil {
		v.s.o.Log.Error("identity provider", "tenant", string(v.r.Tenant.Name), "error", err)
		return // its button tells people
	}
	v.entry.action = strings.TrimSpace(v.entry.action + " " + cspSource(d.Authorization))
}

var crossOrigin = http.NewCrossOriginProtection()

// readForm takes the form of a POST. The reply is a page when the form is not one of ours.
func (v *visit) readForm() *httpapi.Reply {
	form, refused := parseForm(v.r)
	if refused == nil && crossOrigin.Check(v.r.HTTP) == nil && webpage.FormKeyFits(formKind, v.cookie, form.Get("key")) {
		v.form = form
		return nil
	}
	return v.s.errorPage(v.r, http.StatusForbidden, "stale_form", "")
}

// again shows the page of the same address anew, with GET.
func (v *visit) again(cookies ...*http.Cookie) *httpapi.Reply {
	reply := seeOther(v.r.HTTP.URL.RequestURI())
	for _, c := range cookies {
		reply.Header.Add("Set-Cookie", c.String())
	}
	return reply
}

// signIn works off the form of the sign-in page or of the page for a new account.
func (s *Service) signIn(ctx context.Context, v *visit) (*httpapi.Reply, error) {
	v.allowProvider(ctx)
	create := v.form.Get("do") == "register"
	class := limit.Login
	if create {
		class = limit.Register
	}
	if reply := v.limited(class); reply != nil {
		return reply, nil
	}
	name := strings.TrimSpace(v.form.Get("username"))
	t, err := s.named(ctx, v.r, name)
	if err != nil {
		return nil, err
	}
	if t == nil {
		if create || !strings.HasPrefix(name, "@") {
			v.problem = "need_address"
		} else {
			v.problem = "wrong_password"
		}
		return v.signInPage(create, http.StatusForbidden), nil
	}
	user, problem, err := s.prover(ctx, t, name, v.form, create)
	if err != nil {
		return nil, err
	}
	if problem != "" {
		v.problem = problem
		status := http.StatusForbidden
		if problem == "too_many" {
			status = http.StatusTooManyRequests
		}
		return v.signInPage(create, status), nil
	}
	if s.o.Accounts.SecondFactorNeeded() {
		return s.askSecond(ctx, v, t, user)
	}
	cookie, err := s.signBrowserIn(ctx, t.ID, user, v.cookie)
	if err != nil {
		return nil, err
	}
	return v.again(s.setCookie(v.r, cookie)), nil
}

// named is the tenant that somebody wants to sign in with: the host's, else that of @user:server; nil for none.
func (s *Service) named(ctx context.Context, r *httpapi.Request, name string) (*tenant.Tenant, error) {
	if r.Tenant != nil {
		return r.Tenant, nil
	}
	user, err := id.ParseUser(strings.ToLower(name))
	if err != nil {
		return nil, nil
	}
	t, err := s.o.Tenants.ByName(ctx, user.Server())
	if errors.Is(err, tenant.ErrUnknown) {
		return nil, nil
	}
	return s.admitted(ctx, r, t, err)
}

// prover checks a password or makes an account. problem is the key of what to tell the person.
func (s *Service) prover(ctx context.Context, t *tenant.Tenant, name string, form url.Values, create bool) (user id.User, problem string, err error) {
	password := form.Get("password")
	switch {
	case s.o.Config.NoPasswords, create && !s.o.Config.Registration:
		return "", "not_offered", nil
	case name == "" || password == "":
		return "", "missing", nil
	case create && password != form.Get("repeat"):
		return "", "not_repeated", nil
	case create:
		user, err = s.o.Accounts.Register(ctx, t, name, password)
	default:
		a, wrong := s.o.Accounts.CheckPassword(ctx, t, name, password)
		if err = wrong; err == nil {
			user = a.User
		}
	}
	if known := mxerror.From(err); known != nil {
		return "", problemOf(known), nil
	}
	return user, "", err
}

// problemOf is what people are told of a standard error.
func problemOf(err *mxerror.Error) string {
	switch err.Code {
	case mxerror.LimitExceeded.Code:
		return "too_many"
	case mxerror.UserInUse.Code, mxerror.Exclusive.Code:
		return "name_taken"
	case mxerror.InvalidUsername.Code:
		return "name_invalid"
	case mxerror.WeakPassword.Code, mxerror.InvalidParam.Code:
		return "password_weak"
	case mxerror.UserLocked.Code:
		return "locked"
	case mxerror.UserDeactivated.Code:
		return "deactivated"
	}
	return "wrong_password"
}

// limited counts an attempt against the caller's address.
func (v *visit) limited(class limit.Class) *httpapi.Reply {
	of := ""
	if v.r.Tenant != nil {
		of = string(v.r.Tenant.Name)
	}
	if ok, wait := v.s.o.Limiter.Allow(class, of, "page:"+v.r.Address.String()); !ok {
		reply := v.s.errorPage(v.r, http.StatusTooManyRequests, "too_many", "")
		reply.Header.Set("Retry-After", seconds(wait))
		return reply
	}
	return nil
}

// confirmed says whether the person at the browser has proven lately who they are; otherwise it takes the password of the form for a proof. problem is
// the key of what was wrong.
func (v *visit) confirmed(ctx context.Context) (problem string, err error) {
	if v.fresh() {
		return "", nil
	}
	a, err := v.s.o.Accounts.CheckPassword(ctx, v.tenant, string(v.account.User), v.form.Get("password"))
	if known := mxerror.From(err); known != nil {
		return problemOf(known), nil
	}
	if err != nil || a.User != v.account.User {
		return "wrong_password", err
	}
	return "", v.s.prove(ctx, v.browser)
}

func (v *visit) fresh() bool { return v.s.now()-v.proven < freshFor.Milliseconds() }

// signInData is what the sign-in page shows.
type signInData struct {
	Heading  string
	Client   *clientData
	Name     string
	Shared   bool // the name has to be a whole address
	Create   bool
	Register string // address of this page with a new account; empty where none is to be had
	SignIn   string // address of this page for who has an account
	Password bool
	Server   string
	Provider string // name of the tenant's identity provider; empty for none
	Card     bool   // people sign in by health card too
}

// signInPage asks who is there.
func (v *visit) signInPage(create bool, status int) *httpapi.Reply {
	d := signInData{Heading: v.entry.heading, Shared: v.r.Tenant == nil, Create: create, Password: !v.s.o.Config.NoPasswords, Server: v.server(), Card: v.s.byCard(v.r.Tenant) && !create}
	if p := v.s.provider(v.r.Tenant); p != nil {
		d.Provider = p.Name
	}
	if v.entry.client != nil {
		c := v.clientData(v.entry.client)
		d.Client = &c
	}
	if d.Name = v.form.Get("username"); d.Name == "" {
		d.Name = strings.TrimPrefix(v.r.Query("login_hint"), "mxid:")
	}
	if v.s.o.Config.Registration {
		d.Register, d.SignIn = v.withPrompt("create"), v.withPrompt("")
	}
	if v.cookie == "" {
		v.cookie = httpapi.NewToken(browserToken, cell)
		v.header.Add("Set-Cookie", v.s.setCookie(v.r, v.cookie).String())
	}
	return v.page("sign_in", d, status)
}

// withPrompt is the page's address with another prompt.
func (v *visit) withPrompt(prompt string) string {
	q := url.Values{}
	for name, values := range v.r.Values() {
		q[name] = values
	}
	q.Del("prompt")
	if prompt != "" {
		q.Set("prompt", prompt)
	}
	return v.r.HTTP.URL.EscapedPath() + "?" + q.Encode()
}

// server is the name by which people know the tenant; empty at a shared host.
func (v *visit) server() string {
	t := v.r.Tenant
	switch {
	case t == nil:
		return ""
	case t.DisplayName != "":
		return t.DisplayName
	}
	return string(t.Name)
}

// seconds is a wait in whole seconds, at least one, as the header Retry-After has it.
func seconds(d time.Duration) string { return strconv.Itoa(int(d.Seconds()) + 1) }

// SPDX-License-Identifier: Apache-2.0

package console

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/keyring"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/telematik/idp"
	"github.com/konsil-health/konsil/internal/telematik/registration"
)

// Prefix is where the console stands, and SCIMPrefix what an organisation's user administration talks to.
const (
	Prefix     = "/console"
	SCIMPrefix = "/scim/v2"
)

// CardPath is where the identity provider sends browsers back to.
const CardPath = Prefix + "/register/card"

// Options is what the console stands on.
type Options struct {
	DB           *database.DB
	Keyring      *keyring.Ring
	Tenants      *tenant.Store
	Accounts     *account.Service
	Rooms        *room.Service
	Registration *registration.Service
	// Party proves institutions by their card; its redirect address is URL and [CardPath].
	Party *idp.Party
	// Agent is the address of the card service on the user's machine, such as "http://127.0.0.1:8770".
	Agent string
	// URL is the public address of the host, without the prefix.
	URL string
	// Directory is the directory's address, empty where there is none; HTTP is what it is called with.
	Directory string
	HTTP      *http.Client
	Limiter   *limit.Limiter
	// Address is whom a request comes from.
	Address func(*http.Request) string
	Now     func() time.Time // nil: time.Now
	Log     *slog.Logger
}

// Service is the console of all organisations of a cell. It is safe for concurrent use.
type Service struct {
	o  Options
	db *database.DB
}

// New returns the service.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Service{o: o, db: o.DB}
}

func (s *Service) now() int64 { return s.o.Now().UnixMilli() }

// Handler serves the console below [Prefix] and SCIM below [SCIMPrefix].
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Prefix+"/register", s.public(s.showRegister))
	mux.HandleFunc("POST "+Prefix+"/register", s.public(s.register))
	mux.HandleFunc("GET "+CardPath, s.public(s.cardAnswered))
	mux.HandleFunc("GET "+Prefix+"/register/kim", s.public(s.showLink))
	mux.HandleFunc("POST "+Prefix+"/register/kim", s.public(s.takeLink))
	mux.HandleFunc("GET "+Prefix+"/sign-in", s.public(s.showSignIn))
	mux.HandleFunc("POST "+Prefix+"/sign-in", s.public(s.signIn))
	mux.HandleFunc("POST "+Prefix+"/sign-out", s.admin(s.signOut))
	mux.HandleFunc("GET "+Prefix, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, Prefix+"/", http.StatusSeeOther)
	})
	for path, p := range map[string]struct{ show, do page }{
		"/{$}":       {s.showPeople, s.doPeople},
		"/import":    {s.showImport, s.doImport},
		"/person":    {s.showPerson, s.doPerson},
		"/admins":    {s.showAdmins, s.doAdmins},
		"/bots":      {s.showBots, s.doBots},
		"/directory": {s.showDirectory, s.doDirectory},
		"/settings":  {s.showSettings, s.doSettings},
		"/log":       {s.showLog, s.doLog},
		"/contract":  {s.showContract, s.doContract},
	} {
		mux.HandleFunc("GET "+Prefix+path, s.admin(p.show))
		mux.HandleFunc("POST "+Prefix+path, s.admin(p.do))
	}
	mux.HandleFunc("GET "+Prefix+"/export", s.admin(s.export))
	s.scim(mux)
	return mux
}

// page answers one request of the console; an error that is none of ours becomes "not available now".
type page func(v *view) error

// public is a page for everybody.
func (s *Service) public(p page) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { s.answer(s.view(w, r), p) }
}

// admin is a page for administrators with both factors; everybody else signs in first.
func (s *Service) admin(p page) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v := s.view(w, r)
		s.answer(v, func(v *view) error {
			var err error
			if v.session, err = s.session(r.Context(), v.cookie(sessionCookie)); err != nil {
				return err
			}
			if v.session == nil || !v.session.second {
				return v.redirect(Prefix + "/sign-in")
			}
			if r.Method == http.MethodPost && !v.own(v.cookie(sessionCookie)) {
				return errStale
			}
			return p(v)
		})
	}
}

// errStale is answered for a form that did not stand on our page in this browser.
var errStale = errors.New("the form is out of date")

func (s *Service) answer(v *view, p page) {
	if v.broken {
		v.errorPage(http.StatusBadRequest, "stale_form")
		return
	}
	err := p(v)
	switch {
	case err == nil:
	case errors.Is(err, errStale):
		v.errorPage(http.StatusForbidden, "stale_form")
	case errors.Is(err, context.Canceled) && v.r.Context().Err() != nil:
	default:
		s.o.Log.Error("console", "path", v.r.URL.Path, "error", err)
		v.errorPage(http.StatusServiceUnavailable, "unavailable")
	}
}

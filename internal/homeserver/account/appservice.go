// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"errors"
	"regexp"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// AppService is what account needs to know of an application service's registration with one tenant.
type AppService struct {
	ID        string
	Sender    id.User // of sender_localpart
	Users     []*regexp.Regexp
	Unlimited bool // rate_limited: false
}

// Owns says whether the application service may act as the user: its sender, or one of its user namespaces.
func (a *AppService) Owns(user id.User) bool {
	if user == a.Sender {
		return true
	}
	if user.Server() != a.Sender.Server() {
		return false
	}
	for _, re := range a.Users {
		if loc := re.FindStringIndex(string(user)); loc != nil && loc[0] == 0 {
			return true
		}
	}
	return false
}

// requireAppService finds the application service whose token a request on a public route carries. Errors: M_MISSING_TOKEN, M_UNKNOWN_TOKEN.
func (s *Service) requireAppService(ctx context.Context, r *httpapi.Request) (*AppService, error) {
	token, ok := strings.CutPrefix(r.HTTP.Header.Get("Authorization"), "Bearer ")
	if !ok {
		token = r.Query("access_token")
	}
	if token == "" {
		return nil, mxerror.MissingToken.With("an application service's token is needed")
	}
	if as, ok := s.appService(ctx, r.Tenant, token); ok {
		return as, nil
	}
	return nil, mxerror.UnknownToken.With("this is no application service's token")
}

func (s *Service) appService(ctx context.Context, t *tenant.Tenant, token string) (*AppService, bool) {
	if s.o.AppService == nil {
		return nil, false
	}
	return s.o.AppService(ctx, t, token)
}

// appServiceSession is the session of an application service acting as its own sender, which no rate limit holds up.
func (s *Service) appServiceSession(ctx context.Context, t *tenant.Tenant, as *AppService) (*httpapi.Session, error) {
	if err := s.EnsureSender(ctx, t, as); err != nil {
		return nil, err
	}
	return &httpapi.Session{User: as.Sender, AppService: as.ID, Unlimited: true}, nil
}

// EnsureSender makes the account of an application service's own user where it is missing.
func (s *Service) EnsureSender(ctx context.Context, t *tenant.Tenant, as *AppService) error {
	exists, err := s.Exists(ctx, t.ID, as.Sender)
	if err != nil || exists {
		return err
	}
	_, err = s.Create(ctx, t, NewUser{Localpart: as.Sender.Localpart(), AppService: as.ID, DisplayName: as.Sender.Localpart()})
	if errors.Is(err, mxerror.UserInUse) {
		return nil
	}
	return err
}

// Masquerade lets an application service act as a user of its namespaces, and as one of that user's devices (application-service API,
// "Identity assertion"). Errors: M_FORBIDDEN, M_EXCLUSIVE outside the namespaces, M_UNKNOWN_DEVICE.
func (s *Service) Masquerade(ctx context.Context, t *tenant.Tenant, session *httpapi.Session, user id.User, device id.Device) (*httpapi.Session, error) {
	as, err := s.bySession(ctx, t, session)
	if err != nil {
		return nil, err
	}
	out := *session
	if user != "" && user != session.User {
		if !as.Owns(user) {
			return nil, mxerror.Forbidden.With("the application service may not act as this user")
		}
		a, err := s.Account(ctx, t.ID, user)
		if errors.Is(err, mxerror.NotFound) || err == nil && a.Deactivated {
			return nil, mxerror.Forbidden.With("the application service has not registered this user")
		}
		if err != nil {
			return nil, err
		}
		out.User, out.Unlimited = user, as.Unlimited
	}
	if device != "" {
		known, err := s.hasDevice(ctx, t.ID, out.User, device)
		if err != nil {
			return nil, err
		}
		if !known {
			return nil, mxerror.New(400, "M_UNKNOWN_DEVICE", "the user has no such device")
		}
		out.Device = device
	}
	return &out, nil
}

// bySession finds the registration that a session stands for.
func (s *Service) bySession(ctx context.Context, t *tenant.Tenant, session *httpapi.Session) (*AppService, error) {
	if session.AppService != "" && s.o.AppServiceByID != nil {
		if as, ok := s.o.AppServiceByID(ctx, t, session.AppService); ok {
			return as, nil
		}
	}
	return nil, mxerror.Forbidden.With("only application services may act as somebody else")
}

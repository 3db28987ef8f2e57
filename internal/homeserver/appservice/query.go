// SPDX-License-Identifier: Apache-2.0

package appservice

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// queryTries is how often a service is asked that does not answer (application-service API, "Querying"), queryPause what lies between.
const (
	queryTries = 3
	queryPause = 200 * time.Millisecond
)

// FindUser asks the services in whose namespace a missing local user lies. It says whether one of them has made the user. Error: 408 when a
// service does not answer.
func (s *Service) FindUser(ctx context.Context, t *tenant.Tenant, user id.User) (bool, error) {
	for _, svc := range s.o.Registry.of(t.Name) {
		if svc.url == nil || user == svc.account.Sender || !svc.owns(user) {
			continue
		}
		if made, err := s.ask(ctx, svc, "/users/"+url.PathEscape(string(user))); made || err != nil {
			return made, err
		}
	}
	return false, nil
}

// FindAlias is FindUser for a missing alias of the tenant.
func (s *Service) FindAlias(ctx context.Context, t *tenant.Tenant, alias id.Alias) (bool, error) {
	for _, svc := range s.o.Registry.of(t.Name) {
		if svc.url == nil || !within(svc.Namespaces.Aliases, string(alias), false) {
			continue
		}
		if made, err := s.ask(ctx, svc, "/rooms/"+url.PathEscape(string(alias))); made || err != nil {
			return made, err
		}
	}
	return false, nil
}

// ask puts a question that a service answers by its status.
func (s *Service) ask(ctx context.Context, svc *service, path string) (bool, error) {
	for try := range queryTries {
		if try > 0 {
			select {
			case <-time.After(queryPause << try):
			case <-ctx.Done():
				return false, ctx.Err()
			}
		}
		status, err := s.get(ctx, svc, prefix+path, path)
		switch {
		case ctx.Err() != nil:
			return false, ctx.Err()
		case err == nil && status/100 == 2:
			return true, nil
		case err == nil && status < 500:
			return false, nil
		}
	}
	return false, mxerror.New(http.StatusRequestTimeout, "M_UNKNOWN", "The application service that this name belongs to does not answer.")
}

// get asks under the present path and, where the service does not know it, under the old one.
func (s *Service) get(ctx context.Context, svc *service, path, old string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.Patience)
	defer cancel()
	status, answer, err := s.call(ctx, svc, request{method: http.MethodGet, path: path})
	if err == nil && unknownPath(status, answer) {
		status, _, err = s.call(ctx, svc, request{method: http.MethodGet, path: old, old: true})
	}
	return status, err
}

// timedOut says whether a call ended because the service took too long.
func timedOut(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

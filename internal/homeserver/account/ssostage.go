// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// ConfirmAction is the action of the account page that completes the stage m.login.sso; its query names the session too.
const ConfirmAction = "confirm"

// confirmFlows are the ways by which the user of a request may confirm something: the password where the account has one, and the pages of sign-in where
// its people sign in by something else as well. Who signs in by card has no password to enter.
func (s *Service) confirmFlows(ctx context.Context, r *httpapi.Request) ([][]string, error) {
	if s.o.AccountPage == nil {
		return [][]string{{loginPassword}}, nil
	}
	a, err := s.Account(ctx, r.Tenant.ID, r.Session.User)
	if err != nil {
		return nil, err
	}
	var flows [][]string
	if a.password != "" {
		flows = append(flows, []string{loginPassword})
	}
	if a.password == "" || s.o.IdentityProviders != nil && len(s.o.IdentityProviders(r.Tenant)) > 0 {
		flows = append(flows, []string{loginSSO})
	}
	return flows, nil
}

// ssoStage refuses what a client sends for the stage itself: it is completed in the browser, after which the client asks with the session alone
// (client-server API, "Single sign-on" under "Authentication types").
func ssoStage(context.Context, *authData) (string, error) {
	return "", mxerror.Unauthorized.With("this has not been confirmed in the browser yet")
}

// ApproveStage completes the stage m.login.sso of a session of user-interactive authentication that a client of the user opened, who has just proven who
// he is. M_NOT_FOUND when there is none, it has expired or is somebody else's.
func (s *Service) ApproveStage(ctx context.Context, t *tenant.Tenant, user id.User, session string) error {
	kept, purpose, err := s.openSession(ctx, t.ID, session)
	if known := mxerror.From(err); known != nil && known.Status < 500 || err == nil && !strings.HasPrefix(purpose, string(user)+" ") {
		return mxerror.NotFound.With("this request for confirmation is not known or has expired")
	}
	if err != nil {
		return err
	}
	kept.completed[loginSSO] = string(user)
	return s.noteStages(ctx, t.ID, session, kept.completed)
}

// ssoFallback sends the browser to the page of sign-in on which the stage is completed, and which sends it back here.
func (s *Service) ssoFallback(r *httpapi.Request, session string) (any, error) {
	if s.o.AccountPage == nil {
		return nil, mxerror.NotFound.With("there is no page for this stage")
	}
	page := s.o.AccountPage(r, url.Values{"action": {ConfirmAction}, sessionOnPages: {session}})
	return &httpapi.Reply{Status: http.StatusSeeOther, Header: http.Header{"Location": {page}, "Cache-Control": {"no-store"}}}, nil
}

// FallbackPath is the address, on the server's host, of the page that tells a client's browser window that a session's stage m.login.sso is done.
func FallbackPath(session string) string {
	return v3 + "/auth/" + loginSSO + "/fallback/web?session=" + url.QueryEscape(session)
}

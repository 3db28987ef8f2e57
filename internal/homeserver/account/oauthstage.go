// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"net/url"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// The stage by which a session of an OAuth 2.0 client lets its user confirm something on the server's pages (client-server API, "OAuth
// authentication"), and its name from before it was specified, which clients still look for.
const (
	stageOAuth     = "m.oauth"
	stageOAuthOld  = "org.matrix.cross_signing_reset"
	CrossSigning   = "keys/device_signing/upload" // the one purpose that this stage exists for
	resetAction    = "org.matrix.cross_signing_reset"
	sessionOnPages = "session"
)

// confirmOnPage is [Service.Confirm] for sessions of OAuth 2.0 clients: the user approves on the account page that the challenge names, then the
// client asks again with nothing but the session's id.
func (s *Service) confirmOnPage(ctx context.Context, r *httpapi.Request, purpose string, raw jsontext.Value) (*httpapi.Reply, error) {
	if purpose != CrossSigning || s.o.AccountPage == nil {
		return nil, s.onAccountPages(r)
	}
	run := &uia{tenant: r.Tenant, purpose: string(r.Session.User) + " " + purpose, flows: [][]string{{stageOAuth}}}
	var auth authData
	if len(raw) > 0 && string(raw) != "null" {
		if err := json.Unmarshal(raw, &auth); err != nil {
			return nil, mxerror.BadJSON.With("auth: wrong type")
		}
	}
	if auth.Session == "" {
		reply, err := s.challenge(ctx, run, nil, nil)
		return s.pointToPage(r, reply, err)
	}
	if _, err := s.session(ctx, run, auth.Session); err != nil {
		return nil, err
	}
	n, err := s.db.Exec(ctx, "DELETE FROM uia_session WHERE tenant = $1 AND session = $2 AND completed = $3", int64(r.Tenant.ID), auth.Session, stageOAuth)
	if err != nil || n > 0 {
		return nil, err
	}
	reply := run.reply(auth.Session, nil, mxerror.Unauthorized.With("this has not been confirmed on the account page yet"))
	return s.pointToPage(r, reply, nil)
}

// pointToPage gives a challenge both names of the stage and the address of the page.
func (s *Service) pointToPage(r *httpapi.Request, reply *httpapi.Reply, err error) (*httpapi.Reply, error) {
	if err != nil {
		return nil, err
	}
	body := reply.Body.(challengeBody)
	page := map[string]string{"url": s.o.AccountPage(r, url.Values{"action": {resetAction}, sessionOnPages: {body.Session}})}
	body.Flows = []stages{{[]string{stageOAuth}}, {[]string{stageOAuthOld}}}
	body.Params = map[string]any{stageOAuth: page, stageOAuthOld: page}
	reply.Body = body
	return reply, nil
}

// ApproveCrossSigning completes the stage of a session of user-interactive authentication that the user's own client opened to replace the
// cross-signing keys. M_NOT_FOUND when there is none, or it has expired.
func (s *Service) ApproveCrossSigning(ctx context.Context, t *tenant.Tenant, user id.User, session string) error {
	n, err := s.db.Exec(ctx, "UPDATE uia_session SET completed = $5 WHERE tenant = $1 AND session = $2 AND purpose = $3 AND created > $4",
		int64(t.ID), session, string(user)+" "+CrossSigning, s.now()-uiaLife.Milliseconds(), stageOAuth)
	if err == nil && n == 0 {
		err = mxerror.NotFound.With("this request for confirmation is not known or has expired")
	}
	return err
}

// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"net/http"
	"net/url"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
)

// linkData is what the page of the device grant shows: the field for a code, or the request behind one.
type linkData struct {
	Code   string
	Client *clientData
}

// doneData is a page that tells how something ended. Back is the query of the account page to go on to; empty for none.
type doneData struct{ Title, Text, Back string }

// link is the page on which people let a device in that has no browser (RFC 8628, section 3.3).
func (s *Service) link(ctx context.Context, r *httpapi.Request) (any, error) {
	v, reply, err := s.enter(ctx, r, entry{heading: "link_sign_in"})
	if reply != nil || err != nil {
		return reply, err
	}
	typed := r.Query("user_code")
	if v.form.Has("user_code") {
		typed = v.form.Get("user_code")
	}
	code := normalUserCode(typed)
	if code == "" {
		return v.page("link", linkData{}, http.StatusOK), nil
	}
	if v.form.Get("do") == "code" {
		return seeOther(pathLink + "?" + url.Values{"user_code": {shownUserCode(code)}}.Encode()), nil
	}
	if reply := v.limited(limit.Login); reply != nil { // codes are short: each look is an attempt
		return reply, nil
	}
	t := owner(r.Tenant)
	if do := v.form.Get("do"); do == "approve" || do == "deny" {
		return s.decide(ctx, v, code, do == "approve")
	}
	d, err := s.deviceRequest(ctx, t, code)
	if err != nil {
		return nil, err
	}
	if d == nil {
		return v.unknownCode(code), nil
	}
	g, err := s.client(ctx, t, d.client)
	if err != nil {
		return nil, err
	}
	client := v.clientData(g)
	return v.page("link", linkData{shownUserCode(code), &client}, http.StatusOK), nil
}

func (v *visit) unknownCode(code string) *httpapi.Reply {
	v.problem = "link_unknown"
	return v.page("link", linkData{Code: shownUserCode(code)}, http.StatusNotFound)
}

// decide works off the decision about a device.
func (s *Service) decide(ctx context.Context, v *visit, code string, yes bool) (any, error) {
	state, outcome := denied, doneData{Title: "link_denied_title", Text: "link_denied"}
	if yes {
		state, outcome = approved, doneData{Title: "link_done_title", Text: "link_done"}
	}
	open, err := s.decideDevice(ctx, owner(v.r.Tenant), code, v.account.User, state)
	if err != nil {
		return nil, err
	}
	if !open {
		return v.unknownCode(code), nil
	}
	return v.page("done", outcome, http.StatusOK), nil
}

// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// authorization is a checked authorisation request (RFC 6749, section 4.1.1). It is kept nowhere: its parameters stay in the page's address and are
// checked again with each step.
type authorization struct {
	client                   *registration
	clientID                 string
	redirect, mode, state    string
	scope, challenge, prompt string
	device                   id.Device
	issuer                   string
}

// readAuthorization checks a request. A page error must not be sent to the redirect URI, because that is not known to be the client's; a refusal is.
func (s *Service) readAuthorization(ctx context.Context, r *httpapi.Request) (a *authorization, pageError *failure, refused *failure, err error) {
	q := r.Values()
	a = &authorization{clientID: q.Get("client_id"), redirect: q.Get("redirect_uri"), mode: "query", state: q.Get("state"),
		challenge: q.Get("code_challenge"), prompt: q.Get("prompt"), issuer: s.issuer(r)}
	if len(q["client_id"]) > 1 || len(q["redirect_uri"]) > 1 {
		return nil, fail("invalid_request", "client_id and redirect_uri may come once"), nil, nil
	}
	a.client, err = s.client(ctx, owner(r.Tenant), a.clientID)
	if errors.As(err, &pageError) {
		return nil, pageError, nil, nil
	}
	if err != nil {
		return nil, nil, nil, err
	}
	if !a.client.redirectRegistered(a.redirect) {
		return nil, fail("invalid_request", "redirect_uri is missing or not registered by this client"), nil, nil
	}
	return a, nil, a.check(q), nil
}

// check reads what is wrong with a request whose client is known.
func (a *authorization) check(q url.Values) (refused *failure) {
	switch mode := q.Get("response_mode"); mode {
	case "", "query":
	case "fragment":
		a.mode = mode
	default:
		return fail("invalid_request", "response_mode must be query or fragment")
	}
	if refused := once(q); refused != nil {
		return refused
	}
	switch {
	case q.Has("request"):
		return fail("request_not_supported", "request objects are not supported")
	case q.Has("request_uri"):
		return fail("request_uri_not_supported", "request objects are not supported")
	case q.Get("response_type") == "":
		return fail("invalid_request", "response_type is missing")
	case q.Get("response_type") != "code":
		return fail("unsupported_response_type", "response_type must be code")
	case !a.client.may(grantCode):
		return fail("unauthorized_client", "the client did not register for the grant type authorization_code")
	case a.challenge == "":
		return fail("invalid_request", "code_challenge is missing: PKCE is required")
	case q.Get("code_challenge_method") != "S256":
		return fail("invalid_request", "code_challenge_method must be S256")
	case !challengeForm(a.challenge):
		return fail("invalid_request", "code_challenge is not the SHA-256 of a verifier in base64url")
	}
	for prompt := range strings.FieldsSeq(a.prompt) {
		switch prompt {
		case "none", "login", "consent", "select_account", "create":
		default:
			return fail("invalid_request", "prompt holds an unknown value")
		}
	}
	if a.asks("none") && a.prompt != "none" {
		return fail("invalid_request", "prompt none goes with no other value")
	}
	a.scope, a.device, refused = parseScope(q.Get("scope"))
	return refused
}

func (a *authorization) asks(prompt string) bool {
	for p := range strings.FieldsSeq(a.prompt) {
		if p == prompt {
			return true
		}
	}
	return false
}

// answer sends the browser back to the client with the parameters, the client's state and the issuer (RFC 9207).
func (a *authorization) answer(parameters url.Values) *httpapi.Reply {
	if a.state != "" {
		parameters.Set("state", a.state)
	}
	parameters.Set("iss", a.issuer)
	return seeOther(answerAddress(a.redirect, a.mode, parameters))
}

// refuse is answer with an error.
func (a *authorization) refuse(f *failure) *httpapi.Reply {
	return a.answer(url.Values{"error": {f.Code}, "error_description": {f.Description}})
}

// seeOther sends the browser on, after a form with GET.
func seeOther(address string) *httpapi.Reply {
	return &httpapi.Reply{Status: http.StatusSeeOther, Header: pageHeader(http.Header{"Location": {address}}, "")}
}

// authorize is the authorisation endpoint: the page on which people sign in and let a client in.
func (s *Service) authorize(ctx context.Context, r *httpapi.Request) (any, error) {
	a, pageError, refused, err := s.readAuthorization(ctx, r)
	switch {
	case err != nil:
		return nil, err
	case pageError != nil:
		return s.errorPage(r, http.StatusBadRequest, "bad_request", pageError.Description), nil
	case refused != nil:
		return a.refuse(refused), nil
	}
	v, reply, err := s.enter(ctx, r, entry{heading: "authorize_sign_in", client: a.client, create: a.asks("create"), afresh: a.asks("login"),
		silent: a.asks("none"), action: cspSource(a.redirect)})
	switch {
	case errors.Is(err, errSilent):
		return a.refuse(fail("login_required", "nobody is signed in")), nil
	case reply != nil || err != nil:
		return reply, err
	case a.asks("none"):
		return a.refuse(fail("consent_required", "the user has to agree on a page")), nil
	}
	switch v.form.Get("do") {
	case "deny":
		return a.refuse(fail("access_denied", "the user refused")), nil
	case "approve":
		code, err := s.putCode(ctx, owner(r.Tenant), v.tenant.ID, v.account.User, a)
		if err != nil {
			return nil, err
		}
		return a.answer(url.Values{"code": {code}}), nil
	}
	return v.page("consent", consentData{v.clientData(a.client), destination(a.redirect)}, http.StatusOK), nil
}

// consentData is what the consent page shows.
type consentData struct {
	Client      clientData
	Destination string // where the browser goes afterwards; empty for applications on the device itself
}

// destination is the host that people are sent to; empty for an application of their own device.
func destination(redirect string) string {
	u, err := url.Parse(redirect)
	if err != nil || u.Scheme != "https" {
		return ""
	}
	return u.Host
}

// cspSource is the source expression by which the page's policy lets its form lead to a redirect URI: browsers check where a form's answer sends them.
func cspSource(redirect string) string {
	u, err := url.Parse(redirect)
	switch {
	case err != nil || u.Scheme == "":
		return ""
	case u.Scheme == "http" && u.Hostname() == "::1": // no source expression holds such an address
		return "http:"
	case (u.Scheme == "https" || u.Scheme == "http") && hostName(u.Hostname()):
		return u.Scheme + "://" + u.Host
	}
	return u.Scheme + ":"
}

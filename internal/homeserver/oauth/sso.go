// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// ssoRedirect sends a client that does not know OAuth 2.0 to the sign-in page (client-server API, "SSO client login/authentication").
func (s *Service) ssoRedirect(_ context.Context, r *httpapi.Request) (any, error) {
	to := r.Query("redirectUrl")
	if to == "" {
		return nil, mxerror.MissingParam.With("redirectUrl is missing")
	}
	if _, ok := ssoTarget(to); !ok {
		return nil, mxerror.InvalidParam.With("redirectUrl is not an address that a browser may be sent to")
	}
	q := url.Values{"redirectUrl": {to}}
	wish := r.Query("action")
	if wish == "" {
		wish = r.Query("org.matrix.msc3824.action")
	}
	if wish == "register" {
		q.Set("prompt", "create")
	}
	if provider := r.Var("idpId"); provider != "" {
		switch {
		case provider == ProviderID && s.provider(r.Tenant) != nil:
			q.Set("idp", ProviderID)
		case provider == CardProvider && s.byCard(r.Tenant):
			q.Set("idp", CardProvider)
		case provider != OwnProvider:
			return s.errorPage(r, http.StatusNotFound, "unknown_provider", ""), nil
		}
	}
	return &httpapi.Reply{Status: http.StatusFound, Header: http.Header{"Location": {s.base(r) + pathSSO + "?" + q.Encode()}, "Cache-Control": {"no-store"}}}, nil
}

// OwnProvider is the id of the server's own sign-in pages among its identity providers.
const OwnProvider = "konsil"

// forbiddenSchemes are those by which an address would run or show something instead of leading to a client.
var forbiddenSchemes = []string{"javascript", "data", "vbscript", "file", "about", "blob", "filesystem", "view-source", "intent", "ws", "wss", "ftp", "chrome"}

// ssoTarget checks where a client wants the login token: a web page, or a scheme that an application has claimed.
func ssoTarget(address string) (*url.URL, bool) {
	u, err := url.Parse(address)
	if err != nil || len(address) > maxAddress || strings.ContainsAny(address, " \\\"<>") || u.User != nil {
		return nil, false
	}
	switch u.Scheme {
	case "":
		return nil, false
	case "http", "https":
		return u, u.Opaque == "" && hostName(u.Hostname())
	}
	return u, !slices.Contains(forbiddenSchemes, u.Scheme)
}

// withLoginToken adds the token to the query of the client's address, in place of any that is there.
func withLoginToken(u *url.URL, token string) string {
	var kept []string
	for part := range strings.SplitSeq(u.RawQuery, "&") {
		name, _, _ := strings.Cut(part, "=")
		if plain, err := url.QueryUnescape(name); part != "" && (err != nil || plain != "loginToken") {
			kept = append(kept, part)
		}
	}
	to := *u
	to.RawQuery = strings.Join(append(kept, "loginToken="+url.QueryEscape(token)), "&")
	return to.String()
}

// sso is the page on which people sign in for a client that gets a login token for it. They confirm where it goes, because anybody can make a link to
// this page.
func (s *Service) sso(ctx context.Context, r *httpapi.Request) (any, error) {
	to, ok := ssoTarget(r.Query("redirectUrl"))
	if !ok {
		return s.errorPage(r, http.StatusBadRequest, "bad_request", "redirectUrl is missing or not an address that a browser may be sent to"), nil
	}
	v, reply, err := s.enter(ctx, r, entry{heading: "sso_sign_in", create: r.Query("prompt") == "create", way: r.Query("idp"), action: cspSource(to.String())})
	if reply != nil || err != nil {
		return reply, err
	}
	switch v.form.Get("do") {
	case "approve":
		token, err := s.o.Accounts.NewLoginToken(ctx, v.tenant, v.account.User)
		if err != nil {
			return nil, err
		}
		return seeOther(withLoginToken(to, token)), nil
	case "deny":
		return v.page("done", doneData{Title: "sso_denied_title", Text: "sso_denied"}, http.StatusOK), nil
	}
	d := struct{ Destination string }{to.Host}
	if to.Scheme != "http" && to.Scheme != "https" {
		d.Destination = to.Scheme + ":"
	}
	return v.page("sso", d, http.StatusOK), nil
}

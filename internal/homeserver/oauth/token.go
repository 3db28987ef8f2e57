// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// formValues is what the grants read of a request's parameters.
type formValues interface{ Get(name string) string }

type tokenReply struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in"` // seconds
	RefreshToken string `json:"refresh_token"`
	Scope        string `json:"scope"`
}

// token is the token endpoint (RFC 6749, section 3.2).
func (s *Service) token(ctx context.Context, r *httpapi.Request) (any, error) {
	if r.HTTP.Header.Get("Authorization") != "" { // nobody here has a secret to authenticate with
		f := fail("invalid_client", "only public clients are supported: name the client by client_id in the body")
		header := unstored.Clone()
		header.Set("WWW-Authenticate", `Basic realm="oauth"`)
		return &httpapi.Reply{Status: http.StatusUnauthorized, Header: header, Body: f}, nil
	}
	form, refused := parseForm(r)
	if refused != nil {
		return refused.reply(), nil
	}
	l, err := s.grant(ctx, r, form)
	if errors.As(err, &refused) {
		return refused.reply(), nil
	}
	if err != nil {
		return nil, err
	}
	return &httpapi.Reply{Header: unstored, Body: tokenReply{l.AccessToken, "Bearer", int64(l.ExpiresIn.Seconds()), l.RefreshToken, l.Scope}}, nil
}

// grant answers one of the grant types. Its refusals are failures.
func (s *Service) grant(ctx context.Context, r *httpapi.Request, form formValues) (*account.Login, error) {
	kind := form.Get("grant_type")
	secret := map[string]string{grantCode: "code", grantRefresh: "refresh_token", grantDevice: "device_code"}[kind]
	switch {
	case kind == "":
		return nil, fail("invalid_request", "grant_type is missing")
	case secret == "":
		return nil, fail("unsupported_grant_type", "the grant types are %s, %s and %s", grantCode, grantRefresh, grantDevice)
	case form.Get(secret) == "":
		return nil, fail("invalid_request", "%s is missing", secret)
	}
	t, err := s.tenantOf(ctx, r, form.Get(secret))
	if err != nil {
		return nil, err
	}
	clientID := form.Get("client_id")
	registered, err := s.client(ctx, owner(t), clientID)
	if err != nil {
		return nil, err
	}
	if !registered.may(kind) {
		return nil, fail("unauthorized_client", "the client did not register for this grant type")
	}
	if kind == grantDevice {
		return s.exchangeDeviceCode(ctx, r, clientID, form.Get(secret))
	}
	if t == nil {
		return nil, fail("invalid_grant", "the %s is not known", secret)
	}
	if kind == grantCode {
		return s.exchangeCode(ctx, r, t, clientID, form)
	}
	if requested := form.Get("scope"); requested != "" {
		if _, _, refused := parseScope(requested); refused != nil {
			return nil, refused
		}
	}
	l, err := s.o.Accounts.RenewGrant(ctx, t, form.Get(secret), clientID)
	if mxerror.From(err) != nil {
		return nil, fail("invalid_grant", "the refresh token is unknown, expired, revoked or another client's")
	}
	if err == nil {
		err = s.touchClient(ctx, t.ID, clientID)
	}
	return l, err
}

// touchClient notes that a client is used. A session keeps its client anyway; this only spares the look.
func (s *Service) touchClient(ctx context.Context, t tenant.ID, clientID string) error {
	now := s.now()
	_, err := s.db.Exec(ctx, "UPDATE oauth_client SET used = $3 WHERE tenant = $1 AND client_id = $2 AND used < $4",
		int64(t), clientID, now, now-clientLife.Milliseconds()/2)
	return err
}

// tenantOf is the tenant that a request means: that of its host, else the one that a secret names by its prefix; nil for neither.
func (s *Service) tenantOf(ctx context.Context, r *httpapi.Request, secret string) (*tenant.Tenant, error) {
	if r.Tenant != nil {
		return r.Tenant, nil
	}
	key, ok := httpapi.TokenTenant(secret)
	if !ok {
		return nil, nil
	}
	t, err := s.o.Tenants.ByID(ctx, key)
	if errors.Is(err, tenant.ErrUnknown) {
		return nil, nil
	}
	return s.admitted(ctx, r, t, err)
}

// admitted gives a tenant that was found behind the edge what the edge would have done: nil unless it is active, and the policy's word.
func (s *Service) admitted(ctx context.Context, r *httpapi.Request, t *tenant.Tenant, err error) (*tenant.Tenant, error) {
	if err != nil {
		return nil, err
	}
	if t.State != tenant.Active {
		return nil, nil
	}
	return t, s.o.Policy.Route(ctx, t, r.HTTP.Method, r.Pattern(), nil)
}

// startSession signs a user's device in for a client.
func (s *Service) startSession(ctx context.Context, r *httpapi.Request, t *tenant.Tenant, user id.User, device id.Device, clientID, scope string) (*account.Login, error) {
	a, err := s.o.Accounts.Account(ctx, t.ID, user)
	if err != nil {
		return nil, err
	}
	if a.Deactivated || a.Locked {
		return nil, fail("invalid_grant", "this account may not sign in")
	}
	registered, err := s.client(ctx, t.ID, clientID)
	if err != nil {
		return nil, err
	}
	name := registered.Name
	if name == "" {
		name = registered.host()
	}
	l, err := s.o.Accounts.StartSession(ctx, t, account.SessionSpec{User: user, Device: device, DisplayName: name, Address: r.Address,
		Grant: &account.Grant{Client: clientID, Scope: scope}})
	if refused := mxerror.From(err); refused != nil {
		return nil, fail("invalid_grant", "%s", refused.Message)
	}
	return l, err
}

// revoke is the revocation endpoint (RFC 7009). Whoever has a token may end its session, so that leaked ones can be made harmless.
func (s *Service) revoke(ctx context.Context, r *httpapi.Request) (any, error) {
	form, refused := parseForm(r)
	if refused != nil {
		return refused.reply(), nil
	}
	token := strings.TrimSpace(form.Get("token"))
	if token == "" {
		return fail("invalid_request", "token is missing").reply(), nil
	}
	t, err := s.tenantOf(ctx, r, token)
	if err != nil || t == nil {
		return &httpapi.Reply{Header: unstored}, err
	}
	return &httpapi.Reply{Header: unstored}, s.o.Accounts.RevokeToken(ctx, t, token)
}

// keepClient keeps the client of a device code for the tenant of who approved it.
func (s *Service) keepClient(ctx context.Context, from, to tenant.ID, clientID string) error {
	return s.db.Write(ctx, func(tx *database.Tx) error { return s.adoptClient(ctx, tx, from, to, clientID) })
}

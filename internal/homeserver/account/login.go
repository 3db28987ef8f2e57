// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"errors"
	"net/url"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// The login types (client-server API, "Login").
const (
	loginPassword   = "m.login.password"
	loginToken      = "m.login.token"
	loginSSO        = "m.login.sso"
	loginAppService = "m.login.application_service"
	loginDummy      = "m.login.dummy"
)

// loginTokenLife is how long a token of /login/get_token may be used, as the specification recommends.
const loginTokenLife = 2 * time.Minute

type flow struct {
	Type          string             `json:"type"`
	GetLoginToken bool               `json:"get_login_token,omitzero"`
	Providers     []IdentityProvider `json:"identity_providers,omitempty"`
	// Preferred tells clients that know OAuth 2.0 only by name to offer nothing else, by its specified name and by the one from before.
	Preferred    bool `json:"oauth_aware_preferred,omitzero"`
	PreferredOld bool `json:"org.matrix.msc3824.delegated_oidc_compatibility,omitzero"`
}

// IdentityProvider is a way of single sign-on (client-server API, "m.login.sso flow schema").
type IdentityProvider struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

type flowsReply struct {
	Flows []flow `json:"flows"`
}

func (s *Service) loginFlows(_ context.Context, r *httpapi.Request) (any, error) {
	var flows []flow
	if !s.o.Config.NoPasswordLogin && !s.o.Config.SecondFactor {
		flows = append(flows, flow{Type: loginPassword})
	}
	if s.o.Issuer != nil {
		sso := flow{Type: loginSSO, Preferred: true, PreferredOld: true}
		if s.o.IdentityProviders != nil && r.Tenant != nil {
			sso.Providers = s.o.IdentityProviders(r.Tenant)
		}
		flows = append(flows, sso)
	}
	return flowsReply{append(flows, flow{Type: loginToken, GetLoginToken: true}, flow{Type: loginAppService})}, nil
}

// identifier is how somebody says who they are (client-server API, "Identifier types").
type identifier struct {
	Type    string `json:"type"`
	User    string `json:"user"`
	Medium  string `json:"medium"`
	Address string `json:"address"`
}

type loginRequest struct {
	Type          string      `json:"type"`
	Identifier    *identifier `json:"identifier"`
	User          string      `json:"user"` // before identifiers
	Password      *string     `json:"password"`
	Token         string      `json:"token"`
	Device        id.Device   `json:"device_id"`
	InitialDevice string      `json:"initial_device_display_name"`
	Refresh       bool        `json:"refresh_token"`
	Medium        string      `json:"medium"`
	Address       string      `json:"address"`
}

type loginReply struct {
	User        id.User        `json:"user_id"`
	AccessToken string         `json:"access_token,omitempty"`
	Device      id.Device      `json:"device_id,omitempty"`
	Refresh     string         `json:"refresh_token,omitempty"`
	ExpiresIn   int64          `json:"expires_in_ms,omitzero"`
	HomeServer  id.Server      `json:"home_server,omitempty"`
	WellKnown   *clientDetails `json:"well_known,omitempty"`
}

func (s *Service) loginReply(t *tenant.Tenant, l *Login) loginReply {
	return loginReply{User: l.User, AccessToken: l.AccessToken, Device: l.Device, Refresh: l.RefreshToken, ExpiresIn: l.ExpiresIn.Milliseconds(),
		HomeServer: t.Name, WellKnown: s.clientDetails(t)}
}

func (s *Service) login(ctx context.Context, r *httpapi.Request) (any, error) {
	var q loginRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	var user id.User
	var err error
	switch {
	case q.Type == loginPassword && s.o.Config.SecondFactor:
		user, err = s.provenLogin(ctx, r, &q)
	case q.Type == loginPassword && !s.o.Config.NoPasswordLogin:
		user, err = s.passwordLogin(ctx, r.Tenant, &q)
	case q.Type == loginToken:
		user, err = s.tokenLogin(ctx, r.Tenant, q.Token)
	case q.Type == loginAppService:
		user, err = s.appServiceLogin(ctx, r, &q)
	case q.Type == "":
		return nil, mxerror.MissingParam.With("type is missing")
	default:
		return nil, mxerror.New(400, "M_UNKNOWN", "unknown login type")
	}
	if err != nil {
		return nil, err
	}
	l, err := s.StartSession(ctx, r.Tenant, SessionSpec{User: user, Device: q.Device, DisplayName: q.InitialDevice, Refresh: q.Refresh, Address: r.Address})
	if err != nil {
		return nil, err
	}
	return s.loginReply(r.Tenant, l), nil
}

// namedBy is the login name that a request means: by an identifier (client-server API, "Identifier types"), or by the fields used before there
// were any. M_MISSING_PARAM when it names nobody.
func (s *Service) namedBy(ctx context.Context, t *tenant.Tenant, who *identifier, user, medium, address string) (string, error) {
	if who != nil {
		switch who.Type {
		case "m.id.user":
			user, medium, address = who.User, "", ""
		case "m.id.thirdparty":
			user, medium, address = "", who.Medium, who.Address
			if medium == "" || address == "" {
				return "", mxerror.MissingParam.With("identifier.medium or identifier.address is missing")
			}
		case "":
			return "", mxerror.MissingParam.With("identifier.type is missing")
		default:
			return "", mxerror.New(400, "M_UNKNOWN", "unknown identifier type")
		}
	}
	if user == "" && medium == "email" && address != "" {
		return s.byAddress(ctx, t.ID, address)
	}
	if user == "" && medium != "" {
		return "", mxerror.Forbidden.With("wrong user name or password") // no telephone number belongs to anybody here
	}
	if user == "" {
		return "", mxerror.MissingParam.With("identifier.user is missing")
	}
	return user, nil
}

func (s *Service) passwordLogin(ctx context.Context, t *tenant.Tenant, q *loginRequest) (id.User, error) {
	if q.Password == nil {
		return "", mxerror.MissingParam.With("password is missing")
	}
	name, err := s.namedBy(ctx, t, q.Identifier, q.User, q.Medium, q.Address)
	if err != nil {
		return "", err
	}
	a, err := s.CheckPassword(ctx, t, name, *q.Password)
	if err != nil {
		return "", err
	}
	return a.User, nil
}

// provenLogin is m.login.password where a password alone lets nobody in: bots show the credential that an administrator gave them, everybody else is
// told the way. The password is not even looked at, so that nobody can try passwords here.
func (s *Service) provenLogin(ctx context.Context, r *httpapi.Request, q *loginRequest) (id.User, error) {
	if q.Password != nil && isBotCredential(*q.Password) {
		name, err := s.namedBy(ctx, r.Tenant, q.Identifier, q.User, q.Medium, q.Address)
		if err != nil {
			return "", err
		}
		return s.botLogin(ctx, r.Tenant, name, *q.Password)
	}
	refused := mxerror.Forbidden.With("a password alone is not enough here: sign in in the browser (OAuth 2.0 or m.login.sso)")
	if s.o.AccountPage != nil {
		refused = refused.WithExtra("sign_in", s.o.AccountPage(r, url.Values{}))
	}
	return "", refused
}

// CheckPassword answers the account of a login name if the password is right. Errors: M_FORBIDDEN for a wrong name or password without telling
// which, M_USER_DEACTIVATED, M_USER_LOCKED, M_LIMIT_EXCEEDED after too many attempts on one account.
func (s *Service) CheckPassword(ctx context.Context, t *tenant.Tenant, name, password string) (*Account, error) {
	a, err := s.byLogin(ctx, t, name)
	if err != nil && !errors.Is(err, mxerror.NotFound) {
		return nil, err
	}
	stored, bucket := "", "login:"+foldLogin(name)
	if err == nil {
		stored, bucket = a.password, "user:"+string(a.User)
	}
	// By account, whatever address the attempts come from; names that do not exist are counted too, so that the limit tells nothing.
	if err := httpapi.LimitError(s.o.Limiter.Allow(limit.Login, string(t.Name), bucket)); err != nil {
		return nil, err
	}
	right, err := s.hasher.verify(ctx, stored, password)
	switch {
	case err != nil:
		return nil, err
	case a != nil && a.Deactivated:
		return nil, mxerror.UserDeactivated.With("this account has been deactivated")
	case !right:
		return nil, mxerror.Forbidden.With("wrong user name or password")
	case a.Locked:
		return nil, mxerror.UserLocked.With("this account is locked").WithExtra("soft_logout", true)
	}
	return a, nil
}

// tokenLogin takes a token of /login/get_token, once.
func (s *Service) tokenLogin(ctx context.Context, t *tenant.Tenant, token string) (id.User, error) {
	if token == "" {
		return "", mxerror.MissingParam.With("token is missing")
	}
	user, err := s.takeShortToken(ctx, t.ID, kindLogin, token)
	if err != nil {
		return "", err
	}
	a, err := s.Account(ctx, t.ID, user)
	if err != nil {
		return "", err
	}
	if a.Deactivated || a.Locked {
		return "", mxerror.Forbidden.With("this account may not sign in")
	}
	return user, nil
}

func (s *Service) appServiceLogin(ctx context.Context, r *httpapi.Request, q *loginRequest) (id.User, error) {
	as, err := s.requireAppService(ctx, r)
	if err != nil {
		return "", err
	}
	name, err := s.namedBy(ctx, r.Tenant, q.Identifier, q.User, "", "")
	if err != nil {
		return "", err
	}
	a, err := s.byLogin(ctx, r.Tenant, name)
	if errors.Is(err, mxerror.NotFound) || err == nil && a.Deactivated {
		return "", mxerror.Forbidden.With("no such user")
	}
	if err != nil {
		return "", err
	}
	if !as.Owns(a.User) {
		return "", mxerror.Exclusive.With("the user is not in the namespace of the application service")
	}
	return a.User, nil
}

type loginTokenReply struct {
	Token     string `json:"login_token"`
	ExpiresIn int64  `json:"expires_in_ms"`
}

func (s *Service) getLoginToken(ctx context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		Auth jsontext.Value `json:"auth"`
	}
	if err := r.DecodeOptional(&q); err != nil {
		return nil, err
	}
	if challenge, err := s.Confirm(ctx, r, "login/get_token", q.Auth); challenge != nil || err != nil {
		return challenge, err
	}
	token, err := s.NewLoginToken(ctx, r.Tenant, r.Session.User)
	if err != nil {
		return nil, err
	}
	return loginTokenReply{token, loginTokenLife.Milliseconds()}, nil
}

// NewLoginToken makes a token with which a client signs the user in once, by m.login.token.
func (s *Service) NewLoginToken(ctx context.Context, t *tenant.Tenant, user id.User) (string, error) {
	token := httpapi.NewToken(httpapi.LoginToken, t.ID)
	return token, s.putShortToken(ctx, t.ID, kindLogin, token, user, loginTokenLife)
}

type refreshReply struct {
	AccessToken string `json:"access_token"`
	Refresh     string `json:"refresh_token"`
	ExpiresIn   int64  `json:"expires_in_ms"`
}

// refresh gives a new pair of tokens. Sessions of OAuth 2.0 clients are renewed at the token endpoint only.
func (s *Service) refresh(ctx context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		Token string `json:"refresh_token"`
	}
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if q.Token == "" {
		return nil, mxerror.MissingParam.With("refresh_token is missing")
	}
	l, err := s.renew(ctx, r.Tenant.ID, q.Token, "")
	if err != nil {
		return nil, err
	}
	return refreshReply{l.AccessToken, l.RefreshToken, l.ExpiresIn.Milliseconds()}, nil
}

// renew exchanges a refresh token of the given OAuth 2.0 client (empty: the legacy API) for a new pair. The old refresh token stays valid until one
// of the new pair is used, so that a lost answer can be asked for again; asking again replaces the unused pair.
func (s *Service) renew(ctx context.Context, t tenant.ID, token, client string) (*Login, error) {
	unknown := mxerror.UnknownToken.With("unknown refresh token").WithExtra("soft_logout", true)
	parent := hashToken(token)
	l := &Login{AccessToken: httpapi.NewToken(httpapi.AccessToken, t), RefreshToken: httpapi.NewToken(httpapi.RefreshToken, t), ExpiresIn: s.o.Config.TokenLifetime}
	if client != "" {
		l.RefreshToken += family(token)
	}
	err := s.db.Write(ctx, func(tx *database.Tx) error {
		// The update locks the row, so that two refreshes with one token follow each other.
		n, err := tx.Exec(ctx, "UPDATE refresh_token SET expires = expires WHERE tenant = $1 AND hash = $2 AND (expires = 0 OR expires > $3)", int64(t), parent, s.now())
		if err != nil {
			return err
		}
		if n == 0 {
			return unknown
		}
		var grandparent []byte
		var owner string
		if err := tx.QueryRow(ctx, `SELECT r.user_id, r.device, r.parent, COALESCE(o.client_id, ''), COALESCE(o.scope, '') FROM refresh_token r
			LEFT JOIN oauth_session o ON o.tenant = r.tenant AND o.user_id = r.user_id AND o.device = r.device WHERE r.tenant = $1 AND r.hash = $2`, int64(t), parent).
			Scan(&l.User, &l.Device, &grandparent, &owner, &l.Scope); err != nil {
			return err
		}
		if owner != client {
			return unknown
		}
		for _, stmt := range []string{
			"DELETE FROM access_token WHERE tenant = $1 AND parent = $2",
			"DELETE FROM refresh_token WHERE tenant = $1 AND parent = $2",
		} {
			if _, err := tx.Exec(ctx, stmt, int64(t), parent); err != nil {
				return err
			}
		}
		if len(grandparent) > 0 { // this token has been used now: the one that made it is spent
			if _, err := tx.Exec(ctx, "DELETE FROM refresh_token WHERE tenant = $1 AND hash = $2", int64(t), grandparent); err != nil {
				return err
			}
		}
		if err := s.insertAccess(ctx, tx, t, l, parent, s.now()+l.ExpiresIn.Milliseconds()); err != nil {
			return err
		}
		return s.insertRefresh(ctx, tx, t, l, parent)
	})
	if err != nil {
		return nil, err
	}
	s.sessions.forget(t, l.User)
	return l, nil
}

// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// ProviderID is the id of a tenant's own identity provider among those that login names.
const ProviderID = "oidc"

const (
	pathCallback = "/_matrix/oauth2/callback"
	stateToken   = 'u'
	// providerVisitLife is how long somebody may take at the provider.
	providerVisitLife = 15 * time.Minute
)

// provider is the identity provider of a tenant; nil for none.
func (s *Service) provider(t *tenant.Tenant) *Provider {
	if t == nil || s.o.Config.Provider == nil {
		return nil
	}
	return s.o.Config.Provider(t)
}

// cardName is what clients call the sign-in by card; they ask in no language.
const cardName = "Heilberufsausweis / Institutionskarte"

// IdentityProviders lists the ways by which a tenant's people sign in on the pages; nil where there is only one.
func (s *Service) IdentityProviders(t *tenant.Tenant) []account.IdentityProvider {
	p, card := s.provider(t), t != nil && s.byCard(t)
	if p == nil && !card {
		return nil
	}
	own := t.DisplayName
	if own == "" {
		own = string(t.Name)
	}
	all := []account.IdentityProvider{{ID: OwnProvider, Name: own}}
	if p != nil {
		all = append(all, account.IdentityProvider{ID: ProviderID, Name: p.Name})
	}
	if card {
		all = append(all, account.IdentityProvider{ID: CardProvider, Name: cardName})
	}
	return all
}

// leaveForProvider sends the browser to the tenant's identity provider, from which it comes back to this page. The state that it brings back counts in
// this browser only. afresh asks for a new proof even of who is signed in there.
func (s *Service) leaveForProvider(ctx context.Context, v *visit, afresh bool) (*httpapi.Reply, error) {
	p := s.provider(v.r.Tenant)
	if p == nil {
		return s.errorPage(v.r, http.StatusNotFound, "unknown_provider", ""), nil
	}
	d, err := s.discover(ctx, p)
	if err != nil {
		s.o.Log.Error("identity provider", "tenant", string(v.r.Tenant.Name), "error", err)
		return s.errorPage(v.r, http.StatusBadGateway, "provider_away", ""), nil
	}
	if v.cookie == "" {
		v.cookie = httpapi.NewToken(browserToken, cell)
	}
	t := v.r.Tenant.ID
	state, nonce, verifier := httpapi.NewToken(stateToken, t), randomName(), rand.Text()+rand.Text()
	now := s.now()
	err = s.db.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM provider_visit WHERE tenant = $1 AND expires < $2", int64(t), now); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO provider_visit (tenant, state, cookie, nonce, verifier, target, expires) VALUES ($1, $2, $3, $4, $5, $6, $7)",
			int64(t), hash(state), hash(v.cookie), nonce, verifier, v.r.HTTP.URL.RequestURI(), now+providerVisitLife.Milliseconds())
		return err
	})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(verifier))
	q := url.Values{"response_type": {"code"}, "client_id": {p.ClientID}, "redirect_uri": {s.base(v.r) + pathCallback}, "state": {state}, "nonce": {nonce},
		"scope":          {strings.Join(append([]string{"openid"}, p.Scopes...), " ")},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"}, "ui_locales": {v.language}}
	if len(p.ACR) > 0 {
		q.Set("acr_values", strings.Join(p.ACR, " "))
	}
	if afresh {
		q.Set("prompt", "login")
	}
	reply := seeOther(answerAddress(d.Authorization, "query", q))
	reply.Header.Add("Set-Cookie", s.setCookie(v.r, v.cookie).String())
	return reply, nil
}

// callback is where the identity provider sends people back to.
func (s *Service) callback(ctx context.Context, r *httpapi.Request) (any, error) {
	p := s.provider(r.Tenant)
	if p == nil {
		return s.errorPage(r, http.StatusNotFound, "unknown_provider", ""), nil
	}
	cookie := s.readCookie(r)
	var nonce, verifier, target string
	err := s.db.Write(ctx, func(tx *database.Tx) error {
		return tx.QueryRow(ctx, "DELETE FROM provider_visit WHERE tenant = $1 AND state = $2 AND cookie = $3 AND expires > $4 RETURNING nonce, verifier, target",
			int64(r.Tenant.ID), hash(r.Query("state")), hash(cookie), s.now()).Scan(&nonce, &verifier, &target)
	})
	if errors.Is(err, sql.ErrNoRows) || err == nil && r.Query("iss") != "" && r.Query("iss") != p.Issuer {
		return s.errorPage(r, http.StatusForbidden, "stale_form", ""), nil
	}
	if err != nil {
		return nil, err
	}
	if code := r.Query("error"); code != "" || r.Query("code") == "" {
		return s.errorPage(r, http.StatusForbidden, "provider_refused", code), nil
	}
	user, problem, err := s.person(ctx, r, p, verifier, nonce)
	if err != nil {
		return nil, err
	}
	if problem != "" {
		return s.errorPage(r, http.StatusForbidden, problem, ""), nil
	}
	fresh, err := s.signBrowserIn(ctx, r.Tenant.ID, user, cookie)
	if err != nil {
		return nil, err
	}
	reply := seeOther(target)
	reply.Header.Add("Set-Cookie", s.setCookie(r, fresh).String())
	return reply, nil
}

// person finds out who has come back, and makes the account of whom nobody knows yet. problem is the key of what to tell them.
func (s *Service) person(ctx context.Context, r *httpapi.Request, p *Provider, verifier, nonce string) (user id.User, problem string, err error) {
	c, err := s.claimsOf(ctx, r, p, verifier, nonce)
	if errors.Is(err, errWeakProof) {
		return "", "weak_proof", nil
	}
	if err != nil {
		s.o.Log.Error("identity provider", "tenant", string(r.Tenant.Name), "error", err)
		return "", "provider_away", nil
	}
	t := r.Tenant
	err = s.db.QueryRow(ctx, "SELECT user_id FROM provider_subject WHERE tenant = $1 AND issuer = $2 AND subject = $3", int64(t.ID), p.Issuer, c.Subject).Scan(&user)
	if errors.Is(err, sql.ErrNoRows) {
		user, err = s.newPerson(ctx, t, p, c)
	}
	if err != nil {
		return "", "", err
	}
	a, err := s.o.Accounts.Account(ctx, t.ID, user)
	switch {
	case err != nil:
		return "", "", err
	case a.Deactivated:
		return "", "deactivated", nil
	case a.Locked:
		return "", "locked", nil
	}
	return user, "", nil
}

func (s *Service) claimsOf(ctx context.Context, r *httpapi.Request, p *Provider, verifier, nonce string) (*claims, error) {
	d, err := s.discover(ctx, p)
	if err != nil {
		return nil, err
	}
	token, err := s.exchangeAtProvider(ctx, p, d, r.Query("code"), verifier, s.base(r)+pathCallback)
	if err != nil {
		return nil, err
	}
	return s.checkIDToken(ctx, p, d, token, nonce)
}

// maxNames is how many names are tried for a new account before one is drawn.
const maxNames = 5

// newPerson makes an account. A name that is taken belongs to somebody else, however alike they look: only the subject joins a person with an account.
func (s *Service) newPerson(ctx context.Context, t *tenant.Tenant, p *Provider, c *claims) (id.User, error) {
	wished := localpartOf(c.text(p.Localpart))
	n := account.NewUser{LoginName: wished, DisplayName: c.text(p.DisplayName)}
	if len([]rune(n.DisplayName)) > maxClientName {
		n.DisplayName = ""
	}
	for try := 1; ; try++ {
		if try > 1 && wished != "" {
			n.LoginName = wished + "-" + string(rune('0'+try))
		}
		if try > maxNames {
			n.LoginName = ""
		}
		user, err := s.o.Accounts.Create(ctx, t, n)
		if errors.Is(err, mxerror.UserInUse) && try <= maxNames+1 {
			continue
		}
		if errors.Is(err, mxerror.InvalidUsername) && n.LoginName != "" {
			wished, n.LoginName, try = "", "", maxNames
			continue
		}
		if err != nil {
			return "", err
		}
		_, err = s.db.Exec(ctx, `INSERT INTO provider_subject (tenant, issuer, subject, user_id, created) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (tenant, issuer, subject) DO NOTHING`, int64(t.ID), p.Issuer, c.Subject, string(user), s.now())
		if err != nil {
			return "", err
		}
		// Who came back in two windows at once has one account: the first.
		err = s.db.QueryRow(ctx, "SELECT user_id FROM provider_subject WHERE tenant = $1 AND issuer = $2 AND subject = $3", int64(t.ID), p.Issuer, c.Subject).Scan(&user)
		return user, err
	}
}

// localpartOf turns a claim into a name for a new account: what stands before an @, in small letters, without what Matrix does not allow.
func localpartOf(claim string) string {
	claim, _, _ = strings.Cut(claim, "@")
	name := strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
			return c
		case c == ' ' || c == '+':
			return '.'
		}
		return -1
	}, strings.ToLower(claim))
	return strings.Trim(name[:min(len(name), 100)], "._-")
}

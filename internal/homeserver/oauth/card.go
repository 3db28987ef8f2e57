// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"html/template"
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

// CardProvider is the id of the sign-in by health card among the ways of single sign-on.
const CardProvider = "card"

// CardCallbackPath is where the cards' identity provider sends browsers back to.
const CardCallbackPath = "/_matrix/oauth2/card"

const (
	cardToken = 'h'
	// cardVisitLife is how long somebody may look for the card and its PIN.
	cardVisitLife = 10 * time.Minute
)

// CardHolder is whom a health card speaks for, as the identity provider tells it.
type CardHolder struct {
	// Number is the Telematik-ID, Profession an OID.
	Number, Profession string
	// Institution says that it is an institution's card (SMC-B), Person that it is a health professional's (eHBA); neither is any other card.
	Institution, Person                 bool
	Organization, GivenName, FamilyName string
}

// Name is the holder as people read it.
func (h *CardHolder) Name() string {
	if h.FamilyName == "" {
		return h.Organization
	}
	return strings.TrimSpace(h.GivenName + " " + h.FamilyName)
}

// Cards is the identity provider of health cards, to which this server is a relying party. Package server implements it.
type Cards interface {
	// Begin is the address from which an authenticator fetches the challenge that the card signs.
	Begin(ctx context.Context, state, nonce, verifier string) (string, error)
	// Redeem reads what the provider's redirection says: whom the card speaks for, or why nobody.
	Redeem(ctx context.Context, answer url.Values, verifier, nonce string) (*CardHolder, error)
	// Message tells people what an error of Redeem means, in "de" or "en".
	Message(err error, language string) string
}

// CardConfig lets people sign in by card.
type CardConfig struct {
	Cards
	// Agent is the address of the card service on people's own machines.
	Agent string
	// Directory puts addresses into the national directory by card; nil: not here.
	Directory CardDirectory
}

// byCard says whether people of a tenant (nil: not known yet) sign in by card here.
func (s *Service) byCard(t *tenant.Tenant) bool {
	return s.o.Config.Card != nil && (t == nil || t.TelematikID != "" && !t.Insurance)
}

// cardData is the page that leads to the card.
type cardData struct {
	// Agent is the card service's page on the person's machine; Challenge the address that authenticators are given.
	Agent, Challenge string
	// Separate opens the card service beside this page, which waits: Refresh is the address that shows how far it is.
	Separate bool
	Refresh  string
}

// Professional and Institution lead to gematik's authenticator, whose scheme is not among those that templates trust by themselves.
func (d cardData) Professional() template.URL { return d.authenticator("HBA") }

// Institution is Professional for an institution's card.
func (d cardData) Institution() template.URL { return d.authenticator("SMC-B") }

func (d cardData) authenticator(kind string) template.URL {
	q := "challenge_path=" + url.QueryEscape(d.Challenge) + "&cardType=" + kind
	if d.Separate {
		q += "&callback=DIRECT"
	}
	return template.URL("authenticator://?" + q) // every part of it is escaped
}

// leaveForCard shows the way to the card, from which the browser comes back to this page. user joins the card with an account; empty signs in.
func (s *Service) leaveForCard(ctx context.Context, v *visit, user id.User) (*httpapi.Reply, error) {
	t := v.r.Tenant
	if t == nil && v.tenant != nil {
		t = v.tenant
	}
	if t == nil {
		var err error
		if t, err = s.named(ctx, v.r, strings.TrimSpace(v.form.Get("username"))); err != nil {
			return nil, err
		}
	}
	if t == nil {
		v.problem = "card_need_address"
		return v.signInPage(false, http.StatusForbidden), nil
	}
	if !s.byCard(t) {
		return s.errorPage(v.r, http.StatusNotFound, "unknown_provider", ""), nil
	}
	if v.cookie == "" {
		v.cookie = httpapi.NewToken(browserToken, cell)
	}
	state, nonce, verifier := httpapi.NewToken(cardToken, t.ID), randomName(), rand.Text()+rand.Text()
	address, err := s.o.Config.Card.Begin(ctx, state, nonce, verifier)
	if err != nil {
		s.o.Log.Error("identity provider of cards", "tenant", string(t.Name), "error", err)
		return s.errorPage(v.r, http.StatusBadGateway, "card_provider_away", ""), nil
	}
	now := s.now()
	err = s.db.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM card_visit WHERE tenant = $1 AND expires < $2", int64(t.ID), now); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO card_visit (tenant, state, cookie, nonce, verifier, origin, target, user_id, expires) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
			int64(t.ID), hash(state), hash(v.cookie), nonce, verifier, s.base(v.r), v.r.HTTP.URL.RequestURI(), string(user), now+cardVisitLife.Milliseconds())
		return err
	})
	if err != nil {
		return nil, err
	}
	v.header.Add("Set-Cookie", s.setCookie(v.r, v.cookie).String())
	return v.page("card", s.cardData(address), http.StatusOK), nil
}

func (s *Service) cardData(address string) cardData {
	return cardData{Agent: s.o.Config.Card.Agent + "/?" + url.Values{"challenge_path": {address}}.Encode(), Challenge: address}
}

// cardVisit is a browser that was sent to the card.
type cardVisit struct {
	nonce, verifier, origin, target string
	user                            id.User
}

// cardCallback is where the identity provider sends people back to.
func (s *Service) cardCallback(ctx context.Context, r *httpapi.Request) (any, error) {
	state := r.Query("state")
	key, ok := httpapi.TokenTenant(state)
	if s.o.Config.Card == nil || !ok {
		return s.errorPage(r, http.StatusForbidden, "stale_form", ""), nil
	}
	var origin string
	err := s.db.QueryRow(ctx, "SELECT origin FROM card_visit WHERE tenant = $1 AND state = $2 AND expires > $3", int64(key), hash(state), s.now()).Scan(&origin)
	if err == nil && origin != s.base(r) { // the provider knows one address of ours only; the browser's cookie is at the one where it began
		return seeOther(origin + CardCallbackPath + "?" + r.Values().Encode()), nil
	}
	cookie := s.readCookie(r)
	var c cardVisit
	if err == nil {
		err = s.db.Write(ctx, func(tx *database.Tx) error {
			return tx.QueryRow(ctx, "DELETE FROM card_visit WHERE tenant = $1 AND state = $2 AND cookie = $3 AND expires > $4 RETURNING nonce, verifier, origin, target, user_id",
				int64(key), hash(state), hash(cookie), s.now()).Scan(&c.nonce, &c.verifier, &c.origin, &c.target, &c.user)
		})
	}
	if errors.Is(err, sql.ErrNoRows) {
		return s.errorPage(r, http.StatusForbidden, "stale_form", ""), nil
	}
	if err != nil {
		return nil, err
	}
	t, err := s.tenantOf(ctx, r, state)
	if err != nil {
		return nil, err
	}
	if t == nil || t.ID != key {
		return s.errorPage(r, http.StatusForbidden, "stale_form", ""), nil
	}
	holder, err := s.o.Config.Card.Redeem(ctx, r.Values(), c.verifier, c.nonce)
	if err != nil {
		s.o.Log.Warn("sign-in by card", "tenant", string(t.Name), "error", err)
		return s.cardRefused(r, c, "", s.o.Config.Card.Message(err, pageLanguage(r))), nil
	}
	return s.cardShown(ctx, r, t, c, holder, cookie)
}

// cardShown signs in whom a card speaks for.
func (s *Service) cardShown(ctx context.Context, r *httpapi.Request, t *tenant.Tenant, c cardVisit, h *CardHolder, cookie string) (any, error) {
	switch {
	case h.Institution && h.Number != t.TelematikID:
		return s.cardRefused(r, c, "card_foreign", ""), nil
	case !h.Institution && !h.Person || h.Institution && c.user != "":
		return s.cardRefused(r, c, "card_kind", ""), nil
	case c.user != "":
		return s.cardConnected(ctx, r, t, c, h, cookie)
	}
	user, err := s.cardUser(ctx, t, h)
	if err != nil {
		return nil, err
	}
	if user == "" {
		return s.askForAccount(ctx, r, t, c, h)
	}
	a, err := s.o.Accounts.Account(ctx, t.ID, user)
	switch {
	case err != nil:
		return nil, err
	case a.Deactivated:
		return s.cardRefused(r, c, "deactivated", ""), nil
	case a.Locked:
		return s.cardRefused(r, c, "locked", ""), nil
	}
	fresh, err := s.signBrowserIn(ctx, t.ID, user, cookie)
	if err != nil {
		return nil, err
	}
	return s.backTo(r, c.target, fresh), nil
}

// cardUser is whose card it is; empty for nobody's. The institution's own card makes its account.
func (s *Service) cardUser(ctx context.Context, t *tenant.Tenant, h *CardHolder) (id.User, error) {
	if h.Institution {
		name := t.DisplayName
		if name == "" {
			name = h.Organization
		}
		return s.o.Accounts.InstitutionAccount(ctx, t, name, h.Profession)
	}
	link, err := s.o.Accounts.CardByNumber(ctx, t.ID, h.Number)
	if err != nil || link == nil {
		return "", err
	}
	if link.Used == 0 {
		err = s.o.Accounts.CardShown(ctx, t.ID, h.Number, h.Profession)
	}
	return link.User, err
}

// cardConnected joins a card with the account that is signed in.
func (s *Service) cardConnected(ctx context.Context, r *httpapi.Request, t *tenant.Tenant, c cardVisit, h *CardHolder, cookie string) (any, error) {
	b, err := s.browser(ctx, r, cookie)
	if err != nil {
		return nil, err
	}
	if b == nil || b.tenant.ID != t.ID || b.account.User != c.user {
		return s.errorPage(r, http.StatusForbidden, "stale_form", ""), nil
	}
	err = s.o.Accounts.LinkCard(ctx, t, c.user, h.Number, h.Profession)
	if errors.Is(err, mxerror.UserInUse) {
		return s.cardRefused(r, c, "card_taken", ""), nil
	}
	if err != nil {
		return nil, err
	}
	return s.backTo(r, c.target, cookie), s.prove(ctx, b)
}

// backTo sends a browser to the page where it began, with a cookie.
func (s *Service) backTo(r *httpapi.Request, target, cookie string) *httpapi.Reply {
	reply := seeOther(target)
	reply.Header.Add("Set-Cookie", s.setCookie(r, cookie).String())
	return reply
}

// cardRefused tells why a card did not sign in, with the way to try again. text stands in the place of a key for what the provider said.
func (s *Service) cardRefused(r *httpapi.Request, c cardVisit, key, text string) *httpapi.Reply {
	d := pageData{Language: pageLanguage(r), Style: style.CSS, D: struct{ Key, Text, Back string }{key, text, c.target}}
	return render("card_refused", d, http.StatusForbidden, pageHeader(http.Header{}, ""))
}

// cardOf is the card of who is signed in; nil for none.
func (v *visit) cardOf(ctx context.Context) (*account.CardLink, error) {
	if !v.s.byCard(v.tenant) {
		return nil, nil
	}
	return v.s.o.Accounts.CardOf(ctx, v.tenant.ID, v.account.User)
}

// connectCard sends who is signed in, and has just proven it, to the card that becomes theirs; others prove it first.
func (v *visit) connectCard(ctx context.Context) (any, error) {
	if v.fresh() {
		return v.s.leaveForCard(ctx, v, v.account.User)
	}
	v.allowProvider(ctx)
	return v.signInPage(false, http.StatusOK), nil
}

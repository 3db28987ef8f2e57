// SPDX-License-Identifier: Apache-2.0

package oauth_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/keyring"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/account/accounttest"
	"github.com/konsil-health/konsil/internal/homeserver/oauth"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/telematik/card"
	provider "github.com/konsil-health/konsil/internal/telematik/idp"
)

const (
	cardHost = "praxis.test"
	ownID    = "1-2.1" // the practice's Telematik-ID
	cardPIN  = "123456"
)

// clinic is a practice whose people sign in by card: identity provider, cards and messenger over HTTP, all on one clock but for skew.
type clinic struct {
	*rig
	practice *tenant.Tenant
	pki      *card.PKI
	party    *provider.Party
	issuer   *provider.Issuer
	skew     time.Duration // by which the messenger's clock is ahead of the provider's
	failing  error         // of the identity provider's answer, instead of the right one
	seen     *directorySeen
}

func (c *clinic) redeem(ctx context.Context, answer url.Values, verifier, nonce string) (*oauth.CardHolder, error) {
	if c.failing != nil {
		return nil, c.failing
	}
	who, err := c.party.Redeem(ctx, answer.Get("code"), verifier, nonce)
	if err != nil {
		return nil, err
	}
	return &oauth.CardHolder{Number: who.Number, Profession: who.Profession, Institution: certificate.IsInstitution(who.Profession), Person: certificate.IsProfession(who.Profession),
		Organization: who.Organization, GivenName: who.GivenName, FamilyName: who.FamilyName}, nil
}

// cards is the clinic as the pages see it.
type cards struct{ *clinic }

func (c cards) Begin(ctx context.Context, state, nonce, verifier string) (string, error) {
	return c.party.Begin(ctx, state, nonce, verifier)
}

func (c cards) Redeem(ctx context.Context, answer url.Values, verifier, nonce string) (*oauth.CardHolder, error) {
	return c.redeem(ctx, answer, verifier, nonce)
}

func (c cards) Message(err error, language string) string { return provider.Message(err, language) }

// directorySeen is a directory that remembers what it was told.
type directorySeen struct {
	shown bool
	calls []string
	err   error
}

func (d *directorySeen) Begin(context.Context) (string, string, error) {
	return "request-1", "https://idp.example/auth?x=y", nil
}

func (d *directorySeen) Apply(_ context.Context, request, number string, user id.User, name string, visible bool) (bool, error) {
	if !d.shown || d.err != nil {
		return false, d.err
	}
	d.calls = append(d.calls, fmt.Sprint(request, " ", number, " ", user, " ", name, " ", visible))
	return true, nil
}

func eachClinic(t *testing.T, f func(t *testing.T, c *clinic)) {
	t.Helper()
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) { f(t, newClinic(t, db)) })
}

func newClinic(t *testing.T, db *database.DB) *clinic {
	t.Helper()
	c := &clinic{rig: &rig{t: t, now: time.Now().Truncate(time.Second)}, seen: &directorySeen{}}
	var err error
	if c.pki, err = card.Open(card.Options{Folder: t.TempDir(), Now: c.clock}); err != nil {
		t.Fatal(err)
	}
	signer, err := c.pki.Component("idp", certificate.RoleIDP)
	if err != nil {
		t.Fatal(err)
	}
	key, err := c.pki.ComponentKey("idp", certificate.RoleIDP)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	callback := "http://" + cardHost + oauth.CardCallbackPath
	c.issuer = provider.New(provider.Options{URL: server.URL + "/idp", Signer: signer, Key: key, Trust: c.pki.Trust(), Revoked: c.pki.Revoked, Now: c.clock,
		Clients: map[string][]string{"messenger": {callback}}})
	mux.Handle("/idp/", c.issuer.Routes("/idp"))
	c.party = &provider.Party{Discovery: server.URL + "/idp/.well-known/openid-configuration", Issuer: server.URL + "/idp", ClientID: "messenger", RedirectURI: callback,
		Trust: c.pki.Trust(), Now: func() time.Time { return c.clock().Add(c.skew) }}
	ring, err := keyring.New(db, make([]byte, keyring.MasterSize))
	if err != nil {
		t.Fatal(err)
	}
	c.Rig = accounttest.New(t, db, func(_ *accounttest.Rig, o *account.Options) {
		o.Now, o.Keyring, o.Config.SecondFactor = c.clock, ring, true
		o.Issuer = func(r *httpapi.Request) (issuer, page string) { return c.oauth.Issuer(r) }
		o.IdentityProviders = func(t *tenant.Tenant) []account.IdentityProvider { return c.oauth.IdentityProviders(t) }
		o.AccountPage = func(r *httpapi.Request, q url.Values) string { return c.oauth.AccountPage(r, q) }
	}, func(a *accounttest.Rig) []httpapi.Route {
		c.oauth = oauth.New(oauth.Options{DB: db, Tenants: a.Tenants, Accounts: a.Accounts, Policy: policy.Open{}, Now: c.clock, Keyring: ring, Limiter: limit.New(limit.Options{Off: true}),
			Config: oauth.Config{Card: &oauth.CardConfig{Cards: cards{c}, Agent: "http://127.0.0.1:8770", Directory: c.seen}}})
		return c.oauth.Routes()
	})
	c.practice, err = c.Tenants.Create(t.Context(), tenant.Spec{Name: cardHost, DisplayName: "Praxis Sonnenallee", TelematikID: ownID, ClientHosts: []string{"chat.praxis.test"}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *clinic) hba(number string) *card.Card {
	c.t.Helper()
	k, err := c.pki.IssueHBA(card.Person{GivenName: "Anna", FamilyName: "Weber", TelematikID: number, ProfessionOID: certificate.Physician, PIN: cardPIN})
	if err != nil {
		c.t.Fatal(err)
	}
	return k
}

func (c *clinic) smcb(number string) *card.Card {
	c.t.Helper()
	k, err := c.pki.IssueSMCB(card.Institution{Name: "Praxis Sonnenallee", TelematikID: number, ProfessionOID: certificate.Practice, PIN: cardPIN})
	if err != nil {
		c.t.Fatal(err)
	}
	return k
}

func (c *clinic) person(name string) id.User {
	c.t.Helper()
	user, err := c.Accounts.Create(context.Background(), c.practice, account.NewUser{LoginName: name, Password: accounttest.Password})
	if err != nil {
		c.t.Fatal(err)
	}
	return user
}

var challengeOf = regexp.MustCompile(`127\.0\.0\.1:8770/\?challenge_path=([^"&]+)`)

// show shows a card to what the page asks for, as an authenticator does, and returns the address at which the browser comes back.
func (c *clinic) show(p *page, k *card.Card) string {
	c.t.Helper()
	m := challengeOf.FindStringSubmatch(p.is(200).body)
	if m == nil {
		c.t.Fatalf("the page leads to no card: %s", p.body)
	}
	address, err := url.QueryUnescape(strings.ReplaceAll(m[1], "&#43;", "+"))
	if err != nil {
		c.t.Fatal(err)
	}
	signer, err := k.Unlock(cardPIN)
	if err != nil {
		c.t.Fatal(err)
	}
	agent := &provider.Party{Discovery: c.party.Discovery, Issuer: c.party.Issuer, Trust: c.party.Trust, Now: c.clock}
	asked, err := agent.Ask(context.Background(), address)
	if err != nil {
		c.t.Fatal(err)
	}
	to, err := agent.Sign(context.Background(), asked, signer)
	if err != nil {
		c.t.Fatal(err)
	}
	return to.RequestURI()
}

// byCard begins at a page and shows a card.
func (b *tab) byCard(c *clinic, path string, k *card.Card) *page {
	b.g.t.Helper()
	b.get(path).is(200)
	return b.get(c.show(b.submit(path, "card"), k))
}

// loginToken is what a client gets at the end of single sign-on, and whose it is.
func (c *clinic) arrives(b *tab) id.User {
	c.t.Helper()
	to := b.submit(ssoPage, "approve").location()
	answer := c.with(c.practice, "").Do("POST", v3+"/login", m{"type": "m.login.token", "token": to.Query().Get("loginToken")})
	if answer.Status != 200 {
		c.t.Fatalf("%d %s", answer.Status, answer.Body)
	}
	var got struct {
		User id.User `json:"user_id"`
	}
	answer.Into(&got)
	return got.User
}

// TestSignInByCard is what people do with their cards, over HTTP from the page to the client's session.
//
// Requirements: A_22936, AF_10057.
func TestSignInByCard(t *testing.T) {
	eachClinic(t, func(t *testing.T, c *clinic) {
		anna := c.person("anna")
		flows := c.with(c.practice, "").Do("GET", v3+"/login", nil)
		if !strings.Contains(string(flows.Body), oauth.CardProvider) || strings.Contains(string(flows.Body), "m.login.password") {
			t.Errorf("flows: %s", flows.Body)
		}
		// The institution's card signs in to the institution's own account, made at first use and the same one afterwards.
		var first id.User
		for range 2 {
			b := c.tab(cardHost)
			b.byCard(c, ssoPage, c.smcb(ownID)).is(303)
			b.get(ssoPage).is(200)
			user := c.arrives(b)
			if first == "" {
				first = user
			}
			if user != first || user == anna || user.Server() != cardHost {
				t.Errorf("the institution is %s, was %s", user, first)
			}
		}
		if p, err := c.Accounts.Profile(t.Context(), c.practice.ID, first); err != nil || p.DisplayName == nil || *p.DisplayName != "Praxis Sonnenallee" {
			t.Errorf("%+v %v", p, err)
		}
		// An eHBA that nobody has registered: its holder shows once whose account it is. The card is the second factor of who has none.
		hba := c.hba("1-1.9")
		b := c.tab(cardHost)
		b.byCard(c, ssoPage, hba).is(303)
		b.get(ssoPage).is(200).has("Anna Weber", "noch keinem Konto")
		b.submit(ssoPage, "card-link", "username", "anna", "password", "wrong").is(403).has("Name oder Passwort stimmt nicht")
		b.get(ssoPage).is(200).has("noch keinem Konto") // not signed in
		b.submit(ssoPage, "card-link", "username", "anna", "password", accounttest.Password).is(303)
		b.get(ssoPage).is(200)
		if user := c.arrives(b); user != anna {
			t.Errorf("signed in as %s", user)
		}
		// Later the card is enough, on the way that a client names too, and so is its replacement with the same Telematik-ID.
		for _, k := range []*card.Card{hba, c.hba("1-1.9")} {
			b = c.tab(cardHost)
			redirected := b.get(v3 + "/login/sso/redirect/card?redirectUrl=" + url.QueryEscape("https://app.example.com/"))
			page := strings.TrimPrefix(redirected.is(302).header.Get("Location"), "http://"+cardHost)
			b.get(c.show(b.get(page), k)).is(303)
			b.get(page).is(200)
			if b.submit(page, "approve").location().Query().Get("loginToken") == "" {
				t.Error("no login token")
			}
		}
		// An OAuth 2.0 client.
		b = c.tab(cardHost)
		client := b.client(nil)
		b.byCard(c, request(client), hba).is(303)
		b.get(request(client)).is(200)
		if b.submit(request(client), "approve").answer().Get("code") == "" {
			t.Error("OAuth: no code")
		}
		// A locked account, and a card that an administrator has taken away.
		if err := c.Accounts.SetLocked(t.Context(), c.practice.ID, anna, true); err != nil {
			t.Fatal(err)
		}
		c.tab(cardHost).byCard(c, ssoPage, hba).is(403).has("gesperrt")
		if err := c.Accounts.SetLocked(t.Context(), c.practice.ID, anna, false); err != nil {
			t.Fatal(err)
		}
		if err := c.Accounts.UnlinkCard(t.Context(), c.practice, anna); err != nil {
			t.Fatal(err)
		}
		b = c.tab(cardHost)
		b.byCard(c, ssoPage, hba).is(303)
		b.get(ssoPage).is(200).has("noch keinem Konto")
		b.submit(ssoPage, "card-cancel").is(303)
		b.get(ssoPage).is(200).has(`name="password"`, "Mit Heilberufsausweis oder Institutionskarte anmelden")
	})
}

// TestWhoseCard: the ways by which a card becomes somebody's, and what they refuse.
func TestWhoseCard(t *testing.T) {
	eachClinic(t, func(t *testing.T, c *clinic) {
		anna, ben, carl := c.person("anna"), c.person("ben"), c.person("carl")
		register := func(user id.User, number string) error {
			return c.Accounts.RegisterCard(t.Context(), c.practice, user, number)
		}
		// Registered by an administrator: at once.
		if err := register(anna, "1-1.1"); err != nil {
			t.Fatal(err)
		}
		for name, err := range map[string]error{"another card": register(anna, "1-1.2"), "somebody's card": register(ben, "1-1.1"), "the institution's": register(ben, ownID), "none": register(ben, " ")} {
			if err == nil {
				t.Errorf("registered: %s", name)
			}
		}
		b := c.tab(cardHost)
		b.byCard(c, ssoPage, c.hba("1-1.1")).is(303)
		b.get(ssoPage).is(200)
		if user := c.arrives(b); user != anna {
			t.Errorf("signed in as %s", user)
		}
		if link, err := c.Accounts.CardOf(t.Context(), c.practice.ID, anna); err != nil || link.Used == 0 || link.Profession != certificate.Physician {
			t.Errorf("%+v %v", link, err)
		}
		// A code of an administrator, once.
		code, _, err := c.Accounts.IssueCardCode(t.Context(), c.practice, ben)
		if err != nil {
			t.Fatal(err)
		}
		b = c.tab(cardHost)
		b.byCard(c, ssoPage, c.hba("1-1.2")).is(303)
		b.get(ssoPage).is(200)
		b.submit(ssoPage, "card-code", "link_code", "AAAA-BBBB-CCCC").is(403).has("Verbindungscode")
		b.submit(ssoPage, "card-code", "link_code", strings.ToLower(code)).is(303)
		b.get(ssoPage).is(200)
		if user := c.arrives(b); user != ben {
			t.Errorf("signed in as %s", user)
		}
		other := c.tab(cardHost)
		other.byCard(c, ssoPage, c.hba("1-1.3")).is(303)
		other.get(ssoPage).is(200)
		other.submit(ssoPage, "card-code", "link_code", code).is(403)
		// An account that has a card already takes no second one.
		other.submit(ssoPage, "card-link", "username", "ben", "password", accounttest.Password).is(403).has("andere Karte")
		// Who has a second factor shows it too.
		secret := account.NewTOTPSecret()
		at, err := account.TOTPCode(secret, c.clock())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Accounts.EnrolTOTP(t.Context(), c.practice, carl, secret, at); err != nil {
			t.Fatal(err)
		}
		other.submit(ssoPage, "card-link", "username", "carl", "password", accounttest.Password).is(403).has("Authenticator-App")
		other.submit(ssoPage, "card-link", "username", "carl", "password", accounttest.Password, "code", at).is(403) // used already
		c.pass(time.Minute)
		if at, err = account.TOTPCode(secret, c.clock()); err != nil {
			t.Fatal(err)
		}
		other.submit(ssoPage, "card-link", "username", "carl", "password", accounttest.Password, "code", at).is(303)
		other.get(ssoPage).is(200)
		if user := c.arrives(other); user != carl {
			t.Errorf("signed in as %s", user)
		}
		// A step belongs to the browser in which the card was shown, for a while.
		late := c.tab(cardHost)
		late.byCard(c, ssoPage, c.hba("1-1.4")).is(303)
		thief := c.tab(cardHost)
		thief.get(ssoPage)
		thief.submit(ssoPage, "card-link", "username", "ben", "password", accounttest.Password).is(403)
		c.pass(time.Hour)
		late.get(ssoPage).is(200).has("Mit Heilberufsausweis")
	})
}

// TestConnectAndPublish: who is signed in joins a card on the account page and says by it whether the directory shows the address.
//
// Requirements: AF_10058.
func TestConnectAndPublish(t *testing.T) {
	eachClinic(t, func(t *testing.T, c *clinic) {
		anna := c.person("anna")
		b := c.tab(cardHost)
		secret := c.enrolled(b.password(manage, "anna").is(200))
		b.submit(manage, "second", "username", string(anna), "code", secret.code(0)).is(303)
		b.get(manage).is(200).has("Heilberufsausweis verbinden")
		b.get(manage + "?action=directory").is(404)
		back := c.show(b.submit(manage, "card-connect"), c.hba("1-1.9"))
		c.tab(cardHost).get(back).is(403) // another browser
		b.get(back).is(303)
		b.get(manage).is(200).has("1-1.9", "Im Verzeichnis")
		b.get(back).is(403) // once
		page := manage + "?action=directory"
		b.get(page).is(200).has("nicht von hier aus")
		for _, step := range []struct{ button, after, want string }{
			{"publish", "jetzt im Verzeichnis sichtbar", "request-1 1-1.9 " + string(anna) + " " + string(anna) + " true"},
			{"withdraw", "nicht mehr im Verzeichnis", "request-1 1-1.9 " + string(anna) + " " + string(anna) + " false"},
		} {
			c.seen.shown, c.seen.calls = false, nil
			b.get(page).is(200)
			b.submit(page, step.button).is(303)
			waiting := b.get(page + "&wait=1").is(200).has("Warten auf die Karte")
			if waiting.header.Get("Refresh") == "" || !strings.Contains(waiting.body, "callback=DIRECT") {
				t.Error("the page does not look again")
			}
			c.seen.shown = true
			b.get(page + "&wait=1").is(200).has(step.after)
			if len(c.seen.calls) != 1 || c.seen.calls[0] != step.want {
				t.Errorf("%q, want %q", c.seen.calls, step.want)
			}
			b.get(page + "&wait=1").is(303) // nothing is waited for
		}
		for want, err := range map[string]error{"nicht die Karte": oauth.ErrOtherCard, "Verzeichnis antwortet nicht": io.ErrUnexpectedEOF} {
			c.seen.err = nil
			b.get(page).is(200)
			b.submit(page, "publish").is(303)
			c.seen.err = err
			b.get(page + "&wait=1").has(want)
		}
	})
}

// TestCardRefusals: each refusal in both languages, and nobody is signed in.
func TestCardRefusals(t *testing.T) {
	eachClinic(t, func(t *testing.T, c *clinic) {
		ours := c.hba("1-1.9")
		egk, err := c.pki.IssueEGK(card.Insured{GivenName: "Max", FamilyName: "Mustermann", KVNR: "X110411675", Insurer: "Testkasse", IK: "109500969", PIN: cardPIN})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Accounts.RegisterCard(t.Context(), c.practice, c.person("anna"), "1-1.9"); err != nil {
			t.Fatal(err)
		}
		for name, r := range map[string]struct {
			card            *card.Card
			failing         error
			skew            time.Duration
			german, english string
		}{
			"a card of another organisation": {card: c.smcb("1-2.2"), german: "Karte einer anderen Institution", english: "another institution's card"},
			"an insured person's card":       {card: egk, german: "Mit dieser Karte kann man sich hier nicht anmelden", english: "cannot sign in here"},
			"clocks that differ":             {card: ours, skew: time.Hour, german: "Die Uhr dieses Rechners", english: "The clocks of this computer"},
			"a token for somebody else":      {card: ours, failing: provider.ErrAudience, german: "für eine andere Stelle bestimmt", english: "meant for somebody else"},
			"a code that was used":           {card: ours, failing: provider.ErrCode, german: "wurde schon benutzt", english: "was used already"},
			"a replayed challenge":           {card: ours, failing: provider.ErrChallenge, german: "wurde schon benutzt", english: "was used already"},
			"a revoked certificate":          {card: ours, failing: provider.ErrCertificate, german: "Karte ist gesperrt", english: "card is revoked"},
			"a provider that is not genuine": {card: ours, failing: provider.ErrProvider, german: "nicht echt", english: "not genuine"},
			"a connection that breaks":       {card: ours, failing: errors.New("broken"), german: "nicht geklappt", english: "did not work"},
		} {
			for language, want := range map[string]string{"de": r.german, "en": r.english} {
				b := c.tab(cardHost)
				b.headers["Accept-Language"] = language
				b.get(ssoPage).is(200)
				back := c.show(b.submit(ssoPage, "card"), r.card)
				c.failing, c.skew = r.failing, r.skew
				refused := b.get(back)
				c.failing, c.skew = nil, 0
				if refused.status != 403 || !strings.Contains(refused.body, want) && !strings.Contains(refused.body, strings.ReplaceAll(want, "'", "&#39;")) {
					t.Errorf("%s, %s: %d %s", name, language, refused.status, refused.body)
				}
				b.get(ssoPage).is(200).has(`value="card"`) // nobody is signed in
			}
		}
		// A challenge that is answered twice, at the provider itself: the second answer is refused there.
		b := c.tab(cardHost)
		b.get(ssoPage)
		back := c.show(b.submit(ssoPage, "card"), ours)
		stranger := c.tab(cardHost) // who has caught the address has not the cookie
		stranger.get(back).is(403)
		b.get(back).is(303)
		b.get(back).is(403) // once
		c.pass(time.Minute)
		b = c.tab(cardHost)
		b.get(ssoPage)
		back = c.show(b.submit(ssoPage, "card"), ours)
		c.pass(11 * time.Minute) // nobody waits any more
		b.get(back).is(403)
		c.tab(cardHost).get(oauth.CardCallbackPath + "?state=x&code=y").is(403)
		// No card service for tenants that have no Telematik-ID; at a shared host the address tells which tenant is meant.
		if p := c.tab("a.test").get(ssoPage).is(200); strings.Contains(p.body, `value="card"`) {
			t.Error("a server outside the network offers cards")
		}
		b = c.tab(shared)
		b.get(ssoPage).is(200)
		b.submit(ssoPage, "card").is(403).has("Adresse vollständig")
		b.submit(ssoPage, "card", "username", "@anna:a.test").is(404)
	})
}

// TestCardAtOtherHosts: the identity provider knows one address; the browser comes back to where it began.
func TestCardAtOtherHosts(t *testing.T) {
	eachClinic(t, func(t *testing.T, c *clinic) {
		anna := c.person("anna")
		if err := c.Accounts.RegisterCard(t.Context(), c.practice, anna, "1-1.9"); err != nil {
			t.Fatal(err)
		}
		for _, host := range []string{"chat.praxis.test", shared} {
			b := c.tab(host)
			b.get(ssoPage).is(200)
			back := c.show(b.submit(ssoPage, "card", "username", string(anna)), c.hba("1-1.9"))
			registered := c.tab(cardHost)
			to := registered.get(back).location()
			if to.Host != host {
				t.Fatalf("sent to %s", to)
			}
			b.get(to.RequestURI()).is(303)
			b.get(ssoPage).is(200)
			if user := c.arrives(b); user != anna {
				t.Errorf("%s: signed in as %s", host, user)
			}
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package account_test

import (
	"context"
	"errors"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/account/accounttest"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

const scope = "urn:matrix:client:api:* urn:matrix:client:device:WEB"

// grant signs alice in by an OAuth 2.0 client.
func grant(t *testing.T, g *accounttest.Rig, u *accounttest.User) (*accounttest.User, *account.Login) {
	t.Helper()
	l, err := g.Accounts.StartSession(context.Background(), u.Tenant, account.SessionSpec{User: u.ID, Device: "WEB", Grant: &account.Grant{Client: "app", Scope: scope}})
	if err != nil {
		t.Fatal(err)
	}
	if l.ExpiresIn == 0 || l.RefreshToken == "" || l.Scope != scope {
		t.Fatalf("granted: %+v", l)
	}
	return &accounttest.User{Rig: g, Tenant: u.Tenant, ID: u.ID, Device: l.Device, Token: l.AccessToken}, l
}

// challenged fails the test unless the answer asks for user-interactive authentication.
func challenged(t *testing.T, a *accounttest.Answer) {
	t.Helper()
	if a.Status != 401 || a.Text("session") == "" {
		t.Errorf("no challenge: %d %s", a.Status, a.Body)
	}
}

func TestGrantIsAnOrdinarySession(t *testing.T) {
	each(t, func(t *testing.T, g *accounttest.Rig) {
		alice := g.User(g.A, "alice")
		web, l := grant(t, g, alice)
		web.Do("GET", v3+"/account/whoami", nil).OK(nil)
		web.Do("GET", v3+"/devices/WEB", nil).OK(nil)
		for _, what := range []string{"/delete_devices", "/account/password", "/account/deactivate"} {
			web.Do("POST", v3+what, m{"devices": []string{"DEV1"}, "new_password": "another one"}).Fails(403, "M_FORBIDDEN")
		}
		web.Do("DELETE", v3+"/devices/DEV1", m{}).Fails(403, "M_FORBIDDEN")
		web.Do("POST", "/_matrix/client/v1/login/get_token", m{}).Fails(403, "M_FORBIDDEN")
		c := web.Do("GET", v3+"/capabilities", nil).OK(nil)
		if c.Get("capabilities", "m.change_password", "enabled") != "false" || c.Get("capabilities", "m.get_login_token", "enabled") != "false" {
			t.Errorf("capabilities: %s", c.Body)
		}
		// The two APIs do not mix.
		web.Do("POST", v3+"/refresh", m{"refresh_token": l.RefreshToken}).Fails(401, "M_UNKNOWN_TOKEN")
		web.Do("GET", v3+"/account/whoami", nil).OK(nil)
		// Signing in otherwise on the same device makes it a session of the legacy API.
		legacy := alice.On("WEB")
		challenged(t, legacy.Do("POST", v3+"/delete_devices", m{"devices": []string{}}))
		web.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
		again, _ := grant(t, g, alice)
		again.Do("POST", v3+"/logout", m{}).OK(nil)
		legacy.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
	})
}

func TestRenewGrant(t *testing.T) {
	each(t, func(t *testing.T, g *accounttest.Rig) {
		ctx := context.Background()
		alice := g.User(g.A, "alice")
		web, first := grant(t, g, alice)
		refused := func(token, client string) {
			t.Helper()
			if _, err := g.Accounts.RenewGrant(ctx, g.A, token, client); !errors.Is(err, mxerror.UnknownToken) {
				t.Fatalf("renewed: %v", err)
			}
		}
		refused(first.RefreshToken, "other")
		refused(first.AccessToken, "app")
		refused("kr_1_made_up", "app")
		if _, err := g.Accounts.RenewGrant(ctx, g.B, first.RefreshToken, "app"); !errors.Is(err, mxerror.UnknownToken) {
			t.Fatalf("renewed at the neighbour: %v", err)
		}
		web.Do("GET", v3+"/account/whoami", nil).OK(nil) // nothing of this has ended the session
		lost, err := g.Accounts.RenewGrant(ctx, g.A, first.RefreshToken, "app")
		if err != nil {
			t.Fatal(err)
		}
		second, err := g.Accounts.RenewGrant(ctx, g.A, first.RefreshToken, "app") // the answer was lost
		if err != nil || second.Scope != scope || second.RefreshToken == lost.RefreshToken {
			t.Fatalf("again: %+v %v", second, err)
		}
		web.Token = second.AccessToken
		web.Do("GET", v3+"/account/whoami", nil).OK(nil)
		refused(first.RefreshToken, "app") // spent: the session ends
		web.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
		refused(second.RefreshToken, "app")
		alice.Do("GET", v3+"/devices/WEB", nil).Fails(404, "M_NOT_FOUND")
	})
}

func TestConcurrentRenewals(t *testing.T) {
	each(t, func(t *testing.T, g *accounttest.Rig) {
		web, first := grant(t, g, g.User(g.A, "alice"))
		var wg sync.WaitGroup
		logins := make([]*account.Login, 8)
		for i := range logins {
			wg.Go(func() {
				var err error
				if logins[i], err = g.Accounts.RenewGrant(context.Background(), g.A, first.RefreshToken, "app"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		valid := 0
		for _, l := range logins {
			web.Token = l.AccessToken
			if web.Do("GET", v3+"/account/whoami", nil).Status == 200 {
				valid++
			}
		}
		if valid != 1 {
			t.Errorf("%d of the pairs are valid, want the last one", valid)
		}
	})
}

func TestGrantExpires(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		now := time.Now()
		g := accounttest.New(t, db, func(_ *accounttest.Rig, o *account.Options) { o.Now = func() time.Time { return now } }, nil)
		web, l := grant(t, g, g.User(g.A, "alice"))
		now = now.Add(2 * time.Hour)
		if a := web.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN"); a.Get("soft_logout") != "true" {
			t.Errorf("expired: %s", a.Body)
		}
		l, err := g.Accounts.RenewGrant(context.Background(), g.A, l.RefreshToken, "app")
		if err != nil {
			t.Fatal(err)
		}
		now = now.Add(181 * 24 * time.Hour)
		if _, err := g.Accounts.RenewGrant(context.Background(), g.A, l.RefreshToken, "app"); !errors.Is(err, mxerror.UnknownToken) {
			t.Errorf("renewed after half a year: %v", err)
		}
	})
}

func TestRevokeToken(t *testing.T) {
	each(t, func(t *testing.T, g *accounttest.Rig) {
		ctx := context.Background()
		alice := g.User(g.A, "alice")
		for name, token := range map[string]func(*account.Login) string{
			"access": func(l *account.Login) string { return l.AccessToken }, "refresh": func(l *account.Login) string { return l.RefreshToken },
		} {
			web, l := grant(t, g, alice)
			for _, other := range []string{"kr_1_unknown", ""} {
				if err := g.Accounts.RevokeToken(ctx, g.A, other); err != nil {
					t.Fatal(err)
				}
			}
			if err := g.Accounts.RevokeToken(ctx, g.B, token(l)); err != nil {
				t.Fatal(err)
			}
			web.Do("GET", v3+"/account/whoami", nil).OK(nil)
			if err := g.Accounts.RevokeToken(ctx, g.A, token(l)); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			web.Do("GET", v3+"/account/whoami", nil).Fails(401, "M_UNKNOWN_TOKEN")
			if _, err := g.Accounts.RenewGrant(ctx, g.A, l.RefreshToken, "app"); !errors.Is(err, mxerror.UnknownToken) {
				t.Errorf("%s: renewed after the revocation: %v", name, err)
			}
		}
		alice.Do("GET", v3+"/account/whoami", nil).OK(nil)
	})
}

// TestOAuthStage: what needs user-interactive authentication and has an OAuth 2.0 session's own stage is confirmed on the account page.
func TestOAuthStage(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		g := accounttest.New(t, db, func(_ *accounttest.Rig, o *account.Options) {
			o.AccountPage = func(_ *httpapi.Request, q url.Values) string { return "https://client.test/account?" + q.Encode() }
		}, func(g *accounttest.Rig) []httpapi.Route {
			return []httpapi.Route{{Method: "POST", Path: "/reset", Access: httpapi.User, Handle: func(ctx context.Context, r *httpapi.Request) (any, error) {
				var q struct {
					Auth jsontext.Value `json:"auth"`
				}
				if err := r.Decode(&q); err != nil {
					return nil, err
				}
				challenge, err := g.Accounts.Confirm(ctx, r, account.CrossSigning, q.Auth)
				if challenge != nil || err != nil {
					return challenge, err
				}
				return nil, nil
			}}}
		})
		alice, bob := g.User(g.A, "alice"), g.User(g.A, "bob")
		web, _ := grant(t, g, alice)
		challenge := web.Do("POST", "/reset", m{})
		session := challenge.Text("session")
		address, err := url.Parse(challenge.Text("params", "m.oauth", "url"))
		if challenge.Status != 401 || err != nil || challenge.Get("flows") != `[{"stages":["m.oauth"]},{"stages":["org.matrix.cross_signing_reset"]}]` {
			t.Fatalf("challenge: %d %s", challenge.Status, challenge.Body)
		}
		if q := address.Query(); q.Get("action") != "org.matrix.cross_signing_reset" || q.Get("session") != session {
			t.Errorf("page: %s", address)
		}
		auth := m{"auth": m{"session": session}}
		if a := web.Do("POST", "/reset", auth); a.Status != 401 || a.Text("errcode") != "M_UNAUTHORIZED" || a.Text("session") != session {
			t.Errorf("too early: %d %s", a.Status, a.Body)
		}
		ctx := context.Background()
		for _, err := range []error{g.Accounts.ApproveCrossSigning(ctx, g.A, bob.ID, session), g.Accounts.ApproveCrossSigning(ctx, g.B, alice.ID, session),
			g.Accounts.ApproveCrossSigning(ctx, g.A, alice.ID, "other")} {
			if !errors.Is(err, mxerror.NotFound) {
				t.Errorf("approved by or for somebody else: %v", err)
			}
		}
		if err := g.Accounts.ApproveCrossSigning(ctx, g.A, alice.ID, session); err != nil {
			t.Fatal(err)
		}
		web.Do("POST", "/reset", m{"auth": m{"type": "m.oauth", "session": session}}).OK(nil)
		web.Do("POST", "/reset", auth).Fails(400, "M_UNKNOWN")                                            // used up
		challenged(t, web.Do("POST", "/reset", m{"auth": passwordAuth(alice, "", accounttest.Password)})) // the password does not count here
	})
}

// SPDX-License-Identifier: Apache-2.0

package account_test

import (
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/account/accounttest"
)

// TestTokensOfAdministrators: an administrator makes a token for one person; it lets one person in, and counts that.
func TestTokensOfAdministrators(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		g := accounttest.New(t, db, func(_ *accounttest.Rig, o *account.Options) {
			o.Config.Registration, o.Config.RegistrationTokens = account.RegistrationToken, []string{"configured"}
		}, nil)
		const tokens = "/_synapse/admin/v1/registration_tokens"
		const validity = "/_matrix/client/v1/register/m.login.registration_token/validity?token="
		ctx := t.Context()
		root, alice := g.User(g.A, "root"), g.User(g.A, "alice")
		if err := g.Accounts.SetAdmin(ctx, g.A.ID, root.ID, true); err != nil {
			t.Fatal(err)
		}
		nobody, foreign := g.Nobody(g.A), g.Nobody(g.B)
		alice.Do("GET", tokens, nil).Fails(403, "M_FORBIDDEN")
		alice.Do("POST", tokens+"/new", m{}).Fails(403, "M_FORBIDDEN")

		made := root.Do("POST", tokens+"/new", m{"token": "einmal", "uses_allowed": 1}).OK(nil)
		if made.Get("uses_allowed") != "1" || made.Get("completed") != "0" || made.Get("pending") != "0" || made.Get("expiry_time") != "null" {
			t.Errorf("%s", made.Body)
		}
		root.Do("POST", tokens+"/new", m{"token": "einmal"}).Fails(400, "M_INVALID_PARAM")
		for _, wrong := range []m{{"token": "mit Leerzeichen"}, {"token": ""}, {"length": 65}, {"length": 0}, {"uses_allowed": -1}, {"uses_allowed": "x"}, {"expiry_time": 1}} {
			root.Do("POST", tokens+"/new", wrong).Fails(400, "M_INVALID_PARAM")
		}
		if drawn := root.Do("POST", tokens+"/new", m{"length": 32}).OK(nil).Text("token"); len(drawn) != 32 {
			t.Errorf("drawn: %q", drawn)
		}
		if v := foreign.Do("GET", validity+"einmal", nil).OK(nil).Get("valid"); v != "false" {
			t.Error("another tenant's token counts")
		}
		register := func(name, token string) *accounttest.Answer {
			session := nobody.Do("POST", v3+"/register", m{"username": name, "password": "secret"}).Text("session")
			return nobody.Do("POST", v3+"/register", m{"username": name, "password": "secret", "auth": m{"type": "m.login.registration_token", "session": session, "token": token}})
		}
		register("berta", "einmal").OK(nil)
		register("carl", "einmal").Fails(401, "M_UNAUTHORIZED")
		if v := nobody.Do("GET", validity+"einmal", nil).OK(nil).Get("valid"); v != "false" {
			t.Error("a used token is valid")
		}
		if got := root.Do("GET", tokens+"/einmal", nil).OK(nil); got.Get("completed") != "1" {
			t.Errorf("%s", got.Body)
		}
		root.Do("PUT", tokens+"/einmal", m{"uses_allowed": nil, "expiry_time": time.Now().Add(time.Hour).UnixMilli()}).OK(nil)
		register("carl", "einmal").OK(nil)
		root.Do("PUT", tokens+"/none", m{}).Fails(404, "M_NOT_FOUND")
		if all, good := root.Do("GET", tokens, nil).OK(nil), root.Do("GET", tokens+"?valid=false", nil).OK(nil); all.Get("registration_tokens") == "[]" || good.Get("registration_tokens") != "[]" {
			t.Errorf("%s %s", all.Body, good.Body)
		}
		root.Do("DELETE", tokens+"/einmal", nil).OK(nil)
		root.Do("GET", tokens+"/einmal", nil).Fails(404, "M_NOT_FOUND")
		register("dora", "einmal").Fails(401, "M_UNAUTHORIZED")
		register("dora", "configured").OK(nil)
	})
}

// SPDX-License-Identifier: Apache-2.0

package admin_test

import (
	"testing"

	"github.com/konsil-health/konsil/internal/konsiltest"
)

// TestBotCredentials: administrators alone issue, list and revoke them; the secret is shown once.
func TestBotCredentials(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 1, func(t *testing.T, urls []string) {
		c := konsiltest.New(t, konsiltest.Spec{Tenants: []string{"hs1", "hs2"}, Database: urls[0]}).Cell(0)
		root, bot := administrator(t, c), c.SignIn(t, "@bot:hs1")
		const path = "/_konsil/admin/v1/users/@bot:hs1/bot_credentials"
		for _, method := range []string{"GET", "POST"} {
			fails(t, bot, method, path, object{"name": "x"}, 403, "M_FORBIDDEN")
		}
		fails(t, root, "POST", path, object{"name": " "}, 400, "M_INVALID_PARAM")
		fails(t, root, "POST", "/_konsil/admin/v1/users/@nobody:hs1/bot_credentials", object{"name": "x"}, 404, "M_NOT_FOUND")
		issued := root.Do("POST", path, object{"name": "reminders"})
		if issued["secret"] == "" || issued["id"] == "" {
			t.Fatalf("%v", issued)
		}
		list := root.Do("GET", path, nil)
		if konsiltest.At(list, "bot_credentials", 0, "name") != "reminders" || konsiltest.At(list, "bot_credentials", 0, "issued_by") != "@root:hs1" || konsiltest.At(list, "bot_credentials", 0, "secret") != nil {
			t.Errorf("%v", list)
		}
		root.Do("DELETE", path+"/"+issued["id"].(string), nil)
		fails(t, bot, "GET", "/_matrix/client/v3/account/whoami", nil, 401, "M_UNKNOWN_TOKEN") // its sessions end with it
		fails(t, root, "DELETE", path+"/"+issued["id"].(string), nil, 404, "M_NOT_FOUND")
		fails(t, root, "DELETE", "/_konsil/admin/v1/users/@bot:hs1/second_factor", nil, 404, "M_NOT_FOUND")
	})
}

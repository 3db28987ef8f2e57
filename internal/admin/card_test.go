// SPDX-License-Identifier: Apache-2.0

package admin_test

import (
	"testing"

	"github.com/konsil-health/konsil/internal/konsiltest"
)

// TestCards: administrators alone say whose card is whose.
func TestCards(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 1, func(t *testing.T, urls []string) {
		c := konsiltest.New(t, konsiltest.Spec{Tenants: []string{"hs1", "hs2"}, Database: urls[0]}).Cell(0)
		root, anna := administrator(t, c), c.SignIn(t, "@anna:hs1")
		const path, code = "/_konsil/admin/v1/users/@anna:hs1/card", "/_konsil/admin/v1/users/@anna:hs1/card_code"
		fails(t, anna, "PUT", path, object{"telematik_id": "1-1.9"}, 403, "M_FORBIDDEN")
		fails(t, anna, "POST", code, nil, 403, "M_FORBIDDEN")
		fails(t, root, "GET", path, nil, 404, "M_NOT_FOUND")
		fails(t, root, "PUT", path, object{"telematik_id": " "}, 400, "M_INVALID_PARAM")
		root.Do("PUT", path, object{"telematik_id": "1-1.9"})
		root.Do("PUT", path, object{"telematik_id": "1-1.9"})
		fails(t, root, "PUT", path, object{"telematik_id": "1-1.8"}, 400, "M_USER_IN_USE")
		if got := root.Do("GET", path, nil); got["telematik_id"] != "1-1.9" || got["first_used_ts"] != nil {
			t.Errorf("%v", got)
		}
		if got := root.Do("POST", code, nil); len(got["code"].(string)) != 14 || got["expires_ts"] == nil {
			t.Errorf("%v", got)
		}
		root.Do("DELETE", path, nil)
		fails(t, anna, "GET", "/_matrix/client/v3/account/whoami", nil, 401, "M_UNKNOWN_TOKEN") // its sessions end with it
		fails(t, root, "DELETE", path, nil, 404, "M_NOT_FOUND")
	})
}

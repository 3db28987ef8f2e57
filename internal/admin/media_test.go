// SPDX-License-Identifier: Apache-2.0

package admin_test

import (
	"testing"

	"github.com/konsil-health/konsil/internal/konsiltest"
)

func TestMedia(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 1, func(t *testing.T, urls []string) {
		c := konsiltest.New(t, konsiltest.Spec{Tenants: []string{"hs1"}, Database: urls[0]}).Cell(0)
		root, alice := administrator(t, c), c.SignIn(t, "@alice:hs1")
		upload := func(content any) string {
			uri := alice.Do("POST", "/_matrix/media/v3/upload?filename=f.json", content)["content_uri"].(string)
			return uri[len("mxc://hs1/"):]
		}
		one, twin, two := upload(object{"n": 1}), upload(object{"n": 1}), upload(object{"n": 2})
		get := func(media string) int {
			status, _ := alice.Try("GET", "/_matrix/client/v1/media/download/hs1/"+media, nil)
			return status
		}
		list := root.Do("GET", v1+"/users/@alice:hs1/media?order_by=created_ts&limit=2", nil)
		if list["total"] != 3.0 || list["next_token"] != 2.0 || konsiltest.At(list, "media", 0, "upload_name") != "f.json" || konsiltest.At(list, "media", 0, "quarantined_by") != nil {
			t.Errorf("%v", list)
		}
		fails(t, root, "GET", v1+"/users/@alice:hs1/media?order_by=taste", nil, 400, "M_INVALID_PARAM")
		fails(t, alice, "POST", v1+"/media/quarantine/hs1/"+two, object{}, 403, "M_FORBIDDEN")

		root.Do("POST", v1+"/media/quarantine/hs1/"+two, object{})
		if get(two) != 404 || get(one) != 200 {
			t.Error("quarantine")
		}
		if list := root.Do("GET", v1+"/users/@alice:hs1/media?order_by=quarantined_by&dir=b", nil); konsiltest.At(list, "media", 0, "quarantined_by") != "@root:hs1" {
			t.Errorf("%v", list)
		}
		root.Do("POST", v1+"/media/unquarantine/hs1/"+two, object{})
		if get(two) != 200 {
			t.Error("it did not come back")
		}

		// Deleted is deleted; the same content uploaded twice stays for the other.
		if got := root.Do("DELETE", v1+"/media/hs1/"+one, nil); got["total"] != 1.0 || konsiltest.At(got, "deleted_media", 0) != one {
			t.Errorf("%v", got)
		}
		if get(one) != 404 || get(twin) != 200 {
			t.Error("deletion")
		}
		fails(t, root, "DELETE", v1+"/media/hs1/"+one, nil, 404, "M_NOT_FOUND")
		fails(t, root, "DELETE", v1+"/media/elsewhere/"+one, nil, 400, "M_UNKNOWN")
		if got := root.Do("POST", v1+"/user/@alice:hs1/media/quarantine", object{}); got["num_quarantined"] != 2.0 || get(twin) != 404 {
			t.Errorf("%v", got)
		}
		if got := root.Do("DELETE", v1+"/users/@alice:hs1/media", nil); got["total"] != 2.0 {
			t.Errorf("%v", got)
		}
		if list := root.Do("GET", v1+"/users/@alice:hs1/media", nil); list["total"] != 0.0 {
			t.Errorf("%v", list)
		}
	})
}

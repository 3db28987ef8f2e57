// SPDX-License-Identifier: Apache-2.0

package encryption_test

import (
	"testing"

	"github.com/konsil-health/konsil/internal/homeserver/account/accounttest"
)

func session(index, forwarded int, verified bool) m {
	return m{"first_message_index": index, "forwarded_count": forwarded, "is_verified": verified, "session_data": m{"ciphertext": "x"}}
}

func TestBackupVersions(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		alice := g.User(g.A, "alice")
		const path = v3 + "/room_keys/version"
		alice.Do("GET", path, nil).Fails(404, "M_NOT_FOUND")
		info := m{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": m{"public_key": "a"}}
		if a := alice.Do("POST", path, info).OK(nil); a.Text("version") != "1" {
			t.Errorf("%s", a.Body)
		}
		if a := alice.Do("POST", path, info).OK(nil); a.Text("version") != "2" {
			t.Errorf("%s", a.Body)
		}
		if a := alice.Do("GET", path, nil).OK(nil); a.Text("version") != "2" || a.Get("count") != "0" || a.Text("etag") != "0" || a.Text("auth_data", "public_key") != "a" {
			t.Errorf("%s", a.Body)
		}
		info["auth_data"] = m{"public_key": "b"}
		alice.Do("PUT", path+"/1", info).OK(nil)
		if a := alice.Do("GET", path+"/1", nil).OK(nil); a.Text("auth_data", "public_key") != "b" {
			t.Errorf("%s", a.Body)
		}
		info["version"] = "2"
		alice.Do("PUT", path+"/1", info).Fails(400, "M_INVALID_PARAM")
		alice.Do("PUT", path+"/1", m{"algorithm": "other", "auth_data": m{}}).Fails(400, "M_INVALID_PARAM")
		alice.Do("PUT", path+"/9", m{"algorithm": "other", "auth_data": m{}}).Fails(404, "M_NOT_FOUND")
		alice.Do("POST", path, m{"algorithm": "x"}).Fails(400, "M_MISSING_PARAM")
		alice.Do("POST", path, m{"algorithm": "x", "auth_data": 1}).Fails(400, "M_BAD_JSON")
		alice.Do("DELETE", path+"/2", nil).OK(nil)
		alice.Do("DELETE", path+"/2", nil).OK(nil)
		alice.Do("DELETE", path+"/9", nil).Fails(404, "M_NOT_FOUND")
		alice.Do("GET", path+"/2", nil).Fails(404, "M_NOT_FOUND")
		if a := alice.Do("GET", path, nil).OK(nil); a.Text("version") != "1" {
			t.Errorf("%s", a.Body)
		}
		delete(info, "version")
		if a := alice.Do("POST", path, info).OK(nil); a.Text("version") != "3" {
			t.Errorf("a number was given again: %s", a.Body)
		}
		g.User(g.A, "bob").Do("GET", path, nil).Fails(404, "M_NOT_FOUND")
	})
}

// Requirements: A_26575.
func TestBackupSessions(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		alice := g.User(g.A, "alice")
		const keys = v3 + "/room_keys/keys"
		const room, q = keys + "/!r:a.test", "?version=1"
		alice.Do("PUT", room+"/s1"+q, session(0, 0, true)).Fails(404, "M_NOT_FOUND")
		alice.Do("POST", v3+"/room_keys/version", m{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": m{}}).OK(nil)
		put := func(path string, body any, count, etag string) {
			t.Helper()
			if a := alice.Do("PUT", path+q, body).OK(nil); a.Get("count") != count || a.Text("etag") != etag {
				t.Errorf("%s, want count %s, etag %s", a.Body, count, etag)
			}
		}
		get := func(path string) *accounttest.Answer { t.Helper(); return alice.Do("GET", path+q, nil).OK(nil) }
		put(room+"/s1", session(5, 2, false), "1", "1")
		put(room+"/s1", session(5, 2, false), "1", "1") // no better: unchanged
		put(room+"/s1", session(9, 0, false), "1", "1")
		put(room+"/s1", session(5, 1, false), "1", "2") // forwarded less often
		put(room+"/s1", session(3, 7, false), "1", "3") // reaches further back
		put(room+"/s1", session(8, 7, true), "1", "4")  // verified beats all
		put(room+"/s1", session(0, 0, false), "1", "4")
		if a := get(room + "/s1"); a.Get("first_message_index") != "8" || a.Get("is_verified") != "true" || a.Text("session_data", "ciphertext") != "x" {
			t.Errorf("%s", a.Body)
		}
		put(room, m{"sessions": m{"s2": session(0, 0, true), "s3": session(0, 0, true)}}, "3", "5")
		put(keys, m{"rooms": m{"!q:a.test": m{"sessions": m{"s4": session(0, 0, true)}}, "!r:a.test": m{"sessions": m{}}}}, "4", "6")
		if a := get(keys); a.Get("rooms", "!q:a.test", "sessions", "s4") == "" || a.Get("rooms", "!r:a.test", "sessions", "s3") == "" {
			t.Errorf("%s", a.Body)
		}
		if a := get(room); a.Get("sessions", "s2") == "" {
			t.Errorf("%s", a.Body)
		}
		if a := get(keys + "/!none:a.test"); string(a.Body) != `{"sessions":{}}` {
			t.Errorf("%s", a.Body)
		}
		alice.Do("GET", room+"/none"+q, nil).Fails(404, "M_NOT_FOUND")
		if a := alice.Do("DELETE", room+"/s2"+q, nil).OK(nil); a.Get("count") != "3" || a.Text("etag") != "7" {
			t.Errorf("%s", a.Body)
		}
		if a := alice.Do("DELETE", room+q, nil).OK(nil); a.Get("count") != "1" {
			t.Errorf("%s", a.Body)
		}
		if a := alice.Do("DELETE", keys+q, nil).OK(nil); a.Get("count") != "0" {
			t.Errorf("%s", a.Body)
		}
		if a := get(keys); string(a.Body) != `{"rooms":{}}` {
			t.Errorf("%s", a.Body)
		}
		alice.Do("POST", v3+"/room_keys/version", m{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": m{}}).OK(nil)
		wrong := alice.Do("PUT", room+"/s1"+q, session(0, 0, true)).Fails(403, "M_WRONG_ROOM_KEYS_VERSION")
		if wrong.Text("current_version") != "2" {
			t.Errorf("%s", wrong.Body)
		}
		alice.Do("PUT", room+"/s1", session(0, 0, true)).Fails(400, "M_MISSING_PARAM")
		alice.Do("PUT", room+"/s1?version=2", m{"first_message_index": 1}).Fails(400, "M_MISSING_PARAM")
		alice.Do("PUT", room+"/s1?version=2", m{"first_message_index": "1"}).Fails(400, "M_BAD_JSON")
		alice.Do("PUT", keys+"?version=2", m{}).Fails(400, "M_MISSING_PARAM")
		alice.Do("GET", keys+"?version=77", nil).Fails(404, "M_NOT_FOUND")
	})
}

// SPDX-License-Identifier: Apache-2.0

package admin_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/konsiltest"
)

type object = map[string]any

const (
	v1, v2 = "/_synapse/admin/v1", "/_synapse/admin/v2"
	v3     = "/_matrix/client/v3"
	// within only ends a test that hangs.
	within = time.Minute
)

// administrator makes an administrator of hs1 by the shared secret.
func administrator(t *testing.T, c *konsiltest.Cell) *konsiltest.Session {
	t.Helper()
	nobody := c.SignIn(t, "@first:hs1")
	nonce := nobody.Do("GET", v1+"/register", nil)["nonce"].(string)
	const password = "a password for the administrator"
	mac := hmac.New(sha1.New, []byte("konsiltest"))
	mac.Write([]byte(strings.Join([]string{nonce, "root", password, "admin"}, "\x00")))
	nobody.Do("POST", v1+"/register", object{"nonce": nonce, "username": "root", "password": password, "admin": true, "mac": hex.EncodeToString(mac.Sum(nil))})
	return c.Login(t, "@root:hs1", password)
}

func escape(s string) string { return url.PathEscape(s) }

func fails(t *testing.T, u *konsiltest.Session, method, path string, body any, status int, code string) {
	t.Helper()
	if got, answer := u.Try(method, path, body); got != status || answer["errcode"] != code {
		t.Errorf("%s %s: %d %v, want %d %s", method, path, got, answer, status, code)
	}
}

func TestUsers(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 1, func(t *testing.T, urls []string) {
		c := konsiltest.New(t, konsiltest.Spec{Tenants: []string{"hs1", "hs2"}, Database: urls[0]}).Cell(0)
		root, alice := administrator(t, c), c.SignIn(t, "@alice:hs1")
		other := c.SignIn(t, "@eve:hs2")
		fails(t, alice, "GET", v2+"/users", nil, 403, "M_FORBIDDEN")
		fails(t, other, "GET", v2+"/users", nil, 403, "M_FORBIDDEN")
		if root.Do("GET", v1+"/server_version", nil)["server_version"] == "" {
			t.Error("no version")
		}

		// Make, find, change.
		status, made := root.Try("PUT", v2+"/users/@bob:hs1", object{"password": "correct horse battery staple", "displayname": "Bob", "admin": false})
		if status != 201 || made["name"] != "@bob:hs1" || made["displayname"] != "Bob" || made["admin"] != false || made["deactivated"] != false {
			t.Errorf("%d %v", status, made)
		}
		status, changed := root.Try("PUT", v2+"/users/@bob:hs1", object{"displayname": "Bobby", "admin": true, "locked": false})
		if status != 200 || changed["displayname"] != "Bobby" || changed["admin"] != true {
			t.Errorf("%d %v", status, changed)
		}
		if root.Do("GET", v1+"/users/@bob:hs1/admin", nil)["admin"] != true {
			t.Error("bob is no administrator")
		}
		root.Do("PUT", v1+"/users/@bob:hs1/admin", object{"admin": false})
		list := root.Do("GET", v2+"/users?limit=2&order_by=name", nil)
		if list["total"] != 4.0 || len(list["users"].([]any)) != 2 || list["next_token"] != "2" || konsiltest.At(list, "users", 0, "name") != "@alice:hs1" {
			t.Errorf("%v", list)
		}
		list = root.Do("GET", v2+"/users?from=2&limit=2", nil)
		if list["next_token"] != nil || len(list["users"].([]any)) != 2 {
			t.Errorf("%v", list)
		}
		list = root.Do("GET", v2+"/users?name=bobb", nil)
		if list["total"] != 1.0 || konsiltest.At(list, "users", 0, "name") != "@bob:hs1" {
			t.Errorf("%v", list)
		}
		fails(t, root, "GET", v2+"/users?order_by=shoe_size", nil, 400, "M_INVALID_PARAM")
		fails(t, root, "GET", v2+"/users/@nobody:hs1", nil, 404, "M_NOT_FOUND")
		fails(t, root, "GET", v2+"/users/@eve:hs2", nil, 400, "M_UNKNOWN")
		fails(t, root, "PUT", v2+"/users/@root:hs1", object{"admin": false}, 400, "M_UNKNOWN")
		fails(t, root, "GET", v1+"/username_available?username=bob", nil, 400, "M_USER_IN_USE")
		root.Do("GET", v1+"/username_available?username=free", nil)

		// Devices, rooms, sessions.
		bob := c.Login(t, "@bob:hs1", "correct horse battery staple")
		room := bob.CreateRoom(object{"preset": "public_chat"})
		if got := root.Do("GET", v1+"/users/@bob:hs1/joined_rooms", nil); konsiltest.At(got, "joined_rooms", 0) != room || got["total"] != 1.0 {
			t.Errorf("%v", got)
		}
		device := v2 + "/users/@bob:hs1/devices/" + bob.Device
		root.Do("PUT", device, object{"display_name": "renamed"})
		if got := root.Do("GET", device, nil); got["display_name"] != "renamed" || got["user_id"] != "@bob:hs1" {
			t.Errorf("%v", got)
		}
		if got := root.Do("GET", v1+"/whois/@bob:hs1", nil); konsiltest.At(got, "devices", bob.Device) == nil {
			t.Errorf("%v", got)
		}
		impersonated := *bob
		impersonated.Token = root.Do("POST", v1+"/users/@bob:hs1/login", object{})["access_token"].(string)
		if impersonated.Do("GET", v3+"/account/whoami", nil)["user_id"] != "@bob:hs1" {
			t.Error("not bob")
		}
		expired := *bob
		expired.Token = root.Do("POST", v1+"/users/@bob:hs1/login", object{"valid_until_ms": 1000})["access_token"].(string)
		fails(t, &expired, "GET", v3+"/account/whoami", nil, 401, "M_UNKNOWN_TOKEN")
		fails(t, root, "POST", v1+"/users/@root:hs1/login", object{}, 400, "M_UNKNOWN")
		root.Do("POST", v2+"/users/@bob:hs1/delete_devices", object{"devices": []string{bob.Device}})
		fails(t, bob, "GET", v3+"/account/whoami", nil, 401, "M_UNKNOWN_TOKEN")
		root.Do("POST", v1+"/reset_password/@bob:hs1", object{"new_password": "another horse battery staple"})
		fails(t, &impersonated, "GET", v3+"/account/whoami", nil, 401, "M_UNKNOWN_TOKEN")
		bob = c.Login(t, "@bob:hs1", "another horse battery staple")
		root.Do("PUT", v2+"/users/@bob:hs1", object{"locked": true})
		fails(t, bob, "GET", v3+"/account/whoami", nil, 401, "M_USER_LOCKED")
		root.Do("PUT", v2+"/users/@bob:hs1", object{"locked": false})
		root.Do("POST", v1+"/deactivate/@bob:hs1", object{"erase": true})
		if got := root.Do("GET", v2+"/users/@bob:hs1", nil); got["deactivated"] != true {
			t.Errorf("%v", got)
		}
		fails(t, root, "PUT", v2+"/users/@bob:hs1", object{"deactivated": false, "password": "correct horse battery staple"}, 403, "M_FORBIDDEN")
	})
}

func TestRooms(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 1, func(t *testing.T, urls []string) {
		c := konsiltest.New(t, konsiltest.Spec{Tenants: []string{"hs1"}, Database: urls[0]}).Cell(0)
		root, alice, bob := administrator(t, c), c.SignIn(t, "@alice:hs1"), c.SignIn(t, "@bob:hs1")
		small := alice.CreateRoom(object{"name": "A small room", "topic": "things"})
		big := alice.CreateRoom(object{"name": "Big", "preset": "public_chat", "visibility": "public", "room_alias_name": "big"})
		bob.Join(big)
		list := root.Do("GET", v1+"/rooms", nil)
		if list["total_rooms"] != 2.0 || konsiltest.At(list, "rooms", 0, "room_id") != small || list["offset"] != 0.0 || list["next_batch"] != nil {
			t.Errorf("%v", list)
		}
		list = root.Do("GET", v1+"/rooms?order_by=joined_members&limit=1", nil)
		if konsiltest.At(list, "rooms", 0, "room_id") != big || list["next_batch"] != 1.0 || konsiltest.At(list, "rooms", 0, "joined_members") != 2.0 {
			t.Errorf("%v", list)
		}
		if list = root.Do("GET", v1+"/rooms?search_term=SMALL", nil); list["total_rooms"] != 1.0 {
			t.Errorf("%v", list)
		}
		fails(t, root, "GET", v1+"/rooms?order_by=colour", nil, 400, "M_INVALID_PARAM")
		fails(t, root, "GET", v1+"/rooms?search_term=", nil, 400, "M_INVALID_PARAM")
		got := root.Do("GET", v1+"/rooms/"+escape(small), nil)
		if got["name"] != "A small room" || got["topic"] != "things" || got["creator"] != "@alice:hs1" || got["public"] != false || got["joined_local_devices"] != 1.0 {
			t.Errorf("%v", got)
		}
		if got := root.Do("GET", v1+"/rooms/"+escape(big)+"/members", nil); got["total"] != 2.0 {
			t.Errorf("%v", got)
		}
		if got := root.Do("GET", v1+"/rooms/"+escape(big)+"/state", nil); konsiltest.At(got, "state", 0, "type") != "m.room.create" {
			t.Errorf("%v", got)
		}
		fails(t, root, "GET", v1+"/rooms/"+escape("!none:hs1"), nil, 404, "M_NOT_FOUND")

		// Shut down: everybody is out, is told where to go, and does not come back.
		deleteID := root.Do("DELETE", v2+"/rooms/"+escape(big), object{"block": true, "purge": false, "new_room_user_id": "@root:hs1", "message": "This room is closed."})["delete_id"].(string)
		var done object
		for deadline := time.Now().Add(within); done["status"] != "complete"; {
			if done = root.Do("GET", v2+"/rooms/delete_status/"+deleteID, nil); done["status"] == "failed" || time.Now().After(deadline) {
				t.Fatalf("%v", done)
			}
		}
		kicked, _ := konsiltest.At(done, "shutdown_room", "kicked_users").([]any)
		fresh, _ := konsiltest.At(done, "shutdown_room", "new_room_id").(string)
		if len(kicked) != 2 || fresh == "" || konsiltest.At(done, "shutdown_room", "local_aliases", 0) != "#big:hs1" {
			t.Errorf("%v", done)
		}
		if rooms := bob.Do("GET", v3+"/joined_rooms", nil)["joined_rooms"].([]any); len(rooms) != 1 || rooms[0] != fresh {
			t.Errorf("%v", rooms)
		}
		fails(t, bob, "POST", v3+"/join/"+escape(big), object{}, 403, "M_FORBIDDEN")
		if got := root.Do("GET", v1+"/rooms/"+escape(big)+"/block", nil); got["block"] != true || got["user_id"] != "@root:hs1" {
			t.Errorf("%v", got)
		}
		root.Do("PUT", v1+"/rooms/"+escape(big)+"/block", object{"block": false})
		fails(t, bob, "POST", v3+"/join/"+escape(big), object{}, 404, "M_NOT_FOUND") // nobody is left to let anybody in
		if got := root.Do("GET", v2+"/rooms/"+escape(big)+"/delete_status", nil); konsiltest.At(got, "results", 0, "delete_id") != deleteID {
			t.Errorf("%v", got)
		}
		fails(t, root, "GET", v2+"/rooms/delete_status/none", nil, 404, "M_NOT_FOUND")

		// Deleted for good: the room is not known any more.
		deleteID = root.Do("DELETE", v2+"/rooms/"+escape(small), object{})["delete_id"].(string)
		for deadline := time.Now().Add(within); done["shutdown_room"] == nil || done["status"] == "active" || konsiltest.At(done, "shutdown_room", "new_room_id") != nil; {
			if done = root.Do("GET", v2+"/rooms/delete_status/"+deleteID, nil); done["status"] == "failed" || time.Now().After(deadline) {
				t.Fatalf("%v", done)
			}
		}
		fails(t, root, "GET", v1+"/rooms/"+escape(small), nil, 404, "M_NOT_FOUND")

		// Its past goes from a room that lives on.
		var last string
		for i := range 6 {
			last = bob.Do("PUT", v3+"/rooms/"+escape(fresh)+"/send/m.room.message/purge"+strconv.Itoa(i), object{"msgtype": "m.text", "body": "hello"})["event_id"].(string)
		}
		fails(t, root, "POST", v1+"/purge_history/"+escape(fresh), object{}, 400, "M_BAD_JSON")
		fails(t, root, "POST", v1+"/purge_history/"+escape(fresh), object{"purge_up_to_event_id": "$none"}, 404, "M_NOT_FOUND")
		purgeID := root.Do("POST", v1+"/purge_history/"+escape(fresh)+"/"+escape(last), object{"delete_local_events": true})["purge_id"].(string)
		for deadline := time.Now().Add(within); ; {
			if got := root.Do("GET", v1+"/purge_history_status/"+purgeID, nil); got["status"] == "complete" {
				break
			} else if got["status"] == "failed" || time.Now().After(deadline) {
				t.Fatalf("%v", got)
			}
		}
		fails(t, root, "GET", v1+"/purge_history_status/none", nil, 404, "M_NOT_FOUND")
		page := bob.Do("GET", v3+"/rooms/"+escape(fresh)+"/messages?dir=b&limit=50", nil)["chunk"].([]any)
		messages := 0
		for i := range page {
			if konsiltest.At(page, i, "type") == "m.room.message" {
				messages++
			}
		}
		if messages != 1 {
			t.Errorf("%d messages are left", messages)
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"
	"net/url"
	"slices"
	"testing"
)

// TestKeysForEverybody: a server's keys are there for servers that are on no list, asked for one by one or by query, while all else is refused to them.
//
// Requirements: A_26224, A_26244.
func TestKeysForEverybody(t *testing.T) {
	t.Parallel()
	s := ti(t)
	nobody := caller{t, s, "@x:praxis.test", ""}
	ownKeys := func(answer map[string]any) {
		t.Helper()
		keys, _ := answer["verify_keys"].(map[string]any)
		signed, _ := answer["signatures"].(map[string]any)
		if answer["server_name"] != "praxis.test" || len(keys) != 1 || signed["praxis.test"] == nil {
			t.Errorf("no keys: %v", answer)
		}
	}
	queried := func(answer map[string]any) {
		t.Helper()
		found, _ := answer["server_keys"].([]any)
		if len(found) != 1 {
			t.Fatalf("no keys: %v", answer)
		}
		ownKeys(found[0].(map[string]any))
	}
	ownKeys(nobody.want(200, "", "GET", "/_matrix/key/v2/server", ""))
	queried(nobody.want(200, "", "GET", "/_matrix/key/v2/query/praxis.test", ""))
	queried(nobody.want(200, "", "POST", "/_matrix/key/v2/query", `{"server_keys":{"praxis.test":{}}}`))
	nobody.want(401, "M_UNAUTHORIZED", "GET", "/_matrix/federation/v1/publicRooms", "")
	if listed, _, err := s.node.members.Member(t.Context(), "fremd.test"); listed || err == nil {
		t.Error("there is a list")
	}
}

// TestLeaveAndForget: who leaves a room or a direct chat and forgets it has it nowhere any more, cannot forget before leaving, and can be invited again.
//
// Requirements: A_28342, A_28343.
func TestLeaveAndForget(t *testing.T) {
	t.Parallel()
	const v3 = "/_matrix/client/v3"
	s := ti(t)
	anna, ben := signIn(t, s, "@anna:praxis.test", false), signIn(t, s, "@ben:praxis.test", false)
	for name, body := range map[string]string{"room": `{"name":"Befunde"}`, "direct chat": `{"is_direct":true,"preset":"trusted_private_chat"}`} {
		id, _ := anna.want(200, "", "POST", v3+"/createRoom", body)["room_id"].(string)
		room := v3 + "/rooms/" + url.PathEscape(id)
		anna.want(200, "", "POST", room+"/invite", fmt.Sprintf(`{"user_id":%q}`, ben.user))
		ben.want(200, "", "POST", room+"/join", `{}`)
		anna.want(200, "", "PUT", room+"/send/m.room.message/"+url.PathEscape(name), `{"msgtype":"m.text","body":"x"}`)

		ben.want(400, "M_UNKNOWN", "POST", room+"/forget", `{}`)
		ben.want(200, "", "POST", room+"/leave", `{}`)
		if got := ben.left(); !slices.Equal(got, []string{id}) {
			t.Errorf("%s: after leaving, left rooms are %v", name, got)
		}
		ben.want(200, "", "GET", room+"/messages?dir=b", "")
		ben.want(200, "", "POST", room+"/forget", `{}`)
		if got := ben.left(); len(got) != 0 {
			t.Errorf("%s: after forgetting, left rooms are %v", name, got)
		}
		ben.want(403, "M_FORBIDDEN", "GET", room+"/messages?dir=b", "")
		ben.want(403, "M_FORBIDDEN", "POST", room+"/join", `{}`)
		if joined, _ := anna.want(200, "", "GET", room+"/joined_members", "")["joined"].(map[string]any); len(joined) != 1 {
			t.Errorf("%s: %v are left", name, joined)
		}
		anna.want(200, "", "POST", room+"/invite", fmt.Sprintf(`{"user_id":%q}`, ben.user))
		ben.want(200, "", "POST", room+"/join", `{}`)
	}
}

// left are the rooms that a client beginning anew is told to have been left.
func (c caller) left() []string {
	c.Helper()
	rooms, _ := c.want(200, "", "GET", "/_matrix/client/v3/sync?filter="+url.QueryEscape(`{"room":{"include_leave":true}}`), "")["rooms"].(map[string]any)
	var ids []string
	left, _ := rooms["leave"].(map[string]any)
	for id := range left {
		ids = append(ids, id)
	}
	return ids
}

// SPDX-License-Identifier: Apache-2.0

package timeline_test

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/account/accounttest"
	. "github.com/konsil-health/konsil/internal/homeserver/clientsync/clientsynctest"
)

const v3 = "/_matrix/client/v3"

func TestReports(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, room, said := chat(g, 2)
		carl := g.Person("carl")
		event := Room(room) + "/report/" + url.PathEscape(said[0])
		ben.Do("POST", event, M{"reason": "unfreundlich", "score": -100}).OK(nil)
		ben.Do("POST", event, M{}).OK(nil)
		ben.Do("POST", event, M{"score": "x"}).Fails(400, "M_BAD_JSON")
		carl.Do("POST", event, M{"reason": "x"}).Fails(404, "M_NOT_FOUND")
		ben.Do("POST", Room(room)+"/report/$unknown", M{}).Fails(404, "M_NOT_FOUND")
		carl.Do("POST", Room(room)+"/report", M{"reason": ""}).OK(nil)
		carl.Do("POST", Room(room)+"/report", M{}).Fails(400, "M_MISSING_PARAM")
		carl.Do("POST", Room("!other:a.test")+"/report", M{"reason": "x"}).Fails(404, "M_NOT_FOUND")
		carl.Do("POST", v3+"/users/"+string(anna.ID)+"/report", M{"reason": "x"}).OK(nil)
		carl.Do("POST", v3+"/users/@nobody:a.test/report", M{"reason": "x"}).Fails(404, "M_NOT_FOUND")
		carl.Do("POST", v3+"/users/x/report", M{"reason": "x"}).Fails(400, "M_INVALID_PARAM")
		anna.Do("GET", "/_konsil/admin/v1/reports", nil).Fails(403, "M_FORBIDDEN")
		root, err := g.Accounts.Create(context.Background(), g.A, account.NewUser{LoginName: "root", Password: accounttest.Password, Admin: true})
		if err != nil {
			t.Fatal(err)
		}
		admin := (&accounttest.User{Rig: g.Rig, Tenant: g.A, ID: root}).On("DEV")
		list := string(admin.Do("GET", "/_konsil/admin/v1/reports", nil).OK(nil).Body)
		if strings.Count(list, `"kind"`) != 4 || !strings.Contains(list, "unfreundlich") || !strings.Contains(list, `"user_id":"@anna:a.test"`) {
			t.Errorf("reports: %s", list)
		}
	})
}

func TestMutualRooms(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, room, _ := chat(g, 0)
		second := anna.Create(M{"preset": "public_chat"})
		ben.Join(second)
		anna.Create(M{"preset": "public_chat"})
		want := []string{room, second}
		slices.Sort(want)
		path := "/_matrix/client/v1/mutual_rooms?user_id=" + url.QueryEscape(string(ben.ID))
		m := get(anna, path)
		if got, _ := m["joined"].([]any); len(got) != 2 || got[0] != want[0] || got[1] != want[1] || m["count"] != 2.0 || m["next_batch"] != nil {
			t.Errorf("mutual: %v", m)
		}
		if m := get(anna, "/_matrix/client/v1/mutual_rooms?user_id=@nobody:a.test"); len(m["joined"].([]any)) != 0 || m["count"] != 0.0 {
			t.Errorf("with nobody: %v", m)
		}
		for _, bad := range []string{"", "?user_id=x", "?user_id=" + url.QueryEscape(string(anna.ID)), "?user_id=@b:a.test&from=!!"} {
			anna.Do("GET", "/_matrix/client/v1/mutual_rooms"+bad, nil).Fails(400, "M_INVALID_PARAM")
		}
	})
}

func TestInvitePermission(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		set := func(typ string, content M) {
			ben.Do("PUT", v3+"/user/"+string(ben.ID)+"/account_data/"+typ, content).OK(nil)
		}
		room := anna.Create(M{"preset": "private_chat"})
		invite := func() *accounttest.Answer { return anna.Do("POST", Room(room)+"/invite", M{"user_id": ben.ID}) }
		set("m.invite_permission_config", M{"default_action": "block"})
		invite().Fails(403, "M_INVITE_BLOCKED")
		anna.Do("POST", v3+"/createRoom", M{"invite": []any{ben.ID}}).Fails(403, "M_INVITE_BLOCKED")
		set("m.invite_permission_config", M{"default_action": "allow"})
		set("org.matrix.msc4155.invite_permission_config", M{"blocked_servers": []string{"*"}, "allowed_users": []string{"@b*:a.test"}})
		invite().Fails(403, "M_INVITE_BLOCKED")
		set("org.matrix.msc4155.invite_permission_config", M{"blocked_servers": []string{"*"}, "allowed_users": []string{"@a??a:a.test"}})
		invite().OK(nil)
		ben.Join(room)
	})
}

func TestUpgradeQuietensTheOldRoom(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		room := anna.Create(M{"preset": "public_chat", "visibility": "public", "room_version": "11", "name": "Befunde"})
		ben.Join(room)
		m := M{}
		anna.Do("POST", Room(room)+"/upgrade", M{"new_version": "12"}).OK(&m)
		replacement := m["replacement_room"].(string)
		ben.Do("PUT", Room(room)+"/send/m.room.message/t1", M{"msgtype": "m.text", "body": "noch da?"}).Fails(403, "M_FORBIDDEN")
		for r, want := range map[string]string{room: "private", replacement: "public"} {
			if got := get(anna, v3+"/directory/list/room/"+url.PathEscape(r)); got["visibility"] != want {
				t.Errorf("%s is %v", r, got)
			}
		}
		anna.Do("POST", v3+"/createRoom", M{"initial_state": []M{{"type": "m.room.power_levels", "state_key": "", "content": M{"users": M{string(anna.ID): 0}}}}, "name": "x", "room_version": "11"}).
			Fails(400, "M_INVALID_ROOM_STATE")
	})
}

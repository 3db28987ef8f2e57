// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/konsiltest"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// TestRoomVersions is a room of every version through the client API and over federation: invite, join, messages, lookups by the event ids of that
// version, redactions, a kick.
func TestRoomVersions(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 2, func(t *testing.T, databases []string) {
		n := konsiltest.New(t,
			konsiltest.Spec{Tenants: []string{"praxis.test"}, Database: databases[0]},
			konsiltest.Spec{Tenants: []string{"klinik.test"}, Database: databases[1]})
		anna, berta := n.Cell(0).SignIn(t, "@anna:praxis.test"), n.Cell(1).SignIn(t, "@berta:klinik.test")
		offered := konsiltest.At(anna.Do("GET", "/_matrix/client/v3/capabilities", nil), "capabilities", "m.room_versions", "available").(map[string]any)
		for _, version := range roomversion.Supported() {
			if offered[version] != "stable" {
				t.Errorf("version %s is %v", version, offered[version])
			}
			roomOfVersion(t, version, anna, berta)
		}
		if status, answer := anna.Try("POST", "/_matrix/client/v3/createRoom", map[string]any{"room_version": "13"}); status != 400 || answer["errcode"] != "M_UNSUPPORTED_ROOM_VERSION" {
			t.Errorf("version 13: %d %v", status, answer)
		}
	})
}

func roomOfVersion(t *testing.T, version string, anna, berta *konsiltest.Session) {
	t.Helper()
	room := anna.CreateRoom(map[string]any{"room_version": version, "preset": "private_chat", "invite": []string{berta.User}})
	path := "/_matrix/client/v3/rooms/" + url.PathEscape(room)
	bertas := berta.Until("", "the invitation", func(s map[string]any) bool { return konsiltest.Invited(s, room) })
	berta.Join(room, "praxis.test")
	annas := anna.Until("", "the join", func(s map[string]any) bool {
		return konsiltest.At(s, "rooms", "join", room) != nil
	})
	for i := range 8 { // enough ids to meet every character of theirs
		eid := anna.Send(room, version)
		if old := version == "1" || version == "2"; old != strings.HasSuffix(eid, ":praxis.test") {
			t.Errorf("v%s: event id %s", version, eid)
		}
		bertas = berta.Until(bertas, "a message", func(s map[string]any) bool { return konsiltest.HasEvent(s, room, eid) })
		if got := berta.Do("GET", path+"/event/"+url.PathEscape(eid), nil); got["event_id"] != eid || got["room_id"] != room {
			t.Errorf("v%s: event %v", version, got)
		}
		if i > 0 {
			continue
		}
		redaction := anna.Do("PUT", path+"/redact/"+url.PathEscape(eid)+"/r1"+version, map[string]any{})["event_id"].(string)
		bertas = berta.Until(bertas, "the redaction", func(s map[string]any) bool { return konsiltest.HasEvent(s, room, redaction) })
		got := berta.Do("GET", path+"/event/"+url.PathEscape(eid), nil)
		if content := got["content"].(map[string]any); len(content) != 0 || konsiltest.At(got, "unsigned", "redacted_because", "redacts") != eid {
			t.Errorf("v%s: redacted event: %v", version, got)
		}
		// A number with a point is no canonical JSON; the old versions do not ask for it.
		want := 400
		if v, _ := roomversion.Get(version); !v.StrictJSON {
			want = 200
		}
		if status, answer := anna.Try("PUT", path+"/send/org.example/f"+version, map[string]any{"n": 1.5}); status != want {
			t.Errorf("v%s: a float: %d %v", version, status, answer)
		}
	}
	answer := berta.Send(room, "Ja.")
	anna.Until(annas, "the answer", func(s map[string]any) bool { return konsiltest.HasEvent(s, room, answer) })
	anna.Do("POST", path+"/kick", map[string]any{"user_id": berta.User})
	berta.Until(bertas, "the kick", func(s map[string]any) bool { return konsiltest.At(s, "rooms", "leave", room) != nil })
	status, refused := berta.Try("PUT", path+"/send/m.room.message/late"+version, map[string]any{"body": "x", "msgtype": "m.text"})
	if status != 403 {
		t.Errorf("v%s: after the kick: %d %v", version, status, refused)
	}
}

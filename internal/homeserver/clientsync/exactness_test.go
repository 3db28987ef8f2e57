// SPDX-License-Identifier: Apache-2.0

package clientsync_test

import (
	"net/url"
	"strings"
	"testing"

	. "github.com/konsil-health/konsil/internal/homeserver/clientsync/clientsynctest"
)

// refusal is a request that the specification wants refused, and how.
type refusal struct {
	who          *Person
	method, path string
	body         any
	status       int
	code         string
}

// TestRefusals: what the client-server API says of requests that cannot be granted, endpoint by endpoint.
func TestRefusals(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, stranger := g.Person("anna"), g.Person("ben"), g.Person("stranger")
		room := anna.Create(M{"preset": "public_chat", "room_alias_name": "taken"})
		said := anna.Say(room, "hallo")
		left, forgotten := anna.Create(M{"preset": "public_chat"}), anna.Create(M{"preset": "public_chat"})
		for _, r := range []string{left, forgotten} {
			ben.Join(r)
			ben.Leave(r)
		}
		ben.Do("POST", Room(forgotten)+"/forget", M{}).OK(nil)
		own := V3 + "/user/" + string(anna.ID)
		esc := url.PathEscape
		long := strings.Repeat("x", 256)

		for name, list := range map[string][]refusal{
			"create": {
				{anna, "POST", V3 + "/createRoom", M{"room_alias_name": "a:b"}, 400, "M_INVALID_PARAM"},
				{anna, "POST", V3 + "/createRoom", M{"room_alias_name": long}, 400, "M_INVALID_PARAM"},
				{anna, "POST", V3 + "/createRoom", M{"room_alias_name": "taken"}, 400, "M_ROOM_IN_USE"},
				{anna, "POST", V3 + "/createRoom", M{"room_version": "nope"}, 400, "M_UNSUPPORTED_ROOM_VERSION"},
				{anna, "POST", V3 + "/createRoom", M{"preset": "nope"}, 400, "M_INVALID_PARAM"},
				{anna, "POST", V3 + "/createRoom", M{"invite": []string{"ben"}}, 400, "M_INVALID_PARAM"},
				{anna, "POST", V3 + "/createRoom", M{"room_version": "12", "power_level_content_override": M{"users": M{string(anna.ID): 100}}}, 400, "M_INVALID_ROOM_STATE"},
				{anna, "POST", V3 + "/createRoom", M{"room_version": "12", "creation_content": M{"additional_creators": []string{"ben"}}}, 400, "M_INVALID_PARAM"},
				{anna, "POST", V3 + "/createRoom", M{"room_version": "11", "power_level_content_override": M{"users": M{string(ben.ID): 100}}}, 400, "M_INVALID_ROOM_STATE"},
			},
			"receipts": {
				{anna, "POST", Room(room) + "/receipt/m.unknown/" + esc(said), M{}, 400, "M_INVALID_PARAM"},
				{anna, "POST", Room(room) + "/receipt/m.read/" + esc(said), M{"thread_id": ""}, 400, "M_INVALID_PARAM"},
				{anna, "POST", Room(room) + "/receipt/m.fully_read/" + esc(said), M{"thread_id": "main"}, 400, "M_INVALID_PARAM"},
				{stranger, "POST", Room(room) + "/receipt/m.read/" + esc(said), M{}, 403, "M_FORBIDDEN"},
				{stranger, "POST", Room(room) + "/read_markers", M{"m.fully_read": said}, 403, "M_FORBIDDEN"},
			},
			"passing": {
				{anna, "PUT", V3 + "/presence/" + string(ben.ID) + "/status", M{"presence": "online"}, 403, "M_FORBIDDEN"},
				{anna, "PUT", V3 + "/presence/" + string(anna.ID) + "/status", M{"presence": "nope"}, 400, "M_INVALID_PARAM"},
				{anna, "PUT", Room(room) + "/typing/" + string(ben.ID), M{"typing": true}, 403, "M_FORBIDDEN"},
				{stranger, "PUT", Room(room) + "/typing/" + string(stranger.ID), M{"typing": true}, 403, "M_FORBIDDEN"},
			},
			"account data": {
				{ben, "PUT", own + "/account_data/x", M{}, 403, "M_FORBIDDEN"},
				{ben, "GET", own + "/account_data/x", nil, 403, "M_FORBIDDEN"},
				{anna, "GET", own + "/account_data/none", nil, 404, "M_NOT_FOUND"},
				{anna, "PUT", own + "/account_data/m.push_rules", M{}, 405, "M_BAD_JSON"},
				{anna, "PUT", own + "/account_data/m.fully_read", M{}, 405, "M_BAD_JSON"},
				{anna, "PUT", own + "/rooms/" + esc(room) + "/account_data/m.fully_read", M{}, 405, "M_BAD_JSON"},
				{anna, "PUT", own + "/rooms/nonsense/account_data/x", M{}, 400, "M_INVALID_PARAM"},
				{ben, "GET", own + "/rooms/" + esc(room) + "/tags", nil, 403, "M_FORBIDDEN"},
				{anna, "PUT", own + "/rooms/" + esc(room) + "/tags/u.x", M{"order": "x"}, 400, "M_BAD_JSON"},
				{ben, "POST", own + "/filter", M{}, 403, "M_FORBIDDEN"},
				{anna, "POST", own + "/filter", M{"event_format": "nope"}, 400, "M_BAD_JSON"},
				{anna, "POST", own + "/filter", M{"room": M{"timeline": M{"limit": -1}}}, 400, "M_BAD_JSON"},
				{anna, "GET", own + "/filter/99999", nil, 404, "M_NOT_FOUND"},
				{ben, "POST", own + "/openid/request_token", M{}, 403, "M_FORBIDDEN"},
			},
			"profile": {
				{ben, "PUT", V3 + "/profile/" + string(anna.ID) + "/displayname", M{"displayname": "x"}, 403, "M_FORBIDDEN"},
				{anna, "PUT", V3 + "/profile/" + string(anna.ID) + "/displayname", M{}, 400, "M_MISSING_PARAM"},
				{anna, "PUT", V3 + "/profile/" + string(anna.ID) + "/" + strings.Repeat("k", 256), M{strings.Repeat("k", 256): 1}, 400, "M_KEY_TOO_LARGE"},
				{anna, "PUT", V3 + "/profile/" + string(anna.ID) + "/x.large", M{"x.large": strings.Repeat("x", 65_536)}, 400, "M_PROFILE_TOO_LARGE"},
				{anna, "GET", V3 + "/profile/" + string(anna.ID) + "/x.none", nil, 404, "M_NOT_FOUND"},
				{anna, "GET", V3 + "/profile/@nobody:a.test", nil, 404, "M_NOT_FOUND"},
			},
			"history": {
				{anna, "GET", Room(room) + "/messages", nil, 400, "M_MISSING_PARAM"},
				{anna, "GET", Room(room) + "/messages?dir=x", nil, 400, "M_INVALID_PARAM"},
				{stranger, "GET", Room(left) + "/messages?dir=b", nil, 403, "M_FORBIDDEN"},
				{ben, "GET", Room(forgotten) + "/messages?dir=b", nil, 403, "M_FORBIDDEN"},
				{ben, "GET", Room(forgotten) + "/members", nil, 403, "M_FORBIDDEN"},
				{ben, "GET", Room(forgotten) + "/state", nil, 403, "M_FORBIDDEN"},
				{ben, "GET", Room(left) + "/joined_members", nil, 403, "M_FORBIDDEN"},
				{stranger, "GET", Room(left) + "/joined_members", nil, 403, "M_FORBIDDEN"},
				{anna, "GET", Room(room) + "/members?membership=nope", nil, 400, "M_INVALID_PARAM"},
				{anna, "GET", Room(room) + "/event/$none", nil, 404, "M_NOT_FOUND"},
				{anna, "GET", Room(room) + "/context/$none", nil, 404, "M_NOT_FOUND"},
				{stranger, "GET", Room(left) + "/context/" + esc(said), nil, 403, "M_FORBIDDEN"},
				{anna, "GET", Room(room) + "/state/none", nil, 404, "M_NOT_FOUND"},
				{anna, "GET", V1 + "/rooms/" + esc(room) + "/timestamp_to_event?dir=x&ts=1", nil, 400, "M_INVALID_PARAM"},
				{anna, "GET", V1 + "/rooms/" + esc(room) + "/timestamp_to_event?dir=b&ts=1", nil, 404, "M_NOT_FOUND"},
				{anna, "GET", V1 + "/rooms/" + esc(room) + "/threads?include=x", nil, 400, "M_INVALID_PARAM"},
				{anna, "GET", V1 + "/rooms/" + esc(room) + "/relations/$none", nil, 404, "M_NOT_FOUND"},
				{anna, "POST", Room(room) + "/report/$none", M{"reason": "x"}, 404, "M_NOT_FOUND"},
			},
			"membership": {
				{anna, "POST", Room(room) + "/forget", M{}, 400, "M_UNKNOWN"},
				{anna, "POST", Room(room) + "/invite", M{"user_id": "ben"}, 400, "M_INVALID_PARAM"},
				{anna, "POST", Room(room) + "/invite", M{"user_id": string(anna.ID)}, 403, "M_FORBIDDEN"},
				{anna, "POST", Room(room) + "/kick", M{"user_id": string(ben.ID)}, 403, "M_FORBIDDEN"},
				{anna, "POST", Room(room) + "/unban", M{"user_id": string(ben.ID)}, 403, "M_FORBIDDEN"},
				{stranger, "POST", Room(room) + "/leave", M{}, 403, "M_FORBIDDEN"},
				{stranger, "POST", Room(room) + "/upgrade", M{"new_version": "12"}, 403, "M_FORBIDDEN"},
				{anna, "POST", Room(room) + "/upgrade", M{"new_version": "nope"}, 400, "M_UNSUPPORTED_ROOM_VERSION"},
				{anna, "POST", Room("!none:a.test") + "/join", M{}, 404, "M_NOT_FOUND"},
			},
			"aliases": {
				{anna, "PUT", V3 + "/directory/room/" + esc("#taken:a.test"), M{"room_id": room}, 409, "M_UNKNOWN"},
				{anna, "PUT", V3 + "/directory/room/" + esc("#x:elsewhere.test"), M{"room_id": room}, 400, "M_INVALID_PARAM"},
				{anna, "PUT", V3 + "/directory/room/taken", M{"room_id": room}, 400, "M_INVALID_PARAM"},
				{anna, "GET", V3 + "/directory/room/" + esc("#none:a.test"), nil, 404, "M_NOT_FOUND"},
				{anna, "DELETE", V3 + "/directory/room/" + esc("#none:a.test"), nil, 404, "M_NOT_FOUND"},
				{stranger, "DELETE", V3 + "/directory/room/" + esc("#taken:a.test"), nil, 403, "M_FORBIDDEN"},
				{stranger, "PUT", V3 + "/directory/list/room/" + esc(room), M{"visibility": "public"}, 403, "M_FORBIDDEN"},
			},
			"devices and keys": {
				{anna, "GET", V3 + "/devices/NONE", nil, 404, "M_NOT_FOUND"},
				{anna, "PUT", V3 + "/devices/NONE", M{"display_name": "x"}, 404, "M_NOT_FOUND"},
				{anna, "GET", V3 + "/keys/changes?from=x&to=y", nil, 400, "M_INVALID_PARAM"},
				{anna, "GET", V3 + "/keys/changes", nil, 400, "M_MISSING_PARAM"},
				{anna, "POST", V3 + "/keys/query", M{}, 400, "M_MISSING_PARAM"},
				{anna, "POST", V3 + "/keys/claim", M{}, 400, "M_MISSING_PARAM"},
				{anna, "GET", V3 + "/room_keys/version", nil, 404, "M_NOT_FOUND"},
				{anna, "GET", V3 + "/room_keys/keys?version=1", nil, 404, "M_NOT_FOUND"},
			},
			"push": {
				{anna, "PUT", V3 + "/pushrules/global/nope/x", M{"actions": []any{}}, 400, "M_INVALID_PARAM"},
				{anna, "PUT", V3 + "/pushrules/global/override/.mine", M{"actions": []any{}, "conditions": []any{}}, 400, "M_INVALID_PARAM"},
				{anna, "GET", V3 + "/pushrules/global/override/none", nil, 404, "M_NOT_FOUND"},
				{anna, "DELETE", V3 + "/pushrules/global/override/none", nil, 404, "M_NOT_FOUND"},
				{anna, "PUT", V3 + "/pushrules/global/override/.m.rule.master/enabled", M{}, 400, "M_MISSING_PARAM"},
				{anna, "POST", V3 + "/pushers/set", M{"kind": "http"}, 400, "M_MISSING_PARAM"},
			},
		} {
			for _, c := range list {
				a := c.who.Do(c.method, c.path, c.body)
				if code := a.Text("errcode"); a.Status != c.status || code != c.code {
					t.Errorf("%s: %s %.120s %.120v: %d %s, want %d %s", name, c.method, c.path, c.body, a.Status, a.Body, c.status, c.code)
				}
			}
		}
	})
}

// TestAfterLeaving: who has left a room keeps what they saw until they forget it.
func TestAfterLeaving(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		room := anna.Create(M{"preset": "public_chat", "name": "vorher"})
		ben.Join(room)
		said := anna.Say(room, "vorher")
		ben.Leave(room)
		late := anna.Say(room, "nachher")
		anna.SetState(room, "m.room.name", M{"name": "nachher"})
		if name := ben.Do("GET", Room(room)+"/state/m.room.name", nil).OK(nil).Text("name"); name != "vorher" {
			t.Errorf("the name of a room that was left is %q", name)
		}
		messages := ben.Do("GET", Room(room)+"/messages?dir=b", nil).OK(nil)
		if !strings.Contains(string(messages.Body), said) || strings.Contains(string(messages.Body), late) {
			t.Errorf("history of a room that was left: %s", messages.Body)
		}
		ben.Do("GET", Room(room)+"/event/"+url.PathEscape(said), nil).OK(nil)
		ben.Do("GET", Room(room)+"/event/"+url.PathEscape(late), nil).Fails(404, "M_NOT_FOUND")
		ben.Do("GET", Room(room)+"/context/"+url.PathEscape(late), nil).Fails(404, "M_NOT_FOUND")
		if context := ben.Do("GET", Room(room)+"/context/"+url.PathEscape(said), nil).OK(nil); strings.Contains(string(context.Body), "nachher") {
			t.Errorf("context at the edge: %s", context.Body)
		}
		if members := ben.Do("GET", Room(room)+"/members?membership=leave", nil).OK(nil); !strings.Contains(string(members.Body), string(ben.ID)) {
			t.Errorf("members of a room that was left: %s", members.Body)
		}
		ben.Do("POST", Room(room)+"/forget", M{}).OK(nil)
		ben.Do("GET", Room(room)+"/messages?dir=b", nil).Fails(403, "M_FORBIDDEN")
		ben.Join(room)
		if messages := ben.Do("GET", Room(room)+"/messages?dir=b", nil).OK(nil); !strings.Contains(string(messages.Body), late) {
			t.Errorf("history after coming back: %s", messages.Body)
		}
	})
}

// TestRedactedState: a redaction empties state but keeps what a room is made of.
func TestRedactedState(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna := g.Person("anna")
		room := anna.Create(M{"preset": "public_chat"})
		topic := anna.SetState(room, "m.room.topic", M{"topic": "geheim"})
		rules := anna.SetState(room, "m.room.join_rules", M{"join_rule": "invite", "x": "geheim"})
		for _, e := range []string{topic, rules} {
			anna.Do("PUT", Room(room)+"/redact/"+url.PathEscape(e)+"/"+url.PathEscape(e), M{}).OK(nil)
		}
		if a := anna.Do("GET", Room(room)+"/state/m.room.topic", nil).OK(nil); string(a.Body) != "{}" {
			t.Errorf("a redacted topic: %s", a.Body)
		}
		if a := anna.Do("GET", Room(room)+"/state/m.room.join_rules", nil).OK(nil); string(a.Body) != `{"join_rule":"invite"}` {
			t.Errorf("redacted join rules: %s", a.Body)
		}
	})
}

// TestSettingsFollowUpgrades: tags, direct chats and push rules of a room hold for its replacement, for whoever goes there.
func TestSettingsFollowUpgrades(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, cleo := g.Person("anna"), g.Person("ben"), g.Person("cleo")
		room := anna.Create(M{"preset": "public_chat", "room_version": "11"})
		quoted := url.PathEscape(room)
		for _, p := range []*Person{ben, cleo} {
			p.Join(room)
		}
		for _, p := range []*Person{anna, ben} {
			own := V3 + "/user/" + string(p.ID)
			p.Do("PUT", own+"/rooms/"+quoted+"/tags/m.favourite", M{"order": 0.5}).OK(nil)
			p.Do("PUT", own+"/account_data/m.direct", M{"@z:a.test": []string{room, "!other:a.test"}}).OK(nil)
			p.Do("PUT", V3+"/pushrules/global/room/"+quoted, M{"actions": []any{}}).OK(nil)
			p.Do("PUT", V3+"/pushrules/global/override/"+quoted, M{"actions": []any{}, "conditions": []any{M{"kind": "event_match", "key": "room_id", "pattern": room}}}).OK(nil)
		}
		replacement := anna.Do("POST", Room(room)+"/upgrade", M{"new_version": "12"}).OK(nil).Text("replacement_room")
		for _, p := range []*Person{ben, cleo} {
			p.Join(replacement)
		}
		for _, p := range []*Person{anna, ben} {
			own := V3 + "/user/" + string(p.ID)
			if a := p.Do("GET", own+"/rooms/"+url.PathEscape(replacement)+"/tags", nil).OK(nil); a.Get("tags", "m.favourite", "order") != "0.5" {
				t.Errorf("%s's tags: %s", p.ID, a.Body)
			}
			if a := p.Do("GET", own+"/account_data/m.direct", nil).OK(nil); a.Get("@z:a.test") != `["`+room+`","!other:a.test","`+replacement+`"]` {
				t.Errorf("%s's direct chats: %s", p.ID, a.Body)
			}
			p.Do("GET", V3+"/pushrules/global/room/"+url.PathEscape(replacement), nil).OK(nil)
			if a := p.Do("GET", V3+"/pushrules/global/override/"+url.PathEscape(replacement), nil).OK(nil); !strings.Contains(a.Get("conditions"), replacement) {
				t.Errorf("%s's rule: %s", p.ID, a.Body)
			}
		}
		cleo.Do("GET", V3+"/pushrules/global/room/"+url.PathEscape(replacement), nil).Fails(404, "M_NOT_FOUND")
		ben.Leave(replacement) // a second coming brings nothing back that was removed meanwhile
		ben.Do("DELETE", V3+"/pushrules/global/room/"+quoted, nil).OK(nil)
		ben.Do("DELETE", V3+"/pushrules/global/room/"+url.PathEscape(replacement), nil).OK(nil)
		ben.Join(replacement)
		ben.Do("GET", V3+"/pushrules/global/room/"+url.PathEscape(replacement), nil).Fails(404, "M_NOT_FOUND")
	})
}

// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/konsiltest"
	"github.com/konsil-health/konsil/internal/telematik/permission"
)

type object = map[string]any

func creating(who func(*scene) *konsiltest.Session, body object) attempt {
	return asking(who, "POST", v3+"/createRoom", body)
}

// creatingWith makes a room whose first state says that somebody is invited.
func creatingWith(who, whom func(*scene) *konsiltest.Session, own object) attempt {
	return func(s *scene) (int, map[string]any) {
		s.configure(whom(s), own)
		defer s.configure(whom(s), object{"defaultSetting": "allow all"})
		return who(s).Try("POST", v3+"/createRoom", object{"initial_state": []object{{"type": "m.room.member", "state_key": whom(s).User, "content": object{"membership": "invite"}}}})
	}
}

func setting(who func(*scene) *konsiltest.Session, room object, typ string, content object) attempt {
	return inRoom(who, room, "PUT", v3+"/rooms/ROOM/state/"+typ, content)
}

// relating is a message with a relation to a message before it.
func relating(typ, rel, key string) attempt {
	return func(s *scene) (int, map[string]any) {
		room := s.anna.CreateRoom(object{"preset": "private_chat"})
		first := s.anna.Send(room, "first")
		r := object{"rel_type": rel, "event_id": first}
		if key != "" {
			r["key"] = key
		}
		return s.anna.Try("PUT", v3+"/rooms/"+url.PathEscape(room)+"/send/"+typ+"/x", object{"msgtype": "m.text", "body": "x", "m.new_content": object{"msgtype": "m.text", "body": "y"}, "m.relates_to": r})
	}
}

func redacting(age time.Duration, sent bool) attempt {
	return func(s *scene) (int, map[string]any) {
		room := s.anna.CreateRoom(object{"preset": "private_chat"})
		first := s.anna.Send(room, "first")
		s.later.Store(int64(age))
		defer s.later.Store(0)
		if sent {
			return s.anna.Try("PUT", v3+"/rooms/"+url.PathEscape(room)+"/send/m.room.redaction/r", object{"redacts": first})
		}
		return s.anna.Try("PUT", v3+"/rooms/"+url.PathEscape(room)+"/redact/"+url.PathEscape(first)+"/r", object{})
	}
}

func searching(who func(*scene) *konsiltest.Session, term string) attempt {
	return asking(who, "POST", v3+"/user_directory/search", object{"search_term": term})
}

func profileOf(who, whom func(*scene) *konsiltest.Session) attempt {
	return func(s *scene) (int, map[string]any) {
		return who(s).Try("GET", v3+"/profile/"+url.PathEscape(whom(s).User), nil)
	}
}

// knowing is profileOf of two who share a room.
func knowing(who, whom func(*scene) *konsiltest.Session) attempt {
	return func(s *scene) (int, map[string]any) {
		s.acquainted(who(s), whom(s))
		return profileOf(who, whom)(s)
	}
}

func withStaleList(a attempt) attempt {
	return func(s *scene) (int, map[string]any) {
		room := s.anna.CreateRoom(object{"preset": "private_chat"})
		s.list.stale.Store(true)
		defer s.list.stale.Store(false)
		if a != nil {
			return a(s)
		}
		return s.anna.Try("POST", v3+"/rooms/"+url.PathEscape(room)+"/invite", object{"user_id": s.ben.User})
	}
}

func status(n int) attempt {
	return func(s *scene) (int, map[string]any) {
		return s.anna.Try("PUT", v3+"/presence/"+url.PathEscape(s.anna.User)+"/status", object{"presence": "online", "status_msg": strings.Repeat("ä", n)})
	}
}

// state reads what became of a new room.
func state(who func(*scene) *konsiltest.Session, room object, typ, field string, want any) func(s *scene) {
	return func(s *scene) {
		s.Helper()
		id := who(s).CreateRoom(room)
		_, got := who(s).Try("GET", v3+"/rooms/"+url.PathEscape(id)+"/state/"+typ, nil)
		if got[field] != want {
			s.Errorf("%v: %s of %s is %v, want %v", room, field, typ, got[field], want)
		}
	}
}

var (
	publicRoom = object{"preset": "public_chat"}
	noInvite   = object{"defaultSetting": "block all"}
)

func initial(typ string, content object) object {
	return object{"initial_state": []object{{"type": typ, "state_key": "", "content": content}}}
}

// ruleCases has for each rule what it lets pass and what it refuses, or what it makes of requests; everything through the proxy.
var ruleCases = map[string]struct {
	allowed, refused []attempt
	rewritten        []func(*scene)
}{
	"listed": {allowed: []attempt{inviting(anna, ben, nil)},
		refused: []attempt{inviting(anna, eve, nil), inviting(eve, anna, nil), creating(anna, object{"invite": []string{"@eve:fremd.test"}}),
			inRoom(anna, nil, "PUT", v3+"/rooms/ROOM/state/m.room.member/@eve:fremd.test", object{"membership": "invite"}),
			creating(anna, object{"initial_state": []object{{"type": "m.room.member", "state_key": "@eve:fremd.test", "content": object{"membership": "invite"}}}}),
			asking(anna, "GET", "/_matrix/client/v1/media/download/fremd.test/abc", nil),
			asking(anna, "GET", "/_matrix/client/v1/media/thumbnail/fremd.test/abc?width=32&height=32", nil)}},
	"fresh list": {allowed: []attempt{withStaleList(inviting(anna, clara, nil))}, refused: []attempt{withStaleList(nil), withStaleList(inviting(eve, ben, nil))}},
	"insured to insured": {allowed: []attempt{inviting(ben, max, nil), inviting(max, ben, nil)},
		refused: []attempt{inviting(max, func(s *scene) *konsiltest.Session { return s.nora }, nil)}},
	"permission configuration": {allowed: []attempt{inviting(anna, ben, object{"defaultSetting": "block all", "serverExceptions": object{"praxis.test": object{}}}), inviting(anna, clara, nil)},
		refused: []attempt{inviting(anna, ben, noInvite), inviting(anna, max, noInvite), inviting(anna, clara, noInvite), creatingWith(anna, clara, noInvite),
			inviting(max, ben, object{"defaultSetting": "allow all", "groupExceptions": []object{{"groupName": "isInsuredPerson"}}})}},
	"one invitee": {allowed: []attempt{creating(anna, object{"invite": []string{"@clara:praxis.test"}})},
		refused: []attempt{creating(anna, object{"invite": []string{"@clara:praxis.test", "@ben:klinik.test"}})}},
	"room version": {allowed: []attempt{creating(anna, object{"room_version": "9"}), inRoom(anna, nil, "POST", v3+"/rooms/ROOM/upgrade", object{"new_version": "10"}),
		inRoom(max, nil, "POST", v3+"/rooms/ROOM/upgrade", object{"new_version": "9"})},
		refused: []attempt{creating(anna, object{"room_version": "11"}), inRoom(anna, nil, "POST", v3+"/rooms/ROOM/upgrade", object{"new_version": "12"}),
			inRoom(max, nil, "POST", v3+"/rooms/ROOM/upgrade", object{"new_version": "11"})}},
	"room type v2": {allowed: []attempt{creating(anna, object{"creation_content": object{"type": "de.gematik.tim.roomtype.default.v1"}})},
		refused: []attempt{creating(anna, object{"creation_content": object{"type": "de.gematik.tim.roomtype.default.v2"}})}},
	"no public rooms": {allowed: []attempt{creating(anna, publicRoom), creating(max, object{})}, refused: []attempt{creating(max, publicRoom), creating(max, object{"visibility": "public"})}},
	"public rooms stay local": {rewritten: []func(*scene){state(anna, publicRoom, "m.room.create", "m.federate", false), state(anna, object{}, "m.room.create", "m.federate", nil),
		state(anna, object{}, "m.room.create", "room_version", "10")}},
	"history for the invited": {rewritten: []func(*scene){state(anna, object{"preset": "private_chat"}, "m.room.history_visibility", "history_visibility", "invited"),
		state(max, object{}, "m.room.history_visibility", "history_visibility", "invited"),
		state(anna, initial("m.room.history_visibility", object{"history_visibility": "joined"}), "m.room.history_visibility", "history_visibility", "joined")}},
	"invite only": {allowed: []attempt{setting(max, nil, "m.room.join_rules", object{"join_rule": "invite"})},
		refused: []attempt{setting(max, nil, "m.room.join_rules", object{"join_rule": "knock"}), setting(max, nil, "m.room.join_rules/", object{"join_rule": "public"}),
			creating(max, initial("m.room.join_rules", object{"join_rule": "knock"}))}},
	"no later opening": {allowed: []attempt{setting(anna, publicRoom, "m.room.join_rules", object{"join_rule": "public"})},
		refused: []attempt{setting(anna, nil, "m.room.join_rules", object{"join_rule": "public"}), setting(anna, nil, "m.room.%6Aoin_rules", object{"join_rule": "public"})}},
	"not world readable, insured": {allowed: []attempt{setting(max, nil, "m.room.history_visibility", object{"history_visibility": "shared"})},
		refused: []attempt{setting(max, nil, "m.room.history_visibility", object{"history_visibility": "world_readable"})}},
	"not world readable": {allowed: []attempt{setting(anna, publicRoom, "m.room.history_visibility", object{"history_visibility": "world_readable"})},
		refused: []attempt{setting(anna, nil, "m.room.history_visibility", object{"history_visibility": "world_readable"})}},
	"no threads":             {allowed: []attempt{relating("m.room.message", "m.replace", "")}, refused: []attempt{relating("m.room.message", "m.thread", "")}},
	"one emoji":              {allowed: []attempt{relating("m.reaction", "m.annotation", "👍")}, refused: []attempt{relating("m.reaction", "m.annotation", "👍👍"), relating("m.reaction", "m.annotation", "ja")}},
	"redaction within a day": {allowed: []attempt{redacting(time.Hour, false)}, refused: []attempt{redacting(25*time.Hour, false), redacting(25*time.Hour, true)}},
	"no link previews":       {allowed: []attempt{asking(anna, "GET", "/_matrix/client/v1/media/config", nil)}, refused: []attempt{asking(anna, "GET", "/_matrix/client/v1/media/preview_url?url=x", nil), asking(max, "GET", "/_matrix/media/v3/preview_url?url=x", nil)}},
	"no third networks":      {allowed: []attempt{asking(anna, "GET", v3+"/account/3pid", nil)}, refused: []attempt{asking(anna, "GET", v3+"/thirdparty/protocols", nil)}},
	"no list of public rooms": {allowed: []attempt{asking(anna, "GET", v3+"/publicRooms", nil)},
		refused: []attempt{asking(max, "GET", v3+"/publicRooms", nil), asking(max, "POST", v3+"/publicRooms", object{})}},
	"no third-party identifiers": {allowed: []attempt{asking(anna, "GET", v3+"/account/3pid", nil)},
		refused: []attempt{asking(anna, "POST", v3+"/account/3pid/add", object{}), inRoom(anna, nil, "POST", v3+"/rooms/ROOM/invite", object{"medium": "email", "address": "a@b.test", "id_server": "c.test", "id_access_token": "x"}),
			creating(anna, object{"invite_3pid": []object{{"medium": "email", "address": "a@b.test", "id_server": "c.test", "id_access_token": "x"}}})}},
	"no registration by a secret": {allowed: []attempt{asking(nobody("praxis.test"), "GET", v3+"/login", nil)},
		refused: []attempt{asking(nobody("praxis.test"), "POST", "/_synapse/admin/v1/register", object{}), asking(nobody("praxis.test"), "POST", v3+"/register", object{"username": "x"}),
			asking(nobody("kasse.test"), "POST", v3+"/register?kind=guest", object{})}},
	"nobody signs in for others": {allowed: []attempt{asking(anna, "GET", v3+"/devices", nil)}, refused: []attempt{asking(anna, "POST", "/_synapse/admin/v1/users/@clara:praxis.test/login", object{})}},
	"profiles need a session": {allowed: []attempt{profileOf(anna, clara)},
		refused: []attempt{asking(nobody("praxis.test"), "GET", v3+"/profile/@anna:praxis.test", nil), asking(nobody("kasse.test"), "GET", v3+"/profile/@max:kasse.test/displayname", nil)}},
	"profiles of insured people": {allowed: []attempt{profileOf(max, max), profileOf(anna, ben), knowing(ben, max)},
		refused: []attempt{profileOf(max, func(s *scene) *konsiltest.Session { return s.nora }), profileOf(clara, max)}},
	"insured people are not found": {rewritten: []func(*scene){found(anna, "clara", 1), found(max, "nora", 0)}},
	"short status":                 {allowed: []attempt{status(250)}, refused: []attempt{status(251)}},
	"nothing unlisted": {allowed: []attempt{asking(anna, "GET", v3+"/sync", nil)},
		refused: []attempt{asking(anna, "GET", v3+"/sync/more", nil), asking(anna, "GET", "/_matrix/client/unstable/org.example/new", nil), asking(anna, "GET", v3+"/rooms/..%2F..%2Fpushrules/", nil),
			asking(anna, "GET", "/_matrix//client/v3/sync", nil)}},
}

// notHere are the rules about new accounts, which are made behind the proxy by whoever runs the homeserver.
var notHere = []string{"insured by KVNR", "no personal data in user ids"}

func found(who func(*scene) *konsiltest.Session, term string, want int) func(*scene) {
	return func(s *scene) {
		s.Helper()
		_, answer := searching(who, term)(s)
		if results, _ := answer["results"].([]any); len(results) != want {
			s.Errorf("%s finds %v", who(s).User, answer)
		}
	}
}

// TestRules: the table of rules holds through the proxy, between cells and between tenants of one cell, with the status, code and text that it says.
//
// Requirements: AF_10061, AF_10064-02, AF_10104, AF_10233, A_25534, A_26021-01, A_26202, A_26203, A_26328.
func TestRules(t *testing.T) {
	t.Parallel()
	for name, together := range map[string]bool{"cells": false, "tenants": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			walk(newScene(t, together))
		})
	}
}

// TestRulesOfKonsil: the same table holds under policy ti without any proxy.
//
// Requirements: AF_10061, AF_10064-02, AF_10104, AF_10233, A_25534, A_26021-01, A_26202, A_26203, A_26328.
func TestRulesOfKonsil(t *testing.T) {
	t.Parallel()
	for name, together := range map[string]bool{"cells": false, "tenants": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			walk(ownScene(t, together))
		})
	}
}

// needsClock are rules whose refusals need a list that grows old or a later day, which the tests of the packages make; the proxies' scene has both.
var needsClock = []string{"fresh list", "redaction within a day"}

func walk(s *scene) {
	rules := permission.Table()
	if len(rules) != len(ruleCases)+len(notHere) {
		s.Errorf("%d rules, cases of %d", len(rules), len(ruleCases))
	}
	for _, r := range rules {
		cases, ok := ruleCases[r.Name]
		if !ok {
			continue
		}
		if len(cases.rewritten) == 0 && (len(cases.allowed) == 0 || len(cases.refused) == 0) {
			s.Errorf("%s has no allowed or no refused case", r.Name)
		}
		for i, try := range cases.allowed {
			if status, answer := try(s); status != 200 {
				s.Errorf("%s, allowed case %d: %d %v", r.Name, i, status, answer)
			}
		}
		if s.own && slices.Contains(needsClock, r.Name) {
			continue
		}
		for i, try := range cases.refused {
			status, answer := try(s)
			if text, _ := answer["error"].(string); status != r.Status || answer["errcode"] != r.Code || !s.own && !says(r.Text, text) {
				s.Errorf("%s, refused case %d: %d %v, want %d %s", r.Name, i, status, answer, r.Status, r.Code)
			}
		}
		for _, look := range cases.rewritten {
			look(s)
		}
	}
}

// says compares a refusal's text with the rule's, whose %s stand for names.
func says(rule, text string) bool {
	for _, part := range strings.Split(rule, "%s") {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return true
}

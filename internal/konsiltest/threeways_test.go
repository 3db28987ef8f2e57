// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/konsiltest"
)

// TestThreeWays tells the same story of two servers three ways: two nodes over TLS, two tenants of one cell over TLS, and the same by
// function call. Every answer's status and error code, who is refused, and what each of the three people sees in the end must be equal.
//
// Requirements: AF_10062.
func TestThreeWays(t *testing.T) {
	t.Parallel()
	ways := []string{"two cells", "neighbours over TLS", "neighbours in process"}
	told := make([][]string, len(ways))
	t.Run("tell", func(t *testing.T) {
		for i, way := range ways {
			t.Run(way, func(t *testing.T) {
				t.Parallel()
				told[i] = threeWays(t, way)
			})
		}
	})
	for i, way := range ways[1:] {
		one, other := told[0], told[i+1]
		for n := range max(len(one), len(other)) {
			a, b := at(one, n), at(other, n)
			if a != b {
				t.Fatalf("the ways differ:\n  %s: %s\n  %s: %s", ways[0], a, way, b)
			}
		}
	}
	if len(told[0]) < 50 {
		t.Errorf("only %d things were compared", len(told[0]))
	}
}

func at(list []string, n int) string {
	if n < len(list) {
		return list[n]
	}
	return "nothing"
}

func threeWays(t *testing.T, way string) []string {
	var n *konsiltest.Network
	var a, b *konsiltest.Cell
	if way == "two cells" {
		n = konsiltest.New(t, konsiltest.Spec{Tenants: []string{"praxis.test"}}, konsiltest.Spec{Tenants: []string{"klinik.test"}})
		a, b = n.Cell(0), n.Cell(1)
	} else {
		n = konsiltest.New(t, konsiltest.Spec{Tenants: []string{"praxis.test", "klinik.test"},
			Configure: func(c *config.Config) { c.Federation.InProcess = way == "neighbours in process" }})
		a, b = n.Cell(0), n.Cell(0)
	}
	s := &storybook{t: t, names: map[string]string{}}
	s.anna, s.berta, s.carl = a.SignIn(t, "@anna:praxis.test"), b.SignIn(t, "@berta:klinik.test"), b.SignIn(t, "@carl:klinik.test")
	for who, session := range map[string]*konsiltest.Session{"device of anna": s.anna, "device of berta": s.berta, "device of carl": s.carl} {
		s.names[session.Device] = who
	}
	s.privateRoom()
	s.publicRoom()
	s.restrictedRoom()
	s.people()
	s.views()
	return s.lines
}

// storybook writes down what was answered, with names in place of what is drawn by chance.
type storybook struct {
	t                 *testing.T
	lines             []string
	names             map[string]string
	anna, berta, carl *konsiltest.Session
	rooms             []string
	txn               int
}

const client = "/_matrix/client/v3/"

// try asks and writes down status and error code; it returns the answer.
func (s *storybook) try(who *konsiltest.Session, method, path string, body any) map[string]any {
	s.t.Helper()
	status, answer := who.Try(method, client+path, body)
	s.note("%s %s %s: %d %v", who.User, method, path, status, cmp.Or(answer["errcode"], any("")))
	return answer
}

func (s *storybook) note(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	for drawn, name := range s.names {
		line = strings.ReplaceAll(strings.ReplaceAll(line, url.PathEscape(drawn), name), drawn, name)
	}
	s.lines = append(s.lines, line)
}

// name remembers what stands for an id from now on.
func (s *storybook) name(answer map[string]any, key, name string) string {
	s.t.Helper()
	drawn, _ := answer[key].(string)
	if drawn == "" {
		s.t.Fatalf("%s: no %s in %v; so far:\n%s", name, key, answer, strings.Join(s.lines, "\n"))
	}
	s.names[drawn] = "<" + name + ">"
	return drawn
}

func (s *storybook) create(who *konsiltest.Session, name string, request map[string]any) string {
	s.t.Helper()
	room := s.name(s.try(who, "POST", "createRoom", request), "room_id", name)
	s.rooms = append(s.rooms, room)
	return room
}

func (s *storybook) send(who *konsiltest.Session, room, typ string, content map[string]any) map[string]any {
	s.t.Helper()
	s.txn++
	return s.try(who, "PUT", fmt.Sprintf("rooms/%s/send/%s/t%d", url.PathEscape(room), typ, s.txn), content)
}

// say sends a text and waits until the others see it.
func (s *storybook) say(who *konsiltest.Session, room, text string, others ...*konsiltest.Session) string {
	s.t.Helper()
	eid := s.name(s.send(who, room, "m.room.message", map[string]any{"msgtype": "m.text", "body": text}), "event_id", text)
	for _, o := range others {
		s.sees(o, room, eid)
	}
	return eid
}

// set sends a state event and waits until the others have it.
func (s *storybook) set(who *konsiltest.Session, room, typ string, content map[string]any, others ...*konsiltest.Session) {
	s.t.Helper()
	answer := s.try(who, "PUT", "rooms/"+url.PathEscape(room)+"/state/"+typ+"/", content)
	if eid, ok := answer["event_id"].(string); ok {
		s.names[eid] = "<" + typ + ">"
		for _, o := range others {
			s.sees(o, room, eid)
		}
	}
}

func (s *storybook) sees(who *konsiltest.Session, room, eid string) {
	s.t.Helper()
	s.until(who, "event "+eid, func() bool {
		status, _ := who.Try("GET", client+"rooms/"+url.PathEscape(room)+"/event/"+url.PathEscape(eid), nil)
		return status == 200
	})
}

// until asks again and again; between the attempts it waits for the next change by a sync.
func (s *storybook) until(who *konsiltest.Session, what string, holds func() bool) {
	s.t.Helper()
	since := ""
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		if holds() {
			return
		}
		since = who.Sync(since, time.Second)["next_batch"].(string)
	}
	s.t.Fatalf("%s never saw %s; so far:\n%s", who.User, what, strings.Join(s.lines, "\n"))
}

func (s *storybook) membership(room, of, is string, seenBy *konsiltest.Session) {
	s.t.Helper()
	s.until(seenBy, of+" "+is, func() bool {
		_, answer := seenBy.Try("GET", client+"rooms/"+url.PathEscape(room)+"/state/m.room.member/"+url.PathEscape(of), nil)
		return answer["membership"] == is
	})
}

// privateRoom: invitations, power, redaction, ban.
func (s *storybook) privateRoom() {
	room := s.create(s.anna, "private", map[string]any{"preset": "private_chat", "name": "Konsil"})
	at := "rooms/" + url.PathEscape(room)
	s.try(s.berta, "POST", "join/"+url.PathEscape(room)+"?server_name=praxis.test", map[string]any{})
	s.try(s.anna, "POST", at+"/invite", map[string]any{"user_id": "@nobody:klinik.test"})
	s.try(s.anna, "POST", at+"/invite", map[string]any{"user_id": s.berta.User, "reason": "Bitte"})
	s.try(s.anna, "POST", at+"/invite", map[string]any{"user_id": s.carl.User})
	s.try(s.berta, "POST", "join/"+url.PathEscape(room)+"?server_name=praxis.test", map[string]any{})
	s.membership(room, s.berta.User, "join", s.anna)
	s.try(s.carl, "POST", at+"/leave", map[string]any{"reason": "keine Zeit"})
	s.membership(room, s.carl.User, "leave", s.anna)
	s.membership(room, s.carl.User, "leave", s.berta)
	s.say(s.anna, room, "Frage", s.berta)
	reply := s.say(s.berta, room, "Antwort", s.anna)
	s.set(s.berta, room, "m.room.topic", map[string]any{"topic": "ohne Recht"})
	s.set(s.anna, room, "m.room.power_levels", map[string]any{"users": map[string]any{s.berta.User: 50}}, s.berta)
	s.set(s.anna, room, "m.room.history_visibility", map[string]any{"history_visibility": "joined"}, s.berta)
	s.set(s.berta, room, "m.room.topic", map[string]any{"topic": "mit Recht"}, s.anna)
	s.set(s.berta, room, "m.room.power_levels", map[string]any{"users": map[string]any{s.berta.User: 100}})
	s.try(s.anna, "PUT", at+"/redact/"+url.PathEscape(reply)+"/r1", map[string]any{"reason": "Versehen"})
	s.until(s.berta, "the redaction", func() bool {
		_, e := s.berta.Try("GET", client+at+"/event/"+url.PathEscape(reply), nil)
		return konsiltest.At(e, "unsigned", "redacted_because") != nil
	})
	s.try(s.anna, "POST", at+"/ban", map[string]any{"user_id": s.carl.User})
	s.membership(room, s.carl.User, "ban", s.berta)
	s.try(s.berta, "POST", at+"/invite", map[string]any{"user_id": s.carl.User})
	s.try(s.berta, "POST", at+"/kick", map[string]any{"user_id": s.anna.User})
	s.try(s.carl, "GET", at+"/messages?dir=b", nil)
	s.send(s.carl, room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "von draußen"})
}

// publicRoom: aliases, the other server's directory, joining late, history, kick and knock.
func (s *storybook) publicRoom() {
	room := s.create(s.anna, "public", map[string]any{"preset": "public_chat", "visibility": "public", "room_alias_name": "visite", "name": "Visite"})
	at := "rooms/" + url.PathEscape(room)
	early := s.say(s.anna, room, "früh")
	found := s.try(s.berta, "GET", "directory/room/"+url.PathEscape("#visite:praxis.test"), nil)
	s.note("the alias leads to %v by %v", found["room_id"], found["servers"])
	s.try(s.berta, "GET", "directory/room/"+url.PathEscape("#nichts:praxis.test"), nil)
	listed := s.try(s.berta, "POST", "publicRooms?server=praxis.test", map[string]any{})
	s.note("listed: %v, %v members", konsiltest.At(listed, "chunk", 0, "name"), konsiltest.At(listed, "chunk", 0, "num_joined_members"))
	s.try(s.berta, "POST", "join/"+url.PathEscape("#visite:praxis.test"), map[string]any{})
	s.try(s.carl, "POST", "join/"+url.PathEscape("#nichts:praxis.test"), map[string]any{})
	s.membership(room, s.berta.User, "join", s.anna)
	s.say(s.anna, room, "spät", s.berta)
	s.until(s.berta, "the history", func() bool {
		_, page := s.berta.Try("GET", client+at+"/messages?dir=b&limit=50", nil)
		text, _ := json.Marshal(page)
		return strings.Contains(string(text), early)
	})
	s.try(s.anna, "POST", at+"/kick", map[string]any{"user_id": s.berta.User, "reason": "Pause"})
	s.until(s.berta, "the kick", func() bool {
		status, _ := s.berta.Try("PUT", client+at+"/typing/"+url.PathEscape(s.berta.User), map[string]any{"typing": false})
		return status == 403
	})
	s.set(s.anna, room, "m.room.join_rules", map[string]any{"join_rule": "knock"})
	s.try(s.berta, "POST", "join/"+url.PathEscape(room)+"?server_name=praxis.test", map[string]any{})
	s.try(s.berta, "POST", "knock/"+url.PathEscape(room)+"?server_name=praxis.test", map[string]any{"reason": "darf ich?"})
	s.membership(room, s.berta.User, "knock", s.anna)
	s.try(s.anna, "POST", at+"/invite", map[string]any{"user_id": s.berta.User})
	s.try(s.berta, "POST", "join/"+url.PathEscape(room)+"?server_name=praxis.test", map[string]any{})
	s.membership(room, s.berta.User, "join", s.anna)
	s.say(s.berta, room, "wieder da", s.anna)
}

// restrictedRoom: who is in the space may join, seen from the other server too.
func (s *storybook) restrictedRoom() {
	space := s.create(s.anna, "space", map[string]any{"preset": "public_chat", "name": "Bereich", "creation_content": map[string]any{"type": "m.space"}})
	room := s.create(s.anna, "restricted", map[string]any{"preset": "private_chat", "name": "Team", "initial_state": []any{map[string]any{
		"type": "m.room.join_rules", "state_key": "", "content": map[string]any{"join_rule": "restricted",
			"allow": []any{map[string]any{"type": "m.room_membership", "room_id": space}}}}}})
	s.try(s.anna, "PUT", "rooms/"+url.PathEscape(space)+"/state/m.space.child/"+url.PathEscape(room), map[string]any{"via": []string{"praxis.test"}})
	s.try(s.berta, "POST", "join/"+url.PathEscape(room)+"?server_name=praxis.test", map[string]any{})
	s.try(s.berta, "POST", "join/"+url.PathEscape(space)+"?server_name=praxis.test", map[string]any{})
	s.try(s.berta, "POST", "join/"+url.PathEscape(room)+"?server_name=praxis.test", map[string]any{})
	s.membership(room, s.berta.User, "join", s.anna)
	status, tree := s.berta.Try("GET", "/_matrix/client/v1/rooms/"+url.PathEscape(space)+"/hierarchy", nil)
	rooms, _ := tree["rooms"].([]any)
	s.note("hierarchy: %d, %d rooms, %v, %v", status, len(rooms), konsiltest.At(tree, "rooms", 0, "name"), konsiltest.At(tree, "rooms", 1, "name"))
	s.say(s.berta, room, "im Team", s.anna)
}

// people: profiles, devices, keys, messages to devices.
func (s *storybook) people() {
	s.try(s.anna, "PUT", "profile/"+url.PathEscape(s.anna.User)+"/displayname", map[string]any{"displayname": "Dr. Anna"})
	s.note("profile: %v", s.try(s.berta, "GET", "profile/"+url.PathEscape(s.anna.User), nil)["displayname"])
	s.try(s.berta, "GET", "profile/"+url.PathEscape("@nobody:praxis.test"), nil)
	s.try(s.anna, "POST", "keys/upload", map[string]any{"device_keys": map[string]any{"user_id": s.anna.User, "device_id": s.anna.Device,
		"algorithms": []string{"m.olm.v1.curve25519-aes-sha2"}, "keys": map[string]any{}, "signatures": map[string]any{}},
		"one_time_keys": map[string]any{"signed_curve25519:AAAA": map[string]any{"key": "abc", "signatures": map[string]any{}}}})
	query := map[string]any{"device_keys": map[string]any{s.anna.User: []string{}, "@nobody:praxis.test": []string{}}}
	s.until(s.berta, "anna's device", func() bool {
		_, keys := s.berta.Try("POST", client+"keys/query", query)
		return konsiltest.At(keys, "device_keys", s.anna.User, s.anna.Device) != nil
	})
	s.note("keys: %s", sorted(s.try(s.berta, "POST", "keys/query", query)["device_keys"]))
	claim := map[string]any{"one_time_keys": map[string]any{s.anna.User: map[string]any{s.anna.Device: "signed_curve25519"}}}
	s.note("first claim: %s", sorted(s.try(s.berta, "POST", "keys/claim", claim)["one_time_keys"]))
	s.note("second claim: %s", sorted(s.try(s.berta, "POST", "keys/claim", claim)["one_time_keys"]))
	s.try(s.berta, "PUT", "sendToDevice/m.test/1", map[string]any{"messages": map[string]any{s.anna.User: map[string]any{"*": map[string]any{"for": "anna"}}}})
	since := ""
	s.until(s.anna, "the message to her device", func() bool {
		answer := s.anna.Sync(since, 0)
		events, _ := konsiltest.At(answer, "to_device", "events").([]any)
		for _, e := range events {
			s.note("to anna's device: %s", sorted(e))
		}
		return len(events) > 0
	})
}

// views writes down what everybody sees of every room once both servers have the same.
func (s *storybook) views() {
	for i, room := range s.rooms {
		last := s.say(s.anna, room, fmt.Sprintf("Ende %d", i), s.berta)
		for _, who := range []*konsiltest.Session{s.anna, s.berta, s.carl} {
			at := "rooms/" + url.PathEscape(room)
			s.try(who, "GET", at+"/joined_members", nil)
			status, _ := who.Try("GET", client+at+"/event/"+url.PathEscape(last), nil)
			s.note("%s reads the last message of %s: %d", who.User, room, status)
			_, page := who.Try("GET", client+at+"/messages?dir=b&limit=100", nil)
			chunk, _ := page["chunk"].([]any)
			for _, e := range chunk {
				if konsiltest.At(e, "type") == "m.room.message" {
					s.note("%s sees %v: %s", who.User, konsiltest.At(e, "sender"), sorted(konsiltest.At(e, "content")))
				}
			}
			_, state := who.Try("GET", client+at+"/members", nil)
			var members []string
			list, _ := state["chunk"].([]any)
			for _, m := range list {
				members = append(members, fmt.Sprintf("%v %v", konsiltest.At(m, "state_key"), konsiltest.At(m, "content", "membership")))
			}
			slices.Sort(members)
			s.note("%s sees the members of %s: %v", who.User, room, members)
		}
	}
}

// sorted is a value's JSON with its keys in order.
func sorted(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

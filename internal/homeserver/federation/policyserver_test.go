// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"fmt"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

const signPath = "/_matrix/policy/v1/sign"

// set sends a state event.
func (s *server) set(r id.Room, sender id.User, typ, key, content string) error {
	_, err := s.rooms.Send(s.t.Context(), s.me, room.Draft{Room: r, Sender: sender, Type: typ, StateKey: &key, Content: jsontext.Value(content)})
	return err
}

// TestPolicyServerOfATenant: a room on one server chooses the other as its policy server. Both ask it, it signs what its rules and the room's allow,
// and nobody sees the rest.
func TestPolicyServerOfATenant(t *testing.T) {
	everyWay(t, func(t *testing.T, p pair) {
		ctx := t.Context()
		anna, mallory, ben := p.a.user("anna"), p.a.user("mallory"), p.b.user("ben")
		list, err := p.b.rooms.Create(ctx, p.b.me, ben, policy.CreateRoom{Preset: "private_chat"})
		if err != nil {
			t.Fatal(err)
		}
		r, err := p.a.rooms.Create(ctx, p.a.me, anna, policy.CreateRoom{Preset: "public_chat", RoomVersion: "11"})
		if err != nil {
			t.Fatal(err)
		}
		enter := func() {
			t.Helper()
			if err := p.b.rooms.Join(ctx, p.b.me, ben, r, []id.Server{nameA}, ""); err != nil {
				t.Fatal(err)
			}
		}
		enter()
		for _, u := range []id.User{mallory, p.a.user("ben")} {
			if err := p.a.rooms.Join(ctx, p.a.me, u, r, nil, ""); err != nil {
				t.Fatal(err)
			}
		}
		sample := func(edit func(*event.Draft)) jsontext.Value { return jsontext.Value(p.a.forged(t, r, edit).JSON()) }
		sign := func(event jsontext.Value) error {
			_, err := p.a.ask(p.b, "POST", signPath, nil, event)
			return err
		}

		refusedWith(t, sign(sample(nil)), 404, "M_UNRECOGNIZED")
		settings := &PolicyServer{Servers: []string{"a.*"}, Lists: []id.Room{list, "!gone:a.example"}, RefusedTypes: []string{"org.example.advert*"}}
		p.b.fed.PolicyServer = func(t *tenant.Tenant) *PolicyServer {
			if t.Name == nameB {
				return settings
			}
			return nil
		}
		refusedWith(t, sign(sample(nil)), 404, "M_NOT_FOUND")
		raw, err := p.a.ask(p.b, "GET", "/.well-known/matrix/policy_server", nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		key := canonicaljson.GetString(raw, "public_keys", "ed25519")
		choice := fmt.Sprintf(`{"via":"b.example","public_keys":{"ed25519":%q}}`, key)
		if err := p.a.set(r, anna, "m.room.policy", "", choice); err != nil {
			t.Fatal(err)
		}
		p.a.idle(nameB)

		// What it likes is sent with its signature, by its own users too.
		ham := p.a.say(r, anna, "ham")
		p.b.gets(ben, ham)
		own := p.b.say(r, ben, "ham of my own")
		p.a.gets(anna, own)
		for _, eid := range []id.Event{ham, own} {
			e, err := p.a.rooms.Event(ctx, p.a.me.ID, eid)
			if err != nil || policySignature(e.Event, nameB) == "" {
				t.Errorf("%s has no signature of the policy server: %v", eid, err)
			}
		}
		unsigned := p.a.forged(t, r, nil) // of a server that does not ask
		deliver := func(txn string, e *event.Event) id.Event {
			t.Helper()
			body := fmt.Sprintf(`{"origin":"a.example","origin_server_ts":1,"pdus":[%s],"edus":[]}`, e.JSON())
			if _, err := p.a.ask(p.b, "PUT", v1+"/send/"+txn, nil, jsontext.Value(body)); err != nil {
				t.Fatal(err)
			}
			return e.ID()
		}
		if n := p.b.count(deliver("1", unsigned)); n != 1 {
			t.Error("the policy server does not see an event for which nobody had asked")
		}

		// What it does not like is refused, for each of its reasons.
		refused := func(err error, reason string) {
			t.Helper()
			if m := mxerror.From(err); m == nil || m.Status != 400 || m.Code != "M_FORBIDDEN" || !strings.Contains(m.Message, reason) {
				t.Errorf("got %v, want 400 M_FORBIDDEN with %q", err, reason)
			}
		}
		send := func(s *server, sender id.User, typ string) error {
			_, err := s.rooms.Send(ctx, s.me, room.Draft{Room: r, Sender: sender, Type: typ, Content: jsontext.Value(`{"body":"x","msgtype":"m.text"}`)})
			return err
		}
		refused(send(p.a, anna, "org.example.advert.new"), "org.example.advert.new")
		refused(send(p.b, ben, "org.example.advert.new"), "org.example.advert.new")
		if err := p.a.set(r, anna, "m.policy.rule.user", "1", `{"entity":"@mall*:a.example","recommendation":"m.ban","reason":"spam"}`); err != nil {
			t.Fatal(err)
		}
		if err := p.b.set(list, ben, "m.policy.rule.server", "1", `{"entity":"EVIL.example","recommendation":"m.ban","reason":"spam"}`); err != nil {
			t.Fatal(err)
		}
		p.a.idle(nameB)
		refused(send(p.a, mallory, "m.room.message"), "@mallory:a.example")
		refused(p.a.rooms.Invite(ctx, p.a.me, r, anna, "@mallet:a.example", "", false), "@mallet:a.example")
		evil := p.a.forged(t, r, func(d *event.Draft) {
			them := "@x:evil.example"
			d.Type, d.StateKey, d.Content = "m.room.member", &them, jsontext.Value(`{"membership":"invite"}`)
		})
		refusedWith(t, sign(jsontext.Value(evil.JSON())), 400, "M_FORBIDDEN")
		if n := p.b.count(deliver("2", p.a.forged(t, r, func(d *event.Draft) { d.Type = "org.example.advert" }))); n != 0 {
			t.Error("the policy server shows what it does not recommend")
		}
		if err := p.a.rooms.Leave(ctx, p.a.me, mallory, r, ""); err != nil {
			t.Errorf("somebody who is banned cannot leave: %v", err)
		}

		// Requests that are none.
		var changed map[string]any
		if err := json.Unmarshal(sample(nil), &changed); err != nil {
			t.Fatal(err)
		}
		changed["content"] = map[string]any{"body": "another", "msgtype": "m.text"}
		tampered, err := json.Marshal(changed)
		if err != nil {
			t.Fatal(err)
		}
		refusedWith(t, sign(tampered), 400, "M_FORBIDDEN")
		refusedWith(t, sign(sample(func(d *event.Draft) { empty := ""; d.Type, d.StateKey = "m.room.policy", &empty })), 400, "M_FORBIDDEN")
		refusedWith(t, sign(jsontext.Value(fmt.Sprintf(`{"room_id":%q}`, r))), 400, "M_BAD_JSON")
		refusedWith(t, sign(jsontext.Value(`{}`)), 400, "M_BAD_JSON")
		_, err = p.a.fed.read(ctx, p.a.me, nameB, call{method: "POST", path: signPath, body: []byte(`[]`)}, always)
		refusedWith(t, err, 400, "M_BAD_JSON")

		// Who may not ask, and where it does not rule.
		settings.Servers = []string{"x.*"}
		refusedWith(t, sign(sample(nil)), 403, "M_FORBIDDEN")
		settings.Servers = []string{"*"}
		if err := p.a.set(r, anna, "m.room.policy", "", `{"via":"b.example","public_keys":{"ed25519":"`+key[:40]+`"}}`); err != nil {
			t.Fatal(err)
		}
		p.a.idle(nameB)
		refusedWith(t, sign(sample(nil)), 404, "M_NOT_FOUND")
		if err := p.a.set(r, anna, "m.room.policy", "", choice); err != nil {
			t.Fatal(err)
		}
		p.a.idle(nameB)
		if err := sign(sample(nil)); err != nil {
			t.Errorf("chosen again: %v", err)
		}
		if err := p.a.set(r, anna, "m.room.server_acl", "", `{"allow":["*"],"deny":["a.example"]}`); err != nil {
			t.Fatal(err)
		}
		p.a.idle(nameB)
		refusedWith(t, sign(sample(nil)), 403, "M_FORBIDDEN")
		if err := p.b.rooms.Leave(ctx, p.b.me, ben, r, ""); err != nil {
			t.Fatal(err)
		}
		refusedWith(t, sign(sample(nil)), 404, "M_NOT_FOUND")
	})
}

// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// policing puts a scripted policy server before a cell, one that is not Konsil: it signs everything in which the word spam does not stand.
func (c *cell) policing(t *testing.T, name id.Server, version string) (public string) {
	t.Helper()
	pub, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	v, _ := roomversion.Get(version)
	behind := *c.front.handler.Load()
	var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/_matrix/policy/v1/sign" {
			behind.ServeHTTP(w, r)
			return
		}
		body, err := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		if err != nil || strings.Contains(string(body), "spam") {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"errcode":"M_FORBIDDEN","error":"This is spam"}`)
			return
		}
		e, err := event.Parse(v, body)
		if err != nil {
			t.Errorf("asked for a signature of %s: %v", body, err)
			return
		}
		if e.Type() == "m.room.policy" && e.StateKeyIs("") {
			t.Error("asked for a signature of the choice itself")
		}
		signed, err := e.WithSignature(name, policyKey, private)
		if err != nil {
			t.Error(err)
			return
		}
		fmt.Fprintf(w, `{%q:{%q:%q}}`, name, policyKey, policySignature(signed, name))
	})
	c.front.handler.Store(&h)
	return base64.RawStdEncoding.EncodeToString(pub)
}

// TestPolicyServer: events carry the policy server's signature; what it refuses is neither sent nor, from others, shown.
func TestPolicyServer(t *testing.T) {
	t.Parallel()
	p := overTLS(t, databasetest.SQLite(t), databasetest.SQLite(t), Config{ForceHTTP: true})
	const version = "11"
	ctx, c := t.Context(), p.a.server(nameC)
	anna, ben, cora := p.a.user("anna"), p.b.user("ben"), c.user("cora")
	key := p.a.policing(t, nameC, version)
	r := p.a.create(anna, policy.CreateRoom{Preset: "public_chat", RoomVersion: version})
	if err := p.b.rooms.Join(ctx, p.b.me, ben, r, []id.Server{nameA}, ""); err != nil {
		t.Fatal(err)
	}
	empty := ""
	choice := room.Draft{Room: r, Sender: anna, Type: "m.room.policy", StateKey: &empty,
		Content: jsontext.Value(fmt.Sprintf(`{"via":"c.example","public_keys":{"ed25519":%q}}`, key))}
	if _, err := p.a.rooms.Send(ctx, p.a.me, choice); err != nil {
		t.Fatal(err)
	}
	p.b.gets(ben, p.a.say(r, anna, "spam: the policy server is not in the room yet"))
	if err := c.rooms.Join(ctx, c.me, cora, r, []id.Server{nameA}, ""); err != nil {
		t.Fatal(err)
	}
	p.b.until(ben, func() bool {
		rm, err := p.b.rooms.Lookup(ctx, p.b.me.ID, r)
		if err != nil {
			return false
		}
		in, err := p.b.rooms.ServerInRoom(ctx, p.b.me.ID, rm.NID, nameC)
		return err == nil && in
	})

	draft := room.Draft{Room: r, Sender: anna, Type: "m.room.message", Content: jsontext.Value(`{"msgtype":"m.text","body":"ham"}`),
		Txn: &room.Txn{Device: "D", Scope: "send", ID: "1"}}
	ham, err := p.a.rooms.Send(ctx, p.a.me, draft)
	if err != nil {
		t.Fatal(err)
	}
	again, err := p.a.rooms.Send(ctx, p.a.me, draft)
	if err != nil || again != ham {
		t.Errorf("the same transaction again: %s, %v", again, err)
	}
	p.b.gets(ben, ham)
	got, err := p.b.rooms.Event(ctx, p.b.me.ID, ham)
	if err != nil || policySignature(got.Event, nameC) == "" {
		t.Errorf("without the policy server's signature: %v, %v", got, err)
	}
	draft.Content, draft.Txn = jsontext.Value(`{"msgtype":"m.text","body":"spam"}`), nil
	_, err = p.a.rooms.Send(ctx, p.a.me, draft)
	hasCode(t, err, mxerror.Forbidden)
	if m := mxerror.From(err); m == nil || m.Status != 400 || m.Message != "This is spam" {
		t.Errorf("the policy server's error does not reach the client: %v", err)
	}
	if err := p.a.rooms.Invite(ctx, p.a.me, r, anna, p.b.user("max"), "spam", false); mxerror.From(err) == nil || mxerror.From(err).Message != "This is spam" {
		t.Errorf("invite: %v", err)
	}

	// A server that does not ask.
	deliver := func(txn, body string) id.Event {
		t.Helper()
		e := p.b.forged(t, r, func(d *event.Draft) { d.Content = jsontext.Value(fmt.Sprintf(`{"msgtype":"m.text","body":%q}`, body)) })
		raw := fmt.Sprintf(`{"origin":"b.example","origin_server_ts":1,"pdus":[%s],"edus":[]}`, e.JSON())
		if _, err := p.b.ask(p.a, "PUT", v1+"/send/"+txn, nil, jsontext.Value(raw)); err != nil {
			t.Fatal(err)
		}
		return e.ID()
	}
	if n := p.a.count(deliver("1", "also ham")); n != 1 {
		t.Error("an event for which nobody had asked yet is not shown")
	}
	if n := p.a.count(deliver("2", "more spam")); n != 0 {
		t.Error("an event that the policy server refuses is shown")
	}

	// Without a member of its server the policy server rules nothing.
	if err := c.rooms.Leave(ctx, c.me, cora, r, ""); err != nil {
		t.Fatal(err)
	}
	c.idle(nameA)
	p.a.say(r, anna, "spam again")
}

func policySignature(e *event.Event, server id.Server) string {
	return canonicaljson.GetString(e.JSON(), "signatures", string(server), "ed25519:policy_server")
}

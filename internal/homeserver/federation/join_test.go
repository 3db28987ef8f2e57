// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// joinRows counts the joins that are left to finish.
func (s *server) joinRows() (n int) {
	s.t.Helper()
	if err := s.db.QueryRow(s.t.Context(), "SELECT COUNT(*) FROM federation_joining").Scan(&n); err != nil {
		s.t.Fatal(err)
	}
	return n
}

// TestInterruptedJoin: the resident server has accepted a join, and the joining one dies before it has entered the room. After its next start it is
// in the room and has what was said since.
func TestInterruptedJoin(t *testing.T) {
	eachDatabase(t, Config{RetryMin: 10 * time.Millisecond, RetryMax: 50 * time.Millisecond}, func(t *testing.T, p pair) {
		ctx := t.Context()
		anna, ben := p.a.user("anna"), p.b.user("ben")
		r := p.a.create(anna, policy.CreateRoom{Preset: "public_chat", RoomVersion: "11"})
		tmpl, err := p.b.fed.MakeJoin(ctx, p.b.me, nameA, r, ben, []string{"11"})
		if err != nil {
			t.Fatal(err)
		}
		d, err := event.ParseProto(tmpl.Version, tmpl.Event)
		if err != nil {
			t.Fatal(err)
		}
		key, err := p.b.fed.Keyring.Signing(ctx, p.b.me.ID)
		if err != nil {
			t.Fatal(err)
		}
		d.Content, d.Timestamp = jsontext.Value(`{"membership":"join"}`), time.Now().UnixMilli()
		e, err := d.Build(nameB, key.ID, key.Private)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.b.fed.SendJoin(ctx, p.b.me, nameA, e); err != nil {
			t.Fatal(err)
		}
		if p.b.joinRows() != 1 {
			t.Fatal("the join under way is not durable")
		}
		p.b.down()
		p.a.say(r, anna, "nobody of you can have heard this yet")
		b := p.b.again(p.b.fed.config)
		b.until(ben, func() bool {
			rm, err := b.rooms.Lookup(ctx, b.me.ID, r)
			if err != nil {
				return false
			}
			m, err := b.rooms.Membership(ctx, b.me.ID, rm.NID, ben)
			return err == nil && m.Membership == "join"
		})
		b.up()
		b.gets(ben, p.a.say(r, anna, "welcome"))
		rm, err := p.a.rooms.Lookup(ctx, p.a.me.ID, r)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := p.a.rooms.Membership(ctx, p.a.me.ID, rm.NID, ben); err != nil || m.Membership != "join" || p.a.count(e.ID()) != 1 {
			t.Errorf("at the resident server: %+v, %v", m, err)
		}
		if n := b.joinRows(); n != 0 {
			t.Errorf("%d joins are left to finish", n)
		}
	})
}

// TestJoinWithoutKeys: a server in the room does not give its keys. Asked again it may; what it signed is left out otherwise, unless the room would
// be another one without it.
func TestJoinWithoutKeys(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	config := Config{RetryMin: time.Millisecond, RetryMax: 10 * time.Millisecond, Resolve: map[id.Server]Override{}}
	fronts := map[id.Server]*front{}
	for _, name := range []id.Server{"d.example", "f.example", "g.example"} {
		fronts[name] = newFront(t, ca, string(name))
		config.Resolve[name] = Override{Address: fronts[name].address(), Roots: ca.pool}
	}
	s := newBesieged(t, config, time.Second)
	newcomer := func(name id.Server) *server {
		return newCell(t, setting{url: databasetest.SQLite(t), config: s.a.fed.config, front: fronts[name]}, name).server(name)
	}
	members := func(d *server) string {
		rm, err := d.rooms.Lookup(t.Context(), d.me.ID, s.room)
		if err != nil {
			t.Fatal(err)
		}
		users, err := d.rooms.JoinedUsers(t.Context(), d.me.ID, rm.NID)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(users)
	}
	join := func(d *server) error {
		return d.rooms.Join(t.Context(), d.me, d.user("dora"), s.room, []id.Server{nameA}, "")
	}
	var asked atomic.Int64
	s.evil.playsKeys(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 1 {
			http.Error(w, "later", http.StatusServiceUnavailable)
			return
		}
		w.Write(s.evil.ownKeys(time.Now().Add(time.Hour))) //nolint:errcheck // the test sees it
	})
	one := newcomer("d.example")
	if err := join(one); err != nil || !strings.Contains(members(one), string(eve)) {
		t.Errorf("a server that answers the second time: %v, %s", err, members(one))
	}
	s.evil.playsKeys(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "gone", http.StatusGone) })
	two := newcomer("f.example")
	if err := join(two); err != nil || strings.Contains(members(two), string(eve)) {
		t.Errorf("a member of a server that is gone: %v, %s", err, members(two))
	}
	empty := ""
	levels := func(sender id.User) jsontext.Value {
		return jsontext.Value(fmt.Sprintf(`{"users":{"@anna:a.example":100,%q:100}}`, sender))
	}
	if _, err := s.a.rooms.Send(t.Context(), s.a.me, room.Draft{Room: s.room, Sender: s.a.user("anna"), Type: "m.room.power_levels", StateKey: &empty,
		Content: levels(eve)}); err != nil {
		t.Fatal(err)
	}
	s.evil.playsKeys(nil)
	byEve := s.evil.build(s.draft(t, func(d *event.Draft) {
		d.Type, d.StateKey, d.Content = "m.room.power_levels", &empty, jsontext.Value(`{"users":{"@anna:a.example":100,"@eve:evil.example":100},"ban":60}`)
	}))
	s.evil.transaction(s.a, "levels", byEve.JSON())
	if s.a.count(byEve.ID()) != 1 {
		t.Fatal("the power levels are not taken in")
	}
	s.evil.playsKeys(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "gone", http.StatusGone) })
	three := newcomer("g.example")
	err := join(three)
	hasCode(t, err, mxerror.ConnectionFailed)
	if three.joinRows() != 0 {
		t.Error("a failed join is left to be finished")
	}
	s.evil.playsKeys(nil)
	three.fed.keys.askAgain(nameEvil)
	if err := join(three); err != nil || !strings.Contains(members(three), string(eve)) {
		t.Errorf("after the keys are there again: %v", err)
	}
}

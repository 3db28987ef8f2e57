// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// eachDatabase runs a scenario of two cells over TLS on both databases.
func eachDatabase(t *testing.T, config Config, scenario func(t *testing.T, p pair)) {
	t.Parallel()
	databasetest.EachURL(t, func(t *testing.T, url string) {
		other := databasetest.SQLite(t)
		if strings.HasPrefix(url, "postgres") {
			other = databasetest.Postgres(t)
		}
		scenario(t, overTLS(t, url, other, config))
	})
}

// again restarts a cell on its database.
func (s *server) again(config Config) *server {
	s.t.Helper()
	s.close()
	return newCell(s.t, setting{url: s.url, config: config, front: s.front, source: s.source}, s.me.Name).server(s.me.Name)
}

// TestRecovery: while b is away a's events wait; the first valid request of b brings them at once, though the next attempt is an hour away.
func TestRecovery(t *testing.T) {
	eachDatabase(t, Config{RetryMin: time.Hour}, func(t *testing.T, p pair) {
		r := meeting(t, p.a, p.b, "10")
		anna, ben := p.a.user("anna"), p.b.user("ben")
		p.b.gets(ben, p.a.say(r, anna, "before"))
		p.a.idle(nameB)
		p.b.down()
		var missed []id.Event
		for i := range 70 {
			missed = append(missed, p.a.say(r, anna, fmt.Sprint(i)))
		}
		p.a.when(p.a.isAway(nameB))
		if p.a.pending(nameB) == 0 {
			t.Fatal("b is away, and nothing waits")
		}
		if _, err := p.a.fed.QueryKeys(t.Context(), p.a.me, nameB, struct{}{}); mxerror.From(err) == nil || mxerror.From(err).Status != 502 {
			t.Errorf("a question to an absent server: %v", err)
		}
		p.b.up()
		if _, err := p.b.ask(p.a, "GET", v1+"/publicRooms", nil, nil); err != nil {
			t.Fatal(err)
		}
		p.b.gets(ben, missed...)
		p.a.idle(nameB)
		var rows int
		if err := p.a.db.QueryRow(t.Context(), "SELECT COUNT(*) FROM server_reach").Scan(&rows); err != nil || rows != 0 {
			t.Errorf("%d outages are left, %v", rows, err)
		}
	})
}

// TestCatchUp: of more than a hundred missed events of a room only the newest is sent; the other server fetches what it wants.
func TestCatchUp(t *testing.T) {
	eachDatabase(t, Config{RetryMin: time.Hour}, func(t *testing.T, p pair) {
		quiet, busy := meeting(t, p.a, p.b, "11"), meeting(t, p.a, p.b, "11")
		anna, ben := p.a.user("anna"), p.b.user("ben")
		p.b.gets(ben, p.a.say(quiet, anna, "before"), p.a.say(busy, anna, "before"))
		p.a.idle(nameB)
		p.b.down()
		first := p.a.say(busy, anna, "first")
		p.a.when(p.a.waits(nameB)) // its transaction is stored, and will be sent as it is
		var missed []id.Event
		for i := range 130 {
			missed = append(missed, p.a.say(busy, anna, fmt.Sprint(i)))
		}
		few := []id.Event{p.a.say(quiet, anna, "one"), p.a.say(quiet, anna, "two")}
		var carried atomic.Int64
		count := func(r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/send/") {
				carried.Add(1)
			}
			return false
		}
		p.b.front.after.Store(&count)
		p.b.up()
		if _, err := p.b.ask(p.a, "GET", v1+"/publicRooms", nil, nil); err != nil {
			t.Fatal(err)
		}
		p.b.gets(ben, append(few, first, missed[129])...)
		p.a.idle(nameB)
		if n := carried.Load(); n > 3 {
			t.Errorf("%d transactions for what fits into two", n)
		}
	})
}

// TestLostAnswer: the answer to a transaction gets lost, and a restarts: the same transaction comes again, and nothing is doubled or lost.
func TestLostAnswer(t *testing.T) {
	config := Config{RetryMin: time.Hour}
	t.Parallel()
	databasetest.EachURL(t, func(t *testing.T, url string) {
		other := databasetest.SQLite(t)
		if strings.HasPrefix(url, "postgres") {
			other = databasetest.Postgres(t)
		}
		p := overTLS(t, url, other, config)
		r := meeting(t, p.a, p.b, "12")
		anna, ben := p.a.user("anna"), p.b.user("ben")
		p.b.gets(ben, p.a.say(r, anna, "before"))
		p.a.idle(nameB)
		var mu sync.Mutex
		var seen []string
		lose := true
		after := func(r *http.Request) bool {
			mu.Lock()
			defer mu.Unlock()
			if !strings.Contains(r.URL.Path, "/send/") {
				return false
			}
			seen = append(seen, r.URL.Path)
			return lose
		}
		p.b.front.after.Store(&after)
		one := p.a.say(r, anna, "one")
		p.a.when(p.a.isAway(nameB))
		two := p.a.say(r, anna, "two")
		mu.Lock()
		lose = false
		mu.Unlock()
		a := p.a.again(p.a.fed.config)
		if _, err := p.b.ask(a, "GET", v1+"/publicRooms", nil, nil); err != nil {
			t.Fatal(err)
		}
		p.b.gets(ben, one, two)
		a.idle(nameB)
		mu.Lock()
		defer mu.Unlock()
		attempts := map[string]int{}
		for _, path := range seen {
			attempts[path]++
		}
		if attempts[seen[0]] < 2 {
			t.Errorf("the unanswered transaction was not repeated under its id: %v", seen)
		}
		var results int
		err := p.b.db.QueryRow(t.Context(), "SELECT COUNT(*) FROM federation_incoming WHERE tenant = $1 AND origin = $2", int64(p.b.me.ID), string(nameA)).Scan(&results)
		if err != nil || results < len(attempts) {
			t.Errorf("%d results of %d transactions, %v", results, len(attempts), err)
		}
	})
}

// TestRestart: what was pending when the process stopped goes out after the start, without anybody sending anything.
func TestRestart(t *testing.T) {
	config := Config{RetryMin: time.Millisecond, RetryMax: time.Millisecond}
	eachDatabase(t, config, func(t *testing.T, p pair) {
		r := meeting(t, p.a, p.b, "9")
		anna, ben := p.a.user("anna"), p.b.user("ben")
		p.b.gets(ben, p.a.say(r, anna, "before"))
		p.b.down()
		var missed []id.Event
		for i := range 60 {
			missed = append(missed, p.a.say(r, anna, fmt.Sprint(i)))
		}
		a := p.a.again(p.a.fed.config)
		p.b.up()
		p.b.gets(ben, missed...)
		a.idle(nameB)
	})
}

// TestRelay: c joins through a; b, which is in the room, hears of it from a, and all three go on to talk.
func TestRelay(t *testing.T) {
	eachDatabase(t, Config{RetryMin: 5 * time.Millisecond}, func(t *testing.T, p pair) {
		ctx := t.Context()
		c := p.a.server(nameC) // a's neighbour in the cell, joined to b by TLS
		anna, ben, cora := p.a.user("anna"), p.b.user("ben"), c.user("cora")
		r, err := p.a.rooms.Create(ctx, p.a.me, anna, policy.CreateRoom{Preset: "public_chat", RoomVersion: "11"})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []struct {
			s    *server
			user id.User
		}{{p.b, ben}, {c, cora}} {
			if err := m.s.rooms.Join(ctx, m.s.me, m.user, r, []id.Server{nameA}, ""); err != nil {
				t.Fatal(err)
			}
		}
		rm, err := p.b.rooms.Lookup(ctx, p.b.me.ID, r)
		if err != nil {
			t.Fatal(err)
		}
		p.b.until(ben, func() bool {
			m, err := p.b.rooms.Membership(ctx, p.b.me.ID, rm.NID, cora)
			return err == nil && m.Membership == "join"
		})
		said := []id.Event{p.a.say(r, anna, "a"), p.b.say(r, ben, "b"), c.say(r, cora, "c")}
		p.a.gets(anna, said...)
		p.b.gets(ben, said...)
		c.gets(cora, said...)
		p.a.idle(nameB)
		var relayed int
		if err := p.a.db.QueryRow(ctx, "SELECT COUNT(*) FROM federation_relay WHERE tenant = $1", int64(p.a.me.ID)).Scan(&relayed); err != nil {
			t.Fatal(err)
		}
		if p.a.pending(nameC) == 0 && relayed != 0 {
			t.Errorf("%d notes of events to pass on are left", relayed)
		}
	})
}

// TestRefusal: a server that refuses the tenant is left alone, others of the cell are not held up by it, and what was refused is kept.
func TestRefusal(t *testing.T) {
	t.Parallel()
	p := overTLS(t, databasetest.SQLite(t), databasetest.SQLite(t), Config{RetryMin: time.Hour})
	r := meeting(t, p.a, p.b, "10")
	anna, ben := p.a.user("anna"), p.b.user("ben")
	p.b.gets(ben, p.a.say(r, anna, "before"))
	p.a.idle(nameB)
	var refuse atomic.Bool
	refuse.Store(true)
	var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refuse.Load() && strings.Contains(r.URL.Path, "/send/") {
			w.WriteHeader(http.StatusForbidden)
			w.Write([]byte(`{"errcode":"M_FORBIDDEN","error":"no"}`)) //nolint:errcheck // a test server
			return
		}
		p.b.router.ServeHTTP(w, r)
	})
	p.b.front.handler.Store(&h)
	kept := p.a.say(r, anna, "kept")
	p.a.when(p.a.waits(nameB))
	if p.a.isAway(nameB)() {
		t.Error("a refusal counts as an outage")
	}
	var failures int
	err := p.a.db.QueryRow(t.Context(), "SELECT failures FROM federation_refusal WHERE tenant = $1 AND destination = $2", int64(p.a.me.ID), string(nameB)).Scan(&failures)
	if err != nil || failures != 1 {
		t.Errorf("%d refusals are stored, %v", failures, err)
	}
	if _, err := p.a.ask(p.b, "GET", v1+"/publicRooms", nil, nil); err != nil {
		t.Errorf("other requests: %v", err)
	}
	refuse.Store(false)
	if _, err := p.b.ask(p.a, "GET", v1+"/publicRooms", nil, nil); err != nil {
		t.Fatal(err)
	}
	p.b.gets(ben, kept)
}

// TestPoison: a transaction that the other server cannot read is left out after a few attempts, and what follows gets through.
func TestPoison(t *testing.T) {
	t.Parallel()
	p := overTLS(t, databasetest.SQLite(t), databasetest.SQLite(t), Config{RetryMin: time.Millisecond, RetryMax: time.Millisecond})
	r := meeting(t, p.a, p.b, "10")
	anna, ben := p.a.user("anna"), p.b.user("ben")
	p.b.gets(ben, p.a.say(r, anna, "before"))
	p.a.idle(nameB)
	var refused atomic.Int64
	var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/send/") && refused.Add(1) <= maxPoison {
			w.WriteHeader(http.StatusBadRequest)
			w.Write([]byte(`{"errcode":"M_BAD_JSON","error":"no"}`)) //nolint:errcheck // a test server
			return
		}
		p.b.router.ServeHTTP(w, r)
	})
	p.b.front.handler.Store(&h)
	p.a.say(r, anna, "cannot be read")
	p.a.idle(nameB)
	next := p.a.say(r, anna, "next")
	p.b.gets(ben, next)
	if n := refused.Load(); n <= maxPoison {
		t.Errorf("refused %d times", n)
	}
}

// TestVolatile: typing notices replace each other while they wait, and go with the next transaction.
func TestVolatile(t *testing.T) {
	everyWay(t, func(t *testing.T, p pair) {
		r := meeting(t, p.a, p.b, "12")
		anna, ben := p.a.user("anna"), p.b.user("ben")
		p.b.gets(ben, p.a.say(r, anna, "before"))
		p.a.idle(nameB)
		unit := func(typing bool) EDU {
			return EDU{Type: "m.typing", Key: string(r) + string(anna), Content: jsontext.Value(fmt.Sprintf(`{"room_id":%q,"user_id":%q,"typing":%v}`, r, anna, typing))}
		}
		for i := range 300 {
			p.a.fed.SendEDU(t.Context(), p.a.me, []id.Server{nameA, nameB}, unit(i%2 == 0))
		}
		p.a.when(func() bool { return p.b.heardOf(nameA, `"typing":false`) })
		if p.a.pending(nameB) != 0 {
			t.Error("volatile units are stored")
		}
	})
}

func (c *cell) heardOf(origin id.Server, text string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, u := range c.edus {
		if u.origin == origin && strings.Contains(u.content, text) {
			return true
		}
	}
	return false
}

// letters is a durable source: letters to one destination, deleted when they have been delivered.
type letters struct {
	mu   sync.Mutex
	kept map[int64]string
}

func (l *letters) Outgoing(_ context.Context, _ *tenant.Tenant, _ id.Server, after, upTo int64, limit int) ([]EDU, int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []EDU
	for at := after + 1; at <= upTo; at++ {
		if text, ok := l.kept[at]; ok {
			if len(out) == limit {
				return out, at - 1, nil
			}
			out = append(out, EDU{Type: "m.direct_to_device", Content: jsontext.Value(fmt.Sprintf(`{"message_id":%q}`, text)), Position: at})
		}
	}
	return out, upTo, nil
}

func (l *letters) Delivered(_ context.Context, _ *database.Tx, _ *tenant.Tenant, _ id.Server, upTo int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for at := range l.kept {
		if at <= upTo {
			delete(l.kept, at)
		}
	}
	return nil
}

// TestDurableUnits: more units than a transaction holds arrive once each, in order, mixed with events, through an outage and a restart.
func TestDurableUnits(t *testing.T) {
	t.Parallel()
	databasetest.EachURL(t, func(t *testing.T, url string) {
		ca := newAuthority(t)
		fa, fb := newFront(t, ca, string(nameA)), newFront(t, ca, string(nameB))
		config := Config{RetryMin: time.Millisecond, RetryMax: time.Millisecond, Resolve: map[id.Server]Override{
			nameA: {Address: fa.address(), Roots: ca.pool}, nameB: {Address: fb.address(), Roots: ca.pool}}}
		source := &letters{kept: map[int64]string{}}
		a := newCell(t, setting{url: url, config: config, front: fa, source: source}, nameA).server(nameA)
		b := newCell(t, setting{url: databasetest.SQLite(t), config: config, front: fb}, nameB).server(nameB)
		r := meeting(t, a, b, "10")
		write := func(a *server, text string) {
			at, err := a.committer.Commit(t.Context(), &stream.Plan{Tenant: a.me.ID, Changes: []stream.Change{{Kind: stream.Other}}, Outbox: []id.Server{nameB}})
			if err != nil {
				t.Fatal(err)
			}
			source.mu.Lock()
			source.kept[at] = text
			source.mu.Unlock()
		}
		b.down()
		last := id.Event("")
		for i := range 230 {
			write(a, fmt.Sprintf("letter %03d", i))
			if i%10 == 0 {
				last = a.say(r, a.user("anna"), "between")
			}
		}
		a = a.again(config)
		b.up()
		b.gets(b.user("ben"), last)
		a.idle(nameB)
		b.mu.Lock()
		defer b.mu.Unlock()
		n := 0
		for _, u := range b.edus {
			if u.origin == nameA {
				if want := fmt.Sprintf("letter %03d", n); !strings.Contains(u.content, want) {
					t.Fatalf("%s instead of %s", u.content, want)
				}
				n++
			}
		}
		if n != 230 || len(source.kept) != 0 {
			t.Errorf("%d letters have arrived, %d are kept", n, len(source.kept))
		}
	})
}

// TestClaim: a destination that another node is sending to is left to it until its claim has run out.
func TestClaim(t *testing.T) {
	eachDatabase(t, Config{RetryMin: time.Millisecond}, func(t *testing.T, p pair) {
		r := meeting(t, p.a, p.b, "10")
		anna, ben := p.a.user("anna"), p.b.user("ben")
		p.b.gets(ben, p.a.say(r, anna, "before"))
		p.a.idle(nameB)
		claim := func(until int64) {
			_, err := p.a.db.Exec(t.Context(), `INSERT INTO federation_outgoing (tenant, destination, txn_id, up_to, body, attempts, sender, claimed_until)
				VALUES ($1, $2, 'other', 1, '{"pdus":[],"edus":[{"edu_type":"m.typing","content":{"room_id":"x"}}]}', 0, 7, $3)
				ON CONFLICT (tenant, destination) DO UPDATE SET claimed_until = excluded.claimed_until`, int64(p.a.me.ID), string(nameB), until)
			if err != nil {
				t.Fatal(err)
			}
		}
		claim(p.a.fed.now().Add(time.Hour).UnixMilli())
		said := p.a.say(r, anna, "after")
		p.a.when(p.a.waits(nameB))
		if p.b.count(said) != 0 {
			t.Error("two nodes send to one destination")
		}
		claim(0)
		p.a.fed.outbox.wake(nameB)
		p.b.gets(ben, said)
		p.a.idle(nameB)
	})
}

// TestIdleCostsNothing: after a conversation nothing of the destination is left in memory or in the tables of the sender.
func TestIdleCostsNothing(t *testing.T) {
	everyWay(t, func(t *testing.T, p pair) {
		r := meeting(t, p.a, p.b, "11")
		p.b.gets(p.b.user("ben"), p.a.say(r, p.a.user("anna"), "hello"))
		p.a.idle(nameB)
		p.b.idle(nameA)
		for {
			p.a.fed.outbox.mu.Lock()
			n := len(p.a.fed.outbox.senders)
			p.a.fed.outbox.mu.Unlock()
			if n == 0 {
				return
			}
			<-p.a.rested
		}
	})
}

// TestOwed: who gets an event is decided by the state before it.
func TestOwed(t *testing.T) {
	t.Parallel()
	p := overTLS(t, databasetest.SQLite(t), databasetest.SQLite(t), Config{})
	ctx := t.Context()
	anna, ben := p.a.user("anna"), p.b.user("ben")
	r, err := p.a.rooms.Create(ctx, p.a.me, anna, policy.CreateRoom{Preset: "public_chat", RoomVersion: "10"})
	if err != nil {
		t.Fatal(err)
	}
	before := p.a.say(r, anna, "before")
	if err := p.b.rooms.Join(ctx, p.b.me, ben, r, []id.Server{nameA}, ""); err != nil {
		t.Fatal(err)
	}
	during := p.a.say(r, anna, "during")
	if err := p.a.rooms.Ban(ctx, p.a.me, r, anna, ben, ""); err != nil {
		t.Fatal(err)
	}
	after := p.a.say(r, anna, "after")
	newest, err := p.a.feed.Position(ctx, p.a.me.ID)
	if err != nil {
		t.Fatal(err)
	}
	events, complete, err := p.a.rooms.Outgoing(ctx, p.a.me, nameB, 0, newest, 100, nil)
	if err != nil || complete != newest {
		t.Fatalf("complete up to %d of %d, %v", complete, newest, err)
	}
	got := map[id.Event]*room.Event{}
	for _, e := range events {
		got[e.ID()] = e
	}
	if got[before] != nil || got[during] == nil || got[after] != nil || len(events) != 2 || events[1].Membership() != "ban" {
		t.Errorf("owed: %d events", len(events))
	}
	one, complete, err := p.a.rooms.Outgoing(ctx, p.a.me, nameB, 0, newest, 1, nil)
	if err != nil || len(one) != 1 || complete != one[0].Position {
		t.Errorf("a limit of one: %d events, complete up to %d, %v", len(one), complete, err)
	}
}

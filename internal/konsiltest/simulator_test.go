// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/keyring"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// node is one server of a simulation: a real room service over a database of its own. It is reached by method calls.
type node struct {
	w      *world
	name   id.Server
	url    string
	db     *database.DB
	stream *stream.Committer
	feed   *stream.Feed
	rooms  *room.Service
	me     *tenant.Tenant
	// sent is how far each destination has been sent to, by position; relayed are positions of others' events accepted as resident server.
	sent    map[id.Server]int64
	relayed []int64
	users   []id.User
}

// start opens the node's database; after a crash it goes on from what was committed.
func (n *node) start() {
	t, ctx := n.w.t, n.w.ctx
	t.Helper()
	var err error
	check := func() {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	n.db, err = database.Open(ctx, database.Options{URL: n.url, Readers: 2})
	check()
	log := slog.New(slog.DiscardHandler)
	n.feed = stream.NewFeed(n.db)
	n.stream, err = stream.NewCommitter(ctx, n.db, n.feed, log)
	check()
	ring, err := keyring.New(n.db, make([]byte, keyring.MasterSize))
	check()
	tenants := tenant.NewStore(n.db)
	n.me, err = tenants.ByName(ctx, n.name)
	if errors.Is(err, tenant.ErrUnknown) {
		n.me, err = tenants.Create(ctx, tenant.Spec{Name: n.name})
	}
	check()
	n.rooms = room.New(room.Options{DB: n.db, Committer: n.stream, Feed: n.feed, Keyring: ring, Tenants: tenants, Policy: policy.Open{}, Log: log, Remote: wire{n}})
	n.feed.SetMembers(n.rooms.WaitingMembers)
}

func (n *node) stop() {
	n.rooms.Close()
	n.stream.Close()
	if err := n.db.Close(); err != nil {
		n.w.t.Error(err)
	}
}

// world is one history: servers, a room, and what the network does to them, all drawn from the seed.
type world struct {
	t       *testing.T
	ctx     context.Context
	rng     *rand.Rand
	nodes   []*node
	room    id.Room
	version string
	// cut are pairs of servers between which nothing passes.
	cut map[[2]id.Server]bool
	// acknowledged are the events that their senders were told of.
	acknowledged []id.Event
}

func newWorld(t *testing.T, seed uint64, servers int) *world {
	w := &world{t: t, ctx: t.Context(), rng: rand.New(rand.NewPCG(seed, 7)), cut: map[[2]id.Server]bool{}}
	w.version = []string{"2", "6", "9", "10", "11", "12", "12", "10"}[seed%8]
	folder := t.TempDir()
	for i := range servers {
		n := &node{w: w, name: id.Server(fmt.Sprintf("s%d.test", i)), sent: map[id.Server]int64{}}
		n.url = "sqlite:" + filepath.Join(folder, string(n.name)+".db")
		for u := range 2 {
			n.users = append(n.users, id.User(fmt.Sprintf("@u%d:%s", u, n.name)))
		}
		n.start()
		t.Cleanup(n.stop)
		w.nodes = append(w.nodes, n)
	}
	first := w.nodes[0]
	var err error
	if w.room, err = first.rooms.Create(w.ctx, first.me, first.users[0], policy.CreateRoom{RoomVersion: w.version, Preset: "public_chat"}); err != nil {
		t.Fatal(err)
	}
	for _, n := range w.nodes[1:] {
		if err := n.rooms.Join(w.ctx, n.me, n.users[0], w.room, []id.Server{first.name}, ""); err != nil {
			t.Fatal(err)
		}
	}
	w.settle()
	levels := map[id.User]int{w.nodes[1].users[0]: 50}
	if w.version != "12" {
		levels[first.users[0]] = 100
	}
	w.powerLevels(first, first.users[0], levels)
	w.settle()
	return w
}

func (w *world) node(name id.Server) *node {
	for _, n := range w.nodes {
		if n.name == name {
			return n
		}
	}
	return nil
}

func pairOf(a, b id.Server) [2]id.Server { return [2]id.Server{min(a, b), max(a, b)} }

// send lets a user send an event and notes it when it is acknowledged.
func (w *world) send(n *node, user id.User, typ string, key *string, content string) {
	eid, err := n.rooms.Send(w.ctx, n.me, room.Draft{Room: w.room, Sender: user, Type: typ, StateKey: key, Content: jsontext.Value(content)})
	if err == nil {
		w.acknowledged = append(w.acknowledged, eid)
	}
}

func (w *world) powerLevels(n *node, user id.User, levels map[id.User]int) {
	users := ""
	for _, u := range slices.Sorted(maps.Keys(levels)) {
		if users != "" {
			users += ","
		}
		users += fmt.Sprintf("%q:%d", u, levels[u])
	}
	empty := ""
	w.send(n, user, event.TypePowerLevels, &empty, `{"users":{`+users+`}}`)
}

// act is something that somebody does; most of it is allowed, some is refused.
func (w *world) act() {
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	user := n.users[w.rng.IntN(2)]
	other := w.nodes[w.rng.IntN(len(w.nodes))]
	target := other.users[w.rng.IntN(2)]
	if w.rng.IntN(3) == 0 {
		n = w.nodes[w.rng.IntN(2)] // those with power
		user = n.users[0]
	}
	empty := ""
	switch w.rng.IntN(12) {
	case 0, 1, 2:
		w.send(n, user, "m.room.message", nil, fmt.Sprintf(`{"msgtype":"m.text","body":"%d"}`, w.rng.IntN(1000)))
	case 3, 4:
		w.send(n, user, "m.room.topic", &empty, fmt.Sprintf(`{"topic":"%d"}`, w.rng.IntN(1000)))
	case 5:
		_ = n.rooms.Ban(w.ctx, n.me, w.room, user, target, "")
	case 6:
		_ = n.rooms.Unban(w.ctx, n.me, w.room, user, target, "")
	case 7:
		_ = n.rooms.Kick(w.ctx, n.me, w.room, user, target, "")
	case 8:
		levels := map[id.User]int{target: 10 * w.rng.IntN(8)}
		if w.version != "12" {
			levels[w.nodes[0].users[0]] = 100
		}
		w.powerLevels(n, user, levels)
	case 9, 10:
		_ = n.rooms.Join(w.ctx, n.me, user, w.room, []id.Server{w.nodes[0].name, other.name}, "")
	case 11:
		if user != w.nodes[0].users[0] {
			_ = n.rooms.Leave(w.ctx, n.me, user, w.room, "")
		}
	}
}

// deliver passes on the next event that one server owes another. lost loses the answer, so that it will come again.
func (w *world) deliver(from, to *node, lost bool) bool {
	if w.cut[pairOf(from.name, to.name)] {
		return false
	}
	upTo, err := from.feed.Position(w.ctx, from.me.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	after := from.sent[to.name]
	events, complete, err := from.rooms.Outgoing(w.ctx, from.me, to.name, after, upTo, 1, from.relayed)
	if err != nil {
		w.t.Fatal(err)
	}
	if len(events) == 0 {
		from.sent[to.name] = complete
		return false
	}
	e, err := event.Parse(events[0].Version(), slices.Clone(events[0].JSON()))
	if err != nil {
		w.t.Fatalf("%s sends %s: %v", from.name, events[0].JSON(), err)
	}
	_ = to.rooms.Accept(w.ctx, to.me, from.name, e) // refusals are answers too
	if !lost {
		from.sent[to.name] = complete
	}
	return true
}

// settle heals the network and passes on everything.
func (w *world) settle() {
	clear(w.cut)
	for busy := true; busy; {
		busy = false
		for _, from := range w.nodes {
			for _, to := range w.nodes {
				for from != to && w.deliver(from, to, false) {
					busy = true
				}
			}
		}
	}
}

// step is one thing that happens: somebody acts, something arrives, a connection breaks or heals, a server crashes.
func (w *world) step() {
	a, b := w.nodes[w.rng.IntN(len(w.nodes))], w.nodes[w.rng.IntN(len(w.nodes))]
	switch r := w.rng.IntN(40); {
	case r < 16:
		w.act()
	case r < 35:
		if a != b {
			w.deliver(a, b, w.rng.IntN(8) == 0)
		}
	case r < 37:
		w.cut[pairOf(a.name, b.name)] = true
	case r < 39:
		delete(w.cut, pairOf(a.name, b.name))
	default:
		a.stop()
		a.start()
	}
}

// state is a node's current state of the room, nil when it is not in it.
func (n *node) state() map[event.Key]id.Event {
	r, err := n.rooms.Lookup(n.w.ctx, n.me.ID, n.w.room)
	if err != nil {
		return nil
	}
	if in, err := n.rooms.ServerInRoom(n.w.ctx, n.me.ID, r.NID, n.name); err != nil || !in {
		return nil
	}
	st, err := n.rooms.CurrentState(n.w.ctx, n.me.ID, r)
	if err != nil {
		n.w.t.Fatal(err)
	}
	return st
}

// converge lets everybody who is still there say something, a few times, and compares.
func (w *world) converge(seed uint64) {
	w.settle()
	for range 3 {
		for _, n := range w.nodes {
			for _, u := range n.users {
				w.send(n, u, "m.room.message", nil, `{"msgtype":"m.text","body":"still here"}`)
			}
		}
		w.settle()
	}
	first := w.nodes[0]
	for _, n := range w.nodes { // some may be out of the room by now
		if n.state() != nil {
			first = n
			break
		}
	}
	want := first.state()
	r, err := first.rooms.Lookup(w.ctx, first.me.ID, w.room)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, n := range w.nodes {
		in, err := first.rooms.ServerInRoom(w.ctx, first.me.ID, r.NID, n.name)
		if err != nil {
			w.t.Fatal(err)
		}
		got := n.state()
		if !in || got == nil {
			continue
		}
		for k := range want {
			if got[k] != want[k] {
				w.t.Errorf("seed %d: %s has %q for %s %q, %s has %q", seed, n.name, got[k], k.Type, k.StateKey, first.name, want[k])
			}
		}
		for k := range got {
			if want[k] == "" {
				w.t.Errorf("seed %d: %s has %s %q, which %s lacks", seed, n.name, k.Type, k.StateKey, first.name)
			}
		}
	}
	w.nothingTwice(seed)
}

// nothingTwice: what was acknowledged is stored at its sender, and no event has two places in a timeline.
func (w *world) nothingTwice(seed uint64) {
	for _, n := range w.nodes {
		var doubles int
		if err := n.db.QueryRow(w.ctx, `SELECT COUNT(*) FROM (SELECT event_id FROM event WHERE tenant = $1 AND position > 0 GROUP BY event_id HAVING COUNT(*) > 1) AS d`,
			int64(n.me.ID)).Scan(&doubles); err != nil || doubles > 0 {
			w.t.Errorf("seed %d: %s has %d events twice, %v", seed, n.name, doubles, err)
		}
	}
	for _, eid := range w.acknowledged {
		kept := false
		for _, n := range w.nodes {
			found, err := n.rooms.Events(w.ctx, n.me.ID, []id.Event{eid})
			kept = kept || err == nil && found[eid] != nil
		}
		if !kept {
			w.t.Errorf("seed %d: %s was acknowledged and is lost", seed, eid)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// world is one history: servers, a room, and what the network does to them, all drawn from the seed. It lives in a bubble of [synctest], so that
// its clock stands still while anybody is busy.
type world struct {
	t       *testing.T
	ctx     context.Context
	rng     *rand.Rand
	nodes   []*node
	room    id.Room
	version string
	// cut are pairs of servers between which nothing passes.
	cut map[[2]id.Server]bool
	// unwanted are pairs of inviter and invitee whose invites the invitee's server refuses.
	unwanted map[[2]id.User]bool
	// acknowledged are the events that their senders were told of; silent while nobody will be told, because the node crashes first.
	acknowledged []id.Event
	silent       bool
}

// newWorld founds a room that all servers are in. template is a migrated SQLite database, or empty for PostgreSQL.
func newWorld(t *testing.T, seed uint64, servers int, template string) *world {
	w := &world{t: t, ctx: t.Context(), rng: rand.New(rand.NewPCG(seed, 7)), cut: map[[2]id.Server]bool{}, unwanted: map[[2]id.User]bool{}}
	w.version = []string{"2", "6", "9", "10", "11", "12", "12", "10"}[seed%8]
	folder := t.TempDir()
	for i := range servers {
		n := &node{w: w, name: id.Server(fmt.Sprintf("s%d.test", i)), outbox: outbox{sent: map[id.Server]int64{}}}
		if n.url = "sqlite:" + filepath.Join(folder, string(n.name)+".db"); template == "" {
			n.url = databasetest.Postgres(t)
		} else if err := copyDatabase(w.ctx, template, filepath.Join(folder, string(n.name)+".db")); err != nil {
			t.Fatal(err)
		}
		for u := range 2 {
			n.users = append(n.users, id.User(fmt.Sprintf("@u%d:%s", u, n.name)))
		}
		n.start()
		t.Cleanup(n.stop)
		w.nodes = append(w.nodes, n)
	}
	for range 6 {
		w.unwanted[[2]id.User{w.anybody(), w.anybody()}] = true
	}
	w.found()
	return w
}

// found makes the room: everybody's first user is in it, one other than its creator has power.
func (w *world) found() {
	first := w.nodes[0]
	var err error
	if w.room, err = first.rooms.Create(w.ctx, first.me, first.users[0], policy.CreateRoom{RoomVersion: w.version, Preset: "public_chat"}); err != nil {
		w.t.Fatal(err)
	}
	for _, n := range w.nodes[1:] {
		if err := n.rooms.Join(w.ctx, n.me, n.users[0], w.room, []id.Server{first.name}, ""); err != nil {
			w.t.Fatal(err)
		}
	}
	w.settle()
	w.powerLevels(first, first.users[0], map[id.User]int{w.nodes[1].users[0]: 50})
	w.settle()
}

func (w *world) node(name id.Server) *node {
	for _, n := range w.nodes {
		if n.name == name {
			return n
		}
	}
	return nil
}

func (w *world) anyNode() *node    { return w.nodes[w.rng.IntN(len(w.nodes))] }
func (w *world) anybody() id.User  { return w.anyNode().users[w.rng.IntN(2)] }
func (w *world) chance(n int) bool { return w.rng.IntN(n) == 0 }

func pairOf(a, b id.Server) [2]id.Server { return [2]id.Server{min(a, b), max(a, b)} }

// send lets a user send an event and notes it when it is acknowledged.
func (w *world) send(n *node, user id.User, typ string, key *string, content string) {
	eid, err := n.rooms.Send(w.ctx, n.me, room.Draft{Room: w.room, Sender: user, Type: typ, StateKey: key, Content: jsontext.Value(content)})
	if err == nil && !w.silent {
		w.acknowledged = append(w.acknowledged, eid)
	}
}

// powerLevels gives levels to users; before version 12 the creator keeps the highest by being named.
func (w *world) powerLevels(n *node, user id.User, levels map[id.User]int) {
	if w.version != "12" {
		levels[w.nodes[0].users[0]] = 100
	}
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

// act is something that a user of a node does; most of it is allowed, some is refused.
func (w *world) act(n *node) {
	user, target, empty := n.users[w.rng.IntN(2)], w.anybody(), ""
	if w.chance(2) {
		user = n.users[0] // those with power
	}
	switch w.rng.IntN(15) {
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
		w.powerLevels(n, user, map[id.User]int{target: 10 * w.rng.IntN(8)})
	case 9, 10:
		_ = n.rooms.Join(w.ctx, n.me, user, w.room, []id.Server{w.nodes[0].name, w.anyNode().name}, "")
	case 11, 12:
		_ = n.rooms.Invite(w.ctx, n.me, w.room, user, target, "", false)
	case 13:
		rule := []string{"public", "public", "invite", "knock"}[w.rng.IntN(4)]
		w.send(n, user, "m.room.join_rules", &empty, `{"join_rule":"`+rule+`"}`)
	case 14:
		if user != w.nodes[0].users[0] {
			_ = n.rooms.Leave(w.ctx, n.me, user, w.room, "")
		} else {
			_ = n.rooms.Knock(w.ctx, n.me, n.users[1], w.room, []id.Server{w.anyNode().name}, "")
		}
	}
}

// deliver passes on the next events that one server owes another, up to three in one transaction and now and then the later before the earlier. lost
// loses the answer, so that they will come again.
func (w *world) deliver(from, to *node, lost bool) bool {
	if w.cut[pairOf(from.name, to.name)] {
		return false
	}
	upTo, err := from.feed.Position(w.ctx, from.me.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	owed, complete, err := from.rooms.Outgoing(w.ctx, from.me, to.name, from.sent[to.name], upTo, 1+w.rng.IntN(3), from.relayed)
	if err != nil {
		w.t.Fatal(err)
	}
	if len(owed) == 0 {
		from.sent[to.name] = complete
		return false
	}
	events, err := copies(owed)
	if err != nil {
		w.t.Fatalf("%s sends: %v", from.name, err)
	}
	if w.chance(6) {
		slices.Reverse(events)
	}
	to.rooms.ReceiveAll(w.ctx, to.me, from.name, events) // refusals are answers too
	synctest.Wait()
	if !lost {
		from.sent[to.name] = complete
	}
	return true
}

// settle heals the network, waits out what would be tried again later, and passes on everything.
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
	time.Sleep(2 * time.Hour)
	synctest.Wait()
}

// step is one thing that happens: somebody acts, something arrives, a connection breaks or heals, a server crashes.
func (w *world) step() {
	a, b := w.anyNode(), w.anyNode()
	switch r := w.rng.IntN(40); {
	case r < 16:
		w.act(a)
	case r < 34:
		if a != b {
			w.deliver(a, b, w.chance(8))
		}
	case r < 36:
		w.cut[pairOf(a.name, b.name)] = true
	case r < 38:
		delete(w.cut, pairOf(a.name, b.name))
	case r < 39:
		a.reopen(a.remains())
	default:
		w.crashDuring(a, func() {
			if a == b || w.chance(2) {
				w.act(a)
			} else {
				w.deliver(b, a, true)
			}
		})
	}
	synctest.Wait()
	time.Sleep(time.Duration(w.rng.IntN(5000)) * time.Millisecond)
}

// crashDuring lets a node crash in the middle of what it does: before it, at one of the requests to others that it makes, or when everything is
// committed but nobody has been told. What others were told before the crash stays with them.
func (w *world) crashDuring(n *node, do func()) {
	after := w.rng.IntN(4) // points that pass before the one at which the node crashes
	var left *remains
	n.doomed = func() {
		if after--; after < 0 && left == nil {
			r := n.remains()
			left = &r
		}
	}
	w.silent = true
	n.doomed()
	do()
	synctest.Wait()
	n.doomed = nil
	w.silent = false
	if left == nil {
		r := n.remains()
		left = &r
	}
	n.reopen(*left)
}

// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import (
	"database/sql"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

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

// converge lets everybody who is still there say something, a few times, and checks what must hold in the end. It returns the state.
func (w *world) converge(seed uint64) map[event.Key]id.Event {
	w.settle()
	for range 3 {
		for _, n := range w.nodes {
			for _, u := range n.users {
				w.send(n, u, "m.room.message", nil, `{"msgtype":"m.text","body":"still here"}`)
			}
		}
		w.settle()
	}
	want := w.sameState(seed)
	for _, n := range w.nodes {
		w.nothingTwice(seed, n)
		w.noUnwantedInvite(seed, n)
	}
	w.nothingLost(seed)
	return want
}

// sameState: the servers that are in the room agree about it.
func (w *world) sameState(seed uint64) map[event.Key]id.Event {
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
	return want
}

// nothingTwice: no event has two places in a timeline.
func (w *world) nothingTwice(seed uint64, n *node) {
	var doubles int
	if err := n.db.QueryRow(w.ctx, `SELECT COUNT(*) FROM (SELECT event_id FROM event WHERE tenant = $1 AND position > 0 GROUP BY event_id HAVING COUNT(*) > 1) AS d`,
		int64(n.me.ID)).Scan(&doubles); err != nil || doubles > 0 {
		w.t.Errorf("seed %d: %s has %d events twice, %v", seed, n.name, doubles, err)
	}
}

// nothingLost: what was acknowledged is stored.
func (w *world) nothingLost(seed uint64) {
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

// noUnwantedInvite: no invite is in a node's timeline, or waits for one of its users, that the invitee's server refuses.
func (w *world) noUnwantedInvite(seed uint64, n *node) {
	rows, err := n.db.Query(w.ctx, "SELECT event_id FROM event WHERE tenant = $1 AND type = 'm.room.member' AND position > 0", int64(n.me.ID))
	ids, err := database.All(rows, err, func(rows *sql.Rows) (eid id.Event, err error) { return eid, rows.Scan(&eid) })
	if err != nil {
		w.t.Fatal(err)
	}
	found, err := n.rooms.Events(w.ctx, n.me.ID, ids)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range found {
		pair := [2]id.User{e.Sender(), id.User(*e.StateKey())}
		if e.Membership() == "invite" && w.unwanted[pair] {
			w.t.Errorf("seed %d: %s has %s, by which %s invites %s", seed, n.name, e.ID(), pair[0], pair[1])
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/matrixtest"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
	"github.com/konsil-health/konsil/internal/matrix/stateres"
)

// graph is a room whose events are stored outside of its timeline.
type graph struct {
	t      *testing.T
	s      *Service
	r      *Room
	tenant tenant.ID // its own: generated rooms have equal names
}

func newGraph(t *testing.T, db *database.DB, room id.Room, v *roomversion.Version) *graph {
	t.Helper()
	g := &graph{t, New(Options{DB: db, Log: slog.New(slog.DiscardHandler)}), &Room{database.NewID(), room, v}, tenant.ID(database.NewID())}
	t.Cleanup(g.s.Close)
	if _, err := db.Exec(context.Background(), "INSERT INTO room (tenant, room, room_id, version, created) VALUES ($1, $2, $3, $4, 0)",
		int64(g.tenant), g.r.NID, string(room), v.ID); err != nil {
		t.Fatal(err)
	}
	return g
}

// full is what the index finds.
func (g *graph) full(sets []map[event.Key]id.Event) []id.Event {
	g.t.Helper()
	known, err := g.s.conflicted(context.Background(), g.tenant, g.r, sets, &source{events: map[id.Event]*event.Event{}, rejected: map[id.Event]bool{}})
	if err != nil {
		g.t.Fatal(err)
	}
	slices.Sort(known.Full)
	return known.Full
}

// walked is the full conflicted set by the specification's words: chains are walked, sets are compared.
func walked(src stateres.Source, sets []map[event.Key]id.Event, subgraph bool) []id.Event {
	chains := map[id.Event]map[id.Event]bool{}
	var chain func(eid id.Event) map[id.Event]bool
	chain = func(eid id.Event) map[id.Event]bool {
		if c, ok := chains[eid]; ok {
			return c
		}
		c := map[id.Event]bool{}
		chains[eid] = c
		for _, a := range src.Event(eid).AuthEvents() {
			c[a] = true
			maps.Copy(c, chain(a))
		}
		return c
	}
	full, count := map[id.Event]bool{}, map[id.Event]int{}
	_, conflicted := stateres.Split(sets)
	for eid := range conflicted {
		full[eid] = true
	}
	for _, s := range sets {
		all := map[id.Event]bool{}
		for _, eid := range s {
			maps.Copy(all, chain(eid))
		}
		for eid := range all {
			count[eid]++
		}
	}
	for eid, n := range count {
		if n < len(sets) {
			full[eid] = true
		}
	}
	for c := range conflicted {
		for eid := range chain(c) {
			for a := range chain(eid) {
				if _, ok := conflicted[a]; ok && subgraph {
					full[eid] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(full))
}

// TestAuthDifference: on random histories the index finds what walking the chains finds, and the resolution by it is the one without it.
func TestAuthDifference(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		beyond := 0
		for _, version := range []string{"2", "6", "10", "11", "12"} {
			rooms := uint64(6)
			if testing.Short() || db.Postgres() {
				rooms = 2
			}
			for seed := range rooms {
				m := matrixtest.New(version, 100*seed)
				m.Grow(70)
				rng := rand.New(rand.NewPCG(seed, 5))
				g := newGraph(t, db, m.ID, m.Version)
				for batch := range slices.Chunk(m.Log, 1+rng.IntN(30)) {
					var events []*event.Event
					for _, v := range batch {
						events = append(events, v.Event)
					}
					storeMany(t, g, events)
					if rng.IntN(2) == 0 { // places are given at any time
						if _, err := g.s.indexAuth(context.Background(), g.tenant, g.r.NID, 1); err != nil {
							t.Fatal(err)
						}
					}
				}
				for n := 2; n <= 4; n++ {
					sets := m.Forks(n)
					_, conflicted := stateres.Split(sets)
					want := walked(m, sets, m.Version.StateResolution == roomversion.StateResolutionV21)
					if got := g.full(sets); len(conflicted) > 0 && !slices.Equal(got, want) {
						t.Fatalf("version %s, seed %d, %d states: the index finds %v, walking %v", version, seed, n, got, want)
					}
					beyond += len(want) - len(conflicted)
					states := make([]State, n)
					for i := range sets {
						states[i] = sets[i]
					}
					got, err := g.s.resolve(context.Background(), g.tenant, g.r, states, nil)
					if err != nil {
						t.Fatal(err)
					}
					plain, err := stateres.Resolve(m.Version, sets, accepted{m})
					if err != nil || !maps.Equal(map[event.Key]id.Event(got), plain) {
						t.Fatalf("version %s, seed %d, %d states: resolved to another state by the index (%v)", version, seed, n, err)
					}
				}
			}
		}
		if beyond < 20 {
			t.Errorf("only %d events in differences: the histories are too tame", beyond)
		}
	})
}

// TestAuthChain: on random histories the index gives the auth chain that walking gives, with events that have no place in it too; and a long history takes
// no more queries than a short one.
func TestAuthChain(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		for seed := range uint64(4) {
			m := matrixtest.New([]string{"10", "12"}[seed%2], 7+seed)
			m.Grow(80)
			g := newGraph(t, db, m.ID, m.Version)
			var events []*event.Event
			for _, v := range m.Log {
				events = append(events, v.Event)
			}
			storeMany(t, g, events)
			said := &history{g: g, m: m, state: m.State(m.Log[len(m.Log)-1].After), now: 1}
			message := said.add("m.room.topic", "", m.Create.Sender(), `{"topic":"x"}`)
			storeMany(t, g, []*event.Event{message})
			if seed > 1 { // some stay without a place
				if _, err := db.Exec(context.Background(), "DELETE FROM auth_pending WHERE tenant = $1 AND event_id = $2", int64(g.tenant), string(message.ID())); err != nil {
					t.Fatal(err)
				}
			}
			for _, from := range append(slices.Clone(m.Log[len(m.Log)-10:]), &matrixtest.Verdict{Event: message}) {
				want := map[id.Event]bool{}
				var walk func(id.Event)
				walk = func(eid id.Event) {
					if want[eid] {
						return
					}
					want[eid] = true
					e := message
					if eid != message.ID() {
						e = m.Event(eid)
					}
					for _, a := range e.AuthEvents() {
						walk(a)
					}
				}
				walk(from.Event.ID())
				got, err := g.s.AuthChainIDs(context.Background(), g.tenant, g.r, []id.Event{from.Event.ID()})
				if err != nil {
					t.Fatal(err)
				}
				slices.Sort(got)
				if !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
					t.Errorf("seed %d: the chain of %s has %d events, want %d", seed, from.Event.ID(), len(got), len(want))
				}
			}
		}
		spent := func(n int) int64 {
			m := matrixtest.New("10", uint64(n))
			g := newGraph(t, db, m.ID, m.Version)
			h := &history{g: g, m: m, state: m.State(m.Log[len(m.Log)-1].After)}
			for _, v := range m.Log {
				h.list = append(h.list, v.Event)
			}
			for i := range n {
				h.add(event.TypePowerLevels, "", m.Create.Sender(), fmt.Sprintf(`{"events_default":%d}`, i%7))
			}
			storeMany(t, g, h.list)
			if _, err := g.s.indexAuth(context.Background(), g.tenant, g.r.NID, math.MaxInt); err != nil {
				t.Fatal(err)
			}
			before := db.Counters().Queries
			ids, err := g.s.AuthChainIDs(context.Background(), g.tenant, g.r, []id.Event{h.list[len(h.list)-1].ID()})
			if err != nil || len(ids) < n {
				t.Errorf("%d events, %v", len(ids), err)
			}
			return db.Counters().Queries - before
		}
		if few, many := spent(20), spent(2500); many > few {
			t.Errorf("%d queries for a chain of 20 events, %d for one of 2,500", few, many)
		}
	})
}

// accepted knows no rejected events, as the graph does.
type accepted struct{ *matrixtest.Room }

func (accepted) Rejected(id.Event) bool { return false }

// history builds events on a state of its own.
type history struct {
	g     *graph
	m     *matrixtest.Room
	state authrule.Map
	now   int64
	list  []*event.Event
}

func (h *history) add(typ, key string, sender id.User, content string) *event.Event {
	h.now++
	d := event.Draft{Version: h.m.Version, Room: h.m.ID, Type: typ, StateKey: &key, Sender: sender, Content: []byte(content),
		PrevEvents: []id.Event{h.m.Create.ID()}, Depth: 100, Timestamp: 1_800_000_000_000 + h.now}
	for _, a := range authrule.Select(authrule.Needed(d.Version, typ, &key, sender, d.Content), h.state) {
		d.AuthEvents = append(d.AuthEvents, a.ID())
	}
	e, err := d.Build(sender.Server(), matrixtest.KeyID, matrixtest.Key(sender.Server()))
	if err != nil {
		h.g.t.Fatal(err)
	}
	h.state[e.Key()] = e
	h.list = append(h.list, e)
	return e
}

// fork returns another history that goes on from here.
func (h *history) fork() *history {
	return &history{g: h.g, m: h.m, state: maps.Clone(h.state), now: h.now + 1_000_000}
}

// ids is the state as a resolution wants it.
func (h *history) ids() map[event.Key]id.Event {
	out := map[event.Key]id.Event{}
	for k, e := range h.state {
		out[k] = e.ID()
	}
	return out
}

// TestAuthDifferenceIsBounded: however long a room's auth history is, what is read for a difference depends on the difference.
func TestAuthDifferenceIsBounded(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		for version, many := range map[string]int{"10": 20_000, "12": 2_000} {
			if db.Postgres() {
				many = min(many, 3_000)
			}
			few, spent := differenceIn(t, db, version, 300), differenceIn(t, db, version, many)
			if spent > 30 || spent > few+5 {
				t.Errorf("version %s: %d queries after 300 auth events, %d after %d", version, few, spent, many)
			}
		}
	})
}

// differenceIn counts the queries for a difference in a room with a history of a number of events.
func differenceIn(t *testing.T, db *database.DB, version string, events int) int64 {
	t.Helper()
	m := matrixtest.New(version, uint64(events))
	g := newGraph(t, db, m.ID, m.Version)
	h := &history{g: g, m: m, state: m.State(m.Log[len(m.Log)-1].After)}
	for _, v := range m.Log {
		h.list = append(h.list, v.Event)
	}
	creator := m.Create.Sender()
	admin := id.User("@admin:s1.example")
	h.add(event.TypeJoinRules, "", creator, `{"join_rule":"public"}`)
	h.add(event.TypeMember, string(admin), admin, `{"membership":"join"}`)
	for i := range events {
		who := id.User(fmt.Sprintf("@m%d:s1.example", i))
		switch i % 20 {
		case 0:
			h.add(event.TypePowerLevels, "", creator, fmt.Sprintf(`{"users":{%q:50,%q:50},"events_default":%d}`, admin, who, i%7))
		case 1:
			h.add(event.TypeMember, string(who), admin, `{"membership":"ban"}`)
		default:
			h.add(event.TypeMember, string(who), who, `{"membership":"join"}`)
		}
	}
	a, b := h.fork(), h.fork()
	for i := range 5 { // one side fights about power, on the other side people come and an old member is banned
		a.add(event.TypePowerLevels, "", creator, fmt.Sprintf(`{"users":{%q:%d}}`, admin, 51+i))
		b.add(event.TypeMember, fmt.Sprintf("@n%d:s1.example", i), id.User(fmt.Sprintf("@n%d:s1.example", i)), `{"membership":"join"}`)
	}
	b.add(event.TypeMember, "@m7:s1.example", admin, `{"membership":"ban"}`)
	all := slices.Concat(h.list, a.list, b.list)
	storeMany(t, g, all)
	for more := true; more; {
		var err error
		if more, err = g.s.indexAuth(context.Background(), g.tenant, g.r.NID, math.MaxInt); err != nil {
			t.Fatal(err)
		}
	}
	sets := []map[event.Key]id.Event{a.ids(), b.ids()}
	before := db.Counters().Queries
	got := g.full(sets)
	spent := db.Counters().Queries - before
	src := memory{}
	for _, e := range all {
		src[e.ID()] = e
	}
	if events < 1000 && !slices.Equal(got, walked(src, sets, m.Version.StateResolution == roomversion.StateResolutionV21)) {
		t.Errorf("version %s: the index finds another difference than the walk", version)
	}
	if len(got) < 12 || len(got) > 40 {
		t.Errorf("version %s: a difference of %d events", version, len(got))
	}
	return spent
}

// memory is a source of events.
type memory map[id.Event]*event.Event

func (m memory) Event(eid id.Event) *event.Event { return m[eid] }
func (m memory) Rejected(id.Event) bool          { return false }

// storeMany stores many outliers in few transactions.
func storeMany(t *testing.T, g *graph, events []*event.Event) {
	t.Helper()
	err := g.s.DB.Write(context.Background(), func(tx *database.Tx) error {
		var rows, ids, waiting [][]any
		for _, e := range events {
			nid := database.NewID()
			rows = append(rows, []any{nid, g.r.NID, string(e.ID()), 0, 0, e.Type(), string(e.Sender()), e.Timestamp(), 0, 0, false, false, true, "", 0, "", "", "", "", e.JSON()})
			ids = append(ids, []any{string(e.ID()), g.r.NID, nid})
			waiting = append(waiting, []any{g.r.NID, string(e.ID())})
		}
		if err := insertMany(context.Background(), tx, g.tenant, "INSERT INTO event (tenant, event, room, event_id, position, topological, type, sender, origin_ts, snapshot, snapshot_after, rejected, soft_failed, outlier, reason, rule_class, thread, redacted_by, txn_device, txn_id, json) VALUES ", rows); err != nil {
			return err
		}
		if err := insertMany(context.Background(), tx, g.tenant, "INSERT INTO event_id (tenant, event_id, room, event) VALUES ", ids); err != nil {
			return err
		}
		return insertMany(context.Background(), tx, g.tenant, "INSERT INTO auth_pending (tenant, room, event_id) VALUES ", waiting)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// SPDX-License-Identifier: Apache-2.0

package room_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// withPeer runs a test with a scripted peer on both databases.
func withPeer(t *testing.T, version string, run func(t *testing.T, p *peer)) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) { run(t, meet(t, open(t, db), version)) })
}

// TestBranchesMerge: two branches are two extremities; the next own event joins them.
func TestBranchesMerge(t *testing.T) {
	withPeer(t, "12", func(t *testing.T, p *peer) {
		base := p.heads()
		one, two := p.message(base, "one"), p.message(base, "two")
		p.accept(one)
		p.accept(two)
		if heads := p.heads(); len(heads) != 2 {
			t.Fatalf("%d extremities", len(heads))
		}
		eid, err := p.h.send(p.r, anna, "both", nil)
		if err != nil {
			t.Fatal(err)
		}
		merge := p.stored(eid)
		if len(merge.PrevEvents()) != 2 || len(p.heads()) != 1 || merge.Depth() != one.Depth()+1 {
			t.Errorf("merged %v at depth %d", merge.PrevEvents(), merge.Depth())
		}
	})
}

// TestSoftFailure: an event that the state before allows and the current one does not is kept, out of sight, and a later event may rest on it.
func TestSoftFailure(t *testing.T) {
	withPeer(t, "11", func(t *testing.T, p *peer) {
		base := p.heads()
		late := p.message(base, "sent before the ban was known")
		if err := p.h.Ban(context.Background(), p.h.t, p.r.ID, anna, ben2, ""); err != nil {
			t.Fatal(err)
		}
		heads := p.heads()
		e := p.accept(late)
		if !e.SoftFailed || e.Rejected || e.Position != 0 {
			t.Errorf("after the ban: %+v", e)
		}
		if now := p.heads(); len(now) != 1 || now[0].ID() != heads[0].ID() {
			t.Error("a soft-failed event became an extremity")
		}
		// Another server that did not know the ban builds on it.
		next := p.make([]*event.Event{late}, ben2, "m.room.message", noKey, `{"body":"y","msgtype":"m.text"}`, func(d *event.Draft) { d.AuthEvents = late.AuthEvents() })
		if e := p.accept(next); !e.SoftFailed {
			t.Errorf("behind it: %+v", e)
		}
		if p.count("state") != 0 || p.count("missing") != 0 {
			t.Error("a soft-failed event is here and need not be fetched")
		}
	})
}

// TestBehindSoftFailed: what cites a soft-failed event leaves no end of the graph behind that one.
func TestBehindSoftFailed(t *testing.T) {
	withPeer(t, "11", func(t *testing.T, p *peer) {
		p.accept(p.make(p.heads(), eva, event.TypeMember, string(eva), `{"membership":"join"}`))
		base := p.heads()
		branch := p.make(base, eva, "m.room.message", noKey, `{"msgtype":"m.text","body":"on the other side"}`)
		late := p.message([]*event.Event{branch}, "sent before the ban was known")
		if err := p.h.Ban(context.Background(), p.h.t, p.r.ID, anna, ben2, ""); err != nil {
			t.Fatal(err)
		}
		ban := p.heads()
		p.accept(branch)
		if e := p.accept(late); !e.SoftFailed {
			t.Fatalf("after the ban: %+v", e)
		}
		both := p.make([]*event.Event{ban[0], late}, eva, "m.room.message", noKey, `{"msgtype":"m.text","body":"both"}`)
		p.accept(both)
		if now := p.heads(); len(now) != 1 || now[0].ID() != both.ID() {
			t.Errorf("%d ends of the graph, want the newest event alone", len(now))
		}
	})
}

// TestRejected: what the auth events do not allow is rejected and stored; what rests on it is rejected too.
func TestRejected(t *testing.T) {
	withPeer(t, "10", func(t *testing.T, p *peer) {
		base := p.heads()
		levels := p.make(base, ben2, event.TypePowerLevels, "", `{"users":{"@ben:b.example":100}}`)
		if e := p.accept(levels); !e.Rejected || e.SoftFailed || e.Position != 0 {
			t.Fatalf("%+v", e)
		}
		uses := p.message(base, "x", func(d *event.Draft) {
			for i, a := range d.AuthEvents {
				if p.state()[event.Key{Type: event.TypePowerLevels}].ID() == a {
					d.AuthEvents[i] = levels.ID()
				}
			}
		})
		if e := p.accept(uses); !e.Rejected {
			t.Error("what names a rejected event as its permission is not rejected")
		}
		// An event behind a rejected one is judged by the state without it.
		if e := p.accept(p.message([]*event.Event{levels}, "behind")); e.Rejected || e.SoftFailed || e.Position == 0 {
			t.Errorf("behind a rejected event: %+v", e)
		}
	})
}

// TestOutOfOrder: events in any order and several times: each is there once, and the extremities are the ends of the graph, also when they come
// at the same time from several sides.
func TestOutOfOrder(t *testing.T) {
	t.Run("one by one", func(t *testing.T) { outOfOrder(t, false) })
	t.Run("at once", func(t *testing.T) { outOfOrder(t, true) })
}

func outOfOrder(t *testing.T, atOnce bool) {
	withPeer(t, "12", func(t *testing.T, p *peer) {
		rng := rand.New(rand.NewPCG(1, 2))
		all := []*event.Event{p.heads()[0]}
		for i := range 30 {
			on := all[max(0, len(all)-5):]
			prev := []*event.Event{on[rng.IntN(len(on))]}
			if other := on[rng.IntN(len(on))]; other != prev[0] {
				prev = append(prev, other)
			}
			all = append(all, p.message(prev, fmt.Sprint(i)))
		}
		cited := map[id.Event]bool{}
		for _, e := range all[1:] {
			for _, c := range e.PrevEvents() {
				cited[c] = true
			}
		}
		var wg sync.WaitGroup
		for range 3 {
			order := rng.Perm(len(all) - 1)
			take := func() {
				for _, i := range order {
					if err := p.h.Accept(context.Background(), p.h.t, "b.example", all[1+i]); err != nil {
						t.Error(err)
					}
				}
			}
			if !atOnce {
				take()
				continue
			}
			wg.Go(take)
		}
		wg.Wait()
		want := map[id.Event]bool{}
		for _, e := range all[1:] {
			if s := p.stored(e.ID()); s.Rejected || s.SoftFailed || s.Outlier || s.Position == 0 {
				t.Errorf("%+v", s)
			}
			if !cited[e.ID()] {
				want[e.ID()] = true
			}
		}
		got := map[id.Event]bool{}
		for _, e := range p.heads() {
			got[e.ID()] = true
		}
		if !maps.Equal(got, want) {
			for _, e := range all[1:] {
				if got[e.ID()] != want[e.ID()] {
					t.Errorf("%s %s: extremity %v, want %v; cites %v, order %d", e.ID(), e.Content(), got[e.ID()], want[e.ID()], e.PrevEvents(), p.stored(e.ID()).Topological)
				}
			}
		}
		for eid := range want {
			if !got[eid] {
				t.Errorf("%s is no extremity", eid)
			}
		}
	})
}

// TestGapHeals: an event whose prev event nobody hands out is taken with the state that its server names; when the prev event comes after all, it
// does not become an end of the graph.
func TestGapHeals(t *testing.T) {
	withPeer(t, "11", func(t *testing.T, p *peer) {
		lost := p.make(p.heads(), ben2, "m.room.message", noKey, `{"body":"lost","msgtype":"m.text"}`)
		after := p.message([]*event.Event{lost}, "after")
		p.hidden[lost.ID()] = true
		if e := p.accept(after); e.Rejected || e.SoftFailed || e.Position == 0 {
			t.Fatalf("%+v", e)
		}
		if p.count("state") == 0 {
			t.Error("the state before it was not asked for")
		}
		delete(p.hidden, lost.ID())
		e := p.accept(lost)
		if e.Rejected || e.SoftFailed || e.Outlier || e.Position == 0 {
			t.Errorf("%+v", e)
		}
		if later := p.stored(after.ID()); e.Topological >= later.Topological {
			t.Errorf("order %d, and of what cites it %d", e.Topological, later.Topological)
		}
		for _, x := range p.heads() {
			if x.ID() == lost.ID() {
				t.Error("a cited event is an extremity")
			}
		}
	})
}

// TestHalfAState: an event is not judged by a state of which a part could not be fetched just now; what its server does not have at all is done without.
func TestHalfAState(t *testing.T) {
	withPeer(t, "11", func(t *testing.T, p *peer) {
		join := p.make(p.heads(), eva, event.TypeMember, string(eva), `{"membership":"join"}`)
		lost := p.make([]*event.Event{join}, ben2, "m.room.message", noKey, `{"body":"lost","msgtype":"m.text"}`)
		after := p.message([]*event.Event{lost}, "after")
		p.states[after.ID()] = append(p.states[after.ID()], join.ID())
		p.hidden[lost.ID()], p.away[join.ID()] = true, true
		if err := p.h.Accept(context.Background(), p.h.t, "b.example", after); !errors.Is(err, room.ErrUnreachable) {
			t.Fatalf("with a part of the state out of reach: %v", err)
		}
		if _, err := p.h.Event(context.Background(), p.h.t.ID, after.ID()); !errors.Is(err, mxerror.NotFound) {
			t.Errorf("it was kept: %v", err)
		}
		p.hidden[join.ID()], p.away[join.ID()] = true, false
		if e := p.accept(after); e.Rejected || e.SoftFailed || e.Position == 0 {
			t.Errorf("%+v", e)
		}
	})
}

// TestSecondRoom: an id that turns up in a second room is refused, and the graph of one room does not lead into another (engine rule 16).
func TestSecondRoom(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		h := open(t, db)
		first := meet(t, h, "1")
		second := meet(t, h, "1")
		taken := first.message(first.heads(), "mine", func(d *event.Draft) { d.ID = "$taken:b.example" })
		first.accept(taken)
		again := second.message(second.heads(), "yours", func(d *event.Draft) { d.ID = "$taken:b.example" })
		if err := h.Accept(context.Background(), h.t, "b.example", again); !errors.Is(err, mxerror.Forbidden) {
			t.Errorf("an id of another room: %v", err)
		}
		if e := first.stored("$taken:b.example"); e.RoomNID != first.r.NID {
			t.Error("the event moved")
		}
		// Ben is joined in both rooms; the state of the first must not count in the second.
		crossing := second.make([]*event.Event{taken}, ben2, "m.room.message", noKey, `{"body":"x","msgtype":"m.text"}`)
		e := second.accept(crossing)
		if st, err := h.StateBefore(context.Background(), h.t.ID, e); err != nil {
			t.Error(err)
		} else if create, err := h.StateEvent(context.Background(), h.t.ID, st, event.CreateKey); err != nil || create != nil && create.RoomNID != second.r.NID {
			t.Errorf("the state before it is of another room: %v", err)
		}
	})
}

// TestCycles: events of version 1 that name each other, or themselves, as permission or as past end with few questions.
func TestCycles(t *testing.T) {
	withPeer(t, "1", func(t *testing.T, p *peer) {
		self := p.message(p.heads(), "self", func(d *event.Draft) {
			d.ID = "$self:b.example"
			d.AuthEvents = append(d.AuthEvents, d.ID)
		})
		p.make(p.heads(), ben2, "m.room.topic", "", `{}`, func(d *event.Draft) { d.ID, d.AuthEvents = "$a:b.example", append(d.AuthEvents, "$b:b.example") })
		p.make(p.heads(), ben2, "m.room.topic", "", `{}`, func(d *event.Draft) { d.ID, d.AuthEvents = "$b:b.example", append(d.AuthEvents, "$a:b.example") })
		pairwise := p.message(p.heads(), "pair", func(d *event.Draft) { d.AuthEvents = append(d.AuthEvents, "$a:b.example") })
		for _, e := range []*event.Event{self, pairwise} {
			if err := p.h.Accept(context.Background(), p.h.t, "b.example", e); err == nil {
				t.Error("a cycle of permissions was taken")
			}
			if n := p.count("event") + p.count("auth"); n > 10 {
				t.Errorf("%d questions", n)
			}
		}
		own := p.message(nil, "own past", func(d *event.Draft) { d.ID, d.PrevEvents = "$past:b.example", []id.Event{"$past:b.example"} })
		p.accept(own)
		x := p.message(nil, "x", func(d *event.Draft) { d.ID, d.PrevEvents = "$x:b.example", []id.Event{"$y:b.example"} })
		p.message(nil, "y", func(d *event.Draft) { d.ID, d.PrevEvents = "$y:b.example", []id.Event{"$x:b.example"} })
		p.accept(x)
		if _, err := p.h.send(p.r, anna, "still here", nil); err != nil {
			t.Error(err)
		}
	})
}

// TestNUL: a NUL in what becomes a column is no reason to fail, on any database; such events are rejected where they cannot be stored as they are.
func TestNUL(t *testing.T) {
	withPeer(t, "10", func(t *testing.T, p *peer) {
		nul := "a\x00b"
		for name, e := range map[string]*event.Event{
			"type":      p.make(p.heads(), ben2, nul, noKey, `{}`),
			"state key": p.make(p.heads(), ben2, "org.example", nul, `{}`),
			"member":    p.make(p.heads(), ben2, event.TypeMember, "@x\x00:b.example", `{"membership":"join"}`),
		} {
			if s := p.accept(e); !s.Rejected {
				t.Errorf("%s: %+v", name, s)
			}
		}
		for name, content := range map[string]string{
			"relation":      `{"m.relates_to":{"event_id":"$a\u0000","rel_type":"m.thread"}}`,
			"relation type": `{"m.relates_to":{"event_id":"$a","rel_type":"a\u0000"}}`,
			"body":          `{"body":"a\u0000b","msgtype":"m.text"}`,
		} {
			if s := p.accept(p.make(p.heads(), ben2, "m.room.message", noKey, content)); s.Rejected || s.Position == 0 {
				t.Errorf("%s: %+v", name, s)
			}
		}
		redaction := p.make(p.heads(), ben2, event.TypeRedaction, noKey, `{}`, func(d *event.Draft) { d.Redacts = "$a\x00b" })
		if s := p.accept(redaction); s.Position == 0 {
			t.Errorf("%+v", s)
		}
		if s := p.accept(p.make(p.heads(), ben2, event.TypeMember, string(ben2), `{"membership":"join","displayname":"a\u0000b"}`)); s.Position == 0 {
			t.Errorf("%+v", s)
		}
		for _, d := range []room.Draft{{Type: nul}, {Type: "org.example", StateKey: &nul}} {
			d.Room, d.Sender, d.Content = p.r.ID, anna, jsontext.Value(`{}`)
			if _, err := p.h.Send(context.Background(), p.h.t, d); !errors.Is(err, mxerror.InvalidParam) {
				t.Errorf("a client's NUL: %v", err)
			}
		}
	})
}

// TestOutlierPromoted: state that was fetched becomes part of the timeline once, when it arrives there (engine rule 11).
func TestOutlierPromoted(t *testing.T) {
	withPeer(t, "12", func(t *testing.T, p *peer) {
		join := p.make(p.heads(), eva, event.TypeMember, string(eva), `{"membership":"join"}`)
		uses := p.make([]*event.Event{join}, eva, "m.room.message", noKey, `{"body":"x","msgtype":"m.text"}`, func(d *event.Draft) { d.AuthEvents = append(d.AuthEvents, join.ID()) })
		p.states[uses.ID()] = append(p.states[uses.ID()], join.ID())
		// The join can be had as an event, not as a prev event: it is state before it is timeline.
		missing := p.events[join.ID()]
		p.hideFrom("missing", join.ID())
		if e := p.accept(uses); e.Rejected || e.SoftFailed {
			t.Fatalf("%+v", e)
		}
		if e := p.stored(join.ID()); !e.Outlier || e.Position != 0 {
			t.Fatalf("%+v", e)
		}
		for range 2 {
			if e := p.accept(missing); e.Outlier || e.Position == 0 || e.Rejected || e.SoftFailed {
				t.Fatalf("%+v", e)
			}
		}
		if m, err := p.h.Membership(context.Background(), p.h.t.ID, p.r.NID, eva); err != nil || m.Membership != "join" {
			t.Errorf("%+v, %v", m, err)
		}
	})
}

// TestManyExtremities: an event may cite twenty; an own one joins ten, and what it does not cite is left for the next.
func TestManyExtremities(t *testing.T) {
	withPeer(t, "11", func(t *testing.T, p *peer) {
		base := p.heads()
		var ends []*event.Event
		for i := range 25 {
			e := p.message(base, fmt.Sprint(i))
			p.accept(e)
			ends = append(ends, e)
		}
		if e := p.accept(p.message(ends[:20], "twenty")); e.Position == 0 {
			t.Errorf("%+v", e)
		}
		eid, err := p.h.send(p.r, anna, "own", nil)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(p.stored(eid).PrevEvents()); n == 0 || n > 10 {
			t.Errorf("an own event cites %d", n)
		}
		if n := len(p.heads()); n != 1 {
			t.Errorf("%d extremities are left", n)
		}
	})
}

// TestUpgradeFromCreators: creators of version 12 stand in no levels; in an earlier version they have to, or nobody could set the room up.
func TestUpgradeFromCreators(t *testing.T) {
	t.Parallel()
	h := open(t, databasetest.Open(t, databasetest.SQLite(t)))
	ctx := context.Background()
	for _, version := range []string{"1", "11", "12"} {
		old := h.create(t, "12")
		next, err := h.Upgrade(ctx, h.t, anna, old.ID, version, nil)
		if err != nil {
			t.Fatalf("to %s: %v", version, err)
		}
		r, err := h.Lookup(ctx, h.t.ID, next)
		if err != nil || r.Version.ID != version {
			t.Fatal(r, err)
		}
		back, err := h.Upgrade(ctx, h.t, anna, next, "12", []id.User{ben})
		if err != nil {
			t.Fatalf("from %s: %v", version, err)
		}
		if r, err = h.Lookup(ctx, h.t.ID, back); err != nil {
			t.Fatal(err)
		}
		state, err := h.CurrentState(ctx, h.t.ID, r)
		if err != nil {
			t.Fatal(err)
		}
		levels, err := h.PowerLevels(ctx, h.t.ID, state)
		if err != nil || levels.User(ben) != authrule.CreatorLevel || levels.User(anna) != authrule.CreatorLevel {
			t.Errorf("from %s: %v", version, err)
		}
	}
}

// TestBeforeTheJoin: what a branch from before our join leads to is history, not news.
func TestBeforeTheJoin(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		h := open(t, db)
		p := meet(t, h, "11")
		ctx := context.Background()
		// Anna's join after an absence cites what was said meanwhile, of which nothing is here.
		var meanwhile []*event.Event
		on := p.heads()
		for i := range 5 {
			on = []*event.Event{p.message(on, fmt.Sprint("meanwhile ", i))}
			meanwhile = append(meanwhile, on[0])
		}
		join := p.make(on, anna, event.TypeMember, string(anna), `{"membership":"join","displayname":"Anna"}`)
		for _, e := range meanwhile {
			p.hidden[e.ID()] = true
		}
		p.accept(join)
		for _, e := range meanwhile {
			delete(p.hidden, e.ID())
		}
		// Somebody who did not know the join answers an old message.
		branch := p.message(meanwhile[3:4], "branch")
		if e := p.accept(branch); e.Position == 0 || e.Rejected || e.SoftFailed {
			t.Errorf("the branch: %+v", e)
		}
		for _, e := range meanwhile[:4] {
			found, err := h.Events(ctx, h.t.ID, []id.Event{e.ID()})
			if err != nil {
				t.Fatal(err)
			}
			if s := found[e.ID()]; s != nil && !s.Outlier && s.Position != 0 {
				t.Errorf("%s came as news: %+v", e.Content(), s)
			}
		}
	})
}

// TestStagedIsTriedAgain: a staged PDU whose origin is back is taken after a pause, without anybody sending anything more.
func TestStagedIsTriedAgain(t *testing.T) {
	withPeer(t, "11", func(t *testing.T, p *peer) {
		ctx := context.Background()
		p.h.PauseStaged(10 * time.Millisecond)
		join := p.make(p.heads(), eva, event.TypeMember, string(eva), `{"membership":"join"}`)
		said := p.make([]*event.Event{join}, eva, "m.room.message", noKey, `{"msgtype":"m.text","body":"x"}`, func(d *event.Draft) { d.AuthEvents = append(d.AuthEvents, join.ID()) })
		// A try may begin before the join is shown again and end after it: then the state is asked for, and the join is in it.
		p.states[said.ID()] = append(p.states[said.ID()], join.ID())
		p.hide(join.ID(), true)
		if err := p.h.Receive(ctx, p.h.t, "b.example", said); err != nil {
			t.Fatal(err)
		}
		staged := func() (n, attempts int64) {
			if err := p.h.db.QueryRow(ctx, "SELECT COUNT(*), COALESCE(MAX(attempts), 0) FROM staging WHERE tenant = $1", int64(p.h.t.ID)).Scan(&n, &attempts); err != nil {
				t.Fatal(err)
			}
			return n, attempts
		}
		for n, attempts := staged(); attempts < room.StagePasses+1; n, attempts = staged() {
			if n == 0 {
				t.Fatal("given up")
			}
			runtime.Gosched()
		}
		p.hide(join.ID(), false)
		for n, _ := staged(); n > 0; n, _ = staged() {
			runtime.Gosched()
		}
		if s := p.stored(said.ID()); s.Position == 0 {
			t.Errorf("%+v", s)
		}
	})
}

// TestStagePause: pauses grow and end at an hour, however often.
func TestStagePause(t *testing.T) {
	t.Parallel()
	for attempts, want := range map[int64]time.Duration{0: 30 * time.Second, 2: 30 * time.Second, 4: time.Minute, 10: 8 * time.Minute, 20: time.Hour, 1 << 40: time.Hour} {
		if got := room.PauseAfter(attempts); got != want {
			t.Errorf("after %d attempts: %s, want %s", attempts, got, want)
		}
	}
}

// TestStagedWaits: a PDU that was acknowledged and whose permission cannot be had now is not given up; it is taken when the next one comes and its
// origin answers again (engine rule 12).
func TestStagedWaits(t *testing.T) {
	withPeer(t, "11", func(t *testing.T, p *peer) {
		ctx := context.Background()
		staged := func() (n int, attempts int64) {
			err := p.h.db.QueryRow(ctx, "SELECT COUNT(*), COALESCE(MAX(attempts), 0) FROM staging WHERE tenant = $1", int64(p.h.t.ID)).Scan(&n, &attempts)
			if err != nil {
				t.Fatal(err)
			}
			return n, attempts
		}
		join := p.make(p.heads(), eva, event.TypeMember, string(eva), `{"membership":"join"}`)
		says := func(text string) *event.Event {
			return p.make([]*event.Event{join}, eva, "m.room.message", noKey, `{"msgtype":"m.text","body":"`+text+`"}`, func(d *event.Draft) { d.AuthEvents = append(d.AuthEvents, join.ID()) })
		}
		first, second := says("first"), says("second")
		p.hide(join.ID(), true)
		if err := p.h.Receive(ctx, p.h.t, "b.example", first); err != nil {
			t.Fatal(err)
		}
		for n, attempts := staged(); attempts < 2; n, attempts = staged() {
			if n == 0 {
				t.Fatal("given up")
			}
			runtime.Gosched()
		}
		p.hide(join.ID(), false)
		if err := p.h.Receive(ctx, p.h.t, "b.example", second); err != nil {
			t.Fatal(err)
		}
		for n, _ := staged(); n > 0; n, _ = staged() {
			runtime.Gosched()
		}
		for _, e := range []*event.Event{join, first, second} {
			if s := p.stored(e.ID()); s.Position == 0 {
				t.Errorf("%+v", s)
			}
		}
	})
}

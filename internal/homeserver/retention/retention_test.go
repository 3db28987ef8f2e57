// SPDX-License-Identifier: Apache-2.0

package retention_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/keyring"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/homeserver/retention"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

const (
	anna = id.User("@anna:a.example")
	day  = 24 * time.Hour
)

// house is a server with a clock that can be moved on.
type house struct {
	*testing.T
	db     *database.DB
	t      *tenant.Tenant
	rooms  *room.Service
	expiry *retention.Service
	later  time.Duration
}

func newHouse(t *testing.T, db *database.DB, o retention.Options) *house {
	t.Helper()
	ctx := context.Background()
	h := &house{T: t, db: db}
	feed := stream.NewFeed(db)
	log := slog.New(slog.DiscardHandler)
	committer, err := stream.NewCommitter(ctx, db, feed, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(committer.Close)
	ring, err := keyring.New(db, make([]byte, keyring.MasterSize))
	if err != nil {
		t.Fatal(err)
	}
	tenants := tenant.NewStore(db)
	t.Cleanup(tenants.Close)
	if h.t, err = tenants.Create(ctx, tenant.Spec{Name: "a.example"}); err != nil {
		t.Fatal(err)
	}
	h.rooms = room.New(room.Options{DB: db, Committer: committer, Feed: feed, Keyring: ring, Tenants: tenants, Policy: policy.Open{}, Log: log,
		Stored: func(_ context.Context, t tenant.ID, e *room.Event, _ room.State, plan *stream.Plan) error {
			h.expiry.Stored(t, e, plan)
			return nil
		}})
	t.Cleanup(h.rooms.Close)
	feed.SetMembers(h.rooms.WaitingMembers)
	o.DB, o.Tenants, o.Rooms, o.Log, o.Now = db, tenants, h.rooms, log, func() time.Time { return time.Now().Add(h.later) }
	h.expiry = retention.New(o)
	t.Cleanup(h.expiry.Close)
	return h
}

// room makes a room, with a policy when life is not 0.
func (h *house) room(life time.Duration) *room.Room {
	h.Helper()
	ctx := context.Background()
	rid, err := h.rooms.Create(ctx, h.t, anna, policy.CreateRoom{RoomVersion: "11", Name: "Befunde"})
	if err != nil {
		h.Fatal(err)
	}
	r, err := h.rooms.Lookup(ctx, h.t.ID, rid)
	if err != nil {
		h.Fatal(err)
	}
	if life != 0 {
		h.state(r, retention.Type, fmt.Sprintf(`{"max_lifetime":%d}`, life.Milliseconds()))
	}
	return r
}

func (h *house) state(r *room.Room, typ, content string) {
	h.Helper()
	if _, err := h.rooms.Send(context.Background(), h.t, room.Draft{Room: r.ID, Sender: anna, Type: typ, StateKey: new(string), Content: jsontext.Value(content)}); err != nil {
		h.Fatal(err)
	}
}

// say sends messages that say to be of some time ago.
func (h *house) say(r *room.Room, n int, ago time.Duration) (sent []id.Event) {
	h.Helper()
	ctx := context.Background()
	for i := range n {
		eid, err := h.rooms.Send(ctx, h.t, room.Draft{Room: r.ID, Sender: anna, Type: "m.room.message", Content: jsontext.Value(fmt.Sprintf(`{"msgtype":"m.text","body":"%d"}`, i))})
		if err != nil {
			h.Fatal(err)
		}
		if _, err := h.db.Exec(ctx, "UPDATE event SET origin_ts = $3 WHERE tenant = $1 AND event_id = $2", int64(h.t.ID), string(eid), time.Now().Add(h.later-ago).UnixMilli()); err != nil {
			h.Fatal(err)
		}
		sent = append(sent, eid)
	}
	return sent
}

// left says how many of some events are still there.
func (h *house) left(events []id.Event) int {
	h.Helper()
	found, err := h.rooms.Events(context.Background(), h.t.ID, events)
	if err != nil {
		h.Fatal(err)
	}
	return len(found)
}

func (h *house) sweep() int {
	h.Helper()
	n, err := h.expiry.Sweep(context.Background())
	if err != nil {
		h.Fatal(err)
	}
	return n
}

// TestRetention: what a room lets expire goes, what is younger stays, and so does state; a room that says nothing keeps everything.
func TestRetention(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		ctx := context.Background()
		h := newHouse(t, db, retention.Options{})
		r, other := h.room(7*day), h.room(0)
		old, kept := h.say(r, 5, 10*day), h.say(other, 5, 1000*day)
		h.state(r, "m.room.topic", `{"topic":"Dienstplan"}`)
		young := h.say(r, 5, 2*day)
		before, err := h.rooms.CurrentState(ctx, h.t.ID, r)
		if err != nil {
			t.Fatal(err)
		}
		if n := h.sweep(); n < len(old) || h.left(old) != 0 || h.left(young) != len(young) || h.left(kept) != len(kept) {
			t.Errorf("%d events went: %d of the old ones are left, %d of the young ones, %d of the other room", n, h.left(old), h.left(young), h.left(kept))
		}
		after, err := h.rooms.CurrentState(ctx, h.t.ID, r)
		if err != nil || len(after) != len(before) {
			t.Errorf("state of %d events before, %d after, %v", len(before), len(after), err)
		}
		if events, err := h.rooms.StateEvents(ctx, h.t.ID, after); err != nil || len(events) != len(after) {
			t.Errorf("%d of %d state events can be had, %v", len(events), len(after), err)
		}
		if n := h.sweep(); n != 0 {
			t.Errorf("%d more events went although nothing was due", n)
		}
		h.later = 6 * day // the young ones are 8 days old by what they say
		if h.sweep(); h.left(young) != len(young) && h.left(young) != 1 {
			t.Errorf("%d of the young ones are left", h.left(young))
		}
		h.later = 8 * day // and now by when they came
		if h.sweep(); h.left(young) != 1 {
			t.Errorf("%d of the young ones are left; the last one is what the next rests on", h.left(young))
		}
		if _, err := h.rooms.Send(ctx, h.t, room.Draft{Room: r.ID, Sender: anna, Type: "m.room.message", Content: jsontext.Value(`{"msgtype":"m.text","body":"weiter"}`)}); err != nil {
			t.Errorf("the room does not go on: %v", err)
		}
	})
}

// TestInventedTimes: a message that says to be ancient takes nothing with it, and one of the future does not keep what expires.
func TestInventedTimes(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		h := newHouse(t, db, retention.Options{})
		r := h.room(7 * day)
		future := h.say(r, 1, -5000*day)
		young := h.say(r, 3, day)
		h.say(r, 1, 5000*day)
		if n := h.sweep(); h.left(young) != 3 {
			t.Errorf("%d events went for one that says to be ancient", n)
		}
		h.later = 9 * day
		if h.sweep(); h.left(future)+h.left(young) != 0 {
			t.Errorf("%d events are left behind one of the future", h.left(future)+h.left(young))
		}
	})
}

// TestLimits: the server's default holds where a room says nothing, and its limits where it says too much or too little; what is no policy counts as none.
func TestLimits(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		h := newHouse(t, db, retention.Options{Default: 20 * day, Min: 5 * day, Max: 30 * day})
		h.later = 2 * time.Hour // rooms are looked at an hour after they got members
		for name, c := range map[string]struct {
			policy     string
			gone, stay time.Duration
		}{
			"the default":  {"", 21 * day, 19 * day},
			"too long":     {fmt.Sprintf(`{"max_lifetime":%d}`, (1000 * day).Milliseconds()), 31 * day, 29 * day},
			"too short":    {`{"max_lifetime":1000}`, 6 * day, 4 * day},
			"no number":    {`{"max_lifetime":"1d"}`, 21 * day, 19 * day},
			"a huge one":   {`{"max_lifetime":9007199254740991}`, 31 * day, 29 * day},
			"a minimum":    {`{"min_lifetime":1000}`, 21 * day, 19 * day},
			"not positive": {`{"max_lifetime":-1}`, 21 * day, 19 * day},
		} {
			r := h.room(0)
			if c.policy != "" {
				h.state(r, retention.Type, c.policy)
			}
			gone, stay := h.say(r, 2, c.gone), h.say(r, 2, c.stay)
			h.later += 2 * time.Hour
			if h.sweep(); h.left(gone) != 0 || h.left(stay) != 2 {
				t.Errorf("%s: %d of what is too old are left, %d of the rest", name, h.left(gone), h.left(stay))
			}
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package room_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/keyring"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// house is a room service over a database of its own with one tenant.
type house struct {
	*room.Service
	t    *tenant.Tenant
	db   *database.DB
	feed *stream.Feed
	// counts are its metrics.
	counts *prometheus.Registry
}

func open(t *testing.T, db *database.DB) *house {
	t.Helper()
	ctx := context.Background()
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
	tn, err := tenants.ByName(ctx, "a.example")
	if errors.Is(err, tenant.ErrUnknown) {
		tn, err = tenants.Create(ctx, tenant.Spec{Name: "a.example"})
	}
	if err != nil {
		t.Fatal(err)
	}
	counts := prometheus.NewRegistry()
	s := room.New(room.Options{DB: db, Committer: committer, Feed: feed, Keyring: ring, Tenants: tenants, Policy: policy.Open{}, Log: log, Metrics: counts})
	t.Cleanup(s.Close)
	feed.SetMembers(s.WaitingMembers)
	return &house{s, tn, db, feed, counts}
}

const (
	anna = id.User("@anna:a.example")
	ben  = id.User("@ben:a.example")
)

func (h *house) create(t *testing.T, version string) *room.Room {
	t.Helper()
	rid, err := h.Create(context.Background(), h.t, anna, policy.CreateRoom{RoomVersion: version, Name: "Befunde"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := h.Lookup(context.Background(), h.t.ID, rid)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (h *house) send(r *room.Room, sender id.User, body string, txn *room.Txn) (id.Event, error) {
	return h.Send(context.Background(), h.t, room.Draft{Room: r.ID, Sender: sender, Type: "m.room.message",
		Content: jsontext.Value(fmt.Sprintf(`{"msgtype":"m.text","body":%q}`, body)), Txn: txn})
}

// TestRoomLife: create, invite, join, talk, kick, in every room version and on both databases.
func TestRoomLife(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		h := open(t, db)
		ctx := context.Background()
		for _, version := range roomversion.Supported() {
			r := h.create(t, version)
			if _, err := h.send(r, ben, "hello", nil); !errors.Is(err, mxerror.Forbidden) {
				t.Fatalf("v%s: a stranger sends: %v", version, err)
			}
			if err := h.Join(ctx, h.t, ben, r.ID, nil, ""); !errors.Is(err, mxerror.Forbidden) {
				t.Fatalf("v%s: a stranger joins: %v", version, err)
			}
			if err := h.Invite(ctx, h.t, r.ID, anna, ben, "", false); err != nil {
				t.Fatalf("v%s: invite: %v", version, err)
			}
			stripped, err := h.InviteState(ctx, h.t.ID, ben, r.NID)
			if err != nil || len(stripped) < 4 {
				t.Fatalf("v%s: stripped state %s, %v", version, stripped, err)
			}
			if err := h.Join(ctx, h.t, ben, r.ID, nil, ""); err != nil {
				t.Fatalf("v%s: join: %v", version, err)
			}
			eid, err := h.send(r, ben, "hello", nil)
			if err != nil {
				t.Fatalf("v%s: send: %v", version, err)
			}
			e, err := h.Event(ctx, h.t.ID, eid)
			if err != nil || e.Position == 0 || e.Snapshot != e.SnapshotAfter {
				t.Fatalf("v%s: stored %+v, %v", version, e, err)
			}
			if err := h.Kick(ctx, h.t, r.ID, ben, anna, ""); !errors.Is(err, mxerror.Forbidden) {
				t.Fatalf("v%s: a member kicks the creator: %v", version, err)
			}
			if err := h.Kick(ctx, h.t, r.ID, anna, ben, "Dienst zu Ende"); err != nil {
				t.Fatalf("v%s: kick: %v", version, err)
			}
			after, err := h.send(r, anna, "alone", nil)
			if err != nil {
				t.Fatal(err)
			}
			late, err := h.Event(ctx, h.t.ID, after)
			if err != nil {
				t.Fatal(err)
			}
			seen, err := h.Visible(ctx, h.t.ID, ben, r.NID, []*room.Event{e, late})
			if err != nil || len(seen) != 1 || seen[0].ID() != eid {
				t.Fatalf("v%s: who was kicked sees %d events, %v", version, len(seen), err)
			}
		}
	})
}

// TestConcurrentSendsFormAChain: many senders in one room: no forks, no holes, each event once.
func TestConcurrentSendsFormAChain(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		h := open(t, db)
		ctx := context.Background()
		r := h.create(t, "12")
		from, err := h.feed.Position(ctx, h.t.ID)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for j := range 20 {
					if _, err := h.send(r, anna, fmt.Sprintf("%d-%d", i, j), nil); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		to, err := h.feed.Position(ctx, h.t.ID)
		if err != nil {
			t.Fatal(err)
		}
		events, limited, err := h.Timeline(ctx, h.t.ID, r.NID, from, to, 1000)
		if err != nil || limited || len(events) != 160 {
			t.Fatalf("%d events, limited %v, %v", len(events), limited, err)
		}
		for i, e := range events {
			if e.Position != from+int64(i)+1 {
				t.Fatalf("position %d at place %d", e.Position, i)
			}
			if len(e.PrevEvents()) != 1 || (i > 0 && e.PrevEvents()[0] != events[i-1].ID()) {
				t.Fatalf("event %d cites %v", i, e.PrevEvents())
			}
		}
	})
}

// TestTransactionID: engine rule 5, also for requests at the same time.
func TestTransactionID(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		h := open(t, db)
		r := h.create(t, "11")
		txn := &room.Txn{Device: "D", Scope: "send", ID: "1"}
		ids := make([]id.Event, 6)
		var wg sync.WaitGroup
		for i := range ids {
			wg.Go(func() {
				eid, err := h.send(r, anna, "once", txn)
				if err != nil {
					t.Error(err)
				}
				ids[i] = eid
			})
		}
		wg.Wait()
		for _, eid := range ids {
			if eid != ids[0] {
				t.Fatalf("one transaction id made %v", ids)
			}
		}
		other, err := h.send(r, anna, "once", &room.Txn{Device: "E", Scope: "send", ID: "1"})
		if err != nil || other == ids[0] {
			t.Fatalf("another device's transaction: %s, %v", other, err)
		}
	})
}

// TestRedaction: the content goes, the event stays, strangers may not.
func TestRedaction(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		h := open(t, db)
		ctx := context.Background()
		for _, version := range roomversion.Supported() {
			r := h.create(t, version)
			eid, err := h.send(r, anna, "secret", nil)
			if err != nil {
				t.Fatal(err)
			}
			d := room.Draft{Room: r.ID, Sender: anna, Type: "m.room.redaction", Redacts: eid, Content: jsontext.Value(`{}`)}
			if r.Version.RedactsInContent {
				d.Content = jsontext.Value(fmt.Sprintf(`{"redacts":%q}`, eid))
			}
			by, err := h.Send(ctx, h.t, d)
			if err != nil {
				t.Fatal(err)
			}
			e, err := h.Event(ctx, h.t.ID, eid)
			if err != nil || e.RedactedBy != by || string(e.Content()) != "{}" {
				t.Fatalf("v%s: redacted event: %+v %s, %v", version, e, e.Content(), err)
			}
			if e.ID() != eid {
				t.Fatalf("v%s: the id changed", version)
			}
		}
	})
}

// TestStateDeltas: the deltas lead from one position's state to another's, back and forth.
func TestStateDeltas(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		h := open(t, db)
		ctx := context.Background()
		r := h.create(t, "12")
		before, err := h.feed.Position(ctx, h.t.ID)
		if err != nil {
			t.Fatal(err)
		}
		key := event.Key{Type: "m.room.topic"}
		var last id.Event
		empty := ""
		for i := range 40 { // longer than a chain of snapshots
			last, err = h.Send(ctx, h.t, room.Draft{Room: r.ID, Sender: anna, Type: key.Type, StateKey: &empty, Content: jsontext.Value(fmt.Sprintf(`{"topic":"%d"}`, i))})
			if err != nil {
				t.Fatal(err)
			}
		}
		after, err := h.feed.Position(ctx, h.t.ID)
		if err != nil {
			t.Fatal(err)
		}
		delta, err := h.StateDelta(ctx, h.t.ID, r.NID, before, after)
		if err != nil || len(delta) != 1 || delta[key] != last {
			t.Fatalf("delta %v, %v", delta, err)
		}
		old, err := h.StateAtPosition(ctx, h.t.ID, r, before)
		if err != nil || old[key] != "" {
			t.Fatalf("state before: %v, %v", old[key], err)
		}
		fresh := open(t, db) // nothing in memory
		now, err := fresh.CurrentState(ctx, h.t.ID, r)
		if err != nil || now[key] != last || len(now) != len(old)+1 {
			t.Fatalf("state read from the database: %v, %v", now, err)
		}
	})
}

// TestOversizedEvent: 65,536 bytes are the limit.
func TestOversizedEvent(t *testing.T) {
	t.Parallel()
	h := open(t, databasetest.Open(t, databasetest.SQLite(t)))
	r := h.create(t, "12")
	if _, err := h.send(r, anna, string(make([]byte, 0)), nil); err != nil {
		t.Fatal(err)
	}
	big := make([]byte, 66000)
	for i := range big {
		big[i] = 'x'
	}
	if _, err := h.send(r, anna, string(big), nil); !errors.Is(err, mxerror.TooLarge) {
		t.Fatalf("got %v", err)
	}
}

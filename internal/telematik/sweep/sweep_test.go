// SPDX-License-Identifier: Apache-2.0

package sweep_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

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
	"github.com/konsil-health/konsil/internal/telematik/sweep"
)

const (
	mona  = id.User("@mona:kasse.example")
	erika = id.User("@erika:kasse.example")
	day   = 24 * time.Hour
)

// house is an insurer's server with a clock that can be moved on.
type house struct {
	*testing.T
	t       *tenant.Tenant
	rooms   *room.Service
	sweeper *sweep.Service
	later   time.Duration
	unknown bool // the federation list cannot be had
}

func newHouse(t *testing.T, db *database.DB) *house {
	t.Helper()
	ctx := context.Background()
	h := &house{T: t}
	feed, log := stream.NewFeed(db), slog.New(slog.DiscardHandler)
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
	if h.t, err = tenants.Create(ctx, tenant.Spec{Name: "kasse.example", Insurance: true}); err != nil {
		t.Fatal(err)
	}
	h.rooms = room.New(room.Options{DB: db, Committer: committer, Feed: feed, Keyring: ring, Tenants: tenants, Policy: policy.Open{}, Log: log,
		Stored: func(ctx context.Context, t tenant.ID, e *room.Event, _ room.State, plan *stream.Plan) error {
			return h.sweeper.Stored(ctx, t, e, plan)
		}})
	t.Cleanup(h.rooms.Close)
	feed.SetMembers(h.rooms.WaitingMembers)
	h.sweeper = sweep.New(sweep.Options{DB: db, Tenants: tenants, Rooms: h.rooms, Orphaned: 42 * day, Grace: 7 * day, Now: func() time.Time { return time.Now().Add(h.later) },
		Insured: func(_ context.Context, s id.Server) (bool, error) {
			if h.unknown {
				return false, errors.New("no list")
			}
			return strings.HasPrefix(string(s), "kasse"), nil
		}})
	t.Cleanup(h.sweeper.Close)
	return h
}

func (h *house) room(creator id.User, of policy.CreateRoom) *room.Room {
	h.Helper()
	of.RoomVersion, of.Preset = "10", "public_chat"
	rid, err := h.rooms.Create(context.Background(), h.t, creator, of)
	if err != nil {
		h.Fatal(err)
	}
	r, err := h.rooms.Lookup(context.Background(), h.t.ID, rid)
	if err != nil {
		h.Fatal(err)
	}
	return r
}

// after moves the clock on and sweeps.
func (h *house) after(d time.Duration) {
	h.Helper()
	h.later += d
	if err := h.sweeper.Sweep(context.Background()); err != nil {
		h.Fatal(err)
	}
}

func (h *house) there(r *room.Room) bool {
	h.Helper()
	_, err := h.rooms.ByNID(context.Background(), h.t.ID, r.NID)
	if err != nil && !errors.Is(err, mxerror.NotFound) {
		h.Fatal(err)
	}
	return err == nil
}

func (h *house) membership(r *room.Room, user id.User) string {
	h.Helper()
	m, err := h.rooms.Membership(context.Background(), h.t.ID, r.NID, user)
	if err != nil {
		h.Fatal(err)
	}
	return m.Membership
}

// TestOrphaned: a room in which nobody but its creator ever was and nothing was said goes six weeks after its last event; every other stays.
//
// Requirements: A_28564-01.
func TestOrphaned(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		h, ctx := newHouse(t, db), context.Background()
		empty, notes := h.room(mona, policy.CreateRoom{Name: "Leer"}), h.room(mona, policy.CreateRoom{Name: "Notizen"})
		space := h.room(mona, policy.CreateRoom{CreationContent: map[string]jsontext.Value{"type": jsontext.Value(`"m.space"`)}})
		shared := h.room(mona, policy.CreateRoom{})
		if _, err := h.rooms.Send(ctx, h.t, room.Draft{Room: notes.ID, Sender: mona, Type: "m.room.message", Content: jsontext.Value(`{"msgtype":"m.text","body":"x"}`)}); err != nil {
			t.Fatal(err)
		}
		if err := h.rooms.Join(ctx, h.t, erika, shared.ID, nil, ""); err != nil {
			t.Fatal(err)
		}
		if err := h.rooms.Leave(ctx, h.t, erika, shared.ID, ""); err != nil {
			t.Fatal(err)
		}
		h.after(41 * day)
		if !h.there(empty) {
			t.Fatal("gone before its time")
		}
		h.after(2 * day)
		if h.there(empty) {
			t.Error("an orphaned room stays")
		}
		h.after(100 * day)
		if !h.there(notes) || !h.there(space) || !h.there(shared) {
			t.Errorf("gone: notes %v, space %v, shared %v", !h.there(notes), !h.there(space), !h.there(shared))
		}
	})
}

// TestInsuredAlone: a week after the last professional left, the insured people who stayed leave too; not while one is still there or invited, and not while
// nobody can say who is insured.
//
// Requirements: AF_10233.
func TestInsuredAlone(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		h, ctx := newHouse(t, db), context.Background()
		ben, clara := id.User("@ben:praxis.example"), id.User("@clara:praxis.example")
		with := func(others ...id.User) *room.Room {
			r := h.room(mona, policy.CreateRoom{})
			if err := h.rooms.Join(ctx, h.t, erika, r.ID, nil, ""); err != nil {
				t.Fatal(err)
			}
			for _, o := range others { // what an invitation leads to: the other server is not there to join
				if _, err := h.rooms.Send(ctx, h.t, member(r, mona, o, "invite")); err != nil {
					t.Fatal(err)
				}
			}
			return r
		}
		left, waits, own := with(ben), with(ben, clara), with()
		for _, r := range []*room.Room{left, waits} {
			if _, err := h.rooms.Send(ctx, h.t, member(r, mona, ben, "leave")); err != nil {
				t.Fatal(err)
			}
		}
		h.after(6 * day)
		if h.membership(left, mona) != "join" {
			t.Fatal("taken out within the week")
		}
		h.unknown = true
		h.after(2 * day)
		if h.membership(left, mona) != "join" {
			t.Fatal("taken out although nobody can say who is insured")
		}
		h.unknown = false
		h.after(2 * time.Hour)
		if h.membership(left, mona) != "leave" || h.membership(left, erika) != "leave" {
			t.Errorf("alone in the room: %s and %s", h.membership(left, mona), h.membership(left, erika))
		}
		if h.membership(waits, mona) != "join" {
			t.Error("taken out although a professional is invited")
		}
		if h.membership(own, mona) != "join" {
			t.Error("taken out of a room in which no professional ever was")
		}
		if _, err := h.rooms.Send(ctx, h.t, member(waits, mona, clara, "leave")); err != nil {
			t.Fatal(err)
		}
		h.after(8 * day)
		if h.membership(waits, mona) != "leave" {
			t.Error("the last one who was invited is gone too")
		}
	})
}

func member(r *room.Room, sender, user id.User, membership string) room.Draft {
	key := string(user)
	return room.Draft{Room: r.ID, Sender: sender, Type: event.TypeMember, StateKey: &key, Content: jsontext.Value(`{"membership":"` + membership + `"}`)}
}

// SPDX-License-Identifier: Apache-2.0

package room_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// lived is a room in which things have happened, with its messages.
func (h *house) lived(t *testing.T) (*room.Room, []id.Event) {
	t.Helper()
	ctx := context.Background()
	r := h.create(t, "11")
	if err := h.Invite(ctx, h.t, r.ID, anna, ben, "", false); err != nil {
		t.Fatal(err)
	}
	if err := h.Join(ctx, h.t, ben, r.ID, nil, ""); err != nil {
		t.Fatal(err)
	}
	var messages []id.Event
	for i := range 10 {
		eid, err := h.send(r, anna, fmt.Sprint("message ", i), nil)
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, eid)
		if i == 4 {
			if _, err := h.Send(ctx, h.t, room.Draft{Room: r.ID, Sender: anna, Type: "m.room.topic", StateKey: new(string), Content: jsontext.Value(`{"topic":"Dienstplan"}`)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := h.Send(ctx, h.t, room.Draft{Room: r.ID, Sender: ben, Type: "m.reaction",
		Content: jsontext.Value(fmt.Sprintf(`{"m.relates_to":{"rel_type":"m.annotation","event_id":%q,"key":"+"}}`, messages[2]))}); err != nil {
		t.Fatal(err)
	}
	for _, query := range []string{"INSERT INTO highlight (tenant, room, user_id, position, event_id, sender, thread, extra) VALUES ($1, $2, '@ben:a.example', 9, '', '', '', FALSE)",
		"INSERT INTO search_word (tenant, word, event, room, position, weight) VALUES ($1, 'befund', $2, $2, 7, 1)",
		"INSERT INTO receipt (tenant, room, user_id, kind, thread, event_id, event_position, topological, arrival, ts, position) VALUES ($1, $2, '@ben:a.example', 'm.read', '', '', 1, 1, 1, 1, 1)",
		"INSERT INTO account_data (tenant, user_id, room, type, content, position) SELECT $1, '@ben:a.example', room_id, 'm.tag', '{}', 1 FROM room WHERE tenant = $1 AND room = $2"} {
		if _, err := h.db.Exec(ctx, query, int64(h.t.ID), r.NID); err != nil {
			t.Fatal(err)
		}
	}
	for _, root := range []id.Event{messages[2], messages[8]} {
		if _, err := h.db.Exec(ctx, "INSERT INTO thread_subscription (tenant, user_id, room, root, subscribed, automatic, position) VALUES ($1, $2, $3, $4, TRUE, FALSE, 1)",
			int64(h.t.ID), string(ben), r.NID, string(root)); err != nil {
			t.Fatal(err)
		}
	}
	return r, messages
}

// TestPurge: a purged room leaves nothing behind but what is kept on purpose, other rooms stay, and it may be made or entered anew.
func TestPurge(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		ctx := context.Background()
		h := open(t, db)
		r, messages := h.lived(t)
		other, otherMessages := h.lived(t)
		if err := h.Purge(ctx, h.t, r); err != nil {
			t.Fatal(err)
		}
		left, err := room.LeftOf(ctx, db, r)
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		for _, eid := range messages {
			if _, err := h.Event(ctx, h.t.ID, eid); !errors.Is(err, mxerror.NotFound) {
				t.Fatalf("an event of the purged room is still there: %v", err)
			}
		}
		if _, err := h.Lookup(ctx, h.t.ID, r.ID); !errors.Is(err, mxerror.NotFound) {
			t.Errorf("the room is still known: %v", err)
		}
		if _, err := h.send(r, anna, "hello?", nil); err == nil {
			t.Error("somebody wrote into a purged room")
		}
		if _, err := h.send(other, ben, "still here", nil); err != nil {
			t.Errorf("the other room: %v", err)
		}
		if found, err := h.Events(ctx, h.t.ID, otherMessages); err != nil || len(found) != len(otherMessages) {
			t.Errorf("the other room has %d of its messages, %v", len(found), err)
		}
	})
}

// TestPurgeGoesOnAfterAStop: a purge that was interrupted ends at the next start, and nobody enters the room before.
func TestPurgeGoesOnAfterAStop(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		ctx := context.Background()
		h := open(t, db)
		r, _ := h.lived(t)
		if _, err := db.Exec(ctx, "INSERT INTO room_purge (tenant, room, room_id) VALUES ($1, $2, $3)", int64(h.t.ID), r.NID, string(r.ID)); err != nil {
			t.Fatal(err)
		}
		if err := h.Join(ctx, h.t, "@carl:a.example", r.ID, nil, ""); !errors.Is(err, mxerror.Forbidden) {
			t.Errorf("entered a room that is being purged: %v", err)
		}
		if _, err := db.Exec(ctx, "DELETE FROM room_head WHERE tenant = $1 AND room = $2", int64(h.t.ID), r.NID); err != nil {
			t.Fatal(err)
		}
		again := open(t, db)
		if err := again.Resume(ctx); err != nil {
			t.Fatal(err)
		}
		if left, err := room.LeftOf(ctx, db, r); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
}

// TestForgetPurges: the room goes when the last of the server's people has forgotten it, not before.
func TestForgetPurges(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		ctx := context.Background()
		h := open(t, db)
		r, _ := h.lived(t)
		for _, u := range []id.User{ben, anna} {
			if err := h.Leave(ctx, h.t, u, r.ID, ""); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.Forget(ctx, h.t, ben, r.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Lookup(ctx, h.t.ID, r.ID); err != nil {
			t.Fatalf("gone while somebody has it: %v", err)
		}
		if err := h.Forget(ctx, h.t, anna, r.ID); err != nil {
			t.Fatal(err)
		}
		if left, err := room.LeftOf(ctx, db, r); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
}

// TestPurgeHistory: messages before an event go; state, forward extremities, paging and what follows stay right.
func TestPurgeHistory(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		ctx := context.Background()
		h := open(t, db)
		r, messages := h.lived(t)
		state, err := h.CurrentState(ctx, h.t.ID, r)
		if err != nil {
			t.Fatal(err)
		}
		bound, err := h.Event(ctx, h.t.ID, messages[7])
		if err != nil {
			t.Fatal(err)
		}
		since, err := h.feed.Position(ctx, h.t.ID)
		if err != nil {
			t.Fatal(err)
		}
		n, err := h.PurgeHistory(ctx, h.t, r, bound, false)
		if err != nil || n < 10 {
			t.Fatalf("%d events went, %v", n, err)
		}
		h = open(t, db) // nothing of it rests in memory
		found, err := h.Events(ctx, h.t.ID, messages)
		if err != nil || len(found) != 3 {
			t.Errorf("%d messages left, %v", len(found), err)
		}
		after, err := h.CurrentState(ctx, h.t.ID, r)
		if err != nil || len(after) != len(state) {
			t.Fatalf("state of %d events before, %d after, %v", len(state), len(after), err)
		}
		if events, err := h.StateEvents(ctx, h.t.ID, after); err != nil || len(events) != len(state) {
			t.Errorf("%d state events can be had, %v", len(events), err)
		}
		if _, err := h.send(r, ben, "it goes on", nil); err != nil {
			t.Fatal(err)
		}
		events, limited, err := h.Timeline(ctx, h.t.ID, r.NID, since, since+10, 10)
		if err != nil || limited || len(events) != 1 {
			t.Errorf("sync after the purge: %d events, limited %v, %v", len(events), limited, err)
		}
		page, _, _, err := h.Page(ctx, h.t.ID, r.NID, events[0].At(), true, 50)
		if err != nil || page[len(page)-1].Topological > bound.Topological {
			t.Errorf("paging back: %d events, %v", len(page), err)
		}
		for _, e := range page {
			if e.Topological < bound.Topological && e.ID() != messages[7] && !e.IsState() {
				t.Errorf("paging back finds %s from before the purge", e.ID())
			}
		}
		if citing, err := h.Gaps(ctx, h.t.ID, r.NID, 0, since+10); err != nil || len(citing) == 0 {
			t.Errorf("no gap where the past was: %v", err)
		}
		if err := h.Invite(ctx, h.t, r.ID, anna, "@carl:a.example", "", false); err != nil {
			t.Errorf("the room's life after the purge: %v", err)
		}
		var root id.Event
		if err := db.QueryRow(ctx, "SELECT MIN(root) FROM thread_subscription HAVING COUNT(*) = 1").Scan(&root); err != nil || root != messages[8] {
			t.Errorf("a subscription to %s is left, %v", root, err)
		}
		var loose int
		if err := db.QueryRow(ctx, `SELECT COUNT(*) FROM snapshot s WHERE s.parent <> 0 AND NOT EXISTS (SELECT 1 FROM snapshot p WHERE p.tenant = s.tenant AND p.snapshot = s.parent)`).Scan(&loose); err != nil || loose > 0 {
			t.Errorf("%d snapshots without the one that they rest on, %v", loose, err)
		}
	})
}

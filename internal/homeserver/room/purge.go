// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// How a table's rows of a room are found when the room is purged. Every table that names a room must stand in one of these lists or in
// keptAfterPurge; a test reads the schema.
var (
	// purgedByRoom are deleted by the room's number, after the rows that hang on events and snapshots.
	purgedByRoom = []string{"event_gap", "event_relation", "state_delta", "public_room", "receipt", "highlight", "thread_subscription", "search_word", "appservice_room",
		"delayed_event", "room_retention", "room_sweep", "auth_chain", "auth_link", "auth_pending", "event_id", "membership"}
	// purgedByName are deleted by the room's id.
	purgedByName = []string{"staging", "room_alias", "server_notice_room"}
	// purgedApart are deleted in ways of their own: events and snapshots in chunks with what hangs on them, what users keep about the room by user,
	// the head at first, the room and the purge itself at last.
	purgedApart = []string{"event", "redaction", "snapshot", "snapshot_entry", "account_data", "room_head", "room", "room_purge"}
	// keptAfterPurge outlive a room, each with its reason.
	keptAfterPurge = map[string]string{
		"blocked_room":       "a decision about the room's id, there to keep people from coming back",
		"room_shutdown":      "the record of an administrator's act",
		"history_purge":      "the record of an administrator's act",
		"federation_joining": "joins that are under way, which end by themselves",
		"report":             "what users reported to their administrators",
		"key_backup_session": "the user's own backup of keys, for messages that other servers may still have",
	}
)

// purgeChunk is how many events or snapshots go in one transaction.
const purgeChunk = 200

// errPurging: a room is being removed.
var errPurging = mxerror.Forbidden.With("This room is being deleted from this server.")

// Purge removes the tenant's copy of a room with everything that hangs on it, whoever is in it; other servers learn nothing of that, so people leave
// before (see [Service.Leave]). Once it has begun the room is gone for everybody; after a stop the rest is removed at the next start.
func (s *Service) Purge(ctx context.Context, t *tenant.Tenant, r *Room) error {
	ctx = context.WithoutCancel(ctx)
	sl := s.heads.slot(t.ID, r)
	if err := sl.take(ctx); err != nil {
		return err
	}
	err := s.behead(ctx, t.ID, r)
	sl.forget()
	sl.release()
	s.heads.cache.Invalidate(headKey{t.ID, r.NID})
	if err != nil {
		return fmt.Errorf("purge %s: %w", r.ID, err)
	}
	return s.finishPurge(ctx, t.ID, r)
}

// behead makes sure that nothing can be added to the room any more and notes that it is being removed.
func (s *Service) behead(ctx context.Context, t tenant.ID, r *Room) error {
	if _, err := s.Committer.Commit(ctx, &stream.Plan{Tenant: t, Room: r.NID}); err != nil { // what was handed over has come in
		return err
	}
	return s.DB.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO room_purge (tenant, room, room_id) VALUES ($1, $2, $3) ON CONFLICT (tenant, room) DO NOTHING", int64(t), r.NID, string(r.ID)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "DELETE FROM room_head WHERE tenant = $1 AND room = $2", int64(t), r.NID)
		return err
	})
}

// finishPurge removes what is left of a room without a head. It may be repeated.
func (s *Service) finishPurge(ctx context.Context, t tenant.ID, r *Room) error {
	for {
		n, err := s.purgeEvents(ctx, t, "SELECT event, event_id FROM event WHERE tenant = $1 AND room = $2 LIMIT $3", r.NID)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
	}
	if err := s.purgeSnapshots(ctx, t, r.NID, nil); err != nil {
		return err
	}
	if err := s.purgeAccountData(ctx, t, r); err != nil {
		return err
	}
	for _, table := range purgedByRoom {
		if _, err := s.DB.Exec(ctx, "DELETE FROM "+table+" WHERE tenant = $1 AND room = $2", int64(t), r.NID); err != nil {
			return err
		}
	}
	for _, table := range purgedByName {
		if _, err := s.DB.Exec(ctx, "DELETE FROM "+table+" WHERE tenant = $1 AND room_id = $2", int64(t), string(r.ID)); err != nil {
			return err
		}
	}
	err := s.DB.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM room WHERE tenant = $1 AND room = $2", int64(t), r.NID); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "DELETE FROM room_purge WHERE tenant = $1 AND room = $2", int64(t), r.NID)
		return err
	})
	s.rooms.Invalidate(roomKey{t, r.ID})
	return err
}

// purgeEvents removes a chunk of events that a query of (room, limit) names, and answers how many there were.
func (s *Service) purgeEvents(ctx context.Context, t tenant.ID, query string, args ...any) (int, error) {
	type named struct {
		nid int64
		eid id.Event
	}
	rows, err := s.DB.Query(ctx, query, append(append([]any{int64(t)}, args...), purgeChunk)...)
	list, err := database.All(rows, err, func(rows *sql.Rows) (e named, err error) { return e, rows.Scan(&e.nid, &e.eid) })
	if err != nil || len(list) == 0 {
		return 0, err
	}
	nids, ids := []any{int64(t)}, []any{int64(t)}
	for _, e := range list {
		nids, ids = append(nids, e.nid), append(ids, string(e.eid))
	}
	marks := database.Marks(2, len(list))
	err = s.DB.Write(ctx, func(tx *database.Tx) error {
		for _, table := range []string{"event_gap", "event_relation", "event"} {
			if _, err := tx.Exec(ctx, "DELETE FROM "+table+" WHERE tenant = $1 AND event IN ("+marks+")", nids...); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, "DELETE FROM redaction WHERE tenant = $1 AND redacts IN ("+marks+")", ids...); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "DELETE FROM event_id WHERE tenant = $1 AND event_id IN ("+marks+")", ids...)
		return err
	})
	for _, e := range list {
		s.events.Invalidate(eventKey{t, e.eid})
	}
	return len(list), err
}

// purgeSnapshots removes the room's snapshots but for some.
func (s *Service) purgeSnapshots(ctx context.Context, t tenant.ID, roomNID int64, keep map[int64]bool) error {
	rows, err := s.DB.Query(ctx, "SELECT snapshot FROM snapshot WHERE tenant = $1 AND room = $2", int64(t), roomNID)
	all, err := database.All(rows, err, database.Column[int64])
	if err != nil {
		return err
	}
	args := []any{int64(t)}
	flush := func() error {
		if len(args) == 1 {
			return nil
		}
		marks := database.Marks(2, len(args)-1)
		err := s.DB.Write(ctx, func(tx *database.Tx) error {
			for _, table := range []string{"snapshot_entry", "snapshot"} {
				if _, err := tx.Exec(ctx, "DELETE FROM "+table+" WHERE tenant = $1 AND snapshot IN ("+marks+")", args...); err != nil {
					return err
				}
			}
			return nil
		})
		args = args[:1]
		return err
	}
	for _, n := range all {
		if keep[n] {
			continue
		}
		s.states.Invalidate(snapshotKey{t, n})
		if args = append(args, n); len(args) > purgeChunk {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// purgeAccountData removes what the tenant's users keep about the room: tags, the fully-read marker.
func (s *Service) purgeAccountData(ctx context.Context, t tenant.ID, r *Room) error {
	rows, err := s.DB.Query(ctx, "SELECT user_id FROM membership WHERE tenant = $1 AND room = $2", int64(t), r.NID)
	users, err := database.All(rows, err, database.Column[id.User])
	if err != nil {
		return err
	}
	for _, u := range users {
		if _, err := s.DB.Exec(ctx, "DELETE FROM account_data WHERE tenant = $1 AND user_id = $2 AND room = $3", int64(t), string(u), string(r.ID)); err != nil {
			return err
		}
	}
	return nil
}

// resumePurges goes on with what a stop interrupted.
func (s *Service) resumePurges(ctx context.Context) error {
	type left struct {
		tenant tenant.ID
		room   Room
	}
	rows, err := s.DB.Query(ctx, "SELECT tenant, room, room_id FROM room_purge")
	list, err := database.All(rows, err, func(rows *sql.Rows) (l left, err error) { return l, rows.Scan(&l.tenant, &l.room.NID, &l.room.ID) })
	for _, l := range list {
		err = errors.Join(err, s.finishPurge(ctx, l.tenant, &l.room))
	}
	return err
}

// purgeForgotten purges a room that none of the tenant's users has in any list of theirs, and in which none of them is.
func (s *Service) purgeForgotten(ctx context.Context, t *tenant.Tenant, r *Room) error {
	rows, err := s.DB.Query(ctx, "SELECT user_id FROM membership WHERE tenant = $1 AND room = $2 AND NOT forgotten", int64(t.ID), r.NID)
	users, err := database.All(rows, err, database.Column[id.User])
	if err != nil {
		return err
	}
	for _, u := range users {
		if u.Server() == t.Name {
			return nil
		}
	}
	return s.Purge(ctx, t, r)
}

// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"database/sql"
	"slices"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// boundary is how many events after a purged past are looked at for what they cite of it.
const boundary = 1000

// freshSnapshots are not removed: an event that is only being committed may name them.
const freshSnapshots = 10 * time.Minute

// PurgeHistory removes what a room's timeline has before an event: messages with what hangs on them; state events stay as outliers, because what
// came later is authorised by them. The room's state, its forward extremities and the memberships of the tenant's users stay. Where the past was
// there is a gap, so that paging ends or asks the room's other servers; local keeps events of the tenant's own users. It returns how many events went.
func (s *Service) PurgeHistory(ctx context.Context, t *tenant.Tenant, r *Room, before *Event, local bool) (int, error) {
	ctx = context.WithoutCancel(ctx)
	sl := s.heads.slot(t.ID, r)
	if err := sl.take(ctx); err != nil {
		return 0, err
	}
	defer sl.release()
	if _, err := s.Committer.Commit(ctx, &stream.Plan{Tenant: t.ID, Room: r.NID}); err != nil {
		return 0, err
	}
	h, err := s.loadHead(ctx, t.ID, r)
	if err != nil {
		return 0, err
	}
	keep, err := s.keptMemberships(ctx, t, r)
	if err != nil {
		return 0, err
	}
	for _, x := range h.extremities {
		keep[x] = true
	}
	gone, err := s.purgeBefore(ctx, t, r, before, keep, local)
	if err != nil {
		return len(gone), err
	}
	if err := s.leaveGaps(ctx, t.ID, r, before, h, gone); err != nil {
		return len(gone), err
	}
	return len(gone), s.dropUnusedSnapshots(ctx, t.ID, r, h)
}

// keptMemberships are the events that tell since when local users are in the room or not.
func (s *Service) keptMemberships(ctx context.Context, t *tenant.Tenant, r *Room) (map[id.Event]bool, error) {
	keep := map[id.Event]bool{}
	rows, err := s.DB.Query(ctx, "SELECT user_id, event_id FROM membership WHERE tenant = $1 AND room = $2", int64(t.ID), r.NID)
	_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
		var u id.User
		var eid id.Event
		err := rows.Scan(&u, &eid)
		if u.Server() == t.Name {
			keep[eid] = true
		}
		return struct{}{}, err
	})
	return keep, err
}

// purgeBefore goes through the timeline in its order.
func (s *Service) purgeBefore(ctx context.Context, t *tenant.Tenant, r *Room, before *Event, keep map[id.Event]bool, local bool) (map[id.Event]bool, error) {
	gone := map[id.Event]bool{}
	from, begun := Cursor{}, false
	for {
		query, args := selectEvent+"WHERE e.tenant = $1 AND e.room = $2 AND NOT e.outlier AND e.topological < $3", []any{int64(t.ID), r.NID, before.Topological}
		if begun {
			query += " AND (e.topological > $5 OR (e.topological = $5 AND e.event > $6))"
		}
		query += " ORDER BY e.topological, e.event LIMIT $4"
		args = append(args, purgeChunk)
		if begun {
			args = append(args, from.Topological, from.Arrival)
		}
		rows, err := s.DB.Query(ctx, query, args...)
		events, err := database.All(rows, err, scanEvent)
		if err != nil || len(events) == 0 {
			return gone, err
		}
		from, begun = events[len(events)-1].At(), true
		events = slices.DeleteFunc(events, func(e *Event) bool {
			return keep[e.ID()] || local && e.Sender().Server() == t.Name
		})
		if err := s.purgeOf(ctx, t.ID, r, events); err != nil {
			return gone, err
		}
		for _, e := range events {
			gone[e.ID()] = true
			s.events.Invalidate(eventKey{t.ID, e.ID()})
		}
	}
}

// purgeOf removes messages and takes state events out of the timeline.
func (s *Service) purgeOf(ctx context.Context, t tenant.ID, r *Room, events []*Event) error {
	if len(events) == 0 {
		return nil
	}
	all, plain, ids := []any{int64(t)}, []any{int64(t)}, []any{int64(t)}
	for _, e := range events {
		all = append(all, e.NID)
		if !e.IsState() {
			plain, ids = append(plain, e.NID), append(ids, string(e.ID()))
		}
	}
	return s.DB.Write(ctx, func(tx *database.Tx) error {
		marks := database.Marks(2, len(all)-1)
		for _, e := range events {
			if e.Position > 0 {
				if _, err := tx.Exec(ctx, "DELETE FROM highlight WHERE tenant = $1 AND room = $2 AND position = $3", int64(t), r.NID, e.Position); err != nil {
					return err
				}
			}
		}
		for _, query := range []string{"DELETE FROM event_gap WHERE tenant = $1 AND event IN (", "DELETE FROM event_relation WHERE tenant = $1 AND event IN ("} {
			if _, err := tx.Exec(ctx, query+marks+")", all...); err != nil {
				return err
			}
		}
		words := append(slices.Clone(all), r.NID)
		if _, err := tx.Exec(ctx, "DELETE FROM search_word WHERE tenant = $1 AND event IN ("+marks+") AND room = "+database.Marks(len(words), 1), words...); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "UPDATE event SET outlier = TRUE, position = 0, topological = 0, snapshot = 0, snapshot_after = 0 WHERE tenant = $1 AND event IN ("+marks+")", all...); err != nil {
			return err
		}
		if len(ids) == 1 {
			return nil
		}
		marks = database.Marks(2, len(ids)-1)
		threads := append(slices.Clone(ids), r.NID)
		if _, err := tx.Exec(ctx, "DELETE FROM thread_subscription WHERE tenant = $1 AND root IN ("+marks+") AND room = "+database.Marks(len(threads), 1), threads...); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "DELETE FROM event WHERE tenant = $1 AND event IN ("+marks+")", plain...); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "DELETE FROM redaction WHERE tenant = $1 AND redacts IN ("+marks+")", ids...); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "DELETE FROM event_id WHERE tenant = $1 AND event_id IN ("+marks+")", ids...)
		return err
	})
}

// leaveGaps notes where the past is missing now: at the events that cite something of it.
func (s *Service) leaveGaps(ctx context.Context, t tenant.ID, r *Room, before *Event, h *head, gone map[id.Event]bool) error {
	rows, err := s.DB.Query(ctx, selectEvent+"WHERE e.tenant = $1 AND e.room = $2 AND NOT e.outlier AND e.topological >= $3 ORDER BY e.topological, e.event LIMIT $4",
		int64(t), r.NID, before.Topological, boundary)
	events, err := database.All(rows, err, scanEvent)
	if err != nil {
		return err
	}
	ends, err := s.Events(ctx, t, h.extremities)
	if err != nil {
		return err
	}
	for _, e := range ends {
		events = append(events, e)
	}
	var stmts []stream.Statement
	for _, e := range events {
		for _, p := range e.PrevEvents() {
			if gone[p] {
				stmts = append(stmts, gapRow(t, e, p))
			}
		}
	}
	return s.ahead(ctx, stmts)
}

// dropUnusedSnapshots removes the snapshots that neither an event nor the head nor a snapshot in use rests on.
func (s *Service) dropUnusedSnapshots(ctx context.Context, t tenant.ID, r *Room, h *head) error {
	parent := map[int64]int64{}
	rows, err := s.DB.Query(ctx, "SELECT snapshot, parent FROM snapshot WHERE tenant = $1 AND room = $2", int64(t), r.NID)
	_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
		var n, p int64
		err := rows.Scan(&n, &p)
		parent[n] = p
		return struct{}{}, err
	})
	if err != nil {
		return err
	}
	rows, err = s.DB.Query(ctx, `SELECT DISTINCT snapshot FROM event WHERE tenant = $1 AND room = $2 AND NOT outlier
		UNION SELECT DISTINCT snapshot_after FROM event WHERE tenant = $1 AND room = $2 AND NOT outlier`, int64(t), r.NID)
	used, err := database.All(rows, err, database.Column[int64])
	if err != nil {
		return err
	}
	fresh := database.IDAt(s.now().Add(-freshSnapshots))
	for n := range parent {
		if n >= fresh {
			used = append(used, n)
		}
	}
	keep := map[int64]bool{}
	for _, n := range append(used, h.snapshot) {
		for ; n != 0 && !keep[n]; n = parent[n] {
			keep[n] = true
		}
	}
	return s.purgeSnapshots(ctx, t, r.NID, keep)
}

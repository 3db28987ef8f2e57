// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// StatesAtPosition is StateAtPosition for many rooms at the cost of a few queries for all of them. Rooms that the server is not in are absent.
func (s *Service) StatesAtPosition(ctx context.Context, t tenant.ID, rooms []int64, position int64) (map[int64]State, error) {
	out := make(map[int64]State, len(rooms))
	for len(rooms) > 0 {
		n := min(len(rooms), database.MaxMarks)
		if err := s.statesAt(ctx, t, rooms[:n], position, out); err != nil {
			return nil, err
		}
		rooms = rooms[n:]
	}
	return out, nil
}

func (s *Service) statesAt(ctx context.Context, t tenant.ID, rooms []int64, position int64, out map[int64]State) error {
	args := []any{int64(t)}
	for _, r := range rooms {
		args = append(args, r)
	}
	type pair struct{ room, snapshot int64 }
	rows, err := s.DB.Query(ctx, "SELECT room, snapshot FROM room_head WHERE tenant = $1 AND room IN ("+database.Marks(2, len(rooms))+")", args...)
	heads, err := database.All(rows, err, func(rows *sql.Rows) (p pair, err error) { return p, rows.Scan(&p.room, &p.snapshot) })
	if err != nil {
		return err
	}
	numbers := make([]int64, len(heads))
	for i, h := range heads {
		numbers[i] = h.snapshot
	}
	states, err := s.snapshots(ctx, t, numbers)
	if err != nil {
		return err
	}
	for _, h := range heads {
		out[h.room] = states[h.snapshot]
	}
	rows, err = s.DB.Query(ctx, "SELECT room, type, state_key, old_id FROM state_delta WHERE tenant = $1 AND room IN ("+database.Marks(2, len(rooms))+
		") AND position > "+database.Marks(2+len(rooms), 1)+" ORDER BY position DESC", append(args, position)...)
	undone := map[int64]bool{}
	_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
		var room int64
		var k event.Key
		var old id.Event
		if err := rows.Scan(&room, &k.Type, &k.StateKey, &old); err != nil || out[room] == nil {
			return struct{}{}, err
		}
		if !undone[room] {
			undone[room], out[room] = true, maps.Clone(out[room])
		}
		if old == "" {
			delete(out[room], k)
		} else {
			out[room][k] = old
		}
		return struct{}{}, nil
	})
	return err
}

// snapshots returns stored snapshots by number, those that are not in memory by one query.
func (s *Service) snapshots(ctx context.Context, t tenant.ID, numbers []int64) (map[int64]State, error) {
	out := make(map[int64]State, len(numbers))
	args := []any{int64(t)}
	for _, n := range numbers {
		if sn, ok := s.states.Get(snapshotKey{t, n}); ok {
			out[n] = sn.state
		} else if n != 0 && !slices.Contains(args, any(n)) {
			args = append(args, n)
		}
	}
	if len(args) == 1 {
		return out, nil
	}
	rows, err := s.DB.Query(ctx, `WITH RECURSIVE chain (root, snapshot, parent, length) AS (
			SELECT snapshot, snapshot, parent, length FROM snapshot WHERE tenant = $1 AND snapshot IN (`+database.Marks(2, len(args)-1)+`)
			UNION ALL SELECT c.root, p.snapshot, p.parent, p.length FROM snapshot p JOIN chain c ON p.snapshot = c.parent WHERE p.tenant = $1)
		SELECT c.root, c.length, e.type, e.state_key, e.event_id FROM chain c
		JOIN snapshot_entry e ON e.tenant = $1 AND e.snapshot = c.snapshot ORDER BY c.root, c.length`, args...)
	loaded := map[int64]*snapshot{}
	_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
		var root, length int64
		var k event.Key
		var eid id.Event
		if err := rows.Scan(&root, &length, &k.Type, &k.StateKey, &eid); err != nil {
			return struct{}{}, err
		}
		sn := loaded[root]
		if sn == nil {
			sn = &snapshot{number: root, state: State{}}
			loaded[root] = sn
		}
		sn.length = length
		if eid == "" {
			delete(sn.state, k)
		} else {
			sn.state[k] = eid
		}
		return struct{}{}, nil
	})
	if err != nil {
		return nil, err
	}
	for n, sn := range loaded {
		s.states.Set(snapshotKey{t, n}, *sn)
		out[n] = sn.state
	}
	return out, nil
}

// LastOf returns the position of the newest event of some types in a room's timeline up to a position; 0 when there is none.
func (s *Service) LastOf(ctx context.Context, t tenant.ID, roomNID int64, types []string, upTo int64) (position int64, err error) {
	args := []any{int64(t), roomNID, upTo}
	for _, typ := range types {
		args = append(args, typ)
	}
	err = s.DB.QueryRow(ctx, "SELECT position FROM event WHERE tenant = $1 AND room = $2 AND position > 0 AND position <= $3 AND type IN ("+
		database.Marks(4, len(types))+") ORDER BY position DESC LIMIT 1", args...).Scan(&position)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return position, err
}

// NewestOf returns for each of some rooms the newest events of its timeline with positions in (from, upTo], at most limit of each, oldest first.
func (s *Service) NewestOf(ctx context.Context, t tenant.ID, rooms []int64, from, upTo int64, limit int) (map[int64][]*Event, error) {
	out := make(map[int64][]*Event, len(rooms))
	for len(rooms) > 0 {
		n := min(len(rooms), database.MaxMarks)
		args := []any{int64(t), upTo, limit, max(from, 0)}
		for _, r := range rooms[:n] {
			args = append(args, r)
		}
		rows, err := s.DB.Query(ctx, `WITH bounds (room, low) AS (SELECT b.room, COALESCE((SELECT x.position FROM event x
				WHERE x.tenant = $1 AND x.room = b.room AND x.position > 0 AND x.position <= $2 AND x.position > CAST($4 AS BIGINT) ORDER BY x.position DESC LIMIT 1 OFFSET $3), CAST($4 AS BIGINT))
				FROM room b WHERE b.tenant = $1 AND b.room IN (`+database.Marks(5, n)+`)) `+selectEvent+`
			JOIN bounds ON bounds.room = e.room WHERE e.tenant = $1 AND e.position > bounds.low AND e.position <= $2 AND e.position > 0 ORDER BY e.position`, args...)
		found, err := database.All(rows, err, scanEvent)
		if err != nil {
			return nil, err
		}
		for _, e := range found {
			out[e.RoomNID] = append(out[e.RoomNID], e)
		}
		rooms = rooms[n:]
	}
	return out, nil
}

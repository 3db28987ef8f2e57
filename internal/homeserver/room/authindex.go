// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// The index of a room's auth graph. Its state events are divided into chains, in which each event has the one before it among its auth events, so
// that a chain and a number stand for an event and all of its chain below it. An event's other auth events are links from its place to theirs; a link
// is left out where another auth event of the same event has it. A chain goes on with the same state key (an organisation's power levels are one
// chain), or from an inviter's membership to that of the person invited; so the chains that many others lead to stay few and long.
//
// A state event that is stored gets a row in auth_pending in the same transaction. Places are given in bulk: before a resolution, and after every
// indexAfter state events. The unique keys of the tables make two nodes that place the same events exclude each other.

// place is where an event stands in the index.
type place struct{ chain, seq int64 }

const (
	// indexAfter is how many state events a room may get before some are given their places.
	indexAfter = 256
	// indexChunk is how many are given places in one transaction.
	indexChunk = 1000
	// indexTries is how often a chunk is tried that another node works on as well.
	indexTries = 5
)

// pendingRow notes that a state event waits for its place in the index.
func pendingRow(t tenant.ID, room int64, e *event.Event) stream.Statement {
	return stream.Statement{SQL: `INSERT INTO auth_pending (tenant, room, event_id) VALUES ($1, $2, $3) ON CONFLICT (tenant, room, event_id) DO NOTHING`,
		Args: []any{int64(t), room, string(e.ID())}}
}

// indexer gives places; one room at a time.
type indexer struct {
	mu    sync.Mutex
	rooms map[headKey]*indexing
}

// indexing is who works on a room's index or waits to.
type indexing struct {
	sync.Mutex
	users int
}

// lock excludes others from a room's index until the returned function is called.
func (x *indexer) lock(key headKey) func() {
	x.mu.Lock()
	if x.rooms == nil {
		x.rooms = map[headKey]*indexing{}
	}
	w := x.rooms[key]
	if w == nil {
		w = &indexing{}
		x.rooms[key] = w
	}
	w.users++
	x.mu.Unlock()
	w.Lock()
	return func() {
		w.Unlock()
		x.mu.Lock()
		defer x.mu.Unlock()
		if w.users--; w.users == 0 {
			delete(x.rooms, key)
		}
	}
}

// indexSoon looks after the index when enough state events have come, so that no resolution finds many that wait.
func (s *Service) indexSoon(ctx context.Context, t tenant.ID, sl *slot, e *Event) {
	if !e.IsState() || sl.unplaced.Add(1) < indexAfter {
		return
	}
	sl.unplaced.Store(0)
	more, err := s.indexAuth(ctx, t, sl.room.NID, 1)
	if err != nil {
		s.Log.Warn("auth chains were not indexed; the next resolution does", "room", sl.room.NID, "error", err)
	}
	if more {
		sl.unplaced.Store(indexAfter)
	}
}

// indexAuth gives places to state events that wait for one, at most limit chunks of them; more says that there may be others. What rests on an event
// that is not stored keeps waiting.
func (s *Service) indexAuth(ctx context.Context, t tenant.ID, roomNID int64, limit int) (more bool, err error) {
	defer s.indexer.lock(headKey{t, roomNID})()
	for tries := 0; limit > 0; {
		ids, err := s.pendingAuth(ctx, t, roomNID)
		if err != nil || len(ids) == 0 {
			return false, err
		}
		c := &chunk{s: s, tenant: t, room: roomNID, places: map[id.Event]spot{}, parsed: map[id.Event]*event.Event{}}
		if err = c.gather(ctx, ids); err == nil {
			err = c.store(ctx)
		}
		switch {
		case err != nil && tries < indexTries: // another node was faster
			tries++
			continue
		case err != nil:
			return false, fmt.Errorf("index the auth chains of room %d: %w", roomNID, err)
		case len(c.done) == 0 || len(ids) < indexChunk:
			return false, nil
		}
		tries = 0
		limit--
	}
	return true, nil
}

func (s *Service) pendingAuth(ctx context.Context, t tenant.ID, roomNID int64) ([]id.Event, error) {
	rows, err := s.DB.Query(ctx, "SELECT event_id FROM auth_pending WHERE tenant = $1 AND room = $2 ORDER BY event_id LIMIT $3", int64(t), roomNID, indexChunk)
	return database.All(rows, err, database.Column[id.Event])
}

// spot is a place and whether the chain ends there.
type spot struct {
	place
	end bool
}

// chunk is a number of events that get their places in one transaction.
type chunk struct {
	s      *Service
	tenant tenant.ID
	room   int64
	places map[id.Event]spot
	// parsed are the events to place and their auth events.
	parsed map[id.Event]*event.Event
	// fresh are the events to place, each after its auth events.
	fresh []*event.Event
	// done are those that need not wait any more.
	done  []id.Event
	chain [][]any // rows to insert
	link  [][]any
}

// gather finds the events, what of their auth chains has no place yet, and the places of the rest.
func (c *chunk) gather(ctx context.Context, ids []id.Event) error {
	set := map[id.Event]*event.Event{}
	waiting := ids
	for len(ids) > 0 {
		if err := c.s.spots(ctx, c.tenant, ids, c.places); err != nil {
			return err
		}
		found, err := c.s.Events(ctx, c.tenant, ids)
		if err != nil {
			return err
		}
		ids = nil
		for eid, e := range found {
			c.parsed[eid] = e.Event
			if _, placed := c.places[eid]; placed || e.RoomNID != c.room || !e.IsState() {
				continue
			}
			set[eid] = e.Event
			for _, a := range e.AuthEvents() {
				if c.parsed[a] == nil {
					ids = append(ids, a)
				}
			}
		}
		slices.Sort(ids)
		ids = slices.Compact(ids)
	}
	c.fresh = authOrder(set)
	for _, eid := range waiting {
		if set[eid] == nil { // it has a place, or it is no state event
			c.done = append(c.done, eid)
		}
	}
	for _, e := range c.fresh {
		c.give(e)
	}
	return nil
}

// spots adds the places of those of the events that have one.
func (s *Service) spots(ctx context.Context, t tenant.ID, ids []id.Event, into map[id.Event]spot) error {
	for len(ids) > 0 {
		n := min(len(ids), database.MaxMarks)
		args := []any{int64(t)}
		for _, eid := range ids[:n] {
			args = append(args, string(eid))
		}
		rows, err := s.DB.Query(ctx, `SELECT a.event_id, a.chain, a.seq, NOT EXISTS (SELECT 1 FROM auth_chain n WHERE n.tenant = $1 AND n.chain = a.chain AND n.seq = a.seq + 1)
			FROM auth_chain a WHERE a.tenant = $1 AND a.event_id IN (`+database.Marks(2, n)+")", args...)
		_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
			var eid id.Event
			var at spot
			err := rows.Scan(&eid, &at.chain, &at.seq, &at.end)
			into[eid] = at
			return struct{}{}, err
		})
		if err != nil {
			return err
		}
		ids = ids[n:]
	}
	return nil
}

// give finds the place of an event whose auth events have theirs; an event one of whose auth events is nowhere gets none.
func (c *chunk) give(e *event.Event) {
	auth := slices.Clone(e.AuthEvents())
	slices.Sort(auth)
	auth = slices.Compact(auth)
	for _, a := range auth {
		if _, ok := c.places[a]; !ok {
			return
		}
	}
	at := spot{place{database.NewID(), 1}, true}
	on := c.goesOn(e, auth)
	if on != "" {
		at.place = place{c.places[on].chain, c.places[on].seq + 1}
		before := c.places[on]
		before.end = false
		c.places[on] = before
	}
	c.places[e.ID()] = at
	c.done = append(c.done, e.ID())
	c.chain = append(c.chain, []any{string(e.ID()), c.room, at.chain, at.seq})
	for _, a := range auth {
		if a != on && !citedByAnother(c.parsed, auth, a) {
			c.link = append(c.link, []any{at.chain, at.seq, c.places[a].chain, c.places[a].seq, c.room})
		}
	}
}

// goesOn returns the auth event whose chain the event goes on with, or "": the one of the same state key, or the inviter's membership, if it is the end of its chain.
func (c *chunk) goesOn(e *event.Event, auth []id.Event) id.Event {
	var inviter id.Event
	for _, a := range auth {
		p := c.parsed[a]
		switch {
		case p == nil || !p.IsState() || !c.places[a].end:
		case p.Key() == e.Key():
			return a
		case e.Type() == event.TypeMember && p.Type() == event.TypeMember && p.StateKeyIs(string(e.Sender())):
			inviter = a
		}
	}
	return inviter
}

// citedByAnother says whether one of the auth events has a among its own.
func citedByAnother(parsed map[id.Event]*event.Event, auth []id.Event, a id.Event) bool {
	for _, o := range auth {
		if p := parsed[o]; p != nil && slices.Contains(p.AuthEvents(), a) {
			return true
		}
	}
	return false
}

// store writes the places, or nothing when somebody else has given one of them meanwhile.
func (c *chunk) store(ctx context.Context) error {
	if len(c.done) == 0 {
		return nil
	}
	return c.s.DB.Write(ctx, func(tx *database.Tx) error {
		if err := insertMany(ctx, tx, c.tenant, "INSERT INTO auth_chain (tenant, event_id, room, chain, seq) VALUES ", c.chain); err != nil {
			return err
		}
		if err := insertMany(ctx, tx, c.tenant, "INSERT INTO auth_link (tenant, chain, seq, to_chain, to_seq, room) VALUES ", c.link); err != nil {
			return err
		}
		for done := c.done; len(done) > 0; {
			n := min(len(done), database.MaxMarks)
			args := []any{int64(c.tenant), c.room}
			for _, eid := range done[:n] {
				args = append(args, string(eid))
			}
			if _, err := tx.Exec(ctx, "DELETE FROM auth_pending WHERE tenant = $1 AND room = $2 AND event_id IN ("+database.Marks(3, n)+")", args...); err != nil {
				return err
			}
			done = done[n:]
		}
		return nil
	})
}

// insertMany inserts rows of equal length, the tenant before each.
func insertMany(ctx context.Context, tx *database.Tx, t tenant.ID, insert string, rows [][]any) error {
	const atOnce = 100
	for len(rows) > 0 {
		n := min(len(rows), atOnce)
		args := []any{int64(t)}
		values := make([]string, n)
		for i, row := range rows[:n] {
			values[i] = "($1, " + database.Marks(len(args)+1, len(row)) + ")"
			args = append(args, row...)
		}
		if _, err := tx.Exec(ctx, insert+strings.Join(values, ", "), args...); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

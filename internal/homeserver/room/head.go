// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/cache"
	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// head is where a room's graph ends. Values are never changed: a turn replaces the room's head by the next one.
type head struct {
	// version names this head; a plan's guard compares it with the row (engine rule 4).
	version     int64
	extremities []id.Event
	snapshot    int64
	// tips are what is known of the extremities, in their order; nil until somebody asks.
	tips []tip
	// gaps are prev events that events not yet committed cite and nobody has; those of committed ones stand in event_gap.
	gaps []id.Event
	// topological is the greatest order number among the room's live events.
	topological int64
}

// maxGaps bounds how many gaps a head keeps in memory: those of events that are being committed.
const maxGaps = 200

// tip is what the next event has to know of a forward extremity.
type tip struct{ depth, topological int64 }

// slot is a room's place in memory: its turn and its newest head, which may be ahead of what is committed.
type slot struct {
	room *Room
	// turn is held by who builds the room's next event; capacity 1.
	turn chan struct{}
	// flying is how many plans have been handed over and not been answered; unplaced how many state events came since the index was looked after.
	flying, unplaced atomic.Int64

	mu sync.Mutex
	// head is nil until loaded and after a failed commit.
	head *head
	// lineage counts how often the head was dropped, so that many plans failing together drop it once.
	lineage int
	// roster is who is joined at the head; loaded and dropped with it.
	roster *roster
}

// roster is the joined members at a room's head. It is changed in the turn and under the slot's mutex; the holder of the turn reads it freely.
type roster struct {
	users   map[id.User]struct{}
	local   []id.User
	servers map[id.Server]int
}

// set records a user's membership; me is the tenant's own server.
func (r *roster) set(me id.Server, u id.User, joined bool) {
	_, was := r.users[u]
	if was == joined {
		return
	}
	if joined {
		r.users[u] = struct{}{}
		r.servers[u.Server()]++
		if u.Server() == me {
			r.local = append(slices.Clone(r.local), u)
		}
		return
	}
	delete(r.users, u)
	if r.servers[u.Server()]--; r.servers[u.Server()] == 0 {
		delete(r.servers, u.Server())
	}
	if u.Server() == me {
		r.local = slices.DeleteFunc(slices.Clone(r.local), func(l id.User) bool { return l == u })
	}
}

// heads holds the slots of rooms in use. A slot that the cache drops while somebody holds it stays valid for its holder: the guard of the
// plan decides (two slots of one room are like two nodes).
type heads struct {
	cache cache.Cache[headKey, *slot]
}

type headKey struct {
	tenant tenant.ID
	room   int64
}

// headCacheSize is how many rooms stay warm.
const headCacheSize = 20_000

func newHeads() *heads {
	return &heads{cache.New(cache.Options[headKey, *slot]{Entries: headCacheSize})}
}

func (h *heads) slot(t tenant.ID, r *Room) *slot {
	key := headKey{t, r.NID}
	if s, ok := h.cache.Get(key); ok {
		return s
	}
	s, _ := h.cache.SetIfAbsent(key, &slot{room: r, turn: make(chan struct{}, 1)})
	return s
}

// take waits for the room's turn.
func (s *slot) take(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *slot) release() { <-s.turn }

// advance replaces the head by the one that a handed-over plan leads to, unless it was dropped meanwhile: the plan will fail then.
func (s *slot) advance(at base, h *head, me id.Server, members map[id.User]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lineage != at.lineage {
		return
	}
	s.head = h
	for u, joined := range members {
		at.roster.set(me, u, joined)
	}
}

// drop forgets the head after a plan of that lineage failed; local events built on it are built anew by their own callers.
func (s *slot) drop(lineage int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lineage == lineage {
		s.lineage++
		s.head, s.roster = nil, nil
	}
}

// forget drops the head whatever its lineage.
func (s *slot) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lineage++
	s.head, s.roster = nil, nil
}

// base is what an event is built on. The roster changes only in the turn.
type base struct {
	*head
	roster  *roster
	lineage int
}

// loaded returns what the next event is built on, reading it when it is not in memory. The caller holds the turn.
func (s *Service) loaded(ctx context.Context, t *tenant.Tenant, sl *slot) (base, error) {
	sl.mu.Lock()
	at := base{sl.head, sl.roster, sl.lineage}
	sl.mu.Unlock()
	if at.head != nil {
		return at, nil
	}
	h, err := s.loadHead(ctx, t.ID, sl.room)
	if err != nil {
		return base{}, err
	}
	roster, err := s.loadRoster(ctx, t, sl.room.NID)
	if err != nil {
		return base{}, err
	}
	sl.mu.Lock()
	defer sl.mu.Unlock()
	sl.head, sl.roster = h, roster
	return base{h, roster, sl.lineage}, nil
}

// peek returns the room's newest head without a turn. It may be a little ahead of the database; what it names is being committed.
func (s *Service) peek(ctx context.Context, t tenant.ID, r *Room) (*head, error) {
	return s.loadHead(ctx, t, r)
}

func (s *Service) loadHead(ctx context.Context, t tenant.ID, r *Room) (*head, error) {
	var h head
	var extremities string
	err := s.DB.QueryRow(ctx, "SELECT version, extremities, snapshot, topological FROM room_head WHERE tenant = $1 AND room = $2", int64(t), r.NID).
		Scan(&h.version, &extremities, &h.snapshot, &h.topological)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, mxerror.NotFound.With("This server is not in the room.")
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(extremities), &h.extremities); err != nil {
		return nil, fmt.Errorf("forward extremities of room %d: %w", r.NID, err)
	}
	return &h, nil
}

// loadRoster reads who is joined in the room's committed current state.
func (s *Service) loadRoster(ctx context.Context, t *tenant.Tenant, roomNID int64) (*roster, error) {
	rows, err := s.DB.Query(ctx, "SELECT user_id FROM membership WHERE tenant = $1 AND room = $2 AND membership = 'join'", int64(t.ID), roomNID)
	users, err := database.All(rows, err, database.Column[id.User])
	if err != nil {
		return nil, err
	}
	r := &roster{users: make(map[id.User]struct{}, len(users)), servers: map[id.Server]int{}}
	for _, u := range users {
		r.set(t.Name, u, true)
	}
	return r, nil
}

// WaitingMembers tells the feed which local users are joined to a room; ok is false when the room is not in memory.
func (s *Service) WaitingMembers(t tenant.ID, roomNID int64) (users []id.User, ok bool) {
	sl, ok := s.heads.cache.Get(headKey{t, roomNID})
	if !ok {
		return nil, false
	}
	sl.mu.Lock()
	defer sl.mu.Unlock()
	if sl.roster == nil {
		return nil, false
	}
	return sl.roster.local, true // replaced, never changed
}

// newest is the room's head in memory, which may be a little ahead of the database, else the stored one.
func (s *Service) newest(ctx context.Context, t tenant.ID, r *Room) (*head, error) {
	if sl, ok := s.heads.cache.Get(headKey{t, r.NID}); ok {
		sl.mu.Lock()
		h := sl.head
		sl.mu.Unlock()
		if h != nil {
			return h, nil
		}
	}
	return s.loadHead(ctx, t, r)
}

// residentNow is ServerInRoom for the tenant's own server, from memory where the room is warm.
func (s *Service) residentNow(ctx context.Context, t *tenant.Tenant, r *Room) (bool, error) {
	if sl, ok := s.heads.cache.Get(headKey{t.ID, r.NID}); ok {
		sl.mu.Lock()
		in := sl.roster != nil && len(sl.roster.local) > 0
		sl.mu.Unlock()
		if in {
			return true, nil
		}
	}
	return s.ServerInRoom(ctx, t.ID, r.NID, t.Name)
}

// encodeIDs writes a JSON list of event ids for room_head.extremities.
func encodeIDs(ids []id.Event) string {
	b := make([]byte, 1, 1+48*len(ids))
	b[0] = '['
	for i, eid := range ids {
		if i > 0 {
			b = append(b, ',')
		}
		b = canonicaljson.AppendString(b, eid)
	}
	return string(append(b, ']'))
}

// memberKey is the state key of a user's membership.
func memberKey(u id.User) event.Key { return event.Key{Type: "m.room.member", StateKey: string(u)} }

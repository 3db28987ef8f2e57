// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

const (
	// recentSize is how many changes of an active tenant stay in memory.
	recentSize = 1024
	// ephemeralSize is how many ephemeral wake-ups of an active tenant stay in memory.
	ephemeralSize = 256
	// idleAfter: a tenant without a waiting sync is forgotten after this long (design rule 5).
	idleAfter = 5 * time.Minute
)

// Feed knows the newest position of active tenants, keeps their recent changes and wakes who waits. It is a cache: the database stays the
// truth, and a tenant that it has forgotten is read again.
type Feed struct {
	db *database.DB

	mu    sync.Mutex
	tails map[tenant.ID]*tail
	swept time.Time
	// ephemeral is the node's counter for typing and presence, beside the positions and free to reset.
	ephemeral uint64

	members   func(tenant.ID, int64) ([]id.User, bool)
	consumers []func(tenant.ID, []Positioned, []id.Server)
}

// tail is the end of one tenant's stream.
type tail struct {
	loaded   bool // position has been read from the database
	position int64
	// recent holds the changes of (floor, position], oldest first.
	recent  []Positioned
	floor   int64
	waiters map[id.User]map[*waiter]struct{}
	// whispers are the latest ephemeral wake-ups, oldest first; whisperFloor is the counter up to which they are forgotten.
	whispers     []whisper
	whisperFloor uint64
	used         time.Time
}

type whisper struct {
	n     uint64
	users []id.User
}

type waiter struct {
	wake chan struct{}
	// forgotten, written before wake is closed, ends the wait for good.
	forgotten bool
}

// NewFeed returns the feed of a node.
func NewFeed(db *database.DB) *Feed {
	// The counter begins with the clock, so that a token of an earlier run of the node is not ahead of it.
	return &Feed{db: db, tails: map[tenant.ID]*tail{}, ephemeral: uint64(time.Now().UnixMilli())}
}

// SetMembers tells the feed how to learn who of a room's local members may be waiting; ok is false when that would need the database, and
// then every waiter of the tenant looks for itself. The composition root calls it before the first commit.
func (f *Feed) SetMembers(members func(t tenant.ID, room int64) (users []id.User, ok bool)) {
	f.members = members
}

// OnCommit adds a consumer that is told of every commit, in order within a tenant. It must not block. The composition root calls it
// before the first commit.
func (f *Feed) OnCommit(consumer func(t tenant.ID, changes []Positioned, outbox []id.Server)) {
	f.consumers = append(f.consumers, consumer)
}

// Position returns the tenant's newest committed position. Everything up to it is visible to reads that begin afterwards.
func (f *Feed) Position(ctx context.Context, t tenant.ID) (int64, error) {
	f.mu.Lock()
	tl, ok := f.tails[t]
	if ok && tl.loaded {
		defer f.mu.Unlock()
		tl.used = time.Now()
		return tl.position, nil
	}
	if !ok {
		// The tail is there before the database is read: a commit is either in what is read or published to the tail.
		f.sweep()
		tl = newTail()
		f.tails[t] = tl
	}
	f.mu.Unlock()
	position, err := f.stored(ctx, t)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		if !tl.loaded && f.tails[t] == tl {
			delete(f.tails, t)
		}
		return 0, err
	}
	tl.load(position)
	return tl.position, nil
}

func (f *Feed) stored(ctx context.Context, t tenant.ID) (int64, error) {
	var position int64
	err := f.db.QueryRow(ctx, "SELECT position FROM tenant WHERE tenant = $1", int64(t)).Scan(&position)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, tenant.ErrUnknown
	}
	return position, err
}

func newTail() *tail {
	return &tail{waiters: map[id.User]map[*waiter]struct{}{}, used: time.Now()}
}

// load merges the position read from the database into a new tail.
func (t *tail) load(stored int64) {
	t.loaded = true
	if stored > t.position {
		t.position, t.floor, t.recent = stored, stored, nil
	}
}

// publish announces a committed plan. The committer calls it in position order.
func (f *Feed) publish(p *Plan, first int64) {
	changes := make([]Positioned, len(p.Changes))
	for i, c := range p.Changes {
		changes[i] = Positioned{first + int64(i), c}
	}
	f.mu.Lock()
	// Without a tail nobody in this node looks at the tenant; the next Position reads the database.
	if tl, ok := f.tails[p.Tenant]; ok && len(changes) > 0 {
		tl.append(changes)
		for _, c := range changes {
			f.wake(p.Tenant, tl, c.Change)
		}
	}
	f.mu.Unlock()
	for _, consumer := range f.consumers {
		consumer(p.Tenant, changes, p.Outbox)
	}
}

// append adds changes that follow the tail. A gap (another writer, or a tail read between commit and publish) resets what is remembered.
func (t *tail) append(changes []Positioned) {
	last := changes[len(changes)-1].Position
	if last <= t.position {
		return // the tail was read from the database after this commit
	}
	if changes[0].Position != t.position+1 {
		t.recent, t.floor = nil, last
		t.position = last
		return
	}
	t.recent = append(t.recent, changes...)
	t.position = last
	if over := len(t.recent) - recentSize; over > recentSize/4 {
		t.floor = t.recent[over-1].Position
		t.recent = slices.Clone(t.recent[over:])
	}
}

func (f *Feed) wake(t tenant.ID, tl *tail, c Change) {
	if len(tl.waiters) == 0 {
		return
	}
	for _, u := range c.Users {
		tl.wakeUser(u)
	}
	if c.Room == 0 {
		return
	}
	var users []id.User
	known := false
	if f.members != nil {
		users, known = f.members(t, c.Room)
	}
	if !known {
		for u := range tl.waiters {
			tl.wakeUser(u)
		}
		return
	}
	for _, u := range users {
		tl.wakeUser(u)
	}
}

func (t *tail) wakeUser(u id.User) {
	for w := range t.waiters[u] {
		close(w.wake)
	}
	delete(t.waiters, u)
}

// Recent returns the changes of (after, upTo]; ok is false when memory does not reach back that far and the database has to be asked.
func (f *Feed) Recent(t tenant.ID, after, upTo int64) ([]Positioned, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	tl, found := f.tails[t]
	if !found || !tl.loaded || after < tl.floor || upTo > tl.position {
		return nil, false
	}
	return tl.between(after, upTo), true
}

// between returns a copy of the remembered changes of (after, upTo]; positions have no holes, so they are found by counting.
func (t *tail) between(after, upTo int64) []Positioned {
	lo, hi := after-t.floor, upTo-t.floor
	if lo >= hi {
		return nil
	}
	return slices.Clone(t.recent[lo:hi])
}

// Ephemeral returns the node's counter for typing and presence.
func (f *Feed) Ephemeral() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ephemeral
}

// WakeUsers announces something that takes no position (typing, presence) to some users and returns the counter's new value.
func (f *Feed) WakeUsers(t tenant.ID, users ...id.User) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ephemeral++
	tl, ok := f.tails[t]
	if !ok {
		return f.ephemeral
	}
	tl.whispers = append(tl.whispers, whisper{f.ephemeral, users})
	if over := len(tl.whispers) - ephemeralSize; over > ephemeralSize/4 {
		tl.whisperFloor = tl.whispers[over-1].n
		tl.whispers = slices.Clone(tl.whispers[over:])
	}
	for _, u := range users {
		tl.wakeUser(u)
	}
	return f.ephemeral
}

// Wait returns nil when something that concerns the user may be newer than position after or counter ephemeral, and ctx.Err() when ctx
// ends first. It may return early; the caller looks and waits again.
func (f *Feed) Wait(ctx context.Context, t tenant.ID, user id.User, after int64, ephemeral uint64) error {
	return f.WaitUntil(ctx, nil, nil, t, user, after, ephemeral)
}

// WaitUntil is Wait that also ends, with context.DeadlineExceeded, when stop is closed or timeout fires, and with [ErrForgotten]. Contexts made for that would be held by every
// connection that waits.
func (f *Feed) WaitUntil(ctx context.Context, stop <-chan struct{}, timeout <-chan time.Time, t tenant.ID, user id.User, after int64, ephemeral uint64) error {
	if _, err := f.Position(ctx, t); err != nil {
		return err
	}
	f.mu.Lock()
	tl, ok := f.tails[t]
	if !ok || f.missed(t, tl, user, after, ephemeral) {
		f.mu.Unlock()
		return nil
	}
	w := &waiter{wake: make(chan struct{})}
	if tl.waiters[user] == nil {
		tl.waiters[user] = map[*waiter]struct{}{}
	}
	tl.waiters[user][w] = struct{}{}
	f.mu.Unlock()
	select {
	case <-w.wake:
		if w.forgotten {
			return ErrForgotten
		}
		return nil
	case <-ctx.Done():
	case <-stop:
	case <-timeout:
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if set, ok := tl.waiters[user]; ok {
		delete(set, w)
		if len(set) == 0 {
			delete(tl.waiters, user)
		}
	}
	return cmp.Or(ctx.Err(), context.DeadlineExceeded)
}

// missed says whether something that concerns the user came between the caller's look and now.
func (f *Feed) missed(t tenant.ID, tl *tail, user id.User, after int64, ephemeral uint64) bool {
	tl.used = time.Now()
	if after < tl.floor && after < tl.position {
		return true
	}
	if after < tl.position {
		for _, c := range tl.between(after, tl.position) {
			if f.concerns(t, c.Change, user) {
				return true
			}
		}
	}
	if ephemeral < tl.whisperFloor {
		return true
	}
	for _, w := range tl.whispers {
		if w.n > ephemeral && slices.Contains(w.users, user) {
			return true
		}
	}
	return false
}

func (f *Feed) concerns(t tenant.ID, c Change, user id.User) bool {
	if slices.Contains(c.Users, user) {
		return true
	}
	if c.Room == 0 {
		return false
	}
	if f.members == nil {
		return true
	}
	users, known := f.members(t, c.Room)
	return !known || slices.Contains(users, user)
}

// sweep forgets tenants that nobody looks at. It runs at most once a minute, on the way of a tenant being loaded: no timer per tenant.
func (f *Feed) sweep() {
	now := time.Now()
	if now.Sub(f.swept) < time.Minute {
		return
	}
	f.swept = now
	for t, tl := range f.tails {
		if len(tl.waiters) == 0 && now.Sub(tl.used) > idleAfter {
			delete(f.tails, t)
		}
	}
}

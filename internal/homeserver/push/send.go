// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/background"
	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

const (
	// maxRequests bounds the users whose gateways are called at once.
	maxRequests = 64
	// saveAfter is how many positions a tenant's mark in the database may lag behind.
	saveAfter = 100
	// maxCatchUp is how many of the newest events are looked at for one user; more are not worth a notification any more.
	maxCatchUp = 200
)

// sending runs, for tenants with pushers, a goroutine while their stream has something new, and for each user concerned one while there is
// something to tell. At rest there is neither. All of it can be lost: marks in the database say where to go on.
type sending struct {
	work  *background.Work
	slots chan struct{}

	mu      sync.Mutex
	started bool
	closed  bool
	tenants map[tenant.ID]*follower
	users   map[userKey]*notifier
}

type userKey struct {
	tenant tenant.ID
	user   id.User
}

// maxFollowers is how many tenants are remembered before those at rest are forgotten.
const maxFollowers = 4096

// follower follows one tenant's stream. It stays in memory for a while after the tenant was active.
type follower struct {
	running, again bool
	// none says that the tenant has no pushers: nothing is looked at until one is set.
	none     bool
	loaded   bool
	position int64
	stored   int64
}

// notifier tells one user's pushers. from is the position after which something may concern the user.
type notifier struct {
	running, again bool
	from           int64
	timer          *time.Timer
}

func newSending() *sending {
	return &sending{work: background.New(), slots: make(chan struct{}, maxRequests), tenants: map[tenant.ID]*follower{}, users: map[userKey]*notifier{}}
}

// Start begins to send: what was left by an earlier run first.
func (s *Service) Start() {
	s.send.mu.Lock()
	s.send.started = true
	s.send.mu.Unlock()
	s.send.work.Go(func(ctx context.Context) {
		if err := s.resume(ctx); err != nil && ctx.Err() == nil {
			s.o.Log.Warn("notifications of an earlier run were not taken up", "error", err)
		}
	})
}

// Close ends what is under way and notes where to go on.
func (s *Service) Close() {
	d := s.send
	d.mu.Lock()
	d.closed = true
	for _, n := range d.users {
		if n.timer != nil {
			n.timer.Stop()
		}
	}
	d.mu.Unlock()
	d.work.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	for t, f := range d.tenants {
		if f.position > f.stored {
			if err := s.saveMark(ctx, t, f); err != nil {
				s.o.Log.Warn("mark of notifications was not stored", "tenant", int64(t), "error", err)
				break
			}
		}
	}
	s.client.CloseIdleConnections()
}

// resume nudges the tenants whose stream went on without us, and the users of gateways that failed.
func (s *Service) resume(ctx context.Context) error {
	// tenant: the cell's own look at all of them, for whichever it has to send.
	rows, err := s.o.DB.Query(ctx, "SELECT p.tenant FROM push_stream p JOIN tenant t ON t.tenant = p.tenant WHERE p.position < t.position")
	behind, err := database.All(rows, err, database.Column[int64])
	if err != nil {
		return err
	}
	for _, t := range behind {
		s.nudge(tenant.ID(t))
	}
	rows, err = s.o.DB.Query(ctx, "SELECT DISTINCT p.tenant, p.user_id, t.position FROM pusher p JOIN tenant t ON t.tenant = p.tenant WHERE p.failing > 0")
	_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
		var k userKey
		var position int64
		err := rows.Scan(&k.tenant, &k.user, &position)
		s.nudgeUser(k, position)
		return struct{}{}, err
	})
	return err
}

// committed nudges the tenant of a commit. It must not block.
func (s *Service) committed(t tenant.ID, changes []stream.Positioned, _ []id.Server) {
	for _, c := range changes {
		if c.Kind == stream.Timeline || c.Kind == stream.Membership || c.Kind == stream.Receipt {
			s.nudge(t)
			return
		}
	}
}

func (s *Service) nudge(t tenant.ID) {
	d := s.send
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.started || d.closed {
		return
	}
	f := d.tenants[t]
	if f == nil {
		if len(d.tenants) >= maxFollowers {
			maps.DeleteFunc(d.tenants, func(_ tenant.ID, f *follower) bool { return !f.running && f.position == f.stored })
		}
		f = &follower{}
		d.tenants[t] = f
	}
	if f.none {
		return
	}
	if f.again = f.running; f.running {
		return
	}
	f.running = true
	d.work.Go(func(ctx context.Context) { s.follow(ctx, t, f) })
}

// hasPushers is told that a tenant has a pusher, so that its stream is followed from now on.
func (s *Service) hasPushers(ctx context.Context, t tenant.ID) error {
	_, err := s.o.DB.Exec(ctx, `INSERT INTO push_stream (tenant, position) SELECT tenant, position FROM tenant WHERE tenant = $1
		ON CONFLICT (tenant) DO NOTHING`, int64(t))
	s.send.mu.Lock()
	if f := s.send.tenants[t]; f != nil {
		f.none = false
	}
	s.send.mu.Unlock()
	return err
}

// follow looks through the tenant's stream until nothing is new.
func (s *Service) follow(ctx context.Context, t tenant.ID, f *follower) {
	d := s.send
	for {
		err := s.lookThrough(ctx, t, f)
		if err != nil && ctx.Err() == nil {
			s.o.Log.Warn("notifications were not looked for", "tenant", int64(t), "error", err)
		}
		d.mu.Lock()
		if !f.again || d.closed || err != nil {
			f.running = false
			d.mu.Unlock()
			return
		}
		f.again = false
		d.mu.Unlock()
	}
}

// lookThrough finds whom the new part of the stream concerns.
func (s *Service) lookThrough(ctx context.Context, t tenant.ID, f *follower) error {
	if !f.loaded {
		err := s.o.DB.QueryRow(ctx, "SELECT position FROM push_stream WHERE tenant = $1", int64(t)).Scan(&f.stored)
		if errors.Is(err, sql.ErrNoRows) {
			s.send.mu.Lock()
			f.none = true
			s.send.mu.Unlock()
			// A pusher set meanwhile has made the row before it asks us to look again.
			err = s.o.DB.QueryRow(ctx, "SELECT position FROM push_stream WHERE tenant = $1", int64(t)).Scan(&f.stored)
			if errors.Is(err, sql.ErrNoRows) {
				return nil
			}
			s.send.mu.Lock()
			f.none = false
			s.send.mu.Unlock()
		}
		if err != nil {
			return err
		}
		f.position, f.loaded = f.stored, true
	}
	end, err := s.o.Feed.Position(ctx, t)
	if err != nil || end <= f.position {
		return err
	}
	users, err := s.concerned(ctx, t, f.position, end)
	if err != nil {
		return err
	}
	for _, u := range users {
		s.nudgeUser(userKey{t, u}, f.position)
	}
	f.position = end
	if f.position-f.stored >= saveAfter {
		return s.saveMark(ctx, t, f)
	}
	return nil
}

func (s *Service) saveMark(ctx context.Context, t tenant.ID, f *follower) error {
	_, err := s.o.DB.Exec(ctx, "UPDATE push_stream SET position = $2 WHERE tenant = $1 AND position < $2", int64(t), f.position)
	if err == nil {
		f.stored = f.position
	}
	return err
}

// concerned lists the users with pushers who are in a room where something happened in (from, to], or got an invitation.
func (s *Service) concerned(ctx context.Context, t tenant.ID, from, to int64) ([]id.User, error) {
	rooms, read, direct := map[int64]bool{}, map[int64]bool{}, map[id.User]bool{}
	if changes, known := s.o.Feed.Recent(t, from, to); known {
		for _, c := range changes {
			switch c.Kind {
			case stream.Timeline, stream.Membership, stream.Receipt:
				if c.Room != 0 && c.Kind == stream.Receipt {
					read[c.Room] = true
					continue
				}
				if c.Room != 0 {
					rooms[c.Room] = true
				}
				for _, u := range c.Users {
					direct[u] = true
				}
			}
		}
	} else {
		// After a start or a long pause: who read something meanwhile gets a new count with the next message.
		rows, err := s.o.DB.Query(ctx, `SELECT DISTINCT room FROM event WHERE tenant = $1 AND position > $2 AND position <= $3 AND position > 0
			UNION SELECT room FROM membership WHERE tenant = $1 AND position > $2 AND position <= $3`, int64(t), from, to)
		found, err := database.All(rows, err, database.Column[int64])
		if err != nil {
			return nil, err
		}
		for _, r := range found {
			rooms[r] = true
		}
	}
	users := map[id.User]bool{}
	collect := func(query string, rooms map[int64]bool, first ...any) error {
		nids := slices.Sorted(maps.Keys(rooms))
		for len(nids) > 0 {
			n := min(len(nids), database.MaxMarks)
			args := slices.Clone(first)
			for _, r := range nids[:n] {
				args = append(args, r)
			}
			rows, err := s.o.DB.Query(ctx, query+" IN ("+database.Marks(len(first)+1, n)+")", args...)
			found, err := database.All(rows, err, database.Column[id.User])
			if err != nil {
				return err
			}
			for _, u := range found {
				users[u] = true
			}
			nids = nids[n:]
		}
		return nil
	}
	if err := collect(`SELECT DISTINCT p.user_id FROM membership m JOIN pusher p ON p.tenant = m.tenant AND p.user_id = m.user_id
		WHERE m.tenant = $1 AND m.room`, rooms, int64(t)); err != nil {
		return nil, err
	}
	// A receipt concerns nobody's pushers but its owner's.
	if err := collect(`SELECT DISTINCT p.user_id FROM receipt r JOIN pusher p ON p.tenant = r.tenant AND p.user_id = r.user_id
		WHERE r.tenant = $1 AND r.position > $2 AND r.position <= $3 AND r.room`, read, int64(t), from, to); err != nil {
		return nil, err
	}
	for u := range direct {
		if users[u] {
			continue
		}
		list, err := s.Pushers(ctx, t, u)
		if err != nil {
			return nil, err
		}
		users[u] = len(list) > 0
	}
	maps.DeleteFunc(users, func(_ id.User, has bool) bool { return !has })
	return slices.Sorted(maps.Keys(users)), nil
}

// nudgeUser says that something after a position may concern a user.
func (s *Service) nudgeUser(k userKey, from int64) {
	d := s.send
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || !d.started {
		return
	}
	n := d.users[k]
	if n == nil {
		n = &notifier{from: from}
		d.users[k] = n
	}
	n.from = min(n.from, from)
	s.runUser(k, n)
}

// runUser starts the user's goroutine or tells the running one to look again; the mutex is held.
func (s *Service) runUser(k userKey, n *notifier) {
	d := s.send
	if n.running {
		n.again = true
		return
	}
	if n.timer != nil {
		n.timer.Stop()
		n.timer = nil
	}
	n.running = true
	d.work.Go(func(ctx context.Context) {
		for {
			d.mu.Lock()
			from := n.from
			n.from, n.again = maxPosition, false
			d.mu.Unlock()
			wait, err := s.notifyUser(ctx, k, from)
			if err != nil && ctx.Err() == nil {
				s.o.Log.Warn("a user was not notified", "tenant", int64(k.tenant), "error", err)
			}
			if s.restUser(k, n, wait) {
				return
			}
		}
	})
}

// maxPosition stands for "nothing": no position is as great.
const maxPosition = int64(1) << 62

// restUser ends a run, unless something came meanwhile. With a positive wait the user is looked at again then, for a gateway that failed.
func (s *Service) restUser(k userKey, n *notifier, wait time.Duration) bool {
	d := s.send
	d.mu.Lock()
	defer d.mu.Unlock()
	if n.again && !d.closed {
		return false
	}
	n.running = false
	if wait <= 0 || d.closed {
		delete(d.users, k)
		return true
	}
	n.timer = time.AfterFunc(wait, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if n.timer != nil && !d.closed {
			n.timer = nil
			s.runUser(k, n)
		}
	})
	return true
}

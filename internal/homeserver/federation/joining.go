// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

const (
	// joiningKept is how long a join that another server has accepted may take here until the room is entered.
	joiningKept = 5 * time.Minute
	// joiningWait bounds how long a transaction waits for it.
	joiningWait = time.Minute
	// joiningMost is when old entries are looked for.
	joiningMost = 1000
)

// joining remembers rooms that a tenant is about to enter. The resident server sends us the room's events from the moment that it has accepted
// the join; those that arrive while we still take in the room's state have to wait, or they would be lost until a later event cites them.
type joining struct {
	mu    sync.Mutex
	rooms map[joinKey]joinEntry
}

type joinKey struct {
	tenant tenant.ID
	room   id.Room
}

type joinEntry struct {
	user  id.User
	until time.Time
}

func newJoining() *joining { return &joining{rooms: make(map[joinKey]joinEntry)} }

func (j *joining) begin(t tenant.ID, r id.Room, user id.User, now time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.rooms) >= joiningMost {
		for k, e := range j.rooms {
			if now.After(e.until) {
				delete(j.rooms, k)
			}
		}
	}
	j.rooms[joinKey{t, r}] = joinEntry{user, now.Add(joiningKept)}
}

func (j *joining) end(t tenant.ID, r id.Room) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.rooms, joinKey{t, r})
}

func (j *joining) user(t tenant.ID, r id.Room, now time.Time) (id.User, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e, ok := j.rooms[joinKey{t, r}]
	return e.user, ok && now.Before(e.until)
}

// awaitJoin waits while the tenant is about to enter a room, until it is in or the wait gets too long.
func (s *Service) awaitJoin(ctx context.Context, t *tenant.Tenant, name id.Room) error {
	user, ok := s.joining.user(t.ID, name, s.now())
	if !ok {
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, joiningWait)
	defer cancel()
	for {
		at, err := s.Feed.Position(bounded, t.ID)
		if err != nil {
			return err
		}
		in, err := s.entered(bounded, t, name)
		if err != nil {
			return err
		}
		if in {
			s.joining.end(t.ID, name)
			return nil
		}
		if err := s.Feed.Wait(bounded, t.ID, user, at, s.Feed.Ephemeral()); err != nil {
			return ctx.Err() // the wait alone is no error: the events are judged as they are
		}
	}
}

func (s *Service) entered(ctx context.Context, t *tenant.Tenant, name id.Room) (bool, error) {
	r, err := s.Rooms.Lookup(ctx, t.ID, name)
	if errors.Is(err, mxerror.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return s.Rooms.ServerInRoom(ctx, t.ID, r.NID, t.Name)
}

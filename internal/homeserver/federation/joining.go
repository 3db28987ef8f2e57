// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
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

// beginJoin notes durably that a user is about to enter a room, before the resident server hears of it: from then on others may take the user for
// a member, whatever becomes of this process.
func (s *Service) beginJoin(ctx context.Context, t *tenant.Tenant, server id.Server, e *event.Event) error {
	_, err := s.DB.Exec(ctx, `INSERT INTO federation_joining (tenant, room_id, user_id, server, node) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (tenant, room_id, user_id) DO UPDATE SET server = excluded.server, node = excluded.node`,
		int64(t.ID), string(e.Room()), string(e.Sender()), string(server), s.outbox.node)
	if err != nil {
		return err
	}
	s.joining.begin(t.ID, e.Room(), e.Sender(), s.now())
	return nil
}

// giveUpJoin forgets a join that came to nothing: who asked for it has been told so.
func (s *Service) giveUpJoin(ctx context.Context, t *tenant.Tenant, r id.Room, user id.User) {
	s.joining.end(t.ID, r)
	_, err := s.DB.Exec(ctx, "DELETE FROM federation_joining WHERE tenant = $1 AND room_id = $2 AND user_id = $3", int64(t.ID), string(r), string(user))
	if err != nil {
		s.Log.WarnContext(ctx, "a join that failed could not be forgotten", "tenant", string(t.Name), "error", err)
	}
}

// enters adds to the plan of a join of the tenant's own user that nothing is left to resume.
func (s *Service) enters(t tenant.ID, e *room.Event, plan *stream.Plan) {
	if e.Type() != "m.room.member" || e.Membership() != "join" {
		return
	}
	if user, ok := s.joining.user(t, e.Room(), s.now()); !ok || user != e.Sender() {
		return
	}
	plan.Rows = append(plan.Rows, stream.Statement{SQL: "DELETE FROM federation_joining WHERE tenant = $1 AND room_id = $2 AND user_id = $3",
		Args: []any{int64(t), string(e.Room()), string(e.Sender())}})
}

// interrupted is a join that was under way when the process ended.
type interrupted struct {
	tenant tenant.ID
	room   id.Room
	user   id.User
	server id.Server
}

// finishJoins resumes the joins of earlier processes at the start, and from then on those for which no server could be reached.
func (s *Service) finishJoins() {
	nodes := "node <> $1"
	s.work.Every(s.config.Sweep, s.Log, "interrupted joins could not be resumed", func(ctx context.Context) error {
		err := s.resumeJoins(ctx, nodes)
		nodes = "node = 0 AND node <> $1"
		return err
	})
}

// resumeJoins finishes the joins that an earlier process has begun: it joins anew, so that the resident server's state includes the first attempt,
// and nothing that either attempt did is lost. Events of these rooms wait meanwhile.
func (s *Service) resumeJoins(ctx context.Context, nodes string) error {
	// tenant: the cell's own look at what all of them have left.
	rows, err := s.DB.Query(ctx, "SELECT tenant, room_id, user_id, server FROM federation_joining WHERE "+nodes+" LIMIT 1000", s.outbox.node)
	list, err := database.All(rows, err, func(rows *sql.Rows) (i interrupted, err error) {
		return i, rows.Scan(&i.tenant, &i.room, &i.user, &i.server)
	})
	if err != nil {
		return err
	}
	for _, i := range list {
		s.joining.begin(i.tenant, i.room, i.user, s.now())
	}
	for _, i := range list {
		if err := s.resumeJoin(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) resumeJoin(ctx context.Context, i interrupted) error {
	t, err := s.Tenants.ByID(ctx, i.tenant)
	if err != nil {
		return err
	}
	err = s.Rooms.Join(ctx, t, i.user, i.room, []id.Server{i.server}, "")
	if ctx.Err() != nil {
		return nil //nolint:nilerr // the next start goes on
	}
	if refused := mxerror.From(err); err != nil && (refused == nil || refused.Status >= 500) {
		s.Log.InfoContext(ctx, "a join that was interrupted will be tried again", "tenant", string(t.Name), "server", string(i.server), "error", err)
		// A failed attempt has forgotten the row: it is the earlier attempt that still counts.
		_, err := s.DB.Exec(ctx, `INSERT INTO federation_joining (tenant, room_id, user_id, server, node) VALUES ($1, $2, $3, $4, 0)
			ON CONFLICT (tenant, room_id, user_id) DO UPDATE SET node = 0`, int64(i.tenant), string(i.room), string(i.user), string(i.server))
		return err
	}
	s.giveUpJoin(ctx, t, i.room, i.user) // it is in, or never will be
	return nil
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

// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// stager works off PDUs whose ancestry has to be fetched. They are durable in the table staging before their sender is answered (engine
// rule 12); one goroutine per room with something staged, none for idle rooms.
type stager struct {
	s    *Service
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup
	mu   sync.Mutex
	// busy are rooms being worked off; true means that something was staged meanwhile.
	busy map[roomKey]bool
	// waiting are rooms in which something staged is tried again later.
	waiting map[roomKey]*time.Timer
	// pause is how long a room waits whose staged PDU has been tried so often. Tests shorten it.
	pause func(attempts int64) time.Duration
}

const (
	// stageAttempts is how often a staged PDU is tried before it is given up as rejected by circumstances; stagePasses how often in one go.
	stageAttempts = 20
	stagePasses   = 2
	// stageTime bounds one try.
	stageTime = 2 * time.Minute
	// stagePause is how long a PDU waits that has been tried in one go; it doubles with every further go, up to stagePauseMost.
	stagePause     = 30 * time.Second
	stagePauseMost = time.Hour
)

func pauseAfter(attempts int64) time.Duration {
	return min(stagePause<<min(max(attempts/stagePasses-1, 0), 10), stagePauseMost)
}

func newStager(s *Service) *stager {
	ctx, stop := context.WithCancel(context.Background())
	return &stager{s: s, ctx: ctx, stop: stop, busy: map[roomKey]bool{}, waiting: map[roomKey]*time.Timer{}, pause: pauseAfter}
}

func (g *stager) close() {
	g.mu.Lock()
	g.stop()
	for _, timer := range g.waiting {
		timer.Stop()
	}
	g.mu.Unlock()
	g.wg.Wait()
}

// Receive takes a live PDU whose signatures and content hash have been checked. When everything it rests on is here it is committed;
// otherwise it is staged and what is missing is fetched in the background. Either way it is durable when Receive returns nil.
func (s *Service) Receive(ctx context.Context, t *tenant.Tenant, origin id.Server, e *event.Event) error {
	r, err := s.Lookup(ctx, t.ID, e.Room())
	if err != nil {
		return err
	}
	in, err := s.residentNow(ctx, t, r)
	if err != nil {
		return err
	}
	if !in {
		return s.Accept(ctx, t, origin, e)
	}
	missing, err := s.missingPrev(ctx, t.ID, r, e)
	if err != nil {
		return err
	}
	if len(missing) == 0 {
		if missing, err = s.unstored(ctx, t.ID, e.AuthEvents()); err != nil {
			return err
		}
	}
	if len(missing) == 0 {
		if _, inMemory := s.events.Get(eventKey{t.ID, e.ID()}); !inMemory && isUnseen(ctx, e.ID()) {
			return s.take(ctx, t, origin, r, e)
		}
		known, err := s.known(ctx, t.ID, r.NID, []id.Event{e.ID()})
		if err != nil {
			return err
		}
		if k := known[e.ID()]; k != nil {
			return s.durable(ctx, t.ID, k)
		}
		return s.take(ctx, t, origin, r, e)
	}
	_, err = s.DB.Exec(ctx, `INSERT INTO staging (tenant, room_id, event_id, origin, arrival, attempts, json) VALUES ($1, $2, $3, $4, $5, 0, $6)
		ON CONFLICT (tenant, room_id, event_id) DO NOTHING`, int64(t.ID), string(r.ID), string(e.ID()), string(origin), database.NewID(), e.JSON())
	if err != nil {
		return err
	}
	s.metrics.staged.WithLabelValues("staged").Inc()
	s.stager.kick(t, r)
	return nil
}

// durable makes sure that an event which memory knows has been committed: the same PDU may be under way in another transaction, and must not be
// acknowledged on its account (engine rule 12).
func (s *Service) durable(ctx context.Context, t tenant.ID, e *Event) error {
	if e.Position > 0 {
		return nil
	}
	var n int64
	err := s.DB.QueryRow(ctx, "SELECT COUNT(*) FROM event_id WHERE tenant = $1 AND event_id = $2", int64(t), string(e.ID())).Scan(&n)
	if err == nil && n == 0 {
		err = fmt.Errorf("event %s is being committed", e.ID())
	}
	return err
}

// Resume works off what was staged, and goes on with the rooms that were being purged, when the program stopped. The composition root calls it once
// after the start.
func (s *Service) Resume(ctx context.Context) error {
	if err := s.resumePurges(ctx); err != nil {
		return err
	}
	rows, err := s.DB.Query(ctx, "SELECT DISTINCT tenant, room_id FROM staging LIMIT 1000")
	type waiting struct {
		tenant tenant.ID
		room   id.Room
	}
	list, err := database.All(rows, err, func(rows *sql.Rows) (w waiting, err error) { return w, rows.Scan(&w.tenant, &w.room) })
	if err != nil {
		return err
	}
	for _, w := range list {
		t, err := s.Tenants.ByID(ctx, w.tenant)
		if err != nil {
			return err
		}
		if r, err := s.Lookup(ctx, t.ID, w.room); err == nil {
			s.stager.kick(t, r)
		}
	}
	return nil
}

// kick starts the room's worker unless it runs.
func (g *stager) kick(t *tenant.Tenant, r *Room) {
	key := roomKey{t.ID, r.ID}
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, running := g.busy[key]; running {
		g.busy[key] = true
		return
	}
	if g.ctx.Err() != nil {
		return
	}
	if timer := g.waiting[key]; timer != nil {
		timer.Stop()
		delete(g.waiting, key)
	}
	g.busy[key] = false
	g.wg.Go(func() { g.work(key, t, r) })
}

func (g *stager) work(key roomKey, t *tenant.Tenant, r *Room) {
	for {
		if err := g.drain(t, r); err != nil && g.ctx.Err() == nil {
			g.s.Log.Warn("staged events", "room", r.NID, "error", err)
		}
		wait, err := g.left(t, r)
		if err != nil && g.ctx.Err() == nil {
			g.s.Log.Warn("staged events", "room", r.NID, "error", err)
			wait = stagePause
		}
		g.mu.Lock()
		if !g.busy[key] || g.ctx.Err() != nil {
			delete(g.busy, key)
			if wait > 0 && g.ctx.Err() == nil {
				g.waiting[key] = time.AfterFunc(wait, func() { g.kick(t, r) })
			}
			g.mu.Unlock()
			return
		}
		g.busy[key] = false
		g.mu.Unlock()
	}
}

// left says how long to wait before what is still staged for a room is tried again; 0 when nothing is. The one tried least sets the pace.
func (g *stager) left(t *tenant.Tenant, r *Room) (time.Duration, error) {
	var n, attempts int64
	err := g.s.DB.QueryRow(g.ctx, "SELECT COUNT(*), COALESCE(MIN(attempts), 0) FROM staging WHERE tenant = $1 AND room_id = $2", int64(t.ID), string(r.ID)).Scan(&n, &attempts)
	if err != nil || n == 0 {
		return 0, err
	}
	return g.pause(attempts), nil
}

// staged is a row of the table staging.
type staged struct {
	event    id.Event
	origin   id.Server
	attempts int64
	raw      []byte
}

// drain works off the room's staged PDUs in the order of their arrival, and those that failed once more after the others. What fails again waits for
// a while, or for the room's next staged event: its origin may be away.
func (g *stager) drain(t *tenant.Tenant, r *Room) error {
	for range stagePasses {
		rows, err := g.s.DB.Query(g.ctx, "SELECT event_id FROM staging WHERE tenant = $1 AND room_id = $2 ORDER BY arrival LIMIT 1000", int64(t.ID), string(r.ID))
		ids, err := database.All(rows, err, database.Column[id.Event])
		if err != nil || len(ids) == 0 {
			return err
		}
		for _, eid := range ids {
			row := staged{event: eid}
			err := g.s.DB.QueryRow(g.ctx, "SELECT origin, attempts, json FROM staging WHERE tenant = $1 AND room_id = $2 AND event_id = $3",
				int64(t.ID), string(r.ID), string(eid)).Scan(&row.origin, &row.attempts, &row.raw)
			if errors.Is(err, sql.ErrNoRows) {
				continue
			}
			if err != nil {
				return err
			}
			if err := g.try(t, r, row); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *stager) try(t *tenant.Tenant, r *Room, row staged) error {
	ctx, cancel := context.WithTimeout(g.ctx, stageTime)
	defer cancel()
	e, err := event.FromStored(r.Version, row.event, row.raw)
	if err == nil {
		err = g.s.Accept(ctx, t, row.origin, e)
	}
	if g.ctx.Err() != nil {
		return g.ctx.Err() // stopping: the row stays for the next start
	}
	if err != nil && row.attempts+1 < stageAttempts {
		g.s.Log.InfoContext(ctx, "a staged event will be tried again", "room", r.NID, "event", row.event, "error", err)
		_, err = g.s.DB.Exec(g.ctx, "UPDATE staging SET attempts = attempts + 1 WHERE tenant = $1 AND room_id = $2 AND event_id = $3", int64(t.ID), string(r.ID), string(row.event))
		return err
	}
	outcome := "taken"
	if err != nil {
		outcome = "given_up"
		g.s.Log.WarnContext(ctx, "a staged event is given up", "room", r.NID, "event", row.event, "error", err)
	}
	g.s.metrics.staged.WithLabelValues(outcome).Inc()
	_, err = g.s.DB.Exec(g.ctx, "DELETE FROM staging WHERE tenant = $1 AND room_id = $2 AND event_id = $3", int64(t.ID), string(r.ID), string(row.event))
	return err
}

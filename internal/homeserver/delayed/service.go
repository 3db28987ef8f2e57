// SPDX-License-Identifier: Apache-2.0

package delayed

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/background"
	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

const (
	// maxDelay is the longest delay, maxPending how many events a user may have waiting.
	maxDelay   = 24 * time.Hour
	maxPending = 100
	// claim is how long a node has to send what is due.
	claim = time.Minute
	// lookAgain bounds how long the timer waits: another node may have left something.
	lookAgain = time.Minute
	// page is how many due events are taken at once.
	page = 50
)

// Options are what the service stands on.
type Options struct {
	DB      *database.DB
	Tenants *tenant.Store
	Rooms   *room.Service
	Log     *slog.Logger
	// Now is the clock; nil is the system's.
	Now func() time.Time
}

// Service keeps and sends delayed events. It is safe for concurrent use.
type Service struct {
	o    Options
	work *background.Work

	mu             sync.Mutex
	started        bool
	closed         bool
	running, again bool
	timer          *time.Timer
	at             time.Time // of the timer
}

// New returns the service; nothing is sent before Start.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{o: o, work: background.New()}
}

// Start sends what is due, and from then on in time.
func (s *Service) Start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started = true
	s.run()
}

// Close stops. What is due meanwhile is sent after the next start.
func (s *Service) Close() {
	s.mu.Lock()
	s.closed = true
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock()
	s.work.Close()
}

// run starts the goroutine that sends what is due; the mutex is held.
func (s *Service) run() {
	if s.closed || !s.started {
		return
	}
	if s.running {
		s.again = true
		return
	}
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
	s.running, s.again = true, false
	s.work.Go(func(ctx context.Context) {
		for {
			next, err := s.sendDue(ctx)
			if err != nil && ctx.Err() == nil {
				s.o.Log.Warn("delayed events were not sent", "error", err)
				next = s.o.Now().Add(time.Second)
			}
			s.mu.Lock()
			if s.again && !s.closed {
				s.again = false
				s.mu.Unlock()
				continue
			}
			s.running = false
			if !next.IsZero() && !s.closed {
				s.set(next)
			}
			s.mu.Unlock()
			return
		}
	})
}

// set sets the timer; the mutex is held.
func (s *Service) set(next time.Time) {
	s.at = next
	s.timer = time.AfterFunc(min(max(next.Sub(s.o.Now()), 0), lookAgain), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.timer = nil
		s.run()
	})
}

// dueAt says that something is due at a time: the timer is set nearer when it has to be.
func (s *Service) dueAt(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running {
		s.again = true
		return
	}
	if s.closed || !s.started || s.timer != nil && !at.Before(s.at) {
		return
	}
	if s.timer != nil {
		s.timer.Stop()
	}
	s.set(at)
}

// waiting is a row.
type waiting struct {
	tenant                tenant.ID
	id                    string
	user                  id.User
	room                  id.Room
	typ                   string
	state                 bool
	stateKey              string
	redacts               id.Event
	content               string
	ts                    int64
	delay, since, dueTime int64
}

const selectWaiting = `SELECT tenant, delay_id, user_id, room_id, type, state, state_key, redacts, content, origin_ts, delay, running_since, send_at FROM delayed_event `

func scanWaiting(rows *sql.Rows) (w waiting, err error) {
	return w, rows.Scan(&w.tenant, &w.id, &w.user, &w.room, &w.typ, &w.state, &w.stateKey, &w.redacts, &w.content, &w.ts, &w.delay, &w.since, &w.dueTime)
}

// sendDue sends all that is due and returns when the next is; zero when nothing waits.
func (s *Service) sendDue(ctx context.Context) (time.Time, error) {
	for ctx.Err() == nil {
		now := s.o.Now().UnixMilli()
		// tenant: the cell's own timers, for whichever it has to send.
		rows, err := s.o.DB.Query(ctx, selectWaiting+"WHERE send_at <= $1 AND claimed_until <= $1 ORDER BY send_at LIMIT $2", now, page)
		due, err := database.All(rows, err, scanWaiting)
		if err != nil {
			return time.Time{}, err
		}
		if len(due) == 0 {
			break
		}
		for _, w := range due {
			n, err := s.o.DB.Exec(ctx, "UPDATE delayed_event SET claimed_until = $4 WHERE tenant = $1 AND delay_id = $2 AND send_at <= $3 AND claimed_until <= $3",
				int64(w.tenant), w.id, now, now+claim.Milliseconds())
			if err != nil {
				return time.Time{}, err
			}
			if n == 0 {
				continue // restarted, cancelled, or another node's
			}
			if err := s.deliver(ctx, w); err != nil {
				return time.Time{}, err
			}
		}
	}
	var t tenant.ID
	var next int64
	err := s.o.DB.QueryRow(ctx, `SELECT tenant, CASE WHEN claimed_until > send_at THEN claimed_until ELSE send_at END AS due FROM delayed_event
		ORDER BY due LIMIT 1`).Scan(&t, &next)
	if errors.Is(err, sql.ErrNoRows) {
		return time.Time{}, nil
	}
	return time.UnixMilli(next), err
}

// deliver sends one event under its id as transaction id, so that it is sent once, and removes its row. An event that may not be sent is dropped.
func (s *Service) deliver(ctx context.Context, w waiting) error {
	t, err := s.o.Tenants.ByID(ctx, w.tenant)
	if err == nil {
		d := room.Draft{Room: w.room, Sender: w.user, Type: w.typ, Content: jsontext.Value(w.content), Redacts: w.redacts, Timestamp: w.ts,
			Txn: &room.Txn{Scope: "delayed", ID: w.id}}
		if w.state {
			d.StateKey = &w.stateKey
		}
		_, err = s.o.Rooms.Send(ctx, t, d)
	}
	known := mxerror.From(err)
	if err != nil && (known == nil || known.Status >= 500) && !errors.Is(err, tenant.ErrUnknown) {
		return err // tried again when the claim has run out
	}
	if err != nil {
		s.o.Log.Info("a delayed event may not be sent", "tenant", int64(w.tenant), "error", err)
	}
	_, err = s.o.DB.Exec(ctx, "DELETE FROM delayed_event WHERE tenant = $1 AND delay_id = $2", int64(w.tenant), w.id)
	return err
}

// Stored adds to the plan of a state event that delayed ones of others for the same state are cancelled: they were made for a state that is gone.
// A user's own go on, as clients renew their state while the delayed event stands for their absence. Package room calls it.
func (s *Service) Stored(ctx context.Context, t tenant.ID, e *room.Event, plan *stream.Plan) error {
	if !e.IsState() || len(plan.Changes) == 0 {
		return nil
	}
	args := []any{int64(t), e.RoomNID, e.Type(), *e.StateKey(), string(e.Sender())}
	var n int64
	err := s.o.DB.QueryRow(ctx, `SELECT COUNT(*) FROM delayed_event WHERE tenant = $1 AND room = $2 AND type = $3 AND state_key = $4 AND state AND user_id <> $5`,
		args...).Scan(&n)
	if err == nil && n > 0 {
		plan.Rows = append(plan.Rows, stream.Statement{
			SQL: "DELETE FROM delayed_event WHERE tenant = $1 AND room = $2 AND type = $3 AND state_key = $4 AND state AND user_id <> $5", Args: args})
	}
	return err
}

// newID makes an id that nobody guesses: it is all that is needed to hold the event up. It names its tenant, as tokens do.
func newID(t tenant.ID) string { return httpapi.NewToken('d', t) }

// SPDX-License-Identifier: Apache-2.0

package retention

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/background"
	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// Type is the state event with which a room says how long its messages live (MSC1763).
const Type = "m.room.retention"

const (
	// every is how often a node looks for rooms that are due.
	every = time.Minute
	// soonest and latest bound when a room is looked at again.
	soonest, latest = time.Hour, 24 * time.Hour
	// page is how many rooms are taken at once.
	page = 50
)

// Options are what the service stands on.
type Options struct {
	DB      *database.DB
	Tenants *tenant.Store
	Rooms   *room.Service
	Log     *slog.Logger
	// Default is how long messages live in rooms that say nothing; 0 for ever. Min and Max bound what rooms say and the default; 0 is no bound.
	Default, Min, Max time.Duration
	// Now is the clock; nil is the system's.
	Now func() time.Time
}

// Service removes what has expired. It is safe for concurrent use.
type Service struct {
	o    Options
	work *background.Work
}

// New returns the service; nothing is removed before Start.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{o: o, work: background.New()}
}

// Start looks for what is due, from now on.
func (s *Service) Start() {
	s.work.Go(func(ctx context.Context) {
		if err := s.enlist(ctx); err != nil && ctx.Err() == nil {
			s.o.Log.Warn("rooms were not listed for the removal of old messages", "error", err)
		}
		s.work.Every(every, s.o.Log, "old messages were not removed", func(ctx context.Context) error {
			_, err := s.Sweep(ctx)
			return err
		})
	})
}

// Close stops. What is due meanwhile is removed after the next start.
func (s *Service) Close() {
	s.work.Close()
}

// Stored adds a room to those looked at when it gets a policy, or, where there is a default, members. Package room calls it.
func (s *Service) Stored(t tenant.ID, e *room.Event, plan *stream.Plan) {
	switch {
	case !e.IsState():
	case e.Type() == Type:
		plan.Rows = append(plan.Rows, stream.Statement{SQL: "INSERT INTO room_retention (tenant, room, due) VALUES ($1, $2, 0) ON CONFLICT (tenant, room) DO UPDATE SET due = 0",
			Args: []any{int64(t), e.RoomNID}})
	case e.Type() == "m.room.member" && s.o.Default > 0:
		plan.Rows = append(plan.Rows, stream.Statement{SQL: "INSERT INTO room_retention (tenant, room, due) VALUES ($1, $2, $3) ON CONFLICT (tenant, room) DO NOTHING",
			Args: []any{int64(t), e.RoomNID, s.o.Now().Add(soonest).UnixMilli()}})
	}
}

// enlist adds the rooms that were there before there was a default.
func (s *Service) enlist(ctx context.Context) error {
	if s.o.Default == 0 {
		return nil
	}
	_, err := s.o.DB.Exec(ctx, `INSERT INTO room_retention (tenant, room, due) SELECT h.tenant, h.room, 0 FROM room_head h
		WHERE NOT EXISTS (SELECT 1 FROM room_retention r WHERE r.tenant = h.tenant AND r.room = h.room) ON CONFLICT (tenant, room) DO NOTHING`)
	return err
}

// due is a room whose time has come.
type due struct {
	tenant  tenant.ID
	room    int64
	planned int64
}

// Sweep looks at all rooms whose time has come and returns how many events were removed. A room that fails is tried again later.
func (s *Service) Sweep(ctx context.Context) (removed int, err error) {
	for {
		rows, err := s.o.DB.Query(ctx, "SELECT tenant, room, due FROM room_retention WHERE tenant > 0 AND due <= $1 ORDER BY due LIMIT $2", s.o.Now().UnixMilli(), page)
		list, err := database.All(rows, err, func(rows *sql.Rows) (d due, err error) { return d, rows.Scan(&d.tenant, &d.room, &d.planned) })
		if err != nil || len(list) == 0 {
			return removed, err
		}
		for _, d := range list {
			n, err := s.look(ctx, d)
			removed += n
			if ctx.Err() != nil {
				return removed, ctx.Err()
			}
			if err != nil {
				s.o.Log.Warn("old messages of a room were not removed", "tenant", int64(d.tenant), "error", err)
			}
		}
	}
}

// look removes what has expired in one room, unless another node has taken it.
func (s *Service) look(ctx context.Context, d due) (int, error) {
	now := s.o.Now()
	n, err := s.o.DB.Exec(ctx, "UPDATE room_retention SET due = $4 WHERE tenant = $1 AND room = $2 AND due = $3", int64(d.tenant), d.room, d.planned, now.Add(soonest).UnixMilli())
	if err != nil || n == 0 {
		return 0, err
	}
	in, err := s.o.Rooms.ByNID(ctx, d.tenant, d.room)
	if errors.Is(err, mxerror.NotFound) {
		return 0, s.forget(ctx, d)
	}
	if err != nil {
		return 0, err
	}
	life, err := s.lifetime(ctx, d.tenant, in)
	if err != nil {
		return 0, err
	}
	if life == 0 {
		return 0, s.forget(ctx, d)
	}
	return s.expire(ctx, d, in, now.Add(-life))
}

// forget ends looking at a room: it has no policy any more, or is gone.
func (s *Service) forget(ctx context.Context, d due) error {
	_, err := s.o.DB.Exec(ctx, "DELETE FROM room_retention WHERE tenant = $1 AND room = $2", int64(d.tenant), d.room)
	return err
}

// lifetime is how long messages of a room live, 0 for ever. What is no policy counts as none.
func (s *Service) lifetime(ctx context.Context, t tenant.ID, in *room.Room) (time.Duration, error) {
	state, err := s.o.Rooms.CurrentState(ctx, t, in)
	if err != nil {
		return 0, err
	}
	life := s.o.Default
	e, err := s.o.Rooms.StateEvent(ctx, t, state, event.Key{Type: Type})
	if err != nil {
		return 0, err
	}
	if e != nil {
		var p struct {
			Max *int64 `json:"max_lifetime"` // ms
		}
		const longest = int64(1<<62) / int64(time.Millisecond)
		if json.Unmarshal(e.Content(), &p) == nil && p.Max != nil && *p.Max > 0 {
			life = time.Duration(min(*p.Max, longest)) * time.Millisecond
		}
	}
	if life == 0 {
		return 0, nil
	}
	if s.o.Max > 0 {
		life = min(life, s.o.Max)
	}
	return max(life, s.o.Min), nil
}

// expire removes what is older than a time. A message's age is the greater one of what it says and what we know, so that neither a clock that is wrong
// nor an invented time keeps it longer or lets others go sooner: history is removed up to the first message that has not expired.
func (s *Service) expire(ctx context.Context, d due, in *room.Room, cutoff time.Time) (int, error) {
	t, err := s.o.Tenants.ByID(ctx, d.tenant)
	if err != nil {
		return 0, err
	}
	first, left, err := s.firstLeft(ctx, d, cutoff)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var messages int64
	err = s.o.DB.QueryRow(ctx, `SELECT COUNT(*) FROM (SELECT 1 FROM event WHERE tenant = $1 AND room = $2 AND NOT outlier AND topological < $3 AND snapshot = snapshot_after LIMIT 1) AS found`,
		int64(d.tenant), d.room, first.Topological).Scan(&messages)
	if err != nil {
		return 0, err
	}
	removed := 0
	if messages > 0 {
		if removed, err = s.o.Rooms.PurgeHistory(ctx, t, in, first, false); err != nil {
			return removed, err
		}
	}
	now := s.o.Now()
	again := now.Add(latest)
	if left {
		again = now.Add(min(max(time.UnixMilli(first.Timestamp()).Sub(cutoff), soonest), latest))
	}
	_, err = s.o.DB.Exec(ctx, "UPDATE room_retention SET due = $3 WHERE tenant = $1 AND room = $2 AND due > 0", int64(d.tenant), d.room, again.UnixMilli())
	return removed, err
}

// firstLeft is the first message of the timeline (what leaves the state as it is) that has not expired; when all have, the timeline's end, and left is
// false.
func (s *Service) firstLeft(ctx context.Context, d due, cutoff time.Time) (e *room.Event, left bool, err error) {
	var eid id.Event
	const timeline = "SELECT event_id FROM event WHERE tenant = $1 AND room = $2 AND NOT outlier "
	err = s.o.DB.QueryRow(ctx, timeline+"AND snapshot = snapshot_after AND origin_ts > $3 AND event >= $4 ORDER BY topological, event LIMIT 1", int64(d.tenant), d.room, cutoff.UnixMilli(), database.IDAt(cutoff)).Scan(&eid)
	left = err == nil
	if errors.Is(err, sql.ErrNoRows) {
		err = s.o.DB.QueryRow(ctx, timeline+"ORDER BY topological DESC, event DESC LIMIT 1", int64(d.tenant), d.room).Scan(&eid)
	}
	if err != nil {
		return nil, false, err
	}
	e, err = s.o.Rooms.Event(ctx, d.tenant, eid)
	return e, left, err
}

// SPDX-License-Identifier: Apache-2.0

package sweep

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/background"
	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

const (
	// every is how often a node looks for rooms whose time has come.
	every = time.Hour
	// again is when a room is looked at once more that could not be judged.
	again = time.Hour
	// page is how many rooms are taken at once.
	page = 100
)

// Options are what the service stands on.
type Options struct {
	DB      *database.DB
	Tenants *tenant.Store
	Rooms   *room.Service
	// Insured says whether a server serves insured people, by the federation list. An error means that nobody can say now.
	Insured func(context.Context, id.Server) (bool, error)
	Log     *slog.Logger
	// Orphaned is how old the last event of an orphaned room is when it goes; 0 keeps them.
	Orphaned time.Duration
	// Grace is how long insured people may stay in a room after the last professional left; 0 for ever.
	Grace time.Duration
	// Now is the clock; nil is the system's.
	Now func() time.Time
}

// Service looks at rooms whose time has come. It is safe for concurrent use.
type Service struct {
	o    Options
	work *background.Work
}

// New returns the service; nothing happens before Start.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{o: o, work: background.New()}
}

// Start looks for rooms from now on.
func (s *Service) Start() { s.work.Every(every, s.o.Log, "rooms were not swept", s.Sweep) }

// Close stops. What is due meanwhile goes after the next start.
func (s *Service) Close() {
	s.work.Close()
}

// Stored notes that a room has to be looked at: a new one when it may be orphaned, an insurer's after somebody of another server left. Package room calls it.
func (s *Service) Stored(ctx context.Context, t tenant.ID, e *room.Event, plan *stream.Plan) error {
	switch {
	case !e.IsState():
	case e.Type() == "m.room.create" && s.o.Orphaned > 0:
		s.note(t, e.RoomNID, s.o.Orphaned, plan)
	case e.Type() == event.TypeMember && s.o.Grace > 0 && (e.Membership() == "leave" || e.Membership() == "ban"):
		of, err := s.o.Tenants.ByID(ctx, t)
		if err != nil {
			return err
		}
		if of.Insurance && id.User(*e.StateKey()).Server() != of.Name {
			s.note(t, e.RoomNID, s.o.Grace, plan)
		}
	}
	return nil
}

func (s *Service) note(t tenant.ID, roomNID int64, after time.Duration, plan *stream.Plan) {
	plan.Rows = append(plan.Rows, stream.Statement{SQL: "INSERT INTO room_sweep (tenant, room, due) VALUES ($1, $2, $3) ON CONFLICT (tenant, room) DO UPDATE SET due = excluded.due",
		Args: []any{int64(t), roomNID, s.o.Now().Add(after).UnixMilli()}})
}

// due is a room whose time has come.
type due struct {
	tenant  tenant.ID
	room    int64
	planned int64
}

// Sweep looks at all rooms whose time has come. A room that fails is looked at again later.
func (s *Service) Sweep(ctx context.Context) error {
	for {
		rows, err := s.o.DB.Query(ctx, "SELECT tenant, room, due FROM room_sweep WHERE due <= $1 ORDER BY due LIMIT $2", s.o.Now().UnixMilli(), page)
		list, err := database.All(rows, err, func(rows *sql.Rows) (d due, err error) { return d, rows.Scan(&d.tenant, &d.room, &d.planned) })
		if err != nil || len(list) == 0 {
			return err
		}
		for _, d := range list {
			if err := s.look(ctx, d); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				s.o.Log.Warn("a room was not swept", "tenant", int64(d.tenant), "error", err)
			}
		}
	}
}

// look judges one room, unless another node has taken it. What happens in the room meanwhile sets a time of its own, which stays.
func (s *Service) look(ctx context.Context, d due) error {
	taken := s.o.Now().Add(again).UnixMilli()
	n, err := s.o.DB.Exec(ctx, "UPDATE room_sweep SET due = $4 WHERE tenant = $1 AND room = $2 AND due = $3", int64(d.tenant), d.room, d.planned, taken)
	if err != nil || n == 0 {
		return err
	}
	next, err := s.judge(ctx, d)
	if err != nil {
		return err
	}
	if next.IsZero() {
		_, err = s.o.DB.Exec(ctx, "DELETE FROM room_sweep WHERE tenant = $1 AND room = $2 AND due = $3", int64(d.tenant), d.room, taken)
	} else {
		_, err = s.o.DB.Exec(ctx, "UPDATE room_sweep SET due = $4 WHERE tenant = $1 AND room = $2 AND due = $3", int64(d.tenant), d.room, taken, next.UnixMilli())
	}
	return err
}

// judge does what has to be done with a room, and says when to look again; zero for never, until something happens in it.
func (s *Service) judge(ctx context.Context, d due) (again time.Time, err error) {
	r, err := s.o.Rooms.ByNID(ctx, d.tenant, d.room)
	if errors.Is(err, mxerror.NotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	t, err := s.o.Tenants.ByID(ctx, d.tenant)
	if err != nil {
		return time.Time{}, err
	}
	members, err := s.o.Rooms.Members(ctx, d.tenant, d.room)
	if err != nil {
		return time.Time{}, err
	}
	if t.Insurance && s.o.Grace > 0 {
		if alone, err := s.insuredOnly(ctx, members); err != nil || alone {
			if err == nil {
				err = s.empty(ctx, t, r, members)
			}
			return time.Time{}, err
		}
	}
	if s.o.Orphaned == 0 || len(members) != 1 || members[0].Membership != "join" || members[0].User.Server() != t.Name {
		return time.Time{}, nil
	}
	return s.orphan(ctx, t, r, members[0].User)
}

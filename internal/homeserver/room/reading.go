// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// PlaceBefore returns the place from which paging backwards meets every event of the timeline up to a position: just after the one with the
// greatest order number among them. That is not always the newest one: an event of a fork may arrive late. [Start] when there is none.
func (s *Service) PlaceBefore(ctx context.Context, t tenant.ID, roomNID, position int64) (Cursor, error) {
	// The signs keep SQLite from reading the whole timeline by position and sorting it: the newest in order is nearly always the one.
	c, found, err := s.place(ctx, `SELECT topological, event FROM event WHERE tenant = $1 AND room = $2 AND +position > 0 AND +position <= $3
		ORDER BY topological DESC, event DESC LIMIT 1`, t, roomNID, position)
	if err != nil || !found {
		return Start, err
	}
	c.Arrival++
	return c, nil
}

// Point is a position in a room's timeline.
type Point struct{ Room, Position int64 }

// PlacesBefore is PlaceBefore for one position in each of some rooms, by a few queries for all of them.
func (s *Service) PlacesBefore(ctx context.Context, t tenant.ID, points []Point) (map[Point]Cursor, error) {
	out := make(map[Point]Cursor, len(points))
	for len(points) > 0 {
		n := min(len(points), database.MaxMarks/2)
		args := []any{int64(t)}
		for _, p := range points[:n] {
			out[p] = Start
			args = append(args, p.Room, p.Position)
		}
		rows, err := s.DB.Query(ctx, "WITH wanted (room, position) AS (VALUES "+pairs(2, n)+`), found (room, position, event) AS (
				SELECT w.room, w.position, (SELECT e.event FROM event e WHERE e.tenant = $1 AND e.room = w.room AND +e.position > 0 AND +e.position <= w.position
				ORDER BY e.topological DESC, e.event DESC LIMIT 1) FROM wanted w)
			SELECT f.room, f.position, e.topological, e.event FROM found f JOIN event e ON e.tenant = $1 AND e.event = f.event`, args...)
		_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
			var p Point
			var c Cursor
			err := rows.Scan(&p.Room, &p.Position, &c.Topological, &c.Arrival)
			c.Arrival++
			out[p] = c
			return struct{}{}, err
		})
		if err != nil {
			return nil, err
		}
		points = points[n:]
	}
	return out, nil
}

// pairs writes n pairs of numeric placeholders beginning at from, for a list of VALUES.
func pairs(from, n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "(CAST($%d AS BIGINT), CAST($%d AS BIGINT))", from+2*i, from+2*i+1)
	}
	return b.String()
}

// PlaceAfter returns the place from which paging forwards meets every event of the timeline after a position. [End] when there is none yet.
func (s *Service) PlaceAfter(ctx context.Context, t tenant.ID, roomNID, position int64) (Cursor, error) {
	c, found, err := s.place(ctx, `SELECT topological, event FROM event WHERE tenant = $1 AND room = $2 AND position > $3
		ORDER BY topological, event LIMIT 1`, t, roomNID, position)
	if err != nil || !found {
		return End, err
	}
	c.Arrival--
	return c, nil
}

func (s *Service) place(ctx context.Context, query string, t tenant.ID, roomNID, position int64) (c Cursor, found bool, err error) {
	err = s.DB.QueryRow(ctx, query, int64(t), roomNID, position).Scan(&c.Topological, &c.Arrival)
	if errors.Is(err, sql.ErrNoRows) {
		return c, false, nil
	}
	return c, err == nil, err
}

// StateChange is a change of a room's current state; Old and New are empty where the key was or became absent.
type StateChange struct {
	Room     int64
	Position int64
	Key      event.Key
	Old, New id.Event
}

// StateChanges lists the changes of the current state of some rooms with positions in (from, to], oldest first, by room.
func (s *Service) StateChanges(ctx context.Context, t tenant.ID, rooms []int64, from, to int64) (map[int64][]StateChange, error) {
	out := map[int64][]StateChange{}
	for len(rooms) > 0 {
		n := min(len(rooms), database.MaxMarks)
		args := []any{int64(t), from, to}
		for _, r := range rooms[:n] {
			args = append(args, r)
		}
		rows, err := s.DB.Query(ctx, `SELECT room, position, type, state_key, old_id, new_id FROM state_delta WHERE tenant = $1 AND position > $2 AND position <= $3
			AND room IN (`+database.Marks(4, n)+") ORDER BY position", args...)
		found, err := database.All(rows, err, func(rows *sql.Rows) (c StateChange, err error) {
			return c, rows.Scan(&c.Room, &c.Position, &c.Key.Type, &c.Key.StateKey, &c.Old, &c.New)
		})
		if err != nil {
			return nil, err
		}
		for _, c := range found {
			out[c.Room] = append(out[c.Room], c)
		}
		rooms = rooms[n:]
	}
	return out, nil
}

const selectUserRoom = `SELECT m.room, r.room_id, r.version, m.membership, m.event_id, m.position, m.forgotten
	FROM membership m JOIN room r ON r.tenant = m.tenant AND r.room = m.room WHERE m.tenant = $1 AND m.user_id = $2 AND m.membership <> '' `

func scanUserRoom(rows *sql.Rows) (UserRoom, error) {
	u := UserRoom{Room: &Room{}}
	var version string
	err := rows.Scan(&u.Room.NID, &u.Room.ID, &version, &u.Membership, &u.Event, &u.Position, &u.Forgotten)
	u.Room.Version, _ = roomversion.Get(version)
	return u, err
}

// MembershipsIn lists a local user's memberships in some rooms, forgotten ones too; LastPosition is not filled in.
func (s *Service) MembershipsIn(ctx context.Context, t tenant.ID, user id.User, rooms []int64) ([]UserRoom, error) {
	var out []UserRoom
	for len(rooms) > 0 {
		n := min(len(rooms), database.MaxMarks)
		args := []any{int64(t), string(user)}
		for _, r := range rooms[:n] {
			args = append(args, r)
		}
		rows, err := s.DB.Query(ctx, selectUserRoom+"AND m.room IN ("+database.Marks(3, n)+")", args...)
		found, err := database.All(rows, err, scanUserRoom)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
		rooms = rooms[n:]
	}
	return out, nil
}

// MembershipsChanged lists a local user's memberships that became what they are after a position, forgotten ones too.
func (s *Service) MembershipsChanged(ctx context.Context, t tenant.ID, user id.User, after int64) ([]UserRoom, error) {
	rows, err := s.DB.Query(ctx, selectUserRoom+"AND m.position > $3", int64(t), string(user), after)
	return database.All(rows, err, scanUserRoom)
}

// Departure returns the event with which a user who was joined to a room last left it or was removed; nil when the user never was joined, or
// is joined.
func (s *Service) Departure(ctx context.Context, t tenant.ID, roomNID int64, user id.User) (*Event, error) {
	rows, err := s.DB.Query(ctx, `SELECT old_id, new_id FROM state_delta WHERE tenant = $1 AND type = 'm.room.member' AND state_key = $2 AND room = $3
		ORDER BY position DESC LIMIT 50`, int64(t), string(user), roomNID)
	changes, err := database.All(rows, err, func(rows *sql.Rows) (c StateChange, err error) { return c, rows.Scan(&c.Old, &c.New) })
	if err != nil || len(changes) == 0 {
		return nil, err
	}
	var ids []id.Event
	for _, c := range changes {
		ids = append(ids, c.Old, c.New)
	}
	found, err := s.known(ctx, t, roomNID, ids)
	if err != nil {
		return nil, err
	}
	for _, c := range changes {
		was, is := found[c.Old], found[c.New]
		if is != nil && is.Membership() == "join" {
			return nil, nil
		}
		if was != nil && was.Membership() == "join" {
			return is, nil
		}
	}
	return nil, nil
}

// Citing says which events of some rooms cite events that we lack: history has a gap before each of them (engine rule 15). Keys are event nids.
func (s *Service) Citing(ctx context.Context, t tenant.ID, rooms []int64) (map[int64]bool, error) {
	out := map[int64]bool{}
	for len(rooms) > 0 {
		n := min(len(rooms), database.MaxMarks)
		args := []any{int64(t)}
		for _, r := range rooms[:n] {
			args = append(args, r)
		}
		rows, err := s.DB.Query(ctx, "SELECT DISTINCT event FROM event_gap WHERE tenant = $1 AND room IN ("+database.Marks(2, n)+")", args...)
		found, err := database.All(rows, err, database.Column[int64])
		if err != nil {
			return nil, err
		}
		for _, e := range found {
			out[e] = true
		}
		rooms = rooms[n:]
	}
	return out, nil
}

// maxHeroes is how many members name a room without a name (client-server API, RoomSummary).
const maxHeroes = 5

// Summary is what a client needs to name a room and show its size.
type Summary struct {
	Heroes          []id.User
	Joined, Invited int64
}

// Summary counts a room's members and picks its heroes for a user: the first others who are joined or invited, else who left.
func (s *Service) Summary(ctx context.Context, t tenant.ID, roomNID int64, user id.User) (Summary, error) {
	counts, err := s.Counts(ctx, t, []int64{roomNID})
	if err != nil {
		return Summary{}, err
	}
	sum := counts[roomNID]
	sum.Heroes, err = s.Heroes(ctx, t, roomNID, user)
	return sum, err
}

// Counts counts the members of some rooms, without heroes.
func (s *Service) Counts(ctx context.Context, t tenant.ID, rooms []int64) (map[int64]Summary, error) {
	out := make(map[int64]Summary, len(rooms))
	for len(rooms) > 0 {
		n := min(len(rooms), database.MaxMarks)
		args := []any{int64(t)}
		for _, r := range rooms[:n] {
			args = append(args, r)
		}
		rows, err := s.DB.Query(ctx, "SELECT room, membership, COUNT(*) FROM membership WHERE tenant = $1 AND room IN ("+database.Marks(2, n)+
			") AND membership IN ('join', 'invite') GROUP BY room, membership", args...)
		_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
			var room, count int64
			var membership string
			err := rows.Scan(&room, &membership, &count)
			sum := out[room]
			if membership == "join" {
				sum.Joined = count
			} else {
				sum.Invited = count
			}
			out[room] = sum
			return struct{}{}, err
		})
		if err != nil {
			return nil, err
		}
		rooms = rooms[n:]
	}
	return out, nil
}

// Heroes are the members that name a room without a name for a user: the first others who are joined or invited, else who left.
func (s *Service) Heroes(ctx context.Context, t tenant.ID, roomNID int64, user id.User) ([]id.User, error) {
	for _, memberships := range []string{"'join', 'invite'", "'leave', 'ban'"} {
		rows, err := s.DB.Query(ctx, "SELECT user_id FROM membership WHERE tenant = $1 AND room = $2 AND membership IN ("+memberships+") AND user_id <> $3 ORDER BY position, user_id LIMIT $4",
			int64(t), roomNID, string(user), maxHeroes)
		heroes, err := database.All(rows, err, database.Column[id.User])
		if err != nil || len(heroes) > 0 {
			return heroes, err
		}
	}
	return nil, nil
}

// ClientState converts state events for a client without what each of them replaced and without the reader's membership then: looking those up
// would load the snapshot before every single event of the state.
func (s *Service) ClientState(ctx context.Context, t tenant.ID, r *Room, events []*Event) ([]*ClientEvent, error) {
	out := make([]*ClientEvent, len(events))
	for i, e := range events {
		bare := *e
		bare.Outlier = true // Client asks only for the context of events that have one
		var err error
		if out[i], err = s.Client(ctx, t, r, &bare, nil); err != nil {
			return nil, err
		}
	}
	return out, nil
}

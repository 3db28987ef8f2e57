// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// Member is a user's place in a room.
type Member struct {
	User id.User
	// Membership is join, invite, knock, leave, ban, or "" when there never was one.
	Membership string
	Event      id.Event
	Position   int64
	// Forgotten: the user wants nothing more of a room that it has left. Only [Service.Membership] says so.
	Forgotten bool
}

// UserRoom is a room in a user's own list.
type UserRoom struct {
	Room       *Room
	Membership string
	Event      id.Event
	// Position is when the membership became what it is; LastPosition is the newest position of the room's timeline.
	Position, LastPosition int64
	Forgotten              bool
}

// Membership returns a user's membership in the current state, or the invite that reached a local user of a room that the server is not in.
func (s *Service) Membership(ctx context.Context, t tenant.ID, roomNID int64, user id.User) (Member, error) {
	m := Member{User: user}
	err := s.DB.QueryRow(ctx, "SELECT membership, event_id, position, forgotten FROM membership WHERE tenant = $1 AND user_id = $2 AND room = $3",
		int64(t), string(user), roomNID).Scan(&m.Membership, &m.Event, &m.Position, &m.Forgotten)
	if errors.Is(err, sql.ErrNoRows) {
		return m, nil
	}
	return m, err
}

// Memberships lists all rooms of a local user that it has not forgotten, in no order.
func (s *Service) Memberships(ctx context.Context, t tenant.ID, user id.User) ([]UserRoom, error) {
	rows, err := s.DB.Query(ctx, `SELECT m.room, r.room_id, r.version, m.membership, m.event_id, m.position, m.forgotten,
		COALESCE((SELECT MAX(e.position) FROM event e WHERE e.tenant = $1 AND e.room = m.room AND e.position > 0), 0)
		FROM membership m JOIN room r ON r.tenant = m.tenant AND r.room = m.room
		WHERE m.tenant = $1 AND m.user_id = $2 AND m.membership <> '' AND NOT m.forgotten`, int64(t), string(user))
	return database.All(rows, err, func(rows *sql.Rows) (UserRoom, error) {
		var u UserRoom
		u.Room = &Room{}
		var version string
		err := rows.Scan(&u.Room.NID, &u.Room.ID, &version, &u.Membership, &u.Event, &u.Position, &u.Forgotten, &u.LastPosition)
		u.Room.Version, _ = roomversion.Get(version)
		return u, err
	})
}

// JoinedRooms lists the rooms that a local user is joined to.
func (s *Service) JoinedRooms(ctx context.Context, t tenant.ID, user id.User) ([]*Room, error) {
	rows, err := s.DB.Query(ctx, `SELECT m.room, r.room_id, r.version FROM membership m JOIN room r ON r.tenant = m.tenant AND r.room = m.room
		WHERE m.tenant = $1 AND m.user_id = $2 AND m.membership = 'join'`, int64(t), string(user))
	return database.All(rows, err, func(rows *sql.Rows) (*Room, error) {
		var r Room
		var version string
		err := rows.Scan(&r.NID, &r.ID, &version)
		r.Version, _ = roomversion.Get(version)
		return &r, err
	})
}

// Members lists the users with one of the given memberships in the room's current state, or all members when none is given.
func (s *Service) Members(ctx context.Context, t tenant.ID, roomNID int64, memberships ...string) ([]Member, error) {
	rows, err := s.DB.Query(ctx, "SELECT user_id, membership, event_id, position FROM membership WHERE tenant = $1 AND room = $2 ORDER BY position, user_id", int64(t), roomNID)
	all, err := database.All(rows, err, func(rows *sql.Rows) (m Member, err error) {
		return m, rows.Scan(&m.User, &m.Membership, &m.Event, &m.Position)
	})
	if err != nil || len(memberships) == 0 {
		return all, err
	}
	return slices.DeleteFunc(all, func(m Member) bool { return !slices.Contains(memberships, m.Membership) }), nil
}

// JoinedUsers lists the users joined to a room, of all servers.
func (s *Service) JoinedUsers(ctx context.Context, t tenant.ID, roomNID int64) ([]id.User, error) {
	rows, err := s.DB.Query(ctx, "SELECT user_id FROM membership WHERE tenant = $1 AND room = $2 AND membership = 'join' ORDER BY user_id", int64(t), roomNID)
	return database.All(rows, err, database.Column[id.User])
}

// JoinedServers lists the servers with a joined user in a room, sorted.
func (s *Service) JoinedServers(ctx context.Context, t tenant.ID, roomNID int64) ([]id.Server, error) {
	users, err := s.JoinedUsers(ctx, t, roomNID)
	if err != nil {
		return nil, err
	}
	seen := map[id.Server]bool{}
	var out []id.Server
	for _, u := range users {
		if !seen[u.Server()] {
			seen[u.Server()] = true
			out = append(out, u.Server())
		}
	}
	slices.Sort(out)
	return out, nil
}

// ServerInRoom says whether a user of the server is joined to the room.
func (s *Service) ServerInRoom(ctx context.Context, t tenant.ID, roomNID int64, server id.Server) (bool, error) {
	return s.serverHas(ctx, t, roomNID, server, "join")
}

// ServerInvited says whether a user of the server is invited to the room.
func (s *Service) ServerInvited(ctx context.Context, t tenant.ID, roomNID int64, server id.Server) (bool, error) {
	return s.serverHas(ctx, t, roomNID, server, "invite")
}

func (s *Service) serverHas(ctx context.Context, t tenant.ID, roomNID int64, server id.Server, membership string) (bool, error) {
	var n int64
	err := s.DB.QueryRow(ctx, `SELECT COUNT(*) FROM (SELECT 1 FROM membership WHERE tenant = $1 AND room = $2 AND membership = $4
		AND user_id LIKE $3 ESCAPE '!' LIMIT 1) AS found`, int64(t), roomNID, "%:"+escapeLike(string(server)), membership).Scan(&n)
	return n > 0, err
}

// escapeLike makes a text stand for itself in LIKE … ESCAPE '!'.
func escapeLike(s string) string {
	out := make([]byte, 0, len(s))
	for i := range len(s) {
		if s[i] == '%' || s[i] == '_' || s[i] == '!' {
			out = append(out, '!')
		}
		out = append(out, s[i])
	}
	return string(out)
}

// SharedUsers returns everybody, local or remote, who is joined to a room that the user is joined to; the user is among them.
func (s *Service) SharedUsers(ctx context.Context, t tenant.ID, user id.User) (map[id.User]struct{}, error) {
	rows, err := s.DB.Query(ctx, `SELECT DISTINCT o.user_id FROM membership m JOIN membership o ON o.tenant = m.tenant AND o.room = m.room
		WHERE m.tenant = $1 AND o.tenant = $1 AND m.user_id = $2 AND m.membership = 'join' AND o.membership = 'join'`, int64(t), string(user))
	list, err := database.All(rows, err, database.Column[id.User])
	if err != nil {
		return nil, err
	}
	out := make(map[id.User]struct{}, len(list)+1)
	out[user] = struct{}{}
	for _, u := range list {
		out[u] = struct{}{}
	}
	return out, nil
}

// SharesRoom says whether two users are joined to a common room.
func (s *Service) SharesRoom(ctx context.Context, t tenant.ID, a, b id.User) (bool, error) {
	var n int64
	err := s.DB.QueryRow(ctx, `SELECT COUNT(*) FROM (SELECT 1 FROM membership m JOIN membership o ON o.tenant = m.tenant AND o.room = m.room
		WHERE m.tenant = $1 AND o.tenant = $1 AND m.user_id = $2 AND o.user_id = $3 AND m.membership = 'join' AND o.membership = 'join' LIMIT 1) AS found`,
		int64(t), string(a), string(b)).Scan(&n)
	return n > 0, err
}

// MemberChange is a change of a member event in a room's current state.
type MemberChange struct {
	Room     int64
	User     id.User
	Position int64
	Old, New id.Event
}

// MemberChanges lists changes of members of the given rooms with positions in (from, to], oldest first.
func (s *Service) MemberChanges(ctx context.Context, t tenant.ID, rooms []int64, from, to int64) ([]MemberChange, error) {
	var out []MemberChange
	for len(rooms) > 0 {
		n := min(len(rooms), database.MaxMarks)
		args := []any{int64(t), from, to}
		for _, r := range rooms[:n] {
			args = append(args, r)
		}
		rows, err := s.DB.Query(ctx, `SELECT room, state_key, position, old_id, new_id FROM state_delta WHERE tenant = $1 AND position > $2 AND position <= $3
			AND type = 'm.room.member' AND room IN (`+database.Marks(4, n)+") ORDER BY position", args...)
		found, err := database.All(rows, err, func(rows *sql.Rows) (c MemberChange, err error) {
			return c, rows.Scan(&c.Room, &c.User, &c.Position, &c.Old, &c.New)
		})
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
		rooms = rooms[n:]
	}
	return out, nil
}

// InviteState returns the stripped state stored with a local user's invite or knock (engine rule 22).
func (s *Service) InviteState(ctx context.Context, t tenant.ID, user id.User, roomNID int64) ([]jsontext.Value, error) {
	var raw []byte
	err := s.DB.QueryRow(ctx, "SELECT stripped FROM membership WHERE tenant = $1 AND user_id = $2 AND room = $3", int64(t), string(user), roomNID).Scan(&raw)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []jsontext.Value
	return out, json.Unmarshal(raw, &out)
}

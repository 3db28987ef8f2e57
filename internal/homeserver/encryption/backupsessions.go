// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"context"
	"database/sql"
	"errors"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// backedUp is the backup of one session (client-server API, "KeyBackupData").
type backedUp struct {
	FirstIndex *int64         `json:"first_message_index"`
	Forwarded  *int64         `json:"forwarded_count"`
	Verified   *bool          `json:"is_verified"`
	Data       jsontext.Value `json:"session_data"`
}

func (b *backedUp) check() error {
	if b.FirstIndex == nil || b.Forwarded == nil || b.Verified == nil || len(b.Data) == 0 {
		return mxerror.MissingParam.With("a session needs first_message_index, forwarded_count, is_verified and session_data")
	}
	if *b.FirstIndex < 0 || *b.Forwarded < 0 {
		return mxerror.BadJSON.With("first_message_index and forwarded_count must not be negative")
	}
	if b.Data.Kind() != '{' {
		return mxerror.BadJSON.With("session_data must be an object")
	}
	return nil
}

// better says whether b replaces other: a verified one does, then the one that reaches further back, then the one forwarded less often.
func (b *backedUp) better(other *backedUp) bool {
	if *b.Verified != *other.Verified {
		return *b.Verified
	}
	if *b.FirstIndex != *other.FirstIndex {
		return *b.FirstIndex < *other.FirstIndex
	}
	return *b.Forwarded < *other.Forwarded
}

type roomSessions struct {
	Sessions map[string]backedUp `json:"sessions"`
}

type allSessions struct {
	Rooms map[id.Room]roomSessions `json:"rooms"`
}

type etagReply struct {
	Count int64  `json:"count"`
	ETag  string `json:"etag"`
}

// uploaded reads the body in the shape that belongs to the path: all rooms, one room, or one session.
func uploaded(r *httpapi.Request) (all allSessions, err error) {
	room, session := id.Room(r.Var("roomId")), r.Var("sessionId")
	switch {
	case session != "":
		var one backedUp
		err = r.Decode(&one)
		all.Rooms = map[id.Room]roomSessions{room: {map[string]backedUp{session: one}}}
	case room != "":
		var some roomSessions
		if err = r.Decode(&some); err == nil && some.Sessions == nil {
			err = mxerror.MissingParam.With("sessions is missing")
		}
		all.Rooms = map[id.Room]roomSessions{room: some}
	default:
		if err = r.Decode(&all); err == nil && all.Rooms == nil {
			err = mxerror.MissingParam.With("rooms is missing")
		}
	}
	if err != nil {
		return all, err
	}
	for room, some := range all.Rooms {
		if _, err := id.ParseRoom(string(room)); err != nil {
			return all, mxerror.InvalidParam.With("%q is no room id", room)
		}
		for _, b := range some.Sessions {
			if err := b.check(); err != nil {
				return all, err
			}
		}
	}
	return all, nil
}

func (s *Service) putSessions(ctx context.Context, r *httpapi.Request) (any, error) {
	all, err := uploaded(r)
	if err != nil {
		return nil, err
	}
	return s.changeSessions(ctx, r, true, func(tx *database.Tx, b *backup) (changed bool, err error) {
		for room, some := range all.Rooms {
			for session, data := range some.Sessions {
				wrote, err := putSession(ctx, tx, r.Tenant.ID, r.Session.User, b.version, room, session, &data)
				if err != nil {
					return false, err
				}
				changed = changed || wrote
			}
		}
		return changed, nil
	})
}

// changeSessions runs f on the version named in the query, in a transaction that holds the version's row, and answers with the new etag.
// current asks that the version is the current one, as every upload must be.
func (s *Service) changeSessions(ctx context.Context, r *httpapi.Request, current bool, f func(*database.Tx, *backup) (bool, error)) (any, error) {
	version := r.Query("version")
	if version == "" {
		return nil, mxerror.MissingParam.With("version is missing")
	}
	t, user := r.Tenant.ID, r.Session.User
	var reply etagReply
	err := s.db.Write(ctx, func(tx *database.Tx) error {
		b, err := backupVersion(ctx, tx, t, user, version)
		if err != nil && !errors.Is(err, mxerror.NotFound) {
			return err
		}
		if current {
			newest, newestErr := currentBackup(ctx, tx, t, user)
			if newestErr != nil {
				return newestErr
			}
			if err != nil || newest.version != b.version {
				return mxerror.WrongRoomKeysVersion.WithExtra("current_version", strconv.FormatInt(newest.version, 10))
			}
		}
		if err != nil || b.deleted {
			return errNoBackup
		}
		// This holds the row: uploads of one user follow each other, so counts and etags are exact.
		key := []any{int64(t), string(user), b.version}
		if err := tx.QueryRow(ctx, "UPDATE key_backup SET etag = etag WHERE tenant = $1 AND user_id = $2 AND version = $3 RETURNING etag", key...).
			Scan(&b.etag); err != nil {
			return err
		}
		changed, err := f(tx, &b)
		if err != nil {
			return err
		}
		if changed {
			b.etag++
			if _, err := tx.Exec(ctx, "UPDATE key_backup SET etag = etag + 1 WHERE tenant = $1 AND user_id = $2 AND version = $3", key...); err != nil {
				return err
			}
		}
		reply.ETag = strconv.FormatInt(b.etag, 10)
		reply.Count, err = countSessions(ctx, tx, t, user, b.version)
		return err
	})
	if err != nil {
		return nil, err
	}
	return reply, nil
}

// putSession stores a session unless a better one is there.
func putSession(ctx context.Context, tx *database.Tx, t tenant.ID, user id.User, version int64, room id.Room, session string, data *backedUp) (bool, error) {
	key := []any{int64(t), string(user), version, string(room), session}
	old := backedUp{FirstIndex: new(int64), Forwarded: new(int64), Verified: new(bool)}
	err := tx.QueryRow(ctx, `SELECT first_message_index, forwarded_count, is_verified FROM key_backup_session
		WHERE tenant = $1 AND user_id = $2 AND version = $3 AND room = $4 AND session = $5`, key...).Scan(old.FirstIndex, old.Forwarded, old.Verified)
	if err == nil && !data.better(&old) {
		return false, nil
	}
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return false, err
	}
	_, err = tx.Exec(ctx, `INSERT INTO key_backup_session (tenant, user_id, version, room, session, first_message_index, forwarded_count, is_verified, session_data)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
		ON CONFLICT (tenant, user_id, version, room, session) DO UPDATE SET first_message_index = excluded.first_message_index,
		forwarded_count = excluded.forwarded_count, is_verified = excluded.is_verified, session_data = excluded.session_data`,
		append(key, *data.FirstIndex, *data.Forwarded, *data.Verified, string(data.Data))...)
	return err == nil, err
}

// selection is the part of a backup that a path means.
func selection(r *httpapi.Request, version int64) (where string, args []any) {
	where = " FROM key_backup_session WHERE tenant = $1 AND user_id = $2 AND version = $3"
	args = []any{int64(r.Tenant.ID), string(r.Session.User), version}
	if room := r.Var("roomId"); room != "" {
		where += " AND room = $4"
		args = append(args, room)
		if session := r.Var("sessionId"); session != "" {
			where += " AND session = $5"
			args = append(args, session)
		}
	}
	return where, args
}

func (s *Service) getSessions(ctx context.Context, r *httpapi.Request) (any, error) {
	version := r.Query("version")
	if version == "" {
		return nil, mxerror.MissingParam.With("version is missing")
	}
	b, err := backupVersion(ctx, s.db, r.Tenant.ID, r.Session.User, version)
	if err == nil && b.deleted {
		err = errNoBackup
	}
	if err != nil {
		return nil, err
	}
	where, args := selection(r, b.version)
	all := allSessions{map[id.Room]roomSessions{}}
	rows, err := s.db.Query(ctx, "SELECT room, session, first_message_index, forwarded_count, is_verified, session_data"+where, args...)
	if _, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
		var room id.Room
		var session, data string
		b := backedUp{FirstIndex: new(int64), Forwarded: new(int64), Verified: new(bool)}
		err := rows.Scan(&room, &session, b.FirstIndex, b.Forwarded, b.Verified, &data)
		b.Data = jsontext.Value(data)
		if all.Rooms[room].Sessions == nil {
			all.Rooms[room] = roomSessions{map[string]backedUp{}}
		}
		all.Rooms[room].Sessions[session] = b
		return struct{}{}, err
	}); err != nil {
		return nil, err
	}
	room, session := id.Room(r.Var("roomId")), r.Var("sessionId")
	switch {
	case session != "":
		one, ok := all.Rooms[room].Sessions[session]
		if !ok {
			return nil, mxerror.NotFound.With("the backup has no such session")
		}
		return one, nil
	case room != "":
		return all.Rooms[room], nil
	}
	return all, nil
}

func (s *Service) deleteSessions(ctx context.Context, r *httpapi.Request) (any, error) {
	return s.changeSessions(ctx, r, false, func(tx *database.Tx, b *backup) (bool, error) {
		where, args := selection(r, b.version)
		n, err := tx.Exec(ctx, "DELETE"+where, args...)
		return n > 0, err
	})
}

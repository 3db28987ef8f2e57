// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// shutdown is what became of a room's people.
type shutdown struct {
	Kicked  []id.User  `json:"kicked_users"`
	Failed  []id.User  `json:"failed_to_kick_users"`
	Aliases []id.Alias `json:"local_aliases"`
	NewRoom *id.Room   `json:"new_room_id"`
}

type shutdownRequest struct {
	Block   bool    `json:"block"`
	Purge   *bool   `json:"purge"`
	Force   bool    `json:"force_purge"`
	NewUser id.User `json:"new_room_user_id"`
	Name    string  `json:"room_name"`
	Message string  `json:"message"`
}

// deleteRoom shuts a room down: all of the tenant's people leave, its aliases and listing go, and when asked for nobody may come back. Unless it is told
// not to, it then removes the tenant's copy of the room; with force even if somebody could not be made to leave. It answers at once and works on.
func (s *Service) deleteRoom(ctx context.Context, r *httpapi.Request) (any, error) {
	var q shutdownRequest
	if err := r.DecodeOptional(&q); err != nil {
		return nil, err
	}
	name, err := r.Room()
	if err != nil {
		return nil, mxerror.InvalidParam.With("%s is not a legal room ID", r.Var("roomId"))
	}
	in, err := s.find(ctx, r)
	if err != nil {
		return nil, err
	}
	if q.NewUser != "" {
		if there, err := s.o.Accounts.Exists(ctx, r.Tenant.ID, q.NewUser); err != nil || !there {
			if err == nil {
				err = mxerror.New(400, "M_UNKNOWN", "User must be our own: "+string(q.NewUser))
			}
			return nil, err
		}
	}
	if q.Block {
		if err := s.o.Rooms.Block(ctx, r.Tenant.ID, name, r.Session.User, true); err != nil {
			return nil, err
		}
	}
	deleteID := httpapi.NewToken('x', r.Tenant.ID)[:32]
	_, err = s.o.DB.Exec(ctx, "INSERT INTO room_shutdown (tenant, delete_id, room_id, status, result, started) VALUES ($1, $2, $3, 'active', $4, $5)",
		int64(r.Tenant.ID), deleteID, string(name), result(&shutdown{}), s.o.Now().UnixMilli())
	if err != nil {
		return nil, err
	}
	t := r.Tenant
	s.work.Go(func() { s.shutDown(t, in, &q, deleteID) })
	return map[string]string{"delete_id": deleteID}, nil
}

// result writes a shutdown as JSON, with lists where there is nothing.
func result(d *shutdown) string {
	d.Kicked, d.Failed, d.Aliases = append([]id.User{}, d.Kicked...), append([]id.User{}, d.Failed...), append([]id.Alias{}, d.Aliases...)
	raw, err := json.Marshal(d)
	if err != nil {
		return "{}"
	}
	return string(raw)
}

// shutDown does the work of deleteRoom and notes how it ended.
func (s *Service) shutDown(t *tenant.Tenant, in *room.Room, q *shutdownRequest, deleteID string) {
	ctx := s.background
	d := &shutdown{}
	err := s.empty(ctx, t, in, q, d)
	if err == nil && (q.Purge == nil || *q.Purge) {
		if err = fmt.Errorf("%d users could not be taken out of the room", len(d.Failed)); len(d.Failed) == 0 || q.Force {
			err = s.o.Rooms.Purge(ctx, t, in)
		}
	}
	status := "complete"
	if err != nil {
		status = "failed"
		s.o.Log.Warn("a room was not shut down", "tenant", string(t.Name), "error", err)
	}
	_, err = s.o.DB.Exec(context.WithoutCancel(ctx), "UPDATE room_shutdown SET status = $3, result = $4 WHERE tenant = $1 AND delete_id = $2",
		int64(t.ID), deleteID, status, result(d))
	if err != nil {
		s.o.Log.Warn("the end of a shutdown was not stored", "tenant", string(t.Name), "error", err)
	}
}

// empty makes everybody leave, after a new room was opened for them when the administrator wants one.
func (s *Service) empty(ctx context.Context, t *tenant.Tenant, in *room.Room, q *shutdownRequest, d *shutdown) error {
	var fresh id.Room
	if q.NewUser != "" {
		name := q.Name
		if name == "" {
			name = "Content Violation Notification"
		}
		var err error
		if fresh, err = s.o.Rooms.Create(ctx, t, q.NewUser, policy.CreateRoom{Preset: "public_chat", Name: name}); err != nil {
			return err
		}
		d.NewRoom = &fresh
		if q.Message != "" {
			content, err := json.Marshal(map[string]string{"msgtype": "m.text", "body": q.Message})
			if err != nil {
				return err
			}
			if _, err := s.o.Rooms.Send(ctx, t, room.Draft{Room: fresh, Sender: q.NewUser, Type: "m.room.message", Content: content}); err != nil {
				return err
			}
		}
	}
	users, err := s.o.Rooms.JoinedUsers(ctx, t.ID, in.NID)
	if err != nil {
		return err
	}
	for _, u := range users {
		if u.Server() != t.Name {
			continue
		}
		if err := s.o.Rooms.Leave(ctx, t, u, in.ID, ""); err != nil {
			s.o.Log.Info("somebody could not be taken out of a room", "tenant", string(t.Name), "error", err)
			d.Failed = append(d.Failed, u)
			continue
		}
		d.Kicked = append(d.Kicked, u)
		if fresh != "" && u != q.NewUser {
			if err := s.o.Rooms.Join(ctx, t, u, fresh, nil, ""); err != nil {
				s.o.Log.Info("somebody could not be brought to the new room", "tenant", string(t.Name), "error", err)
			}
		}
	}
	d.Aliases, err = s.o.Rooms.RemoveAliases(ctx, t.ID, in)
	return err
}

type shutdownReply struct {
	DeleteID string         `json:"delete_id,omitzero"`
	Status   string         `json:"status"`
	Shutdown jsontext.Value `json:"shutdown_room"`
}

func (s *Service) shutdowns(ctx context.Context, condition string, t tenant.ID, name string) ([]shutdownReply, error) {
	rows, err := s.o.DB.Query(ctx, "SELECT delete_id, status, result FROM room_shutdown WHERE tenant = $1 AND "+condition+" = $2 ORDER BY started", int64(t), name)
	return database.All(rows, err, func(rows *sql.Rows) (d shutdownReply, err error) {
		var raw string
		err = rows.Scan(&d.DeleteID, &d.Status, &raw)
		d.Shutdown = jsontext.Value(raw)
		return d, err
	})
}

func (s *Service) deleteStatus(ctx context.Context, r *httpapi.Request) (any, error) {
	list, err := s.shutdowns(ctx, "delete_id", r.Tenant.ID, r.Var("deleteId"))
	if err == nil && len(list) == 0 {
		err = mxerror.NotFound.With("delete id '%s' not found", r.Var("deleteId"))
	}
	if err != nil {
		return nil, err
	}
	list[0].DeleteID = ""
	return list[0], nil
}

func (s *Service) deletesOf(ctx context.Context, r *httpapi.Request) (any, error) {
	list, err := s.shutdowns(ctx, "room_id", r.Tenant.ID, r.Var("roomId"))
	if err == nil && len(list) == 0 {
		err = mxerror.NotFound.With("No delete task for room_id '%s' found", r.Var("roomId"))
	}
	return map[string]any{"results": list}, err
}

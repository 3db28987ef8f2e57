// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"database/sql"
	"errors"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// The account that notices come from: it has no password, and what it belongs to is no application service, so that nobody signs in to it.
const (
	noticesLocalpart = "_notices"
	noticesOwner     = "server notices"
	noticesName      = "Mitteilungen / Server notices"
	// noticesTag marks the room for clients (client-server API, "Server Notices").
	noticesTag = `{"tags":{"m.server_notice":{}}}`
	// noticesPower lets the recipient read and leave, and nothing else.
	noticesPower = `{"users_default":-10}`
)

// sendNotice sends a message of the administrators to one user, in a room of its own for each.
func (s *Service) sendNotice(ctx context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		User     id.User        `json:"user_id"`
		Type     string         `json:"type"`
		StateKey *string        `json:"state_key"`
		Content  jsontext.Value `json:"content"`
	}
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if q.Content.Kind() != '{' {
		return nil, mxerror.BadJSON.With("content must be an object")
	}
	if q.Type == "" {
		q.Type = "m.room.message"
	}
	user, err := id.ParseUser(string(q.User))
	if err != nil || user.Server() != r.Tenant.Name {
		return nil, mxerror.New(400, "M_UNKNOWN", "Server notices can only be sent to local users")
	}
	a, err := s.o.Accounts.Account(ctx, r.Tenant.ID, user)
	if errors.Is(err, mxerror.NotFound) || err == nil && a.Deactivated {
		return nil, mxerror.NotFound.With("User not found")
	}
	if err != nil {
		return nil, err
	}
	sender, err := s.noticesAccount(ctx, r.Tenant)
	if err != nil {
		return nil, err
	}
	in, err := s.noticesRoom(ctx, r.Tenant, sender, user)
	if err != nil {
		return nil, err
	}
	d := room.Draft{Room: in, Sender: sender, Type: q.Type, StateKey: q.StateKey, Content: q.Content}
	if txn := r.Var("txnId"); txn != "" {
		d.Txn = &room.Txn{Device: r.Session.Device, Scope: "server notice " + string(r.Session.User) + " " + string(user), ID: txn}
	}
	eid, err := s.o.Rooms.Send(ctx, r.Tenant, d)
	return map[string]id.Event{"event_id": eid}, err
}

// noticesAccount makes the sender's account when it is missing. M_EXCLUSIVE when somebody else has its name.
func (s *Service) noticesAccount(ctx context.Context, t *tenant.Tenant) (id.User, error) {
	sender, err := id.NewUser(noticesLocalpart, t.Name)
	if err != nil {
		return "", err
	}
	a, err := s.o.Accounts.Account(ctx, t.ID, sender)
	if errors.Is(err, mxerror.NotFound) {
		_, err = s.o.Accounts.Create(ctx, t, account.NewUser{Localpart: noticesLocalpart, AppService: noticesOwner, DisplayName: noticesName})
		if err != nil && !errors.Is(err, mxerror.UserInUse) {
			return "", err
		}
		a, err = s.o.Accounts.Account(ctx, t.ID, sender)
	}
	if err == nil && a.AppService != noticesOwner {
		err = mxerror.Exclusive.With("%s is somebody's account and cannot send notices", sender)
	}
	return sender, err
}

// noticesRoom finds the user's room of notices, invites the user again who has left it, or makes one.
func (s *Service) noticesRoom(ctx context.Context, t *tenant.Tenant, sender, user id.User) (id.Room, error) {
	var rid id.Room
	err := s.o.DB.QueryRow(ctx, "SELECT room_id FROM server_notice_room WHERE tenant = $1 AND user_id = $2", int64(t.ID), string(user)).Scan(&rid)
	if err == nil {
		if usable, err := s.usable(ctx, t, rid, sender, user); usable || err != nil {
			return rid, err
		}
	} else if !errors.Is(err, sql.ErrNoRows) {
		return "", err
	}
	rid, err = s.o.Rooms.Create(ctx, t, sender, policy.CreateRoom{Preset: "private_chat", Name: noticesName, Invite: []id.User{user}, PowerLevels: jsontext.Value(noticesPower)})
	if err != nil {
		return "", err
	}
	if err := s.o.Accounts.SetAccountData(ctx, t.ID, user, rid, "m.tag", jsontext.Value(noticesTag)); err != nil {
		return "", err
	}
	_, err = s.o.DB.Exec(ctx, "INSERT INTO server_notice_room (tenant, user_id, room_id) VALUES ($1, $2, $3) ON CONFLICT (tenant, user_id) DO UPDATE SET room_id = excluded.room_id",
		int64(t.ID), string(user), string(rid))
	return rid, err
}

// usable says whether a room can be written to and the user gets what is written; who has left is invited again.
func (s *Service) usable(ctx context.Context, t *tenant.Tenant, rid id.Room, sender, user id.User) (bool, error) {
	in, err := s.o.Rooms.Lookup(ctx, t.ID, rid)
	if errors.Is(err, mxerror.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	own, err := s.o.Rooms.Membership(ctx, t.ID, in.NID, sender)
	if err != nil || own.Membership != "join" {
		return false, err
	}
	theirs, err := s.o.Rooms.Membership(ctx, t.ID, in.NID, user)
	if err != nil || theirs.Membership == "join" || theirs.Membership == "invite" {
		return err == nil, err
	}
	err = s.o.Rooms.Invite(ctx, t, rid, sender, user, "", false)
	return err == nil, err
}

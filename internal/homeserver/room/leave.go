// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"

	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// Leave ends a local user's membership, or rejects its invite, or takes back its knock. Who has left already leaves again without error.
func (s *Service) Leave(ctx context.Context, t *tenant.Tenant, user id.User, room id.Room, reason string) error {
	r, err := s.Lookup(ctx, t.ID, room)
	if err != nil {
		return err
	}
	m, err := s.Membership(ctx, t.ID, r.NID, user)
	if err != nil {
		return err
	}
	switch m.Membership {
	case "":
		return mxerror.Forbidden.With("%s was never in the room.", user)
	case "leave":
		return nil
	case "ban":
		return mxerror.Forbidden.With("%s is banned from the room.", user)
	}
	in, err := s.ServerInRoom(ctx, t.ID, r.NID, t.Name)
	if err != nil {
		return err
	}
	if !in {
		return s.leaveOutside(ctx, t, r, m)
	}
	return s.setMember(ctx, t, r, user, user, "leave", reason, nil)
}

// leaveOutside rejects an invite or takes back a knock of a room that the server is not in. The other server may be gone: the user is rid of
// the invite all the same.
func (s *Service) leaveOutside(ctx context.Context, t *tenant.Tenant, r *Room, m Member) error {
	eid := m.Event
	inviter, err := s.inviter(ctx, t.ID, m.User, r.NID)
	if err != nil {
		return err
	}
	if s.Remote != nil && inviter != "" {
		server := inviter.Server()
		if server == t.Name { // our own knock: the room's server was told then
			if server, err = s.knockedAt(ctx, t, r, m.User); err != nil {
				return err
			}
		}
		e, err := s.leaveThrough(ctx, t, r, m.User, server)
		if err != nil {
			s.Log.InfoContext(ctx, "leave through another server", "server", server, "error", err)
		} else {
			eid = e.ID()
		}
	}
	return s.setOutside(ctx, t.ID, r, m.User, "leave", eid, nil)
}

// knockedAt is a server that knows of a user's knock: the one that the room's id names, else one whose user made the stripped state that answered it.
func (s *Service) knockedAt(ctx context.Context, t *tenant.Tenant, r *Room, user id.User) (id.Server, error) {
	if named, ok := r.ID.Server(); ok {
		return named, nil
	}
	entries, err := s.InviteState(ctx, t.ID, user, r.NID)
	if err != nil {
		return "", err
	}
	for _, raw := range entries {
		sender, err := id.ParseUser(stringField(raw, "sender"))
		if err == nil && sender.Server() != t.Name {
			return sender.Server(), nil
		}
	}
	return t.Name, nil
}

func (s *Service) leaveThrough(ctx context.Context, t *tenant.Tenant, r *Room, user id.User, server id.Server) (*event.Event, error) {
	tmpl, err := s.Remote.MakeLeave(ctx, t, server, r.ID, user)
	if err != nil {
		return nil, err
	}
	e, err := s.fromTemplate(ctx, t, tmpl, r.ID, user, object(map[string]any{"membership": "leave"}))
	if err != nil {
		return nil, err
	}
	return e, s.Remote.SendLeave(ctx, t, server, e)
}

// Kick, Ban and Unban change another user's membership; the auth rules decide who may.

// Kick removes a user from the room, or takes back its invite.
func (s *Service) Kick(ctx context.Context, t *tenant.Tenant, room id.Room, sender, target id.User, reason string) error {
	r, err := s.joinedRoom(ctx, t, room, sender)
	if err != nil {
		return err
	}
	return s.setMember(ctx, t, r, sender, target, "leave", reason, func(m string) error {
		if m == "" || m == "leave" || m == "ban" {
			return mxerror.Forbidden.With("%s is not in the room.", target)
		}
		return nil
	})
}

// Ban bans a user from the room, whether it is in it or not.
func (s *Service) Ban(ctx context.Context, t *tenant.Tenant, room id.Room, sender, target id.User, reason string) error {
	r, err := s.joinedRoom(ctx, t, room, sender)
	if err != nil {
		return err
	}
	return s.setMember(ctx, t, r, sender, target, "ban", reason, nil)
}

// Unban lifts a user's ban.
func (s *Service) Unban(ctx context.Context, t *tenant.Tenant, room id.Room, sender, target id.User, reason string) error {
	r, err := s.joinedRoom(ctx, t, room, sender)
	if err != nil {
		return err
	}
	return s.setMember(ctx, t, r, sender, target, "leave", reason, func(m string) error {
		if m != "ban" {
			return mxerror.Forbidden.With("%s is not banned.", target)
		}
		return nil
	})
}

// setMember appends a member event; check looks at the target's membership before.
func (s *Service) setMember(ctx context.Context, t *tenant.Tenant, r *Room, sender, target id.User, membership, reason string, check func(string) error) error {
	content := map[string]any{"membership": membership}
	if reason != "" {
		content["reason"] = reason
	}
	d := stateDraft("m.room.member", string(target), object(content))
	d.Room, d.Sender = r.ID, sender
	_, err := s.append(ctx, t, r, d, func(state State, _ *Draft) error {
		if check == nil {
			return nil
		}
		m, err := s.StateEvent(ctx, t.ID, state, memberKey(target))
		if err != nil {
			return err
		}
		if m == nil {
			return check("")
		}
		return check(m.Membership())
	})
	return err
}

// Forget removes a room that a user has left from its list. When it was the last of the tenant's users to know the room, the room is purged.
func (s *Service) Forget(ctx context.Context, t *tenant.Tenant, user id.User, room id.Room) error {
	r, err := s.Lookup(ctx, t.ID, room)
	if errors.Is(err, mxerror.NotFound) {
		return mxerror.New(400, "M_UNKNOWN", "You were never in this room.")
	}
	if err != nil {
		return err
	}
	m, err := s.Membership(ctx, t.ID, r.NID, user)
	if err != nil {
		return err
	}
	if m.Membership != "leave" && m.Membership != "ban" {
		return mxerror.New(400, "M_UNKNOWN", "Leave the room before you forget it.")
	}
	_, err = s.Committer.Commit(ctx, &stream.Plan{Tenant: t.ID,
		Positioned: []stream.Statement{{SQL: "UPDATE membership SET forgotten = TRUE, position = $4 WHERE tenant = $1 AND user_id = $2 AND room = $3",
			Args: []any{int64(t.ID), string(user), r.NID, stream.At(0)}}},
		Changes: []stream.Change{{Kind: stream.Membership, Users: []id.User{user}}}})
	if err != nil {
		return err
	}
	return s.purgeForgotten(ctx, t, r)
}

// Rescinded takes a leave or ban by which another server takes back its invite of a local user to a room that we are not in.
func (s *Service) rescinded(ctx context.Context, t *tenant.Tenant, r *Room, origin id.Server, e *event.Event) error {
	refused := mxerror.Forbidden.With("This server is not in the room.")
	if e.Type() != "m.room.member" || !e.IsState() || (e.Membership() != "leave" && e.Membership() != "ban") {
		return refused
	}
	user := id.User(*e.StateKey())
	m, err := s.Membership(ctx, t.ID, r.NID, user)
	if err != nil {
		return err
	}
	inviter, err := s.inviter(ctx, t.ID, user, r.NID)
	if err != nil {
		return err
	}
	if (m.Membership != "invite" && m.Membership != "knock") || e.Sender().Server() != origin || (m.Membership == "invite" && inviter.Server() != origin) {
		return refused
	}
	return s.setOutside(ctx, t.ID, r, user, e.Membership(), e.ID(), nil)
}

// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// Invite invites a user, local or remote. For a remote one the invite is signed by its server before it becomes part of the room.
func (s *Service) Invite(ctx context.Context, t *tenant.Tenant, room id.Room, inviter, invitee id.User, reason string, direct bool) error {
	r, err := s.joinedRoom(ctx, t, room, inviter)
	if err != nil {
		return err
	}
	if err := s.mayInvite(ctx, t, policy.Invite{Inviter: inviter, Invitee: invitee, Room: room, RoomVersion: r.Version.ID, Direct: direct}); err != nil {
		return err
	}
	if err := s.findUser(ctx, t, invitee); err != nil {
		return err
	}
	content, err := s.memberContent(ctx, t, invitee, "invite", reason)
	if err != nil {
		return err
	}
	if direct {
		content = object(map[string]any{"membership": "invite", "is_direct": true, "reason": reason})
		if reason == "" {
			content = object(map[string]any{"membership": "invite", "is_direct": true})
		}
	}
	d := stateDraft("m.room.member", string(invitee), content)
	d.Room, d.Sender = room, inviter
	refuse := func(state State, _ *Draft) error { return s.notMember(ctx, t.ID, state, invitee) }
	if invitee.Server() == t.Name {
		_, err := s.append(ctx, t, r, d, refuse)
		return err
	}
	return s.inviteRemote(ctx, t, r, d, invitee, refuse)
}

// findUser gives an application service the chance to make a local user of its namespace who does not exist yet.
func (s *Service) findUser(ctx context.Context, t *tenant.Tenant, user id.User) error {
	if user.Server() != t.Name || s.FindUser == nil || s.Exists == nil {
		return nil
	}
	there, err := s.Exists(ctx, t.ID, user)
	if err != nil || there {
		return err
	}
	_, err = s.FindUser(ctx, t, user)
	return err
}

// notMember refuses an invite of somebody who is in the room or banned, with a text better than the auth rule's.
func (s *Service) notMember(ctx context.Context, t tenant.ID, state State, user id.User) error {
	m, err := s.StateEvent(ctx, t, state, memberKey(user))
	if err != nil || m == nil {
		return err
	}
	switch m.Membership() {
	case "join":
		return mxerror.Forbidden.With("%s is already in the room.", user)
	case "ban":
		return mxerror.Forbidden.With("%s is banned from the room.", user)
	}
	return nil
}

func (s *Service) mayInvite(ctx context.Context, t *tenant.Tenant, i policy.Invite) error {
	if i.Invitee.Server() != t.Name {
		if err := s.Policy.Federate(ctx, t, i.Invitee.Server()); err != nil {
			return err
		}
	}
	if err := s.Policy.Invite(ctx, t, i); err != nil {
		return err
	}
	return s.wantsInvite(ctx, t, i.Inviter, i.Invitee)
}

// wantsInvite asks a local user's own rules about an invite.
func (s *Service) wantsInvite(ctx context.Context, t *tenant.Tenant, inviter, invitee id.User) error {
	if s.MayInvite == nil || invitee.Server() != t.Name || inviter == invitee {
		return nil
	}
	return s.MayInvite(ctx, t.ID, inviter, invitee)
}

// inviteRemote builds the invite on the committed head, has it signed by the invitee's server without holding the turn, and appends it.
func (s *Service) inviteRemote(ctx context.Context, t *tenant.Tenant, r *Room, d Draft, invitee id.User, refuse func(State, *Draft) error) error {
	if s.Remote == nil {
		return mxerror.Forbidden.With("This server does not federate.")
	}
	h, err := s.peek(ctx, t.ID, r)
	if err != nil {
		return err
	}
	e, before, err := s.draft(ctx, t, r, h, d, refuse)
	if err != nil {
		return err
	}
	if err := s.allowed(ctx, t.ID, e, before.state); err != nil {
		return forbidden(err)
	}
	p, err := s.policyServerFor(ctx, t, r, before.state, d.Type, d.StateKey)
	if err != nil {
		return err
	}
	if e, err = s.recommended(ctx, t, p, e); err != nil {
		return err
	}
	stripped, err := s.Stripped(ctx, t.ID, before.state, e)
	if err != nil {
		return err
	}
	signed, err := s.Remote.Invite(ctx, t, invitee.Server(), e, stripped)
	if err != nil {
		return err
	}
	if signed.ID() != e.ID() {
		return mxerror.New(502, "M_UNKNOWN", "The invited user's server answered with another event.")
	}
	stored, err := s.appendJudged(ctx, t, r, signed, before.state, judgement{send: true})
	if err != nil {
		return err
	}
	if stored.SoftFailed {
		return mxerror.Forbidden.With("The room changed while the invitation was under way.")
	}
	return nil
}

// AcceptInvite takes an invite of a local user that another server made: the policy is asked, the event signed by us and returned. version is
// the room's; stripped is the state that came with it.
func (s *Service) AcceptInvite(ctx context.Context, t *tenant.Tenant, origin id.Server, e *event.Event, stripped []jsontext.Value) (*event.Event, error) {
	if e.Type() != "m.room.member" || !e.IsState() || e.Membership() != "invite" {
		return nil, mxerror.InvalidParam.With("The event is not an invite.")
	}
	invitee, err := id.ParseUser(*e.StateKey())
	if err != nil || invitee.Server() != t.Name {
		return nil, mxerror.InvalidParam.With("The invited user is not on this server.")
	}
	if e.Sender().Server() != origin {
		return nil, mxerror.Forbidden.With("The inviting user is not on %s.", origin)
	}
	if s.Exists != nil {
		ok, err := s.Exists(ctx, t.ID, invitee)
		if err != nil {
			return nil, err
		}
		if !ok && s.FindUser != nil {
			if ok, err = s.FindUser(ctx, t, invitee); err != nil {
				return nil, err
			}
		}
		if !ok {
			return nil, mxerror.NotFound.With("The invited user does not exist.")
		}
	}
	err = s.Policy.Invite(ctx, t, policy.Invite{Inviter: e.Sender(), Invitee: invitee, Room: e.Room(), RoomVersion: e.Version().ID, Incoming: true, Stripped: stripped})
	if err != nil {
		return nil, err
	}
	if err := s.wantsInvite(ctx, t, e.Sender(), invitee); err != nil {
		return nil, err
	}
	key, err := s.Keyring.Signing(ctx, t.ID)
	if err != nil {
		return nil, err
	}
	signed, err := e.WithSignature(t.Name, key.ID, key.Private)
	if err != nil {
		return nil, err
	}
	r, err := s.outsideRoom(ctx, t.ID, e.Room(), e.Version())
	if err != nil {
		return nil, err
	}
	m, err := s.Membership(ctx, t.ID, r.NID, invitee)
	if err != nil {
		return nil, err
	}
	if m.Membership == "join" || m.Membership == "ban" {
		return nil, mxerror.Forbidden.With("%s cannot be invited: membership %s.", invitee, m.Membership)
	}
	return signed, s.setOutside(ctx, t.ID, r, invitee, "invite", e.ID(), append(withoutMember(stripped, invitee), strip(e)))
}

// withoutMember drops a sender's own version of the invite from stripped state; ours is the signed event's.
func withoutMember(stripped []jsontext.Value, user id.User) []jsontext.Value {
	var out []jsontext.Value
	for _, raw := range stripped {
		if stringField(raw, "type") == "m.room.member" && stringField(raw, "state_key") == string(user) {
			continue
		}
		out = append(out, raw)
	}
	return out
}

// outsideRoom finds or makes the row of a room that the server need not be in.
func (s *Service) outsideRoom(ctx context.Context, t tenant.ID, room id.Room, v *roomversion.Version) (*Room, error) {
	r, err := s.Lookup(ctx, t, room)
	if !errors.Is(err, mxerror.NotFound) {
		return r, err
	}
	_, err = s.DB.Exec(ctx, "INSERT INTO room (tenant, room, room_id, version, created) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant, room_id) DO NOTHING",
		int64(t), database.NewID(), string(room), v.ID, s.now().UnixMilli())
	if err != nil {
		return nil, err
	}
	return s.Lookup(ctx, t, room)
}

// setOutside records what became of a local user at a room without an event in a timeline of ours: invited, knocked, left.
func (s *Service) setOutside(ctx context.Context, t tenant.ID, r *Room, user id.User, membership string, eid id.Event, stripped []jsontext.Value) error {
	_, err := s.Committer.Commit(ctx, &stream.Plan{Tenant: t, Room: r.NID,
		Positioned: []stream.Statement{memberRow(t, user, r.NID, membership, eid, stream.At(0), stripped)},
		Changes:    []stream.Change{{Kind: stream.Membership, Users: []id.User{user}}}})
	return err
}

// joinedRoom finds a room that the user is joined to; otherwise M_FORBIDDEN, whether the room exists or not.
func (s *Service) joinedRoom(ctx context.Context, t *tenant.Tenant, room id.Room, user id.User) (*Room, error) {
	r, err := s.Lookup(ctx, t.ID, room)
	if err != nil {
		if errors.Is(err, mxerror.NotFound) {
			return nil, mxerror.Forbidden.With("%s is not in the room.", user)
		}
		return nil, err
	}
	m, err := s.Membership(ctx, t.ID, r.NID, user)
	if err != nil {
		return nil, err
	}
	if m.Membership != "join" {
		return nil, mxerror.Forbidden.With("%s is not in the room.", user)
	}
	return r, nil
}

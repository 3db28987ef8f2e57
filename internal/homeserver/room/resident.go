// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// This file is what the tenant does as a resident server for users of other servers: join, leave, knock.

// PrepareMember answers make_join, make_leave and make_knock: the template of a member event of another server's user. versions are the room
// versions that the asking server speaks; they are not asked for a leave.
func (s *Service) PrepareMember(ctx context.Context, t *tenant.Tenant, origin id.Server, room id.Room, user id.User, membership string, versions []string) (Template, error) {
	r, err := s.resident(ctx, t, room)
	if err != nil {
		return Template{}, err
	}
	if user.Server() != origin {
		return Template{}, mxerror.Forbidden.With("%s is not a user of %s.", user, origin)
	}
	if membership != "leave" && !slices.Contains(versions, r.Version.ID) {
		return Template{}, mxerror.IncompatibleRoomVersion.With("The room has version %s.", r.Version.ID).WithExtra("room_version", r.Version.ID)
	}
	h, err := s.peek(ctx, t.ID, r)
	if err != nil {
		return Template{}, err
	}
	state, err := s.StateAt(ctx, t.ID, h.snapshot)
	if err != nil {
		return Template{}, err
	}
	content := object(map[string]any{"membership": membership})
	if membership == "join" {
		authoriser, err := s.authoriser(ctx, t, r, state, user)
		if err != nil {
			return Template{}, err
		}
		if authoriser != "" {
			content = withField(content, "join_authorised_via_users_server", string(authoriser))
		}
	}
	d := stateDraft("m.room.member", string(user), content)
	d.Room, d.Sender = room, user
	proto, err := s.proto(ctx, t, r, h, state, d)
	if err != nil {
		return Template{}, err
	}
	return Template{Version: r.Version, Event: proto}, nil
}

// proto makes the template after checking that the event would be allowed.
func (s *Service) proto(ctx context.Context, t *tenant.Tenant, r *Room, h *head, state State, d Draft) (jsontext.Value, error) {
	prev, depth, err := s.prevEvents(ctx, t.ID, r, h)
	if err != nil {
		return nil, err
	}
	auth, err := s.authEvents(r, state, d)
	if err != nil {
		return nil, err
	}
	hashes, err := s.references(ctx, t.ID, r, prev, auth)
	if err != nil {
		return nil, err
	}
	draft := event.Draft{Version: r.Version, Room: r.ID, Type: d.Type, StateKey: d.StateKey, Sender: d.Sender, Content: d.Content, PrevEvents: prev, AuthEvents: auth, Hashes: hashes,
		Depth: depth, Timestamp: s.now().UnixMilli()}
	key, err := s.Keyring.Signing(ctx, t.ID)
	if err != nil {
		return nil, err
	}
	trial, err := draft.Build(t.Name, key.ID, key.Private)
	if err != nil {
		return nil, err
	}
	if err := s.allowed(ctx, t.ID, trial, state); err != nil {
		return nil, forbidden(err)
	}
	return draft.Proto()
}

// resident finds a room that the tenant has a user in; otherwise M_NOT_FOUND.
func (s *Service) resident(ctx context.Context, t *tenant.Tenant, room id.Room) (*Room, error) {
	r, err := s.Lookup(ctx, t.ID, room)
	if err != nil {
		return nil, err
	}
	in, err := s.ServerInRoom(ctx, t.ID, r.NID, t.Name)
	if err != nil {
		return nil, err
	}
	if !in {
		return nil, mxerror.NotFound.With("This server is not in the room.")
	}
	return r, nil
}

// Admission is the answer to send_join.
type Admission struct {
	Event *event.Event
	Room  *Room
	// State is the state before it.
	State []*Event
	// Servers were in the room before the join.
	Servers []id.Server
}

// AcceptMember takes a signed member event of another server's user that answers a template: send_join, send_leave and send_knock. The event
// passes the same door as every other; a refused one answers M_FORBIDDEN. It is passed on to the room's other servers (engine rule 20).
func (s *Service) AcceptMember(ctx context.Context, t *tenant.Tenant, origin id.Server, e *event.Event, membership string) (*Admission, error) {
	r, err := s.resident(ctx, t, e.Room())
	if err != nil {
		return nil, err
	}
	if e.Type() != "m.room.member" || !e.IsState() || e.Membership() != membership || *e.StateKey() != string(e.Sender()) {
		return nil, mxerror.InvalidParam.With("The event is not a %s of its sender.", membership)
	}
	if e.Sender().Server() != origin {
		return nil, mxerror.Forbidden.With("%s is not a user of %s.", e.Sender(), origin)
	}
	if e, err = s.coSign(ctx, t, r, e, membership); err != nil {
		return nil, err
	}
	policed, refused, err := s.judged(ctx, t, r, e)
	if err != nil {
		return nil, err
	}
	if refused != "" {
		return nil, mxerror.Forbidden.With("%s", refused)
	}
	e = policed
	missing, err := s.missingPrev(ctx, t.ID, r, e)
	if err != nil {
		return nil, err
	}
	if len(missing) > 0 {
		return nil, mxerror.InvalidParam.With("The event cites events that are not known here.")
	}
	servers, err := s.JoinedServers(ctx, t.ID, r.NID)
	if err != nil {
		return nil, err
	}
	before, err := s.admit(ctx, t, origin, r, e)
	if err != nil {
		return nil, err
	}
	a := &Admission{Event: e, Room: r, Servers: servers}
	a.State, err = s.StateEvents(ctx, t.ID, before)
	return a, err
}

// coSign adds our signature to a restricted join that a user of ours vouches for, once the vouching is found right.
func (s *Service) coSign(ctx context.Context, t *tenant.Tenant, r *Room, e *event.Event, membership string) (*event.Event, error) {
	authoriser := id.User(stringField(e.Content(), "join_authorised_via_users_server"))
	if membership != "join" || authoriser == "" || !r.Version.RestrictedJoins {
		return e, nil
	}
	if authoriser.Server() != t.Name {
		return nil, mxerror.Forbidden.With("%s is not a user of this server.", authoriser)
	}
	state, err := s.CurrentState(ctx, t.ID, r)
	if err != nil {
		return nil, err
	}
	if _, err := s.authoriser(ctx, t, r, state, e.Sender()); err != nil {
		return nil, err
	}
	key, err := s.Keyring.Signing(ctx, t.ID)
	if err != nil {
		return nil, err
	}
	return e.WithSignature(t.Name, key.ID, key.Private)
}

// admit appends the event and returns the state before it.
func (s *Service) admit(ctx context.Context, t *tenant.Tenant, origin id.Server, r *Room, e *event.Event) (State, error) {
	rejected, err := s.checkAuthEvents(ctx, t, origin, r, e)
	if err != nil {
		return nil, err
	}
	if rejected != "" {
		return nil, mxerror.Forbidden.With("%s", rejected)
	}
	before, _, err := s.stateBefore(ctx, t, origin, r, e)
	if err != nil {
		return nil, err
	}
	if err := s.allowed(ctx, t.ID, e, before); err != nil {
		return nil, forbidden(err)
	}
	known, err := s.known(ctx, t.ID, r.NID, []id.Event{e.ID()})
	if err != nil || len(known) > 0 { // the same request again
		return before, err
	}
	state, err := s.CurrentState(ctx, t.ID, r)
	if err != nil {
		return nil, err
	}
	if err := s.allowed(ctx, t.ID, e, state); err != nil {
		return nil, forbidden(err)
	}
	stored, err := s.appendJudged(ctx, t, r, e, before, judgement{send: true})
	if err != nil {
		return nil, err
	}
	if stored.SoftFailed {
		return nil, mxerror.Forbidden.With("The room's current state does not allow the event.")
	}
	return before, nil
}

// KnockState returns the stripped state for a user who has just knocked.
func (s *Service) KnockState(ctx context.Context, t *tenant.Tenant, e *event.Event) ([]jsontext.Value, error) {
	r, err := s.Lookup(ctx, t.ID, e.Room())
	if err != nil {
		return nil, err
	}
	state, err := s.CurrentState(ctx, t.ID, r)
	if err != nil {
		return nil, err
	}
	return s.Stripped(ctx, t.ID, state, e)
}

// Knock asks for an invite to a room.
func (s *Service) Knock(ctx context.Context, t *tenant.Tenant, user id.User, room id.Room, via []id.Server, reason string) error {
	r, err := s.Lookup(ctx, t.ID, room)
	if err != nil && !errors.Is(err, mxerror.NotFound) {
		return err
	}
	if r != nil {
		in, err := s.ServerInRoom(ctx, t.ID, r.NID, t.Name)
		if err != nil {
			return err
		}
		if in {
			content, err := s.memberContent(ctx, t, user, "knock", reason)
			if err != nil {
				return err
			}
			d := stateDraft("m.room.member", string(user), content)
			d.Room, d.Sender = room, user
			_, err = s.append(ctx, t, r, d, nil)
			return err
		}
	}
	return s.knockElsewhere(ctx, t, user, room, withRoomServer(via, room), reason)
}

func (s *Service) knockElsewhere(ctx context.Context, t *tenant.Tenant, user id.User, room id.Room, via []id.Server, reason string) error {
	if s.Remote == nil {
		return mxerror.NotFound.With("This room is not known here.")
	}
	content, err := s.memberContent(ctx, t, user, "knock", reason)
	if err != nil {
		return err
	}
	last := error(mxerror.NotFound.With("No server is known that could take the knock."))
	for _, server := range via {
		if server == t.Name {
			continue
		}
		if last = s.knockThrough(ctx, t, user, room, server, content); last == nil {
			return nil
		}
	}
	return last
}

func (s *Service) knockThrough(ctx context.Context, t *tenant.Tenant, user id.User, room id.Room, server id.Server, content jsontext.Value) error {
	tmpl, err := s.Remote.MakeKnock(ctx, t, server, room, user, knockVersions())
	if err != nil {
		return err
	}
	e, err := s.fromTemplate(ctx, t, tmpl, room, user, content)
	if err != nil {
		return err
	}
	stripped, err := s.Remote.SendKnock(ctx, t, server, e)
	if err != nil {
		return err
	}
	r, err := s.outsideRoom(ctx, t.ID, room, tmpl.Version)
	if err != nil {
		return err
	}
	return s.setOutside(ctx, t.ID, r, user, "knock", e.ID(), append(withoutMember(stripped, user), strip(e)))
}

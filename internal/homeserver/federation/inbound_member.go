// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// template answers make_join, make_leave and make_knock.
func (s *Service) template(ctx context.Context, r *httpapi.Request, membership string) (any, error) {
	rm, err := s.resident(ctx, r, r.Var("roomId"))
	if err != nil {
		return nil, err
	}
	user, err := id.ParseUser(r.Var("userId"))
	if err != nil {
		return nil, mxerror.InvalidParam.With("userId is not a user id.")
	}
	versions := r.Values()["ver"]
	if len(versions) == 0 {
		versions = []string{"1"}
	}
	t, err := s.Rooms.PrepareMember(ctx, r.Tenant, r.Origin, rm.ID, user, membership, versions)
	if err != nil {
		return nil, err
	}
	return struct {
		Version string         `json:"room_version"`
		Event   jsontext.Value `json:"event"`
	}{t.Version.ID, t.Event}, nil
}

func (s *Service) makeJoin(ctx context.Context, r *httpapi.Request) (any, error) {
	return s.template(ctx, r, "join")
}

func (s *Service) makeLeave(ctx context.Context, r *httpapi.Request) (any, error) {
	return s.template(ctx, r, "leave")
}

func (s *Service) makeKnock(ctx context.Context, r *httpapi.Request) (any, error) {
	return s.template(ctx, r, "knock")
}

// member takes the signed member event of send_join, send_leave and send_knock in.
func (s *Service) member(ctx context.Context, r *httpapi.Request, membership string) (*room.Admission, error) {
	rm, err := s.resident(ctx, r, r.Var("roomId"))
	if err != nil {
		return nil, err
	}
	e, err := s.signedEvent(ctx, r, rm.Version, r.Body)
	if err != nil {
		return nil, err
	}
	if e.Room() != rm.ID {
		return nil, mxerror.InvalidParam.With("The event belongs to another room.")
	}
	return s.Rooms.AcceptMember(ctx, r.Tenant, r.Origin, e, membership)
}

// signedEvent reads an event that another server wants us to sign or to take in. It must be the one that the path names, and whole: a redacted
// copy is not taken for the event.
func (s *Service) signedEvent(ctx context.Context, r *httpapi.Request, v *roomversion.Version, raw []byte) (*event.Event, error) {
	if !jsontext.Value(raw).IsValid(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) {
		return nil, mxerror.NotJSON
	}
	e, err := event.Parse(v, raw)
	if err != nil {
		return nil, err
	}
	if string(e.ID()) != r.Var("eventId") {
		return nil, mxerror.InvalidParam.With("The event's id is %s, not the one in the path.", e.ID())
	}
	if !e.CheckHash() {
		return nil, mxerror.InvalidParam.With("The event's content does not match its hash.")
	}
	if _, err := s.VerifyEvent(ctx, e); err != nil && !s.onlyWaitsForUs(ctx, r.Tenant, e) {
		if notVerdict(ctx, err) {
			return nil, err
		}
		return nil, mxerror.InvalidParam.With("The event is not validly signed by %s.", e.Sender().Server())
	}
	return e, nil
}

// onlyWaitsForUs says whether the only signature that an event still needs is ours: a restricted join for which a user of ours vouches is
// signed by us when it is accepted.
func (s *Service) onlyWaitsForUs(ctx context.Context, t *tenant.Tenant, e *event.Event) bool {
	needed := e.RequiredSigners()
	if !slices.Contains(needed, t.Name) {
		return false
	}
	for _, server := range needed {
		if server != t.Name && s.verifySigner(ctx, e, server) != nil {
			return false
		}
	}
	return true
}

func (s *Service) sendJoin(ctx context.Context, r *httpapi.Request) (any, error) {
	omit, err := r.QueryBool("omit_members", false)
	if err != nil {
		return nil, err
	}
	a, err := s.member(ctx, r, "join")
	if err != nil {
		return nil, err
	}
	answer := struct {
		Event   jsontext.Value   `json:"event"`
		State   []jsontext.Value `json:"state"`
		Chain   []jsontext.Value `json:"auth_chain"`
		Omitted bool             `json:"members_omitted"`
		Servers []id.Server      `json:"servers_in_room,omitempty"`
	}{Event: a.Event.JSON(), Omitted: omit, Servers: a.Servers}
	state := a.State
	if omit {
		state = withoutMembers(state, a.Event.Sender())
	}
	chain, err := s.Rooms.AuthChain(ctx, r.Tenant.ID, a.Room, authOf(append(slices.Clone(state), &room.Event{Event: a.Event})))
	if err != nil {
		return nil, err
	}
	if omit {
		given := make(map[id.Event]bool, len(state))
		for _, e := range state {
			given[e.ID()] = true
		}
		chain = slices.DeleteFunc(chain, func(e *room.Event) bool { return given[e.ID()] })
	}
	answer.State, answer.Chain = bodies(state), bodies(chain)
	return answer, nil
}

// heroes is how many members introduce a room without a name (client-server API, room summaries).
const heroes = 5

// withoutMembers leaves the member events out of a state, except for those that a room without name and alias is called by.
func withoutMembers(state []*room.Event, joining id.User) []*room.Event {
	var out, members []*room.Event
	named := false
	for _, e := range state {
		if e.Type() != "m.room.member" {
			named = named || e.StateKeyIs("") && (e.Type() == "m.room.name" || e.Type() == "m.room.canonical_alias")
			out = append(out, e)
			continue
		}
		if m := e.Membership(); (m == "join" || m == "invite") && !e.StateKeyIs(string(joining)) {
			members = append(members, e)
		}
	}
	if named {
		return out
	}
	slices.SortFunc(members, func(a, b *room.Event) int { return strings.Compare(*a.StateKey(), *b.StateKey()) })
	return append(out, members[:min(len(members), heroes)]...)
}

func (s *Service) sendLeave(ctx context.Context, r *httpapi.Request) (any, error) {
	_, err := s.member(ctx, r, "leave")
	return nil, err
}

func (s *Service) sendKnock(ctx context.Context, r *httpapi.Request) (any, error) {
	a, err := s.member(ctx, r, "knock")
	if err != nil {
		return nil, err
	}
	stripped, err := s.Rooms.KnockState(ctx, r.Tenant, a.Event)
	if err != nil {
		return nil, err
	}
	return struct {
		State []jsontext.Value `json:"knock_room_state"`
	}{s.asPDUs(ctx, r.Tenant, stripped)}, nil
}

func (s *Service) inviteV2(ctx context.Context, r *httpapi.Request) (any, error) {
	var body struct {
		Version string           `json:"room_version"`
		Event   jsontext.Value   `json:"event"`
		State   []jsontext.Value `json:"invite_room_state"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Version == "" || len(body.Event) == 0 {
		return nil, mxerror.MissingParam.With("room_version and event are needed.")
	}
	signed, err := s.invited(ctx, r, body.Version, body.Event, body.State)
	if err != nil {
		return nil, err
	}
	return struct {
		Event jsontext.Value `json:"event"`
	}{signed.JSON()}, nil
}

// inviteV1 is the older form, in which the event is the body and its room's version is unknown unless we know the room.
func (s *Service) inviteV1(ctx context.Context, r *httpapi.Request) (any, error) {
	if s.Rooms == nil {
		return nil, mxerror.Unrecognized
	}
	var body struct {
		Unsigned struct {
			State []jsontext.Value `json:"invite_room_state"`
		} `json:"unsigned"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	version := "1"
	if rm, err := s.Rooms.Lookup(ctx, r.Tenant.ID, id.Room(r.Var("roomId"))); err == nil {
		version = rm.Version.ID
	} else if !errors.Is(err, mxerror.NotFound) {
		return nil, err
	}
	signed, err := s.invited(ctx, r, version, r.Body, body.Unsigned.State)
	if err != nil {
		return nil, err
	}
	return []any{http.StatusOK, struct {
		Event jsontext.Value `json:"event"`
	}{signed.JSON()}}, nil
}

// invited checks an invite of a local user and lets room accept it.
func (s *Service) invited(ctx context.Context, r *httpapi.Request, version string, raw []byte, state []jsontext.Value) (*event.Event, error) {
	if s.Rooms == nil {
		return nil, mxerror.Unrecognized
	}
	v, ok := roomversion.Get(version)
	if !ok {
		return nil, mxerror.IncompatibleRoomVersion.With("This server does not speak room version %s.", version).WithExtra("room_version", version)
	}
	e, err := s.signedEvent(ctx, r, v, raw)
	if err != nil {
		return nil, err
	}
	switch {
	case string(e.Room()) != r.Var("roomId"):
		return nil, mxerror.InvalidParam.With("The invite belongs to another room.")
	case e.Sender().Server() != r.Origin:
		return nil, mxerror.InvalidParam.With("The inviting user is not on %s.", r.Origin)
	}
	rm, err := s.Rooms.Lookup(ctx, r.Tenant.ID, e.Room())
	if err == nil {
		err = s.checkACL(ctx, r.Tenant, rm, r.Origin)
	}
	if err != nil && !errors.Is(err, mxerror.NotFound) {
		return nil, err
	}
	stripped, err := s.inviteState(ctx, v, e.Room(), state)
	if err != nil {
		return nil, err
	}
	return s.Rooms.AcceptInvite(ctx, r.Tenant, r.Origin, e, stripped)
}

// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

func (s *Service) handleCreate(ctx context.Context, r *httpapi.Request) (any, error) {
	var body policy.CreateRoom
	if err := r.DecodeOptional(&body); err != nil {
		return nil, err
	}
	if body.Alias != "" && s.MayAlias != nil {
		if err := s.MayAlias(r.Tenant, r.Session.AppService, id.Alias("#"+body.Alias+":"+string(r.Tenant.Name))); err != nil {
			return nil, err
		}
	}
	room, err := s.Create(ctx, r.Tenant, r.Session.User, body)
	return map[string]any{"room_id": room}, err
}

// content reads an event's content from the body: an object.
func content(r *httpapi.Request) (jsontext.Value, error) {
	var raw map[string]jsontext.Value
	if err := r.Decode(&raw); err != nil {
		return nil, err
	}
	return jsontext.Value(r.Body), nil
}

// timestamp reads ts, which only application services may set.
func timestamp(r *httpapi.Request) (int64, error) {
	if r.Query("ts") == "" || r.Session.AppService == "" {
		return 0, nil
	}
	ts, err := r.QueryInt("ts", 0, canonicaljson.MaxInt)
	return int64(ts), err
}

// later keeps an event that is to be sent later and returns the answer to its request; nil for one that is to be sent now.
func (s *Service) later(ctx context.Context, r *httpapi.Request, d Draft) (any, error) {
	if s.Delay == nil || r.HTTP.URL.RawQuery == "" {
		return nil, nil
	}
	delayID, err := s.Delay(ctx, r, d)
	if err != nil || delayID == "" {
		return nil, err
	}
	return map[string]any{"delay_id": delayID}, nil
}

func (s *Service) handleSend(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := r.Room()
	if err != nil {
		return nil, err
	}
	body, err := content(r)
	if err != nil {
		return nil, err
	}
	ts, err := timestamp(r)
	if err != nil {
		return nil, err
	}
	d := Draft{Room: room, Sender: r.Session.User, Type: r.Var("eventType"), Content: body, Timestamp: ts,
		Txn: &Txn{Device: r.Session.Device, Scope: "send " + string(room) + " " + r.Var("eventType"), ID: r.Var("txnId")}}
	if d.Type == "m.room.redaction" {
		d.Redacts = id.Event(stringField(body, "redacts"))
	}
	if later, err := s.later(ctx, r, d); later != nil || err != nil {
		return later, err
	}
	eid, err := s.Send(ctx, r.Tenant, d)
	return map[string]any{"event_id": eid}, err
}

func (s *Service) handleState(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := r.Room()
	if err != nil {
		return nil, err
	}
	body, err := content(r)
	if err != nil {
		return nil, err
	}
	ts, err := timestamp(r)
	if err != nil {
		return nil, err
	}
	d := stateDraft(r.Var("eventType"), r.Var("stateKey"), body)
	d.Room, d.Sender, d.Timestamp = room, r.Session.User, ts
	if later, err := s.later(ctx, r, d); later != nil || err != nil {
		return later, err
	}
	switch d.Type {
	case "m.room.canonical_alias":
		if err := s.checkCanonical(ctx, r.Tenant, d); err != nil {
			return nil, err
		}
	case "m.room.member":
		return s.putMember(ctx, r.Tenant, d)
	}
	if same, err := s.sameState(ctx, r.Tenant, d); err != nil || same != "" {
		return map[string]any{"event_id": same}, err
	}
	eid, err := s.Send(ctx, r.Tenant, d)
	return map[string]any{"event_id": eid}, err
}

// sameState returns the current event of a key when it has the very content that is to be set by the same sender: nothing changes then.
func (s *Service) sameState(ctx context.Context, t *tenant.Tenant, d Draft) (id.Event, error) {
	r, err := s.joinedRoom(ctx, t, d.Room, d.Sender)
	if err != nil {
		return "", nil //nolint:nilerr // the sending decides with the right error
	}
	state, err := s.CurrentState(ctx, t.ID, r)
	if err != nil {
		return "", err
	}
	e, err := s.StateEvent(ctx, t.ID, state, event.Key{Type: d.Type, StateKey: *d.StateKey})
	if err != nil || e == nil || e.Sender() != d.Sender || !sameContent(e.Content(), d.Content) {
		return "", err
	}
	return e.ID(), nil
}

// sameContent compares two JSON objects regardless of spaces and order.
func sameContent(a, b jsontext.Value) bool {
	x, y := a.Clone(), b.Clone()
	return x.Canonicalize() == nil && y.Canonicalize() == nil && string(x) == string(y)
}

// putMember sends a member event through the operation that it means, so that invites reach their server and joins are authorised.
func (s *Service) putMember(ctx context.Context, t *tenant.Tenant, d Draft) (any, error) {
	target, err := id.ParseUser(*d.StateKey)
	if err != nil {
		return nil, mxerror.InvalidParam.With("The state key of a member event is a user id.")
	}
	if stringField(d.Content, "membership") == "invite" && target.Server() != t.Name {
		var c struct {
			IsDirect bool   `json:"is_direct"`
			Reason   string `json:"reason"`
		}
		if err := json.Unmarshal(d.Content, &c); err != nil {
			return nil, mxerror.BadJSON.With("is_direct is a boolean, reason a string.")
		}
		if err := s.Invite(ctx, t, d.Room, d.Sender, target, c.Reason, c.IsDirect); err != nil {
			return nil, err
		}
		r, err := s.Lookup(ctx, t.ID, d.Room)
		if err != nil {
			return nil, err
		}
		m, err := s.Membership(ctx, t.ID, r.NID, target)
		return map[string]any{"event_id": m.Event}, err
	}
	if stringField(d.Content, "membership") == "invite" {
		if err := s.mayInvite(ctx, t, policy.Invite{Inviter: d.Sender, Invitee: target, Room: d.Room}); err != nil {
			return nil, err
		}
		if err := s.findUser(ctx, t, target); err != nil {
			return nil, err
		}
	}
	if same, err := s.sameState(ctx, t, d); err != nil || same != "" {
		return map[string]any{"event_id": same}, err
	}
	eid, err := s.Send(ctx, t, d)
	return map[string]any{"event_id": eid}, err
}

func (s *Service) handleRedact(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := r.Room()
	if err != nil {
		return nil, err
	}
	var body struct {
		Reason string `json:"reason"`
	}
	if err := r.DecodeOptional(&body); err != nil {
		return nil, err
	}
	target := id.Event(r.Var("eventId"))
	c := map[string]any{}
	if body.Reason != "" {
		c["reason"] = body.Reason
	}
	known, err := s.joinedRoom(ctx, r.Tenant, room, r.Session.User)
	if err != nil {
		return nil, err
	}
	if known.Version.RedactsInContent {
		c["redacts"] = target
	}
	if err := s.mayAskToRedact(ctx, r.Tenant, known, r.Session.User, target); err != nil {
		return nil, err
	}
	eid, err := s.Send(ctx, r.Tenant, Draft{Room: room, Sender: r.Session.User, Type: "m.room.redaction", Content: object(c), Redacts: target,
		Txn: &Txn{Device: r.Session.Device, Scope: "redact " + string(room) + " " + string(target), ID: r.Var("txnId")}})
	return map[string]any{"event_id": eid}, err
}

// mayAskToRedact refuses a redaction that would have no effect: of an unknown event, or of another user's without the level for it.
func (s *Service) mayAskToRedact(ctx context.Context, t *tenant.Tenant, r *Room, user id.User, target id.Event) error {
	e, err := s.EventOf(ctx, t.ID, r.NID, target)
	if err != nil {
		return err
	}
	if e.Sender() == user {
		return nil
	}
	state, err := s.CurrentState(ctx, t.ID, r)
	if err != nil {
		return err
	}
	levels, err := s.PowerLevels(ctx, t.ID, state)
	if err != nil {
		return err
	}
	if levels.User(user) < levels.Redact() {
		return mxerror.Forbidden.With("You may redact only your own events in this room.")
	}
	return nil
}

// memberBody is the body of invite, kick, ban and unban.
type memberBody struct {
	UserID string `json:"user_id"`
	Reason string `json:"reason"`
}

func readTarget(r *httpapi.Request) (id.Room, id.User, memberBody, error) {
	var body memberBody
	room, err := r.Room()
	if err != nil {
		return "", "", body, err
	}
	if err := r.Decode(&body); err != nil {
		return "", "", body, err
	}
	if body.UserID == "" {
		return "", "", body, mxerror.MissingParam.With("user_id is missing.")
	}
	user, err := id.ParseUser(body.UserID)
	if err != nil {
		return "", "", body, mxerror.InvalidParam.With("%q is not a Matrix user id.", body.UserID)
	}
	return room, user, body, nil
}

func (s *Service) handleInvite(ctx context.Context, r *httpapi.Request) (any, error) {
	var address ThirdParty
	if httpapi.DecodeJSON(r.Body, &address) == nil && (address.Medium != "" || address.Address != "" || address.Server != "") {
		room, err := r.Room()
		if err != nil {
			return nil, err
		}
		return nil, s.InviteThirdParty(ctx, r.Tenant, room, r.Session.User, address)
	}
	room, user, body, err := readTarget(r)
	if err != nil {
		return nil, err
	}
	return nil, s.Invite(ctx, r.Tenant, room, r.Session.User, user, body.Reason, false)
}

// handleTarget makes the handler of an operation on another user.
func (s *Service) handleTarget(do func(ctx context.Context, t *tenant.Tenant, room id.Room, sender, target id.User, reason string) error) httpapi.Handler {
	return func(ctx context.Context, r *httpapi.Request) (any, error) {
		room, user, body, err := readTarget(r)
		if err != nil {
			return nil, err
		}
		return nil, do(ctx, r.Tenant, room, r.Session.User, user, body.Reason)
	}
}

// roomOrAlias reads which room a join or knock is for and the servers to try.
func (s *Service) roomOrAlias(ctx context.Context, r *httpapi.Request) (id.Room, []id.Server, error) {
	var via []id.Server
	for _, name := range append(r.Values()["via"], r.Values()["server_name"]...) {
		if server, err := id.ParseServer(name); err == nil {
			via = append(via, server)
		}
	}
	name := r.Var("roomIdOrAlias")
	if name == "" {
		room, err := r.Room()
		return room, via, err
	}
	if strings.HasPrefix(name, "#") {
		alias, err := id.ParseAlias(name)
		if err != nil {
			return "", nil, mxerror.InvalidParam.With("%q is not a room alias.", name)
		}
		room, servers, err := s.ResolveAlias(ctx, r.Tenant, alias)
		return room, append(via, servers...), err
	}
	room, err := id.ParseRoom(name)
	if err != nil {
		return "", nil, mxerror.InvalidParam.With("%q is neither a room id nor an alias.", name)
	}
	return room, via, nil
}

// reasonBody is the body of join, knock and leave.
type reasonBody struct {
	Reason string `json:"reason"`
}

func (s *Service) handleJoin(ctx context.Context, r *httpapi.Request) (any, error) {
	var body struct {
		reasonBody
		ThirdParty *signedBody `json:"third_party_signed"`
	}
	if err := r.DecodeOptional(&body); err != nil {
		return nil, err
	}
	room, via, err := s.roomOrAlias(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := s.redeemFirst(ctx, r, room, body.ThirdParty); err != nil {
		return nil, err
	}
	return map[string]any{"room_id": room}, s.Join(ctx, r.Tenant, r.Session.User, room, via, body.Reason)
}

func (s *Service) handleKnock(ctx context.Context, r *httpapi.Request) (any, error) {
	var body reasonBody
	if err := r.DecodeOptional(&body); err != nil {
		return nil, err
	}
	room, via, err := s.roomOrAlias(ctx, r)
	if err != nil {
		return nil, err
	}
	return map[string]any{"room_id": room}, s.Knock(ctx, r.Tenant, r.Session.User, room, via, body.Reason)
}

func (s *Service) handleLeave(ctx context.Context, r *httpapi.Request) (any, error) {
	var body reasonBody
	if err := r.DecodeOptional(&body); err != nil {
		return nil, err
	}
	room, err := r.Room()
	if err != nil {
		return nil, err
	}
	return nil, s.Leave(ctx, r.Tenant, r.Session.User, room, body.Reason)
}

func (s *Service) handleForget(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := r.Room()
	if err != nil {
		return nil, err
	}
	return nil, s.Forget(ctx, r.Tenant, r.Session.User, room)
}

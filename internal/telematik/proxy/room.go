// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/telematik/permission"
)

// membership is the content of m.room.member as far as rules ask.
type membership struct {
	Membership string `json:"membership"`
	Direct     bool   `json:"is_direct"`
}

// createRoom asks about a new room and everybody invited into it, and writes into the request what the rules rewrite.
func (p *Proxy) createRoom(ctx context.Context, q *request) (any, error) {
	s, err := p.identify(ctx, q)
	if err != nil {
		return nil, err
	}
	var fields map[string]jsontext.Value
	var wish policy.CreateRoom
	if err := errors.Join(q.decode(maxRead, &fields), q.decode(maxRead, &wish)); err != nil {
		return nil, err
	}
	if len(wish.Invite3PID) > 0 {
		return nil, p.o.Rules.InviteByAddress()
	}
	given := len(wish.InitialState)
	if err := p.o.Rules.CreateRoom(ctx, q.tenant, s.User, &wish); err != nil {
		return nil, err
	}
	for _, invitee := range wish.Invitees() {
		if err := p.mayInvite(ctx, q, policy.Invite{Inviter: s.User, Invitee: invitee, Direct: wish.IsDirect}); err != nil {
			return nil, err
		}
	}
	if wish.RoomVersion == "" {
		wish.RoomVersion = p.o.Rules.DefaultRoomVersion()
	}
	return nil, q.rewriteRoom(fields, &wish, given)
}

// rewriteRoom puts into createRoom's body what the rules have set; all that they do not know stays.
func (q *request) rewriteRoom(fields map[string]jsontext.Value, wish *policy.CreateRoom, given int) error {
	put := func(name string, v any) (err error) {
		fields[name], err = json.Marshal(v)
		return err
	}
	if fields == nil {
		fields = map[string]jsontext.Value{}
	}
	err := put("room_version", wish.RoomVersion)
	if wish.CreationContent != nil {
		err = errors.Join(err, put("creation_content", wish.CreationContent))
	}
	if more := wish.InitialState[given:]; len(more) > 0 {
		var state []jsontext.Value
		if raw := fields["initial_state"]; len(raw) > 0 {
			err = errors.Join(err, json.Unmarshal(raw, &state))
		}
		for _, e := range more {
			text, failed := json.Marshal(e)
			err = errors.Join(err, failed)
			state = append(state, text)
		}
		err = errors.Join(err, put("initial_state", state))
	}
	text, failed := json.Marshal(fields, json.Deterministic(true))
	if err = errors.Join(err, failed); err == nil {
		q.setBody(text)
	}
	return err
}

// mayInvite asks about an invitation; the invitee is whatever the client wrote.
func (p *Proxy) mayInvite(ctx context.Context, q *request, i policy.Invite) error {
	if _, err := id.ParseUser(string(i.Invitee)); err != nil {
		return mxerror.InvalidParam.With("the invitee is not a user id")
	}
	if err := p.o.Rules.Invite(ctx, q.tenant, i); err != nil {
		return err
	}
	// Another tenant of the homeserver behind may be reached without any federation that could be watched: both sides are asked here.
	if other := p.tenants[i.Invitee.Server()]; other != nil && other != q.tenant {
		i.Incoming = true
		return p.o.Rules.Invite(ctx, other, i)
	}
	return nil
}

// invite is POST /rooms/{roomId}/invite.
func (p *Proxy) invite(ctx context.Context, q *request) (any, error) {
	s, err := p.identify(ctx, q)
	if err != nil {
		return nil, err
	}
	var fields map[string]jsontext.Value
	var body struct {
		User id.User `json:"user_id"`
	}
	if err := errors.Join(q.decode(maxRead, &fields), q.decode(maxRead, &body)); err != nil {
		return nil, err
	}
	for _, name := range []string{"medium", "address", "id_server"} {
		if _, there := fields[name]; there {
			return nil, p.o.Rules.InviteByAddress()
		}
	}
	return nil, p.mayInvite(ctx, q, policy.Invite{Inviter: s.User, Invitee: body.User, Room: id.Room(q.segments[4])})
}

// upgrade asks about the version of the room that takes an old one's place.
func (p *Proxy) upgrade(ctx context.Context, q *request) (any, error) {
	var body struct {
		Version string `json:"new_version"`
	}
	if err := q.decode(maxRead, &body); err != nil {
		return nil, err
	}
	return nil, p.o.Rules.CreateRoom(ctx, q.tenant, "", &policy.CreateRoom{RoomVersion: body.Version, Preset: "private_chat"})
}

// send is an event that is no state: /rooms/{roomId}/send/{type}/{txnId}.
func (p *Proxy) send(ctx context.Context, q *request) (any, error) {
	e := policy.Event{Room: id.Room(q.segments[4]), Type: q.segments[6], Federated: true}
	if err := q.decode(maxRead, &e.Content); err != nil {
		return nil, err
	}
	if e.Type == "m.room.redaction" {
		var c struct {
			Redacts id.Event `json:"redacts"`
		}
		if err := json.Unmarshal(e.Content, &c); err != nil {
			return nil, mxerror.BadJSON.With("wrong type or value at /redacts")
		}
		e.Redacts = c.Redacts
	}
	return nil, p.askEvent(ctx, q, e)
}

// redact is /rooms/{roomId}/redact/{eventId}/{txnId}.
func (p *Proxy) redact(ctx context.Context, q *request) (any, error) {
	return nil, p.askEvent(ctx, q, policy.Event{Room: id.Room(q.segments[4]), Type: "m.room.redaction", Content: jsontext.Value(`{}`), Redacts: id.Event(q.segments[6]), Federated: true})
}

// setState is /rooms/{roomId}/state/{type}/{key}.
func (p *Proxy) setState(ctx context.Context, q *request) (any, error) {
	if len(q.segments) < 7 || len(q.segments) > 8 {
		return nil, permission.Unlisted()
	}
	key := ""
	if len(q.segments) == 8 {
		key = q.segments[7]
	}
	e := policy.Event{Room: id.Room(q.segments[4]), Type: q.segments[6], StateKey: &key}
	if err := q.decode(maxRead, &e.Content); err != nil {
		return nil, err
	}
	if e.Type == "m.room.member" {
		var m membership
		if err := json.Unmarshal(e.Content, &m); err != nil {
			return nil, mxerror.BadJSON.With("the membership cannot be read")
		}
		if m.Membership == "invite" {
			s, err := p.identify(ctx, q)
			if err != nil {
				return nil, err
			}
			return nil, p.mayInvite(ctx, q, policy.Invite{Inviter: s.User, Invitee: id.User(key), Room: e.Room, Direct: m.Direct})
		}
	}
	return nil, p.askEvent(ctx, q, e)
}

// askEvent adds what a rule needs of the room and asks.
func (p *Proxy) askEvent(ctx context.Context, q *request, e policy.Event) (err error) {
	if q.token == "" {
		return mxerror.MissingToken
	}
	room := v3 + "/rooms/" + url.PathEscape(string(e.Room))
	if e.Redacts != "" {
		var target struct {
			At int64 `json:"origin_server_ts"`
		}
		if err := p.ask(ctx, q, room+"/event/"+url.PathEscape(string(e.Redacts)), &target); err != nil {
			return err
		}
		e.RedactsAge = p.o.Now().UnixMilli() - target.At
	}
	if e.StateKey != nil {
		if e.Federated, err = p.federated(ctx, q, room, e.Type); err != nil {
			return err
		}
	}
	return p.o.Rules.Event(ctx, q.tenant, e)
}

// federated says whether other servers can join a room, where the answer matters: for who may join it and who may read it.
func (p *Proxy) federated(ctx context.Context, q *request, room, typ string) (bool, error) {
	if typ != "m.room.join_rules" && typ != "m.room.history_visibility" {
		return true, nil
	}
	var create struct {
		Federate *bool `json:"m.federate"`
	}
	err := p.ask(ctx, q, room+"/state/m.room.create/", &create)
	var theirs *foreign
	if errors.As(err, &theirs) && theirs.status == http.StatusNotFound {
		return true, nil
	}
	return create.Federate == nil || *create.Federate, err
}

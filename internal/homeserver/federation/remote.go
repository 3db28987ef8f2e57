// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

var _ room.Remote = (*Service)(nil)

const (
	v1 = "/_matrix/federation/v1"
	v2 = "/_matrix/federation/v2"
)

// maxEvents bounds the events of one answer.
const maxEvents = 200_000

// events parses and verifies events of an answer. Those that are malformed or not validly signed are left out (server-server API, "Checks
// performed on receipt of a PDU").
func (s *Service) events(ctx context.Context, v *roomversion.Version, server id.Server, raw []jsontext.Value) ([]*event.Event, error) {
	if len(raw) > maxEvents {
		return nil, malformed(server, fmt.Errorf("more than %d events", maxEvents))
	}
	parsed := make([]*event.Event, 0, len(raw))
	for _, r := range raw {
		e, err := event.Parse(v, r)
		if err != nil {
			s.Log.InfoContext(ctx, "malformed event left out", "server", string(server), "error", err)
			continue
		}
		parsed = append(parsed, e)
	}
	valid, reasons, err := s.VerifyEvents(ctx, parsed)
	if err != nil {
		return nil, err
	}
	out := make([]*event.Event, 0, len(valid))
	for i, e := range valid {
		if e == nil {
			s.Log.InfoContext(ctx, "unverified event left out", "server", string(server), "event", string(parsed[i].ID()), "error", reasons[i])
			continue
		}
		out = append(out, e)
	}
	return out, nil
}

// makeMember asks for the template of a member event and checks that it is the one asked for: anything else would be signed blindly.
func (s *Service) makeMember(ctx context.Context, t *tenant.Tenant, server id.Server, what, membership string, r id.Room, user id.User, versions []string) (room.Template, error) {
	var doc struct {
		Version string         `json:"room_version"`
		Event   jsontext.Value `json:"event"`
	}
	c := call{method: http.MethodGet, path: pathOf(v1+"/make_"+what, string(r), string(user))}
	if len(versions) > 0 {
		c.query = url.Values{"ver": versions}
	}
	if err := s.fetch(ctx, t, server, c, always, &doc); err != nil {
		return room.Template{}, err
	}
	if doc.Version == "" {
		doc.Version = "1" // server-server API: then it is 1 or 2
	}
	v, ok := roomversion.Get(doc.Version)
	if !ok {
		return room.Template{}, mxerror.UnsupportedRoomVersion.With("The room has version %s, which this server does not speak.", doc.Version)
	}
	get := func(path ...string) string { return canonicaljson.GetString(doc.Event, path...) }
	if !doc.Event.IsValid() || get("type") != "m.room.member" || get("room_id") != string(r) || get("sender") != string(user) ||
		get("state_key") != string(user) || get("content", "membership") != membership {
		return room.Template{}, malformed(server, errors.New("the template is not the event asked for"))
	}
	return room.Template{Version: v, Event: doc.Event}, nil
}

// MakeJoin asks a resident server for a join template.
func (s *Service) MakeJoin(ctx context.Context, t *tenant.Tenant, server id.Server, r id.Room, user id.User, versions []string) (room.Template, error) {
	return s.makeMember(ctx, t, server, "join", "join", r, user, versions)
}

// MakeLeave asks a resident server for a leave template.
func (s *Service) MakeLeave(ctx context.Context, t *tenant.Tenant, server id.Server, r id.Room, user id.User) (room.Template, error) {
	return s.makeMember(ctx, t, server, "leave", "leave", r, user, nil)
}

// MakeKnock asks a resident server for a knock template.
func (s *Service) MakeKnock(ctx context.Context, t *tenant.Tenant, server id.Server, r id.Room, user id.User, versions []string) (room.Template, error) {
	return s.makeMember(ctx, t, server, "knock", "knock", r, user, versions)
}

// SendJoin hands over a signed join and returns the room's state before it. It asks for the whole state: there are no rooms with partial state.
func (s *Service) SendJoin(ctx context.Context, t *tenant.Tenant, server id.Server, e *event.Event) (room.Joined, error) {
	c := call{method: http.MethodPut, path: pathOf(v2+"/send_join", string(e.Room()), string(e.ID())), body: e.JSON(),
		timeout: s.config.JoinTimeout, limit: s.config.MaxState}
	if err := s.beginJoin(ctx, t, server, e); err != nil {
		return room.Joined{}, err
	}
	j, err := s.joined(ctx, t, server, e, c)
	if err != nil {
		s.giveUpJoin(context.WithoutCancel(ctx), t, e.Room(), e.Sender())
	}
	return j, err
}

// SendLeave hands over a signed leave.
func (s *Service) SendLeave(ctx context.Context, t *tenant.Tenant, server id.Server, e *event.Event) error {
	_, err := s.read(ctx, t, server, call{method: http.MethodPut, path: pathOf(v2+"/send_leave", string(e.Room()), string(e.ID())), body: e.JSON()}, always)
	return err
}

// SendKnock hands over a signed knock and returns the room's stripped state.
func (s *Service) SendKnock(ctx context.Context, t *tenant.Tenant, server id.Server, e *event.Event) ([]jsontext.Value, error) {
	var doc struct {
		State []jsontext.Value `json:"knock_room_state"`
	}
	err := s.fetch(ctx, t, server, call{method: http.MethodPut, path: pathOf(v1+"/send_knock", string(e.Room()), string(e.ID())), body: e.JSON()}, always, &doc)
	return doc.State, err
}

// Invite hands an invite to the invitee's server and returns it with that server's signature. Servers older than version 2 of the endpoint are
// asked by version 1, which only rooms of versions 1 and 2 need.
func (s *Service) Invite(ctx context.Context, t *tenant.Tenant, server id.Server, e *event.Event, stripped []jsontext.Value) (*event.Event, error) {
	state := s.asPDUs(ctx, t, stripped)
	raw, err := s.inviteV2At(ctx, t, server, e, state)
	var refused *Refused
	if errors.As(err, &refused) && (refused.Status == http.StatusNotFound || refused.Status == http.StatusBadRequest) && (e.Version().ID == "1" || e.Version().ID == "2") {
		raw, err = s.inviteV1At(ctx, t, server, e, state)
	}
	if errors.As(err, &refused) && (refused.Code == mxerror.InvalidParam.Code || refused.Code == mxerror.MissingParam.Code) {
		return nil, malformed(server, err) // our mistake or theirs, not the client's
	}
	if err != nil {
		return nil, err
	}
	signed, err := event.Parse(e.Version(), raw)
	if err != nil {
		return nil, malformed(server, err)
	}
	if signed.ID() != e.ID() || !signed.CheckHash() {
		return nil, malformed(server, errors.New("it changed the invite"))
	}
	if _, err := s.VerifyEvent(ctx, signed); err != nil {
		return nil, malformed(server, err)
	}
	if err := s.verifySigner(ctx, signed, server); err != nil {
		return nil, malformed(server, fmt.Errorf("the invite lacks its signature: %w", err))
	}
	return signed.WithUnsigned(e.Unsigned())
}

func (s *Service) inviteV2At(ctx context.Context, t *tenant.Tenant, server id.Server, e *event.Event, state []jsontext.Value) (jsontext.Value, error) {
	body, err := json.Marshal(struct {
		Version string           `json:"room_version"`
		Event   jsontext.Value   `json:"event"`
		State   []jsontext.Value `json:"invite_room_state"`
	}{e.Version().ID, e.JSON(), state}, encodeOptions)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Event jsontext.Value `json:"event"`
	}
	err = s.fetch(ctx, t, server, call{method: http.MethodPut, path: pathOf(v2+"/invite", string(e.Room()), string(e.ID())), body: body}, always, &doc)
	return doc.Event, err
}

func (s *Service) inviteV1At(ctx context.Context, t *tenant.Tenant, server id.Server, e *event.Event, state []jsontext.Value) (jsontext.Value, error) {
	unsigned, err := json.Marshal(map[string]any{"invite_room_state": state}, encodeOptions)
	if err != nil {
		return nil, err
	}
	if e, err = e.WithUnsigned(unsigned); err != nil {
		return nil, err
	}
	var doc []jsontext.Value // the status, and an object with the event
	c := call{method: http.MethodPut, path: pathOf(v1+"/invite", string(e.Room()), string(e.ID())), body: e.JSON()}
	if err := s.fetch(ctx, t, server, c, always, &doc); err != nil {
		return nil, err
	}
	if len(doc) != 2 {
		return nil, malformed(server, errors.New("it is not a list of two"))
	}
	return canonicaljson.Get(doc[1], "event"), nil
}

// GetMissingEvents asks for the events between earliest and latest.
func (s *Service) GetMissingEvents(ctx context.Context, t *tenant.Tenant, server id.Server, r *room.Room, earliest, latest []id.Event, limit int) ([]*event.Event, error) {
	body, err := json.Marshal(struct {
		Limit    int        `json:"limit"`
		MinDepth int64      `json:"min_depth"`
		Earliest []id.Event `json:"earliest_events"`
		Latest   []id.Event `json:"latest_events"`
	}{limit, 0, earliest, latest})
	if err != nil {
		return nil, err
	}
	var doc struct {
		Events []jsontext.Value `json:"events"`
	}
	if err := s.fetch(ctx, t, server, call{method: http.MethodPost, path: pathOf(v1+"/get_missing_events", string(r.ID)), body: body}, whenUp, &doc); err != nil {
		return nil, err
	}
	return s.events(ctx, r.Version, server, doc.Events)
}

// pdus is the answer of endpoints that reply with a transaction.
type pdus struct {
	PDUs []jsontext.Value `json:"pdus"`
}

// Event asks for one event.
func (s *Service) Event(ctx context.Context, t *tenant.Tenant, server id.Server, r *room.Room, eid id.Event) (*event.Event, error) {
	var doc pdus
	if err := s.fetch(ctx, t, server, call{method: http.MethodGet, path: pathOf(v1+"/event", string(eid))}, whenUp, &doc); err != nil {
		return nil, err
	}
	found, err := s.events(ctx, r.Version, server, doc.PDUs)
	if err != nil {
		return nil, err
	}
	for _, e := range found {
		if e.ID() == eid {
			return e, nil
		}
	}
	return nil, malformed(server, fmt.Errorf("the event %s is not in it, or not validly signed", eid))
}

// EventAuth asks for the auth chain of an event.
func (s *Service) EventAuth(ctx context.Context, t *tenant.Tenant, server id.Server, r *room.Room, eid id.Event) ([]*event.Event, error) {
	var doc struct {
		Chain []jsontext.Value `json:"auth_chain"`
	}
	c := call{method: http.MethodGet, path: pathOf(v1+"/event_auth", string(r.ID), string(eid)), limit: s.config.MaxState}
	if err := s.fetch(ctx, t, server, c, whenUp, &doc); err != nil {
		return nil, err
	}
	return s.events(ctx, r.Version, server, doc.Chain)
}

// StateIDs asks for the state before an event, and its auth chain, as ids.
func (s *Service) StateIDs(ctx context.Context, t *tenant.Tenant, server id.Server, r *room.Room, eid id.Event) (state, auth []id.Event, err error) {
	var doc struct {
		State []id.Event `json:"pdu_ids"`
		Chain []id.Event `json:"auth_chain_ids"`
	}
	c := call{method: http.MethodGet, path: pathOf(v1+"/state_ids", string(r.ID)), query: url.Values{"event_id": {string(eid)}}, limit: s.config.MaxState}
	if err := s.fetch(ctx, t, server, c, whenUp, &doc); err != nil {
		return nil, nil, err
	}
	if len(doc.State) > maxEvents || len(doc.Chain) > maxEvents {
		return nil, nil, malformed(server, fmt.Errorf("more than %d events", maxEvents))
	}
	return doc.State, doc.Chain, nil
}

// State is StateIDs with whole events.
func (s *Service) State(ctx context.Context, t *tenant.Tenant, server id.Server, r *room.Room, eid id.Event) (state, auth []*event.Event, err error) {
	var doc struct {
		State []jsontext.Value `json:"pdus"`
		Chain []jsontext.Value `json:"auth_chain"`
	}
	c := call{method: http.MethodGet, path: pathOf(v1+"/state", string(r.ID)), query: url.Values{"event_id": {string(eid)}},
		limit: s.config.MaxState, timeout: s.config.JoinTimeout}
	if err := s.fetch(ctx, t, server, c, whenUp, &doc); err != nil {
		return nil, nil, err
	}
	if state, err = s.events(ctx, r.Version, server, doc.State); err != nil {
		return nil, nil, err
	}
	auth, err = s.events(ctx, r.Version, server, doc.Chain)
	return state, auth, err
}

// Backfill asks for up to limit events before the given ones.
func (s *Service) Backfill(ctx context.Context, t *tenant.Tenant, server id.Server, r *room.Room, from []id.Event, limit int) ([]*event.Event, error) {
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	for _, eid := range from {
		query.Add("v", string(eid))
	}
	var doc pdus
	if err := s.fetch(ctx, t, server, call{method: http.MethodGet, path: pathOf(v1+"/backfill", string(r.ID)), query: query}, always, &doc); err != nil {
		return nil, err
	}
	return s.events(ctx, r.Version, server, doc.PDUs)
}

// QueryDirectory resolves an alias at its server.
func (s *Service) QueryDirectory(ctx context.Context, t *tenant.Tenant, alias id.Alias) (id.Room, []id.Server, error) {
	var doc struct {
		Room    string   `json:"room_id"`
		Servers []string `json:"servers"`
	}
	c := call{method: http.MethodGet, path: v1 + "/query/directory", query: url.Values{"room_alias": {string(alias)}}}
	if err := s.fetch(ctx, t, alias.Server(), c, always, &doc); err != nil {
		return "", nil, err
	}
	r, err := id.ParseRoom(doc.Room)
	if err != nil {
		return "", nil, malformed(alias.Server(), err)
	}
	servers := make([]id.Server, 0, len(doc.Servers))
	for _, name := range doc.Servers {
		if server, err := id.ParseServer(name); err == nil {
			servers = append(servers, server)
		}
	}
	return r, servers, nil
}

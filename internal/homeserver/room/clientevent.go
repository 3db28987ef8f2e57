// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// ClientEvent is an event as clients get it (client-server API, "Client event format").
type ClientEvent struct {
	Content   jsontext.Value `json:"content"`
	EventID   id.Event       `json:"event_id"`
	Timestamp int64          `json:"origin_server_ts"`
	RoomID    id.Room        `json:"room_id,omitzero"`
	Sender    id.User        `json:"sender"`
	StateKey  *string        `json:"state_key,omitzero"`
	Type      string         `json:"type"`
	Redacts   id.Event       `json:"redacts,omitzero"`
	Unsigned  *Unsigned      `json:"unsigned,omitzero"`
}

// Unsigned is what the server adds to an event for its reader.
type Unsigned struct {
	Age             int64          `json:"age"`
	Membership      string         `json:"membership,omitzero"`
	PrevContent     jsontext.Value `json:"prev_content,omitzero"`
	PrevSender      id.User        `json:"prev_sender,omitzero"`
	ReplacesState   id.Event       `json:"replaces_state,omitzero"`
	RedactedBecause *ClientEvent   `json:"redacted_because,omitzero"`
	TransactionID   string         `json:"transaction_id,omitzero"`
	Relations       jsontext.Value `json:"m.relations,omitzero"`
}

// Client converts an event for a reader; viewer may be nil. transaction_id appears only for the device that sent the event.
func (s *Service) Client(ctx context.Context, t tenant.ID, r *Room, e *Event, viewer *httpapi.Session) (*ClientEvent, error) {
	c := &ClientEvent{Content: e.Content(), EventID: e.ID(), Timestamp: e.Timestamp(), RoomID: r.ID, Sender: e.Sender(), StateKey: e.StateKey(), Type: e.Type(),
		Unsigned: &Unsigned{Age: max(s.now().UnixMilli()-e.Timestamp(), 0)}}
	if e.Type() == "m.room.redaction" {
		c.Redacts = e.Redacts()
		c.Content = withRedacts(c.Content, c.Redacts)
	}
	if viewer != nil && e.TxnID != "" && viewer.Device == e.TxnDevice && viewer.User == e.Sender() {
		c.Unsigned.TransactionID = e.TxnID
	}
	if e.IsState() && !e.Outlier && e.Snapshot != 0 {
		if err := s.previous(ctx, t, e, c); err != nil {
			return nil, err
		}
	}
	if viewer != nil && !e.Outlier {
		if err := s.viewerMembership(ctx, t, e, viewer.User, c); err != nil {
			return nil, err
		}
	}
	because, err := s.Redaction(ctx, t, e)
	if err != nil {
		return nil, err
	}
	if because != nil {
		if c.Unsigned.RedactedBecause, err = s.Client(ctx, t, r, because, nil); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// withRedacts keeps redacts in the content too, where clients of room version 11 and later look for it.
func withRedacts(content jsontext.Value, redacts id.Event) jsontext.Value {
	if redacts == "" {
		return content
	}
	var m map[string]jsontext.Value
	if json.Unmarshal(content, &m) != nil {
		return content
	}
	if m == nil {
		m = map[string]jsontext.Value{}
	}
	if _, ok := m["redacts"]; ok {
		return content
	}
	raw, err := json.Marshal(string(redacts))
	if err != nil {
		return content
	}
	m["redacts"] = raw
	out, err := json.Marshal(m, json.Deterministic(true))
	if err != nil {
		return content
	}
	return out
}

// previous fills in what the event replaced in the state.
func (s *Service) previous(ctx context.Context, t tenant.ID, e *Event, c *ClientEvent) error {
	before, err := s.StateBefore(ctx, t, e)
	if err != nil {
		return err
	}
	p, err := s.StateEvent(ctx, t, before, e.Key())
	if err != nil || p == nil {
		return err
	}
	c.Unsigned.PrevContent, c.Unsigned.PrevSender, c.Unsigned.ReplacesState = p.Content(), p.Sender(), p.ID()
	return nil
}

// viewerMembership fills in the reader's membership at the event (MSC4115).
func (s *Service) viewerMembership(ctx context.Context, t tenant.ID, e *Event, user id.User, c *ClientEvent) error {
	c.Unsigned.Membership = "leave"
	state, err := s.StateAt(ctx, t, e.SnapshotAfter)
	if err != nil {
		return err
	}
	m, err := s.StateEvent(ctx, t, state, memberKey(user))
	if err == nil && m != nil {
		c.Unsigned.Membership = m.Membership()
	}
	return err
}

// ClientList converts events in their order.
func (s *Service) ClientList(ctx context.Context, t tenant.ID, r *Room, events []*Event, viewer *httpapi.Session) ([]*ClientEvent, error) {
	out := make([]*ClientEvent, len(events))
	for i, e := range events {
		var err error
		if out[i], err = s.Client(ctx, t, r, e, viewer); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// strippedTypes are the state events that introduce a room to somebody outside of it (client-server API, "Stripped state").
var strippedTypes = []string{"m.room.create", "m.room.name", "m.room.avatar", "m.room.topic", "m.room.join_rules", "m.room.canonical_alias", "m.room.encryption"}

// Stripped returns the stripped state of a room for an invitee or a knocking user, with the member event concerned and its sender's.
func (s *Service) Stripped(ctx context.Context, t tenant.ID, state State, member *event.Event) ([]jsontext.Value, error) {
	var keys []event.Key
	for _, typ := range strippedTypes {
		keys = append(keys, event.Key{Type: typ})
	}
	keys = append(keys, memberKey(member.Sender()))
	found, err := s.pick(ctx, t, state, keys)
	if err != nil {
		return nil, err
	}
	var out []jsontext.Value
	for _, k := range keys {
		if e := found[k]; e != nil && k != member.Key() {
			out = append(out, strip(e.Event))
		}
	}
	return append(out, strip(member)), nil
}

// strip keeps of a state event what stripped state holds.
func strip(e *event.Event) jsontext.Value {
	return object(map[string]any{"type": e.Type(), "state_key": *e.StateKey(), "sender": e.Sender(), "content": e.Content(),
		"origin_server_ts": e.Timestamp(), "event_id": e.ID()})
}

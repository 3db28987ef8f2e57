// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// maxInviteState bounds the entries that introduce a room.
const maxInviteState = 50

// stripped is an entry of stripped state (client-server API, "Stripped state").
type stripped struct {
	Type     string         `json:"type"`
	StateKey string         `json:"state_key"`
	Sender   id.User        `json:"sender"`
	Content  jsontext.Value `json:"content"`
}

// inviteState checks the state that came with an invite and returns it in stripped form for clients. Since v1.16 the entries are whole PDUs,
// the create event among them. Room versions before 12 get the leniency that the specification allows: their entries may still be stripped
// ones, and those that do not verify are left out.
func (s *Service) inviteState(ctx context.Context, v *roomversion.Version, r id.Room, entries []jsontext.Value) ([]jsontext.Value, error) {
	if len(entries) > maxInviteState {
		return nil, mxerror.InvalidParam.With("invite_room_state has more than %d entries.", maxInviteState)
	}
	strict := v.RoomIDIsHash
	created := false
	out := make([]jsontext.Value, 0, len(entries))
	for _, raw := range entries {
		entry, err := s.inviteEntry(ctx, v, r, raw, strict)
		if err != nil {
			if notVerdict(ctx, err) {
				return nil, err
			}
			if strict {
				return nil, mxerror.InvalidParam.With("An entry of invite_room_state is not acceptable: %s", mxerror.From(err).Message)
			}
			s.Log.InfoContext(ctx, "entry of an invite's state left out", "error", err)
			continue
		}
		created = created || entry.Type == "m.room.create"
		b, err := json.Marshal(entry, encodeOptions)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	if strict && !created {
		return nil, mxerror.InvalidParam.With("The create event is not among invite_room_state.")
	}
	return out, nil
}

// inviteEntry reads one entry: a PDU of the room, or, where that is still allowed, stripped state. Its errors are mxerrors.
func (s *Service) inviteEntry(ctx context.Context, v *roomversion.Version, r id.Room, raw jsontext.Value, strict bool) (stripped, error) {
	if !strict && canonicaljson.Get(raw, "signatures") == nil {
		var entry struct {
			stripped
			StateKey *string `json:"state_key"`
		}
		if json.Unmarshal(raw, &entry, decodeOptions) != nil || entry.Type == "" || entry.StateKey == nil || entry.Content.Kind() != '{' {
			return stripped{}, mxerror.BadJSON.With("it is no state event")
		}
		entry.stripped.StateKey = *entry.StateKey
		return entry.stripped, nil
	}
	e, err := event.Parse(v, raw)
	if err != nil {
		return stripped{}, mxerror.BadJSON.With("it does not have the format of the room's version: %v", err)
	}
	if !e.IsState() {
		return stripped{}, mxerror.BadJSON.With("it is no state event")
	}
	of := e.Room()
	if e.Type() == "m.room.create" {
		of = event.CreateRoomID(e)
	}
	if of != r {
		return stripped{}, mxerror.Forbidden.With("it belongs to another room")
	}
	if e, err = s.VerifyEvent(ctx, e); err != nil {
		if mxerror.From(err) == nil && !notVerdict(ctx, err) {
			err = mxerror.Forbidden.With("it is not validly signed")
		}
		return stripped{}, err
	}
	return stripped{e.Type(), *e.StateKey(), e.Sender(), e.Content()}, nil
}

// asPDUs replaces stripped entries that name a stored event by that event, as other servers expect them since v1.16. What is not stored (the
// invite itself) stays as it is only where the room's version allows stripped entries; its receiver has the event anyway.
func (s *Service) asPDUs(ctx context.Context, t *tenant.Tenant, entries []jsontext.Value) []jsontext.Value {
	ids := make([]id.Event, 0, len(entries))
	for _, raw := range entries {
		ids = append(ids, id.Event(canonicaljson.GetString(raw, "event_id")))
	}
	found, err := s.Rooms.Events(ctx, t.ID, ids)
	if err != nil {
		s.Log.WarnContext(ctx, "state for an invite", "error", err)
		return entries
	}
	out := make([]jsontext.Value, 0, len(entries))
	for i, raw := range entries {
		switch e := found[ids[i]]; {
		case e != nil:
			out = append(out, e.JSON())
		case ids[i] == "":
			out = append(out, raw) // a PDU already
		}
	}
	return out
}

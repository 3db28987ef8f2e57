// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"cmp"
	"context"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// Bounds of what one request may read.
const (
	maxBackfill = 100
	maxMissing  = 20
)

// readable finds a room that the origin may read: both it and the addressed tenant are in it, and the room does not deny it (engine rule 23).
func (s *Service) readable(ctx context.Context, r *httpapi.Request, name string) (*room.Room, error) {
	rm, err := s.resident(ctx, r, name)
	if err != nil {
		return nil, err
	}
	return rm, s.inRoom(ctx, r, rm)
}

// resident finds a room that the tenant is in and that does not deny the origin.
func (s *Service) resident(ctx context.Context, r *httpapi.Request, name string) (*room.Room, error) {
	if s.Rooms == nil {
		return nil, mxerror.Unrecognized
	}
	parsed, err := id.ParseRoom(name)
	if err != nil {
		return nil, mxerror.InvalidParam.With("roomId is not a room id.")
	}
	rm, err := s.Rooms.Lookup(ctx, r.Tenant.ID, parsed)
	if err != nil {
		return nil, err
	}
	in, err := s.Rooms.ServerInRoom(ctx, r.Tenant.ID, rm.NID, r.Tenant.Name)
	if err != nil {
		return nil, err
	}
	if !in {
		return nil, mxerror.NotFound.With("This server is not in the room.")
	}
	return rm, s.checkACL(ctx, r.Tenant, rm, r.Origin)
}

// inRoom refuses an origin without a joined user in the room.
func (s *Service) inRoom(ctx context.Context, r *httpapi.Request, rm *room.Room) error {
	in, err := s.Rooms.ServerInRoom(ctx, r.Tenant.ID, rm.NID, r.Origin)
	if err != nil || in {
		return err
	}
	return mxerror.Forbidden.With("Your server is not in the room.")
}

// transactionOf is the answer that carries PDUs in the form of a transaction.
func (s *Service) transactionOf(t *tenant.Tenant, events []*room.Event) any {
	return envelope{Origin: t.Name, Timestamp: s.now().UnixMilli(), PDUs: bodies(events)}
}

func bodies(events []*room.Event) []jsontext.Value {
	out := make([]jsontext.Value, len(events))
	for i, e := range events {
		out[i] = e.JSON()
	}
	return out
}

func eventIDs(events []*room.Event) []id.Event {
	out := make([]id.Event, len(events))
	for i, e := range events {
		out[i] = e.ID()
	}
	return out
}

func parseEvent(s string) (id.Event, error) {
	eid, err := id.ParseEvent(s)
	if err != nil {
		return "", mxerror.InvalidParam.With("That is not an event id.")
	}
	return eid, nil
}

func (s *Service) getEvent(ctx context.Context, r *httpapi.Request) (any, error) {
	if s.Rooms == nil {
		return nil, mxerror.Unrecognized
	}
	eid, err := parseEvent(r.Var("eventId"))
	if err != nil {
		return nil, err
	}
	e, err := s.Rooms.Event(ctx, r.Tenant.ID, eid)
	if err != nil {
		return nil, err
	}
	if _, err := s.readable(ctx, r, string(e.Room())); err != nil {
		return nil, err
	}
	shown, err := s.shown(ctx, r, []*room.Event{e})
	if err != nil {
		return nil, err
	}
	if len(shown) == 0 {
		return nil, mxerror.NotFound.With("This event is not known here.")
	}
	return s.transactionOf(r.Tenant, shown), nil
}

// shown returns the events as the origin may have them. State events that we hold only as part of the room's state (outliers) are shown: the
// state itself is.
func (s *Service) shown(ctx context.Context, r *httpapi.Request, events []*room.Event) ([]*room.Event, error) {
	out := make([]*room.Event, 0, len(events))
	for _, e := range events {
		if e.Outlier && e.IsState() && !e.Rejected {
			out = append(out, e)
			continue
		}
		visible, err := s.Rooms.VisibleToServer(ctx, r.Tenant.ID, r.Origin, []*room.Event{e})
		if err != nil {
			return nil, err
		}
		out = append(out, visible...)
	}
	return out, nil
}

// at finds the room and the event in it that a request asks about.
func (s *Service) at(ctx context.Context, r *httpapi.Request, name string) (*room.Room, *room.Event, error) {
	rm, err := s.readable(ctx, r, r.Var("roomId"))
	if err != nil {
		return nil, nil, err
	}
	if name == "" {
		return nil, nil, mxerror.MissingParam.With("event_id is missing.")
	}
	eid, err := parseEvent(name)
	if err != nil {
		return nil, nil, err
	}
	e, err := s.Rooms.Event(ctx, r.Tenant.ID, eid)
	if err != nil {
		return nil, nil, err
	}
	if e.RoomNID != rm.NID {
		return nil, nil, mxerror.NotFound.With("This event is not in the room.")
	}
	return rm, e, nil
}

// authOf returns the auth events of events, each once: what their auth chain begins with.
func authOf(events []*room.Event) []id.Event {
	var auth []id.Event
	for _, e := range events {
		auth = append(auth, e.AuthEvents()...)
	}
	slices.Sort(auth)
	return slices.Compact(auth)
}

func (s *Service) getEventAuth(ctx context.Context, r *httpapi.Request) (any, error) {
	rm, e, err := s.at(ctx, r, r.Var("eventId"))
	if err != nil {
		return nil, err
	}
	chain, err := s.Rooms.AuthChain(ctx, r.Tenant.ID, rm, e.AuthEvents())
	if err != nil {
		return nil, err
	}
	return struct {
		Chain []jsontext.Value `json:"auth_chain"`
	}{bodies(chain)}, nil
}

// stateAt returns the room that a request names and the state before the event that it names.
func (s *Service) stateAt(ctx context.Context, r *httpapi.Request) (*room.Room, []*room.Event, error) {
	rm, e, err := s.at(ctx, r, r.Query("event_id"))
	if err != nil {
		return nil, nil, err
	}
	if e.Outlier {
		return nil, nil, mxerror.NotFound.With("The state at this event is not known here.")
	}
	before, err := s.Rooms.StateBefore(ctx, r.Tenant.ID, e)
	if err != nil {
		return nil, nil, err
	}
	state, err := s.Rooms.StateEvents(ctx, r.Tenant.ID, before)
	return rm, state, err
}

func (s *Service) getState(ctx context.Context, r *httpapi.Request) (any, error) {
	rm, state, err := s.stateAt(ctx, r)
	if err != nil {
		return nil, err
	}
	chain, err := s.Rooms.AuthChain(ctx, r.Tenant.ID, rm, authOf(state))
	if err != nil {
		return nil, err
	}
	return struct {
		State []jsontext.Value `json:"pdus"`
		Chain []jsontext.Value `json:"auth_chain"`
	}{bodies(state), bodies(chain)}, nil
}

func (s *Service) getStateIDs(ctx context.Context, r *httpapi.Request) (any, error) {
	rm, state, err := s.stateAt(ctx, r)
	if err != nil {
		return nil, err
	}
	chain, err := s.Rooms.AuthChainIDs(ctx, r.Tenant.ID, rm, authOf(state))
	if err != nil {
		return nil, err
	}
	return struct {
		State []id.Event `json:"pdu_ids"`
		Chain []id.Event `json:"auth_chain_ids"`
	}{eventIDs(state), chain}, nil
}

// walk goes back from events of a room along their prev events, newest first, and returns at most limit of them. Events in skip end a path.
func (s *Service) walk(ctx context.Context, t *tenant.Tenant, rm *room.Room, from []id.Event, skip map[id.Event]bool, limit int) ([]*room.Event, error) {
	seen := make(map[id.Event]bool, limit)
	var front, out []*room.Event
	add := func(ids []id.Event) error {
		var fresh []id.Event
		for _, eid := range ids {
			if !seen[eid] && !skip[eid] {
				seen[eid] = true
				fresh = append(fresh, eid)
			}
		}
		found, err := s.Rooms.Events(ctx, t.ID, fresh)
		if err != nil {
			return err
		}
		for _, e := range found {
			if e.RoomNID == rm.NID && !e.Outlier {
				front = append(front, e)
			}
		}
		slices.SortFunc(front, func(a, b *room.Event) int { // the newest last
			return cmp.Or(cmp.Compare(a.Topological, b.Topological), cmp.Compare(a.NID, b.NID))
		})
		return nil
	}
	if err := add(from); err != nil {
		return nil, err
	}
	for len(front) > 0 && len(out) < limit {
		e := front[len(front)-1]
		front = front[:len(front)-1]
		out = append(out, e)
		if err := add(e.PrevEvents()); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (s *Service) getBackfill(ctx context.Context, r *httpapi.Request) (any, error) {
	rm, err := s.readable(ctx, r, r.Var("roomId"))
	if err != nil {
		return nil, err
	}
	limit, err := r.QueryInt("limit", 0, maxBackfill)
	if err != nil {
		return nil, err
	}
	from := make([]id.Event, 0, len(r.Values()["v"]))
	for _, v := range r.Values()["v"] {
		eid, err := parseEvent(v)
		if err != nil {
			return nil, err
		}
		from = append(from, eid)
	}
	if len(from) == 0 || limit == 0 {
		return nil, mxerror.MissingParam.With("v and limit are needed.")
	}
	events, err := s.walk(ctx, r.Tenant, rm, from[:min(len(from), maxBackfill)], nil, limit)
	if err != nil {
		return nil, err
	}
	if events, err = s.Rooms.VisibleToServer(ctx, r.Tenant.ID, r.Origin, events); err != nil {
		return nil, err
	}
	return s.transactionOf(r.Tenant, events), nil
}

func (s *Service) getMissingEvents(ctx context.Context, r *httpapi.Request) (any, error) {
	rm, err := s.readable(ctx, r, r.Var("roomId"))
	if err != nil {
		return nil, err
	}
	body := struct {
		Limit    int        `json:"limit"`
		MinDepth int64      `json:"min_depth"`
		Earliest []id.Event `json:"earliest_events"`
		Latest   []id.Event `json:"latest_events"`
	}{Limit: 10}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if len(body.Latest) > maxBackfill || len(body.Earliest) > 10*maxBackfill {
		return nil, mxerror.InvalidParam.With("Too many events are named.")
	}
	skip := make(map[id.Event]bool, len(body.Earliest))
	for _, eid := range body.Earliest {
		skip[eid] = true
	}
	latest, err := s.Rooms.Events(ctx, r.Tenant.ID, body.Latest)
	if err != nil {
		return nil, err
	}
	var from []id.Event
	for _, e := range latest {
		skip[e.ID()] = true
		if e.RoomNID == rm.NID {
			from = append(from, e.PrevEvents()...)
		}
	}
	events, err := s.walk(ctx, r.Tenant, rm, from, skip, max(0, min(body.Limit, maxMissing)))
	if err != nil {
		return nil, err
	}
	events = slices.DeleteFunc(events, func(e *room.Event) bool { return e.Depth() < body.MinDepth })
	if events, err = s.Rooms.VisibleToServer(ctx, r.Tenant.ID, r.Origin, events); err != nil {
		return nil, err
	}
	slices.Reverse(events) // oldest first, as they will be worked on
	return struct {
		Events []jsontext.Value `json:"events"`
	}{bodies(events)}, nil
}

func (s *Service) timestampToEvent(ctx context.Context, r *httpapi.Request) (any, error) {
	rm, err := s.readable(ctx, r, r.Var("roomId"))
	if err != nil {
		return nil, err
	}
	ts, err := strconv.ParseInt(r.Query("ts"), 10, 64)
	if err != nil {
		return nil, mxerror.InvalidParam.With("ts is not a number.")
	}
	dir := r.Query("dir")
	if dir != "f" && dir != "b" {
		return nil, mxerror.InvalidParam.With("dir must be f or b.")
	}
	e, err := s.Rooms.ByTimestamp(ctx, r.Tenant.ID, rm.NID, ts, dir == "b")
	if err != nil {
		return nil, err
	}
	visible, err := s.Rooms.VisibleToServer(ctx, r.Tenant.ID, r.Origin, []*room.Event{e})
	if err != nil {
		return nil, err
	}
	if len(visible) == 0 {
		return nil, mxerror.NotFound.With("There is no event at that time.")
	}
	return struct {
		Event     id.Event `json:"event_id"`
		Timestamp int64    `json:"origin_server_ts"`
	}{e.ID(), e.Timestamp()}, nil
}

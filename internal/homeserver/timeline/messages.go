// SPDX-License-Identifier: Apache-2.0

package timeline

import (
	"context"
	"maps"
	"slices"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// maxPage is the most events that one request gets.
const maxPage = 500

type messagesReply struct {
	Start string              `json:"start"`
	End   string              `json:"end,omitzero"`
	Chunk []*room.ClientEvent `json:"chunk"`
	State []*room.ClientEvent `json:"state,omitempty"`
}

// direction reads dir of the query.
func direction(r *httpapi.Request) (backwards bool, err error) {
	switch r.Query("dir") {
	case "b":
		return true, nil
	case "f":
		return false, nil
	case "":
		return false, mxerror.MissingParam.With("dir is missing")
	}
	return false, mxerror.InvalidParam.With("dir must be b or f")
}

// place opens a token of a query parameter: one of /sync or one of a page. It answers nil when the parameter is absent.
func (s *Service) place(ctx context.Context, v *view, token string, backwards bool) (*Place, error) {
	if token == "" {
		return nil, nil
	}
	kind, b, ok := s.tokens.open(v.t.ID, token)
	if ok && kind == placeToken {
		if p, ok := s.tokens.openPlace(b); ok {
			return &p, nil
		}
	}
	st, err := s.tokens.OpenStream(v.t.ID, token)
	if err != nil {
		return nil, mxerror.InvalidParam.With("this is no token of this server")
	}
	p, err := s.streamPlace(ctx, v, st, backwards)
	return &p, err
}

// streamPlace is where a position of the stream lies in the room's history.
func (s *Service) streamPlace(ctx context.Context, v *view, st StreamToken, backwards bool) (Place, error) {
	if st.Epoch != v.t.Epoch { // positions of another epoch say nothing
		return Anywhere(room.End), nil
	}
	if backwards {
		return s.Behind(ctx, v.Room, v.t.ID, st.Position)
	}
	c, err := s.rooms.PlaceAfter(ctx, v.t.ID, v.NID, st.Position)
	if err == nil && c == room.End {
		c, err = s.rooms.PlaceBefore(ctx, v.t.ID, v.NID, st.Position)
		c.Arrival--
	}
	p := Anywhere(c)
	p.After = st.Position
	return p, err
}

func (s *Service) messages(ctx context.Context, r *httpapi.Request) (any, error) {
	backwards, err := direction(r)
	if err != nil {
		return nil, err
	}
	limit, err := r.QueryInt("limit", 10, maxPage)
	if err != nil {
		return nil, err
	}
	filter, err := ParseFilter(r.Query("filter"))
	if err != nil {
		return nil, err
	}
	v, err := s.enter(ctx, r)
	if err != nil {
		return nil, err
	}
	q := query{backwards: backwards, limit: min(limit, filter.LimitOr(limit, maxPage)), filter: &filter}
	to, err := s.place(ctx, v, r.Query("to"), true)
	if err != nil {
		return nil, err
	}
	if err := s.endAt(ctx, v, &q, to); err != nil {
		return nil, err
	}
	from, err := s.place(ctx, v, r.Query("from"), backwards)
	if err != nil {
		return nil, err
	}
	if q.from, err = s.begin(ctx, v, from, backwards); err != nil {
		return nil, err
	}
	reply := messagesReply{Start: r.Query("from"), Chunk: []*room.ClientEvent{}}
	if reply.Start == "" {
		reply.Start = s.tokens.Place(v.t.ID, q.from)
	}
	if !filter.Room(v.ID) {
		return reply, nil
	}
	if q.ignored, err = s.Ignored(ctx, v.t.ID, v.user.User); err != nil {
		return nil, err
	}
	if q.limit == 0 {
		reply.End = reply.Start
		return reply, nil
	}
	events, next, more, err := s.history(ctx, v, q)
	if err != nil {
		return nil, err
	}
	if more || (!backwards && len(events) > 0) {
		reply.End = s.tokens.Place(v.t.ID, next)
	}
	if reply.Chunk, err = s.client(ctx, v, events); err != nil {
		return nil, err
	}
	if filter.LazyLoadMembers && len(events) > 0 {
		reply.State, err = s.senders(ctx, v, events, events[0])
	}
	return reply, err
}

// begin is where a page starts: at the place asked for or at the end of the room, and for somebody who left not after the departure.
func (s *Service) begin(ctx context.Context, v *view, from *Place, backwards bool) (Place, error) {
	p := Anywhere(room.Start)
	if backwards {
		p = Anywhere(room.End)
	}
	if from != nil {
		p = *from
	}
	if v.left == nil || v.left.Position == 0 {
		return p, nil
	}
	if backwards && p.UpTo > v.left.Position {
		last, err := s.Behind(ctx, v.Room, v.t.ID, v.left.Position)
		if err != nil {
			return p, err
		}
		if last.Topological < p.Topological {
			p.Cursor = last.Cursor
		}
	}
	p.UpTo = min(p.UpTo, v.left.Position)
	return p, nil
}

// senders returns the member events of the senders of some events, as they stood at one of them (lazy loading).
func (s *Service) senders(ctx context.Context, v *view, events []*room.Event, at *room.Event) ([]*room.ClientEvent, error) {
	state, err := s.rooms.StateAfter(ctx, v.t.ID, at)
	if err != nil {
		return nil, err
	}
	wanted := map[id.Event]bool{}
	for _, e := range events {
		if eid, ok := state[event.Key{Type: "m.room.member", StateKey: string(e.Sender())}]; ok {
			wanted[eid] = true
		}
	}
	found, err := s.rooms.Events(ctx, v.t.ID, slices.Sorted(maps.Keys(wanted)))
	if err != nil {
		return nil, err
	}
	list := make([]*room.Event, 0, len(found))
	for _, eid := range slices.Sorted(maps.Keys(found)) {
		list = append(list, found[eid])
	}
	return s.rooms.ClientList(ctx, v.t.ID, v.Room, list, v.user)
}

func (s *Service) event(ctx context.Context, r *httpapi.Request) (any, error) {
	rid, err := r.Room()
	if err != nil {
		return nil, err
	}
	found, err := s.rooms.Lookup(ctx, r.Tenant.ID, rid)
	if err != nil {
		return nil, err
	}
	e, err := s.seen(ctx, r.Tenant.ID, r.Session.User, found, id.Event(r.Var("eventId")))
	if err != nil {
		return nil, err
	}
	list, err := s.client(ctx, &view{Room: found, t: r.Tenant, user: r.Session}, []*room.Event{e})
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

type contextReply struct {
	Start  string              `json:"start"`
	End    string              `json:"end"`
	Before []*room.ClientEvent `json:"events_before"`
	Event  *room.ClientEvent   `json:"event"`
	After  []*room.ClientEvent `json:"events_after"`
	State  []*room.ClientEvent `json:"state"`
}

func (s *Service) context(ctx context.Context, r *httpapi.Request) (any, error) {
	limit, err := r.QueryInt("limit", 10, maxPage)
	if err != nil {
		return nil, err
	}
	filter, err := ParseFilter(r.Query("filter"))
	if err != nil {
		return nil, err
	}
	v, err := s.enter(ctx, r)
	if err != nil {
		return nil, err
	}
	e, err := s.seen(ctx, v.t.ID, v.user.User, v.Room, id.Event(r.Var("eventId")))
	if err != nil {
		return nil, err
	}
	ignored, err := s.Ignored(ctx, v.t.ID, v.user.User)
	if err != nil {
		return nil, err
	}
	limit = min(limit, filter.LimitOr(limit, maxPage))
	back := query{from: Anywhere(e.At()), backwards: true, limit: (limit + 1) / 2, filter: &filter, ignored: ignored}
	forth := query{from: Anywhere(e.At()), limit: limit / 2, filter: &filter, ignored: ignored}
	if forth.from, err = s.begin(ctx, v, &forth.from, false); err != nil {
		return nil, err
	}
	before, start, _, err := s.history(ctx, v, back)
	if err != nil {
		return nil, err
	}
	after, end, _, err := s.history(ctx, v, forth)
	if err != nil {
		return nil, err
	}
	all, err := s.client(ctx, v, slices.Concat([]*room.Event{e}, before, after))
	if err != nil {
		return nil, err
	}
	reply := contextReply{Start: s.tokens.Place(v.t.ID, start), End: s.tokens.Place(v.t.ID, end),
		Event: all[0], Before: all[1 : 1+len(before)], After: all[1+len(before):]}
	last := e
	if len(after) > 0 {
		last = after[len(after)-1]
	}
	reply.State, err = s.contextState(ctx, v, &filter, slices.Concat(before, []*room.Event{e}, after), last)
	return reply, err
}

// contextState is the state after the last event of a context; with lazy loading only the senders' member events among the members.
func (s *Service) contextState(ctx context.Context, v *view, filter *EventFilter, events []*room.Event, last *room.Event) ([]*room.ClientEvent, error) {
	state, err := s.rooms.StateAfter(ctx, v.t.ID, last)
	if err != nil {
		return nil, err
	}
	senders := map[string]bool{}
	for _, e := range events {
		senders[string(e.Sender())] = true
	}
	picked := room.State{}
	for k, eid := range state {
		if !filter.LazyLoadMembers || k.Type != "m.room.member" || senders[k.StateKey] {
			picked[k] = eid
		}
	}
	list, err := s.stateList(ctx, v, picked)
	return slices.DeleteFunc(list, func(c *room.ClientEvent) bool { return !filter.Event(c.Type, c.Sender, c.Content) }), err
}

type timestampReply struct {
	Event     id.Event `json:"event_id"`
	Timestamp int64    `json:"origin_server_ts"`
}

func (s *Service) timestampToEvent(ctx context.Context, r *httpapi.Request) (any, error) {
	backwards, err := direction(r)
	if err != nil {
		return nil, err
	}
	if r.Query("ts") == "" {
		return nil, mxerror.MissingParam.With("ts is missing")
	}
	ts, err := r.QueryInt("ts", 0, maxTimestamp)
	if err != nil {
		return nil, err
	}
	v, err := s.enter(ctx, r)
	if err != nil {
		return nil, err
	}
	e, err := s.rooms.Closest(ctx, v.t, v.Room, v.user.User, int64(ts), backwards)
	if err != nil {
		return nil, err
	}
	return timestampReply{e.ID(), e.Timestamp()}, nil
}

// maxTimestamp is the greatest integer that JSON carries between servers, in ms far beyond anybody's clock.
const maxTimestamp = 1<<53 - 1

// SPDX-License-Identifier: Apache-2.0

package clientsync

import (
	"context"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/homeserver/ephemeral"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/homeserver/timeline"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// join adds a room that the user is joined to at the upper bound, if there is anything to say about it.
func (s *Service) join(ctx context.Context, q *query, a *answer, p *place, citing map[int64]bool) error {
	from := a.from
	if p.fresh && !p.had { // who was away between has what was before
		from = 0
	}
	w, err := s.window(ctx, q, a, p, from, a.to, citing)
	if err != nil {
		return err
	}
	whole := p.fresh || q.fullState
	j := &joinedRoom{fresh: p.fresh}
	if err := s.newcomers(ctx, q, a, p); err != nil {
		return err
	}
	var final room.State
	if whole || renames(p.changes) {
		if final = a.states[p.NID]; final == nil {
			if final, err = s.o.Rooms.StateAtPosition(ctx, q.t.ID, p.Room, a.to); err != nil {
				return err
			}
		}
		if j.Summary, err = s.summary(ctx, q, a, p, final); err != nil {
			return err
		}
	}
	d := delta{q: q, place: p, window: w, changes: p.changes}
	if whole {
		d.final = final
	}
	if j.Summary != nil {
		d.heroes = j.Summary.Heroes
	}
	state, err := s.state(ctx, &d)
	if err != nil {
		return err
	}
	for _, content := range a.receipts[p.NID] {
		j.Ephemeral = j.Ephemeral.add(typed{ephemeral.EDUReceipt, content})
	}
	if !whole && !p.read && len(state) == 0 && len(w.events) == 0 && !w.limited && j.Summary == nil && j.Ephemeral == nil {
		return nil
	}
	if j.Timeline, err = s.batch(ctx, q, a, p, w, a.to, func(token string) { j.Timeline.Previous = token }); err != nil {
		return err
	}
	j.roomState = q.state(state)
	if err := s.unread(ctx, q, a, p, j); err != nil {
		return err
	}
	a.fresh = a.fresh || p.fresh
	a.room().Join[p.Room.ID] = j
	return nil
}

// leave adds a room that the user has left or was removed from: what it missed until then.
func (s *Service) leave(ctx context.Context, q *query, a *answer, p *place, citing map[int64]bool) error {
	archived := p.Position <= a.from || q.initial
	from := a.from
	if archived {
		from = 0
	}
	w, err := s.window(ctx, q, a, p, from, p.Position, citing)
	if err != nil {
		return err
	}
	d := delta{q: q, place: p, window: w}
	switch {
	case archived || q.fullState || p.fresh && p.was:
		gone, err := s.o.Rooms.Departure(ctx, q.t.ID, p.NID, q.user)
		if err != nil {
			return err
		}
		if gone != nil {
			if d.final, err = s.o.Rooms.StateAfter(ctx, q.t.ID, gone); err != nil {
				return err
			}
		}
	case p.was:
		for _, c := range p.changes {
			if c.Position <= p.Position {
				d.changes = append(d.changes, c)
			}
		}
	}
	state, err := s.state(ctx, &d)
	if err != nil {
		return err
	}
	l := &leftRoom{roomState: q.state(state)}
	if l.Timeline, err = s.batch(ctx, q, a, p, w, p.Position, func(token string) { l.Timeline.Previous = token }); err != nil {
		return err
	}
	a.room().Leave[p.Room.ID] = l
	return nil
}

// renames says whether changes may have changed what a room is called or how many are in it.
func renames(changes []room.StateChange) bool {
	return slices.ContainsFunc(changes, func(c room.StateChange) bool {
		return c.Key.Type == event.TypeMember || c.Key.StateKey == "" && (c.Key.Type == "m.room.name" || c.Key.Type == "m.room.canonical_alias")
	})
}

// newcomers notes whose presence the reader has not been told, because they have had no room in common.
func (s *Service) newcomers(ctx context.Context, q *query, a *answer, p *place) error {
	if q.initial || !q.filter.Presence.Type(ephemeral.EDUPresence) {
		return nil
	}
	var users []id.User
	if p.fresh {
		var err error
		if users, err = s.o.Rooms.JoinedUsers(ctx, q.t.ID, p.NID); err != nil {
			return err
		}
	}
	for _, c := range p.changes {
		if c.Key.Type != event.TypeMember || p.fresh {
			continue
		}
		found, err := s.o.Rooms.Events(ctx, q.t.ID, []id.Event{c.Old, c.New})
		if err != nil {
			return err
		}
		if is, was := found[c.New], found[c.Old]; is != nil && is.Membership() == "join" && (was == nil || was.Membership() != "join") {
			users = append(users, id.User(c.Key.StateKey))
		}
	}
	for _, u := range users {
		if a.newcomers == nil {
			a.newcomers = map[id.User]bool{}
		}
		a.newcomers[u] = u != q.user
	}
	return nil
}

// batch converts a window of events into the timeline of a room's section. Its token for paging backwards is given to set, later where it is made
// with those of other rooms.
func (s *Service) batch(ctx context.Context, q *query, a *answer, p *place, w window, to int64, set func(token string)) (batch, error) {
	b := batch{Events: make([]any, 0, len(w.events)), Limited: w.limited}
	switch {
	case len(w.events) > 0 && p.span == nil:
		a.firsts = append(a.firsts, firstShown{w.events[0], set})
	case len(w.events) > 0:
		before, err := s.placeBefore(ctx, q.t.ID, p, w.events[0])
		if err != nil {
			return b, err
		}
		b.Previous = s.o.Tokens.Place(q.t.ID, before)
	case w.limited:
		before, err := s.o.Timeline.Behind(ctx, p.Room, q.t.ID, to)
		if err != nil {
			return b, err
		}
		b.Previous = s.o.Tokens.Place(q.t.ID, before)
	}
	if q.filter.EventFormat == "federation" {
		for _, e := range w.events {
			b.Events = append(b.Events, jsontext.Value(e.JSON()))
		}
		return b, nil
	}
	events, err := s.o.Rooms.ClientList(ctx, q.t.ID, p.Room, w.events, q.session)
	if err != nil {
		return b, err
	}
	chunk := timeline.Chunk{Room: p.Room}
	for i, e := range events {
		e.RoomID = "" // the section names it
		b.Events = append(b.Events, e)
		if !p.span.childless(w.events[i]) {
			chunk.Events = append(chunk.Events, e)
		}
	}
	if len(chunk.Events) > 0 {
		a.chunks = append(a.chunks, chunk)
	}
	return b, nil
}

// summary counts the members; heroes are named where the room has no name of its own.
func (s *Service) summary(ctx context.Context, q *query, a *answer, p *place, state room.State) (*summary, error) {
	sum, ok := a.members[p.NID]
	if !ok {
		counts, err := s.o.Rooms.Counts(ctx, q.t.ID, []int64{p.NID})
		if err != nil {
			return nil, err
		}
		sum = counts[p.NID]
	}
	out := &summary{Joined: sum.Joined, Invited: sum.Invited}
	for _, named := range []struct{ typ, field string }{{"m.room.name", "name"}, {"m.room.canonical_alias", "alias"}} {
		e, err := s.o.Rooms.StateEvent(ctx, q.t.ID, state, event.Key{Type: named.typ})
		if err != nil {
			return nil, err
		}
		var c map[string]jsontext.Value
		if e != nil && json.Unmarshal(e.Content(), &c) == nil && len(c[named.field]) > 2 && c[named.field].Kind() == '"' {
			return out, nil
		}
	}
	var err error
	if out.Heroes, err = s.o.Rooms.Heroes(ctx, q.t.ID, p.NID, q.user); err != nil {
		return nil, err
	}
	if out.Heroes == nil {
		out.Heroes = []id.User{}
	}
	return out, nil
}

// memberOf reads sender and state key of a stripped member event; both are empty for other events.
func memberOf(raw jsontext.Value) (sender, key id.User) {
	var e struct {
		Type     string  `json:"type"`
		Sender   id.User `json:"sender"`
		StateKey id.User `json:"state_key"`
	}
	if json.Unmarshal(raw, &e, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) != nil || e.Type != event.TypeMember {
		return "", ""
	}
	return e.Sender, e.StateKey
}

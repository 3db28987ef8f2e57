// SPDX-License-Identifier: Apache-2.0

package clientsync

import (
	"context"

	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

const (
	// defaultLimit is how many timeline events a room shows when the filter does not say; maxLimit bounds what it says.
	defaultLimit = 10
	maxLimit     = 500
	// maxAhead is the longest timeline that is read for many rooms at once.
	maxAhead = 50
	// maxScan bounds how many events are looked at to find the wanted ones.
	maxScan = 1000
	// scanMore is how much further is looked, beyond twice as far as before, when a filter leaves out what was found.
	scanMore = 10
)

// window is the newest part of a room's timeline that the client gets, oldest event first.
type window struct {
	events []*room.Event
	// limited: there is something between the client's position and the window.
	limited bool
}

// has says which events the window shows.
func (w *window) has() map[id.Event]bool {
	out := make(map[id.Event]bool, len(w.events))
	for _, e := range w.events {
		out[e.ID()] = true
	}
	return out
}

// window reads the newest wanted and visible events with positions in (from, to]. It begins anew after a gap in what the server has of the room
// (engine rule 15).
func (s *Service) window(ctx context.Context, q *query, a *answer, p *place, from, to int64, citing map[int64]bool) (window, error) {
	var w window
	f := &q.filter.Room.Timeline
	limit := f.LimitOr(defaultLimit, maxLimit)
	if !f.Room(p.Room.ID) {
		return w, nil
	}
	upper, oldest := to, (*room.Event)(nil)
	step := max(limit, 1)
	for scanned := 0; ; {
		batch, more, err := s.newest(ctx, q, a, p, from, upper, step)
		if err != nil {
			return w, err
		}
		if len(batch) == 0 {
			break
		}
		oldest, upper = batch[0], batch[0].Position-1
		step = min(2*step+scanMore, maxScan/4)
		scanned += len(batch)
		wanted, err := s.wanted(ctx, q, a, p, batch)
		if err != nil {
			return w, err
		}
		if gap := lastGap(batch, citing); gap != nil {
			for len(wanted) > 0 && wanted[0].Position < gap.Position {
				wanted = wanted[1:]
			}
			w.limited, more = true, false
		}
		if len(w.events)+len(wanted) > limit {
			wanted, w.limited = wanted[len(wanted)-(limit-len(w.events)):], true
		}
		w.events = append(wanted, w.events...)
		if !more {
			break
		}
		if len(w.events) >= limit || scanned >= maxScan {
			w.limited = true
			break
		}
	}
	if from == 0 && p.fresh && oldest != nil && oldest.Type() != event.TypeCreate {
		w.limited = true // the room is older than what this server has of it
	}
	w.limited = w.limited || q.gap // what the client has of the room may be what was lost
	return w, nil
}

// newest reads the newest events with positions in (from, to], from what was read ahead or for all listeners where that holds them.
func (s *Service) newest(ctx context.Context, q *query, a *answer, p *place, from, to int64, limit int) ([]*room.Event, bool, error) {
	if n, ok := a.newest[p.NID]; ok && from == n.from && to == a.to {
		if len(n.events) > limit {
			return n.events[len(n.events)-limit:], true, nil
		}
		return n.events, false, nil
	}
	if p.span != nil && from == p.span.from && to == p.span.to {
		if events, more, ok := p.span.newest(limit); ok {
			return events, more, nil
		}
	}
	return s.o.Rooms.Timeline(ctx, q.t.ID, p.NID, from, to, limit)
}

// lastGap returns the newest event of a batch before which history is missing.
func lastGap(batch []*room.Event, citing map[int64]bool) *room.Event {
	for i := len(batch) - 1; i >= 0; i-- {
		if citing[batch[i].NID] {
			return batch[i]
		}
	}
	return nil
}

// wanted leaves out what the filter, the ignore list and the room's history visibility leave out. The user's own departure is always shown.
func (s *Service) wanted(ctx context.Context, q *query, a *answer, p *place, batch []*room.Event) ([]*room.Event, error) {
	f := &q.filter.Room.Timeline
	list := make([]*room.Event, 0, len(batch))
	for _, e := range batch {
		if (e.IsState() || !a.ignored[e.Sender()]) && f.Event(e.Type(), e.Sender(), e.Content()) {
			list = append(list, e)
		}
	}
	var visible []*room.Event
	var err error
	if p.Membership == "join" {
		visible, err = s.o.Rooms.VisibleToMember(ctx, q.t.ID, q.user, list)
	} else {
		visible, err = s.o.Rooms.Visible(ctx, q.t.ID, q.user, p.NID, list)
	}
	if err != nil || len(visible) == len(list) {
		return visible, err
	}
	out := list[:0]
	for _, e := range list {
		if len(visible) > 0 && visible[0] == e {
			out, visible = append(out, e), visible[1:]
		} else if e.ID() == p.Event && p.Membership != "join" {
			out = append(out, e)
		}
	}
	return out, nil
}

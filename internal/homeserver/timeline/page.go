// SPDX-License-Identifier: Apache-2.0

package timeline

import (
	"context"
	"math"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

const (
	// maxScan bounds the events that one page looks at; a page that finds too few among them ends early, with a place to go on from.
	maxScan = 1000
	// scanStep is how many events are read at once at least.
	scanStep = 32
)

// query is a page that somebody asks for.
type query struct {
	from Place
	// to ends the page when it is not nil; paging backwards, events before it are passed over until floor is reached: late events of a fork
	// may lie among them.
	to        *Place
	floor     room.Cursor
	backwards bool
	limit     int
	filter    *EventFilter
	ignored   map[id.User]bool
}

// less says whether a place lies before another one.
func less(a, b room.Cursor) bool {
	return a.Topological < b.Topological || a.Topological == b.Topological && a.Arrival < b.Arrival
}

// before says whether an event lies before a place in the room's history.
func (p Place) before(e *room.Event) bool {
	return less(e.At(), p.Cursor) && (e.Position == 0 || e.Position <= p.UpTo)
}

// after says the opposite for paging forwards, where events up to position After are behind.
func (p Place) after(e *room.Event) bool {
	return less(p.Cursor, e.At()) && (e.Position == 0 || e.Position > p.After)
}

// endAt makes a page end at a place; nil does not.
func (s *Service) endAt(ctx context.Context, v *view, q *query, to *Place) (err error) {
	if q.to = to; to == nil {
		return nil
	}
	q.floor = to.Cursor
	if q.backwards && to.UpTo != math.MaxInt64 {
		q.floor, err = s.rooms.PlaceAfter(ctx, v.t.ID, v.NID, to.UpTo)
	}
	return err
}

// wants says whether an event belongs to the page, and whether the page ends at it.
func (q *query) wants(e *room.Event) (wanted, end bool) {
	if q.backwards {
		if q.to != nil && q.to.before(e) {
			return false, !less(q.floor, e.At())
		}
		wanted = q.from.before(e)
	} else {
		if q.to != nil && !q.to.before(e) {
			return false, !less(e.At(), q.to.Cursor)
		}
		wanted = q.from.after(e) && (e.Position == 0 || e.Position <= q.from.UpTo)
	}
	return wanted && (e.IsState() || !q.ignored[e.Sender()]) && (q.filter == nil || q.filter.Event(e.Type(), e.Sender(), e.Content())), false
}

// page reads a page of what the user may see. next is where the following one begins; more says that there may be further events. lowest is
// the least order number looked at.
func (s *Service) page(ctx context.Context, v *view, q query) (events []*room.Event, next Place, more bool, lowest int64, err error) {
	next, lowest = q.from, q.from.Topological
	for scanned := 0; scanned < maxScan && len(events) < q.limit; {
		batch, _, further, err := s.rooms.Page(ctx, v.t.ID, v.NID, next.Cursor, q.backwards, max(q.limit-len(events), scanStep))
		if err != nil {
			return nil, next, false, 0, err
		}
		scanned += len(batch)
		wanted := make([]*room.Event, 0, len(batch))
		for i, e := range batch {
			ok, end := q.wants(e)
			if end {
				batch, further = batch[:i], false
				break
			}
			if ok {
				wanted = append(wanted, e)
			}
		}
		visible, err := s.rooms.Visible(ctx, v.t.ID, v.user.User, v.NID, wanted)
		if err != nil {
			return nil, next, false, 0, err
		}
		more = further
		for _, e := range batch {
			if len(events) == q.limit {
				more = true
				break
			}
			next.Cursor, lowest = e.At(), min(lowest, e.Topological)
			if len(visible) > 0 && visible[0] == e {
				events, visible = append(events, e), visible[1:]
			}
		}
		if !further {
			break
		}
	}
	if !more && q.backwards && q.to == nil {
		lowest = math.MinInt64
	}
	return events, next, more, lowest, nil
}

// history is page with backfilling: where the page crosses a gap in what this server has of the room, the missing events are fetched from
// others and the page is read again.
func (s *Service) history(ctx context.Context, v *view, q query) (events []*room.Event, next Place, more bool, err error) {
	for attempt := 0; ; attempt++ {
		var lowest int64
		events, next, more, lowest, err = s.page(ctx, v, q)
		if err != nil || !q.backwards || attempt == maxBackfills || v.left != nil && !v.joined {
			return events, next, more, err
		}
		gaps, err := s.rooms.Gaps(ctx, v.t.ID, v.NID, lowest, q.from.Topological)
		if err != nil {
			return nil, next, false, err
		}
		if len(gaps) == 0 {
			return events, next, more, nil
		}
		n, err := s.rooms.Backfill(ctx, v.t, v.Room, gaps, max(q.limit, backfillLeast))
		if err != nil {
			return nil, next, false, err
		}
		if n == 0 {
			return events, next, more, nil
		}
	}
}

const (
	// maxBackfills is how often one request asks other servers.
	maxBackfills = 3
	// backfillLeast is how many events are worth a request to another server.
	backfillLeast = 50
)

// Before returns the place from which a client pages backwards from the first event of a timeline that it got by sync.
func (s *Service) Before(ctx context.Context, v *room.Room, t tenant.ID, first *room.Event) (Place, error) {
	return s.beforePosition(ctx, t, v.NID, first.Position-1, first)
}

// BeforeAll is Before for the first events shown of several rooms, by a few queries for all of them.
func (s *Service) BeforeAll(ctx context.Context, t tenant.ID, firsts []*room.Event) ([]Place, error) {
	points := make([]room.Point, len(firsts))
	for i, e := range firsts {
		points[i] = room.Point{Room: e.RoomNID, Position: e.Position - 1}
	}
	cursors, err := s.rooms.PlacesBefore(ctx, t, points)
	if err != nil {
		return nil, err
	}
	out := make([]Place, len(firsts))
	for i, e := range firsts {
		out[i] = place(cursors[points[i]], points[i].Position, e)
	}
	return out, nil
}

// Behind returns the place from which a client pages backwards from a position of the stream.
func (s *Service) Behind(ctx context.Context, v *room.Room, t tenant.ID, position int64) (Place, error) {
	return s.beforePosition(ctx, t, v.NID, position, nil)
}

func (s *Service) beforePosition(ctx context.Context, t tenant.ID, roomNID, position int64, first *room.Event) (Place, error) {
	c, err := s.rooms.PlaceBefore(ctx, t, roomNID, position)
	if err != nil {
		return Place{}, err
	}
	return place(c, position, first), nil
}

// place is where paging backwards from a position begins, so that it meets everything before the first event shown too.
func place(c room.Cursor, position int64, first *room.Event) Place {
	if first != nil && less(c, first.At()) {
		c = first.At()
	}
	return Place{Cursor: c, UpTo: position}
}

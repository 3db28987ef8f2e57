// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"database/sql"
	"slices"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Recent is what may count in a range of one room's timeline. It is read once for all who count there, and never changed.
type Recent struct {
	from, to   int64
	events     []*room.Event
	highlights []highlight
}

// Recent makes it of all events of the timeline with positions in (from, to], oldest first. It asks the database only when one of them may
// mention somebody.
func (s *Service) Recent(ctx context.Context, t tenant.ID, roomNID, from, to int64, events []*room.Event) (*Recent, error) {
	r := &Recent{from: from, to: to, events: events}
	if !slices.ContainsFunc(events, mayHighlight) {
		return r, nil
	}
	var err error
	r.highlights, err = s.highlights(ctx, t, roomNID, "", from, to, len(events)*(maxMentions+1))
	return r, err
}

// of is what may count for a user by the default rules with positions in (from, to].
func (r *Recent) of(user id.User, from, to int64) (f found) {
	for _, e := range slices.Backward(within(r.events, from, to)) {
		c := room.Counted{Position: e.Position, Thread: e.Thread, Sender: e.Sender(), Class: e.Class, Redaction: e.Type() == event.TypeRedaction}
		if c.Class > Silent && e.RedactedBy == "" || c.Sender == user || c.Redaction {
			f.rows = append(f.rows, defaultRow(c))
		}
	}
	for _, h := range r.highlights {
		if h.position > from && h.position <= to && h.sender != user && (h.user == "" || h.user == user) {
			f.highlights = append(f.highlights, h)
		}
	}
	return f
}

// within returns the events, ordered by position, with positions in (from, to].
func within(events []*room.Event, from, to int64) []*room.Event {
	for len(events) > 0 && events[0].Position <= from {
		events = events[1:]
	}
	for len(events) > 0 && events[len(events)-1].Position > to {
		events = events[:len(events)-1]
	}
	return events
}

// highlight is a row that says that an event mentions a user, or the whole room.
type highlight struct {
	position int64
	thread   id.Event
	// extra: the event would not notify without it.
	extra  bool
	event  id.Event
	sender id.User
	// user is empty for a mention of the whole room.
	user id.User
}

func (h *highlight) count() Count {
	n := Count{Highlights: 1}
	if h.extra {
		n.Notifications = 1
	}
	return n
}

// highlights lists what mentions a user, or anybody when none is named, with positions in (from, to], newest first; of an event that mentions a
// user by name and with the whole room one row. Redacted events are left out. It looks at no more than limit rows.
func (s *Service) highlights(ctx context.Context, t tenant.ID, roomNID int64, user id.User, from, to int64, limit int) ([]highlight, error) {
	rows, err := s.o.DB.Query(ctx, `SELECT position, thread, extra, event_id, sender, user_id FROM highlight
		WHERE tenant = $1 AND room = $2 AND ($3 = '' OR user_id IN ('', $3)) AND position > $4 AND position <= $5 ORDER BY position DESC, user_id LIMIT $6`,
		int64(t), roomNID, string(user), from, to, limit)
	list, err := database.All(rows, err, func(rows *sql.Rows) (h highlight, err error) {
		return h, rows.Scan(&h.position, &h.thread, &h.extra, &h.event, &h.sender, &h.user)
	})
	if err != nil || len(list) == 0 {
		return nil, err
	}
	ids := make([]id.Event, len(list))
	for i, h := range list {
		ids[i] = h.event
	}
	events, err := s.o.Rooms.Events(ctx, t, ids)
	if err != nil {
		return nil, err
	}
	everybody := map[id.Event]bool{}
	return slices.DeleteFunc(list, func(h highlight) bool {
		if h.user == "" {
			everybody[h.event] = true
		} else if everybody[h.event] {
			return true
		}
		e := events[h.event]
		return e == nil || e.RedactedBy != ""
	}), nil
}

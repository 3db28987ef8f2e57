// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"database/sql"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// outgoingPage is how many of the tenant's events one step of [Service.Outgoing] looks at.
const outgoingPage = 500

// Outgoing lists the events with positions in (after, upTo] that the tenant owes a destination, oldest first and at most limit: those of its
// own users, and others' at the positions in relayed (accepted as resident server), in rooms where the destination was before the event or
// that change the membership of one of its users (engine rule 20). complete is the position up to which the answer leaves nothing out: upTo,
// or less when the limit or the page cut it.
func (s *Service) Outgoing(ctx context.Context, t *tenant.Tenant, destination id.Server, after, upTo int64, limit int, relayed []int64) (events []*Event, complete int64, err error) {
	type row struct {
		event    id.Event
		position int64
	}
	relayed = relayed[:min(len(relayed), database.MaxMarks)]
	args := []any{int64(t.ID), after, upTo, "%:" + escapeLike(string(t.Name)), outgoingPage}
	more := ""
	if len(relayed) > 0 {
		more = " OR e.position IN (" + database.Marks(6, len(relayed)) + ")"
		for _, p := range relayed {
			args = append(args, p)
		}
	}
	rows, err := s.DB.Query(ctx, `SELECT e.event_id, e.position FROM event e WHERE e.tenant = $1 AND e.position > $2 AND e.position <= $3 AND e.position > 0
		AND (e.sender LIKE $4 ESCAPE '!'`+more+") ORDER BY e.position LIMIT $5", args...)
	page, err := database.All(rows, err, func(rows *sql.Rows) (r row, err error) { return r, rows.Scan(&r.event, &r.position) })
	if err != nil {
		return nil, 0, err
	}
	ids := make([]id.Event, len(page))
	for i, r := range page {
		ids[i] = r.event
	}
	found, err := s.Events(ctx, t.ID, ids)
	if err != nil {
		return nil, 0, err
	}
	for _, r := range page {
		e := found[r.event]
		if e == nil {
			continue // purged meanwhile
		}
		owed, err := s.owed(ctx, t.ID, destination, e)
		if err != nil {
			return nil, 0, err
		}
		if !owed {
			continue
		}
		if e.Position != r.position { // the cached copy is from before its commit
			c := *e
			c.Position = r.position
			e = &c
		}
		if events = append(events, e); len(events) == limit {
			return events, r.position, nil
		}
	}
	if len(page) == outgoingPage {
		return events, page[len(page)-1].position, nil
	}
	return events, upTo, nil
}

// owed says whether an event is for a server: it was in the room before, or the event is about one of its users.
func (s *Service) owed(ctx context.Context, t tenant.ID, server id.Server, e *Event) (bool, error) {
	if e.Type() == "m.room.member" && e.IsState() && id.User(*e.StateKey()).Server() == server {
		return true, nil
	}
	state, err := s.StateBefore(ctx, t, e)
	if err != nil {
		return false, err
	}
	var members []id.Event
	for key, eid := range state {
		if key.Type == "m.room.member" && id.User(key.StateKey).Server() == server {
			members = append(members, eid)
		}
	}
	found, err := s.Events(ctx, t, members)
	if err != nil {
		return false, err
	}
	for _, m := range found {
		if m.Membership() == "join" {
			return true, nil
		}
	}
	return false, nil
}

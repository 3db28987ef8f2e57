// SPDX-License-Identifier: Apache-2.0

package ephemeral

import (
	"context"
	"database/sql"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Receipts go to other servers like events do, from their table and by the tenant's outbox: they survive a restart and an absence of the other
// server. Since a receipt that moves on takes its own row along to a new position, a server that comes back after days gets the last one of each
// user, room and thread, and nothing of what lies between.

// Unit is an EDU for another server.
type Unit struct {
	Type     string
	Content  jsontext.Value
	Position int64
}

// outgoingPage is how many receipts are looked at in one query, outgoingPages how many queries one call makes at most.
const (
	outgoingPage  = 500
	outgoingPages = 20
)

// Outgoing returns at most limit receipts for a destination with positions in (after, upTo], oldest first, and the position up to which nothing is
// missing from them. They are the public ones of the tenant's own users, in rooms in which both the user and the destination are now.
func (s *Service) Outgoing(ctx context.Context, t *tenant.Tenant, destination id.Server, after, upTo int64, limit int) ([]Unit, int64, error) {
	var units []Unit
	inRoom := map[int64]bool{}
	for range outgoingPages {
		rows, err := s.o.DB.Query(ctx, `SELECT c.room, r.room_id, c.user_id, c.kind, c.thread, c.event_id, c.ts, c.position FROM receipt c
			JOIN room r ON r.tenant = c.tenant AND r.room = c.room
			WHERE c.tenant = $1 AND c.position > $2 AND c.position <= $3 AND c.kind = 'm.read' ORDER BY c.position LIMIT $4`,
			int64(t.ID), after, upTo, outgoingPage)
		type row struct {
			receipt
			rid id.Room
			at  int64
		}
		page, err := database.All(rows, err, func(rows *sql.Rows) (c row, err error) {
			return c, rows.Scan(&c.room, &c.rid, &c.user, &c.kind, &c.thread, &c.event, &c.ts, &c.at)
		})
		if err != nil {
			return nil, 0, err
		}
		for _, c := range page {
			owed, err := s.owed(ctx, t, destination, &c.receipt, inRoom)
			if err != nil {
				return nil, 0, err
			}
			if owed && len(units) == limit {
				return units, c.at - 1, nil
			}
			if owed {
				units = append(units, Unit{EDUReceipt, c.edu(c.rid), c.at})
			}
			after = c.at
		}
		if len(page) < outgoingPage {
			return units, upTo, nil
		}
	}
	return units, after, nil
}

// owed says whether a receipt is for a destination. inRoom remembers in which rooms the destination is.
func (s *Service) owed(ctx context.Context, t *tenant.Tenant, destination id.Server, c *receipt, inRoom map[int64]bool) (bool, error) {
	if c.user.Server() != t.Name {
		return false, nil
	}
	in, known := inRoom[c.room]
	if !known {
		var err error
		if in, err = s.o.Rooms.ServerInRoom(ctx, t.ID, c.room, destination); err != nil {
			return false, err
		}
		inRoom[c.room] = in
	}
	if !in {
		return false, nil
	}
	m, err := s.o.Rooms.Membership(ctx, t.ID, c.room, c.user)
	return m.Membership == "join", err
}

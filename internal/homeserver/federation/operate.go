// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// The states of a [Destination].
const (
	// DestinationIdle has got everything.
	DestinationIdle = "idle"
	// DestinationPending has something to get and is not in back-off.
	DestinationPending = "pending"
	// DestinationRefusing answers, but refuses this tenant.
	DestinationRefusing = "refusing"
	// DestinationUnreachable does not answer, whichever tenant of the cell asks.
	DestinationUnreachable = "unreachable"
)

// Destination is what an operator sees of a tenant's traffic to another server.
type Destination struct {
	Server id.Server `json:"destination"`
	State  string    `json:"state"`
	// Failures counts attempts in a row that failed, RetryAt is when the next one is due; absent without a failure.
	Failures int64      `json:"failures"`
	RetryAt  *time.Time `json:"retry_at,omitempty"`
	// Events are those that it has still to get, at most as many as were to be counted.
	Events int `json:"events"`
	// Delivered is when it last acknowledged a transaction, to the minute; absent when it never did.
	Delivered *time.Time `json:"last_success,omitempty"`

	pendingFrom int64
}

// Destinations lists the servers that a tenant sent something, has something for or is refused by, in the order of their names. Of what waits for one
// at most count events are counted. It needs nothing but the database, so that it also answers beside the running node.
func Destinations(ctx context.Context, db *database.DB, rooms *room.Service, t *tenant.Tenant, count int) ([]Destination, error) {
	rows, err := db.Query(ctx, `SELECT d.destination, o.pending_from, r.failures, r.retry_at, h.failures, h.retry_at, a.at FROM (
			SELECT destination FROM outbox WHERE tenant = $1
			UNION SELECT destination FROM federation_refusal WHERE tenant = $1
			UNION SELECT destination FROM federation_delivered WHERE tenant = $1) d
		LEFT JOIN outbox o ON o.tenant = $1 AND o.destination = d.destination
		LEFT JOIN federation_refusal r ON r.tenant = $1 AND r.destination = d.destination
		LEFT JOIN federation_delivered a ON a.tenant = $1 AND a.destination = d.destination
		LEFT JOIN server_reach h ON h.server = d.destination
		ORDER BY d.destination`, int64(t.ID))
	list, err := database.All(rows, err, scanDestination)
	if err != nil {
		return nil, err
	}
	var newest int64
	if err := db.QueryRow(ctx, "SELECT position FROM tenant WHERE tenant = $1", int64(t.ID)).Scan(&newest); err != nil {
		return nil, err
	}
	for i := range list {
		d := &list[i]
		for after := d.pendingFrom - 1; d.pendingFrom > 0 && after < newest && d.Events < count; {
			events, complete, err := owed(ctx, db, rooms, t, d.Server, after, newest, count-d.Events)
			if err != nil {
				return nil, err
			}
			d.Events += len(events)
			after = complete
		}
	}
	return list, nil
}

func scanDestination(rows *sql.Rows) (d Destination, err error) {
	var from, refusals, refusedUntil, outages, downUntil, at sql.NullInt64
	if err := rows.Scan(&d.Server, &from, &refusals, &refusedUntil, &outages, &downUntil, &at); err != nil {
		return d, err
	}
	moment := func(ms int64) *time.Time {
		at := time.UnixMilli(ms).UTC()
		return &at
	}
	d.State = DestinationIdle
	if from.Valid {
		d.State, d.pendingFrom = DestinationPending, max(from.Int64, 1)
	}
	if refusals.Valid {
		d.State, d.Failures, d.RetryAt = DestinationRefusing, refusals.Int64, moment(refusedUntil.Int64)
	}
	if outages.Valid {
		d.State, d.Failures, d.RetryAt = DestinationUnreachable, outages.Int64, moment(downUntil.Int64)
	}
	if at.Valid {
		d.Delivered = moment(at.Int64)
	}
	return d, nil
}

// deliveredEvery is how exactly the last success of a destination is known.
const deliveredEvery = time.Minute

// noteDelivered remembers that a destination has acknowledged a transaction, unless that was noted within the last minute.
func (s *Service) noteDelivered(ctx context.Context, r route) error {
	now := s.now()
	if last, ok := s.delivered.Get(r); ok && now.Sub(last) < deliveredEvery {
		return nil
	}
	_, err := s.DB.Exec(ctx, `INSERT INTO federation_delivered (tenant, destination, at) VALUES ($1, $2, $3)
		ON CONFLICT (tenant, destination) DO UPDATE SET at = excluded.at`, int64(r.tenant), string(r.destination), now.UnixMilli())
	if err == nil {
		s.delivered.Set(r, now)
	}
	return err
}

// Retry tries a tenant's destination at once. Failures go on counting, so the pause after another one is longer still. M_NOT_FOUND when the tenant has
// nothing to do with that server.
func (s *Service) Retry(ctx context.Context, t *tenant.Tenant, destination id.Server) error {
	if err := s.isDestination(ctx, t, destination); err != nil {
		return err
	}
	_, err := s.DB.Exec(ctx, "UPDATE federation_refusal SET retry_at = $3 WHERE tenant = $1 AND destination = $2",
		int64(t.ID), string(destination), s.now().UnixMilli())
	if err = errors.Join(err, s.reach.due(ctx, destination)); err != nil {
		return err
	}
	s.outbox.press(route{t.ID, destination})
	return nil
}

// Reset forgets that a destination failed, where it was found, and how often it refused what is under way; then it is tried at once. The host's other
// tenants profit as well. M_NOT_FOUND when the tenant has nothing to do with that server.
func (s *Service) Reset(ctx context.Context, t *tenant.Tenant, destination id.Server) error {
	if err := s.isDestination(ctx, t, destination); err != nil {
		return err
	}
	err := s.storeRefusals(ctx, route{t.ID, destination}, 0, time.Time{})
	if err == nil {
		_, err = s.DB.Exec(ctx, "UPDATE federation_outgoing SET attempts = 0 WHERE tenant = $1 AND destination = $2", int64(t.ID), string(destination))
	}
	if err = errors.Join(err, s.reach.reset(ctx, destination)); err != nil {
		return err
	}
	s.resolver.forgetAll(destination)
	s.outbox.press(route{t.ID, destination})
	s.wakeAll(destination)
	return nil
}

func (s *Service) isDestination(ctx context.Context, t *tenant.Tenant, destination id.Server) error {
	var n int
	err := s.DB.QueryRow(ctx, `SELECT (SELECT COUNT(*) FROM outbox WHERE tenant = $1 AND destination = $2)
		+ (SELECT COUNT(*) FROM federation_refusal WHERE tenant = $1 AND destination = $2)
		+ (SELECT COUNT(*) FROM federation_delivered WHERE tenant = $1 AND destination = $2)`, int64(t.ID), string(destination)).Scan(&n)
	if err == nil && n == 0 {
		err = mxerror.NotFound.With("%s has sent nothing to %s and has nothing for it.", t.Name, destination)
	}
	return err
}

// SPDX-License-Identifier: Apache-2.0

package limits

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Writes is what the bare database reached.
type Writes struct {
	PerSecond float64
	// P50 and P99 are times of whole transactions.
	P50, P99 time.Duration
	// CPU is this process's µs per event; a database server's own are not in it.
	CPU float64
}

// rooms is how many heads the events are spread over.
const rooms = 64

// Database writes the rows of messages in transactions of the given group, as the committer does and with nothing else around it: the head's
// update, the transaction id, the event's id, the tenant's position, the event of the given size. The database at the URL must be empty or an
// earlier call's.
func Database(ctx context.Context, url string, group, size int, d time.Duration) (_ Writes, err error) {
	db, err := database.Open(ctx, database.Options{URL: url})
	if err != nil {
		return Writes{}, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	t, err := tenant.NewStore(db).Create(ctx, tenant.Spec{Name: id.Server(fmt.Sprintf("limit%d.localhost", group))})
	if err != nil {
		return Writes{}, err
	}
	err = db.Write(ctx, func(tx *database.Tx) error {
		for room := range rooms {
			if _, err := tx.Exec(ctx, "INSERT INTO room_head (tenant, room, version, extremities, snapshot, topological) VALUES ($1, $2, 0, '[]', 1, 0)", int64(t.ID), room); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return Writes{}, err
	}
	pipe, err := db.Pipeline(ctx)
	if err != nil {
		return Writes{}, err
	}
	defer func() { err = errors.Join(err, pipe.Close(ctx)) }()

	w := writer{pipe: pipe, tenant: int64(t.ID), body: bytes.Repeat([]byte("x"), size)}
	var samples []time.Duration
	if err := w.transaction(ctx, group); err != nil { // prepares the statements
		return Writes{}, err
	}
	began, used, first := time.Now(), processTime(), w.n
	for time.Since(began) < d && len(samples) < maxSamples {
		at := time.Now()
		if err := w.transaction(ctx, group); err != nil {
			return Writes{}, err
		}
		samples = append(samples, time.Since(at))
	}
	events := float64(w.n - first)
	out := Writes{PerSecond: events / time.Since(began).Seconds(), CPU: (processTime() - used).Seconds() * 1e6 / events}
	q := times(samples)
	out.P50, out.P99 = q.P50, q.P99
	return out, nil
}

// writer makes the rows of one event after the other.
type writer struct {
	pipe   database.Pipeline
	tenant int64
	n      int64
	body   []byte
}

// transaction writes group events.
func (w *writer) transaction(ctx context.Context, group int) error {
	var guards, rows, events []database.Statement
	created := time.Now().UnixMilli()
	for range group {
		w.n++
		room, eid := w.n%rooms, fmt.Sprintf("$%043d", w.n)
		guards = append(guards, database.Statement{SQL: `UPDATE room_head SET version = $4, extremities = $5, snapshot = $6, topological = $7 WHERE tenant = $1 AND room = $2 AND version >= $3
			AND NOT EXISTS (SELECT 1 FROM txn WHERE tenant = $1 AND user_id = $8 AND device = $9 AND scope = $10 AND txn_id = $11)`,
			Args: []any{w.tenant, room, int64(0), w.n, `["` + eid + `"]`, int64(1), w.n, "@sender:limit.localhost", "BENCHDEVIC", "send", eid}})
		rows = append(rows,
			database.Statement{SQL: "INSERT INTO txn (tenant, user_id, device, scope, txn_id, event_id, created) VALUES ($1, $2, $3, $4, $5, $6, $7)",
				Args: []any{w.tenant, "@sender:limit.localhost", "BENCHDEVIC", "send", eid, eid, created}},
			database.Statement{SQL: "INSERT INTO event_id (tenant, event_id, room, event) VALUES ($1, $2, $3, $4)", Args: []any{w.tenant, eid, room, w.n}})
		events = append(events, database.Statement{SQL: `INSERT INTO event (tenant, event, room, event_id, position, topological, type, sender, origin_ts, snapshot, snapshot_after,
			rejected, soft_failed, outlier, reason, rule_class, thread, redacted_by, txn_device, txn_id, json)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)`,
			Args: []any{w.tenant, w.n, room, eid, w.n, w.n, "m.room.encrypted", "@sender:limit.localhost", created, int64(1), int64(1),
				false, false, false, "", int64(0), "", "", "BENCHDEVIC", eid, w.body}})
	}
	if _, err := w.pipe.Begin(ctx, guards); err != nil {
		return err
	}
	position := []database.Statement{{SQL: "UPDATE tenant SET position = position + $2 WHERE tenant = $1 RETURNING position", Args: []any{w.tenant, int64(group)}}}
	if _, err := w.pipe.Run(ctx, rows, position); err != nil {
		return err
	}
	return w.pipe.Commit(ctx, events)
}

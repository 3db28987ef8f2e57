// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// Limits of a transaction (server-server API, "Transactions").
const (
	maxPDUs = 50
	maxEDUs = 100
	// maxUnits bounds the bytes of a transaction's EDUs; PDUs are bounded by their number.
	maxUnits = 4 << 20
	// maxPoison is how often a destination may refuse a transaction as malformed before it is left out, so that one that it cannot read does
	// not hold up all that follow.
	maxPoison = 5
	// lease is how long a node's claim on a destination holds; it is renewed while a request is under way. After a crash the transaction that
	// was under way waits this long for the next node.
	lease = 9 * time.Second
	// drainTries is how often an empty outbox row is tried to be deleted on a tenant that goes on committing.
	drainTries = 3
)

// transaction is what one PUT /send carries.
type transaction struct {
	id   string
	upTo int64 // last position covered; 0 for one of volatile units only, which is not stored and not sent again
	body []byte
}

// envelope is the body of a transaction.
type envelope struct {
	Origin    id.Server        `json:"origin"`
	Timestamp int64            `json:"origin_server_ts"`
	PDUs      []jsontext.Value `json:"pdus"`
	EDUs      []EDU            `json:"edus,omitempty"`
}

// deliver is the goroutine of one sender: it sends transaction after transaction until nothing is left or the destination has to be left
// alone for a while.
func (s *Service) deliver(ctx context.Context, d *sender) {
	for {
		wait, err := s.deliverAll(ctx, d)
		if err != nil && ctx.Err() == nil {
			s.Log.WarnContext(ctx, "delivery to a server failed", "tenant", int64(d.tenant), "destination", string(d.destination), "error", err)
			wait = max(wait, s.config.RetryMin)
		}
		if s.outbox.rest(d, wait) {
			return
		}
	}
}

// deliverAll sends until nothing is left. A positive wait says when to try again.
func (s *Service) deliverAll(ctx context.Context, d *sender) (wait time.Duration, err error) {
	t, err := s.Tenants.ByID(ctx, d.tenant)
	if err != nil {
		return 0, err
	}
	if wait, err := s.refusalPause(ctx, d); err != nil || wait > 0 {
		return wait, err
	}
	leaveHost, err := s.outbox.places.atHost(ctx, d.destination)
	if err != nil {
		return 0, err
	}
	defer leaveHost()
	wait, down, err := s.reach.pause(ctx, d.destination)
	if d.lagging = d.lagging || down; err != nil || wait > 0 {
		return wait, err
	}
	leave, err := s.outbox.places.enter(ctx, down)
	if err != nil {
		return 0, err
	}
	defer leave()
	for idle := 0; ctx.Err() == nil; {
		tx, err := s.next(ctx, t, d)
		var claimed *claimedError
		if errors.As(err, &claimed) {
			return claimed.wait, nil
		}
		if err != nil {
			return 0, err
		}
		if tx == nil {
			done, err := s.drained(ctx, t, d)
			if err != nil || done {
				return 0, err
			}
			if idle++; idle == drainTries {
				return 0, nil // the row stays; the next commit or the sweep looks again
			}
			continue
		}
		idle = 0
		wait, err := s.send(ctx, t, d, tx)
		if err != nil || wait > 0 {
			return wait, err
		}
	}
	return 0, nil
}

// next returns the transaction to send: the stored one of an earlier attempt with its very content, else a new one, stored under its id
// before anybody sees it. nil when nothing is left.
func (s *Service) next(ctx context.Context, t *tenant.Tenant, d *sender) (*transaction, error) {
	if !d.resumed {
		tx, err := s.resume(ctx, d)
		if tx != nil || err != nil {
			return tx, err
		}
		d.resumed = true
	}
	tx, err := s.build(ctx, t, d)
	if tx == nil || err != nil || tx.upTo == 0 {
		return tx, err
	}
	n, err := s.DB.Exec(ctx, `INSERT INTO federation_outgoing (tenant, destination, txn_id, up_to, body, attempts, sender, claimed_until)
		VALUES ($1, $2, $3, $4, $5, 0, $6, $7) ON CONFLICT (tenant, destination) DO NOTHING`,
		int64(d.tenant), string(d.destination), tx.id, tx.upTo, string(tx.body), s.outbox.node, s.claimEnd())
	if err != nil {
		return nil, err
	}
	if n == 0 { // another node has been faster
		d.resumed = false
		return nil, &claimedError{lease}
	}
	return tx, nil
}

func (s *Service) claimEnd() int64 { return s.now().Add(lease).UnixMilli() }

// claimedError says that another node sends to a destination, and how long its claim holds.
type claimedError struct{ wait time.Duration }

func (*claimedError) Error() string { return "another node sends to this destination" }

// keepClaim renews the claim on a stored transaction until the returned function is called.
func (s *Service) keepClaim(d *sender, tx *transaction) (stop func()) {
	if tx.upTo == 0 {
		return func() {}
	}
	var timer *time.Timer
	var mu sync.Mutex
	stopped := false
	var renew func()
	renew = func() {
		mu.Lock()
		defer mu.Unlock()
		if stopped {
			return
		}
		_, err := s.DB.Exec(s.work.Context(), "UPDATE federation_outgoing SET claimed_until = $5 WHERE tenant = $1 AND destination = $2 AND txn_id = $3 AND sender = $4",
			int64(d.tenant), string(d.destination), tx.id, s.outbox.node, s.claimEnd())
		if err != nil && s.work.Context().Err() == nil {
			s.Log.Warn("claim on a destination could not be renewed", "tenant", int64(d.tenant), "destination", string(d.destination), "error", err)
		}
		timer = time.AfterFunc(lease/3, renew)
	}
	mu.Lock()
	timer = time.AfterFunc(lease/3, renew)
	mu.Unlock()
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		timer.Stop()
	}
}

// resume takes over the stored transaction of a destination, if there is one whose claim is ours or has run out.
func (s *Service) resume(ctx context.Context, d *sender) (*transaction, error) {
	var tx transaction
	var body string
	var attempts int
	var owner, until int64
	err := s.DB.QueryRow(ctx, `SELECT txn_id, up_to, body, attempts, sender, claimed_until FROM federation_outgoing
		WHERE tenant = $1 AND destination = $2`, int64(d.tenant), string(d.destination)).Scan(&tx.id, &tx.upTo, &body, &attempts, &owner, &until)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	now := s.now().UnixMilli()
	if owner != s.outbox.node && until > now {
		return nil, &claimedError{time.Duration(until-now+1) * time.Millisecond}
	}
	n, err := s.DB.Exec(ctx, `UPDATE federation_outgoing SET sender = $4, claimed_until = $5 WHERE tenant = $1 AND destination = $2 AND txn_id = $3
		AND (sender = $4 OR claimed_until <= $6)`, int64(d.tenant), string(d.destination), tx.id, s.outbox.node, s.claimEnd(), now)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, &claimedError{lease}
	}
	tx.body = []byte(body)
	d.poison = attempts
	return &tx, nil
}

// build gathers what comes next for the destination, in the order of the tenant's positions.
func (s *Service) build(ctx context.Context, t *tenant.Tenant, d *sender) (*transaction, error) {
	from, pending, err := s.pendingFrom(ctx, d)
	if err != nil {
		return nil, err
	}
	upTo := int64(0)
	e := envelope{Origin: t.Name, Timestamp: s.now().UnixMilli(), PDUs: []jsontext.Value{}}
	if pending {
		if upTo, err = s.gather(ctx, t, d, from-1, &e); err != nil {
			return nil, err
		}
		d.scanned = upTo
	}
	if len(e.PDUs) == 0 && len(e.EDUs) == 0 {
		upTo = 0 // only volatile units, if any
	}
	volatile := s.outbox.takeVolatile(d, maxEDUs-len(e.EDUs))
	e.EDUs = append(e.EDUs, volatile...)
	if len(e.PDUs) == 0 && len(e.EDUs) == 0 {
		return nil, nil
	}
	body, err := json.Marshal(e, encodeOptions)
	if err != nil {
		return nil, err
	}
	// A restored backup repeats positions under a new epoch; the id must not repeat (engine rule 7).
	return &transaction{id: fmt.Sprintf("%d-%d", t.Epoch, database.NewID()), upTo: upTo, body: body}, nil
}

var encodeOptions = json.JoinOptions(jsontext.AllowDuplicateNames(true), json.Deterministic(true))

// pendingFrom reads the destination's row of the outbox.
func (s *Service) pendingFrom(ctx context.Context, d *sender) (from int64, pending bool, err error) {
	err = s.DB.QueryRow(ctx, "SELECT pending_from FROM outbox WHERE tenant = $1 AND destination = $2", int64(d.tenant), string(d.destination)).Scan(&from)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false, nil
	}
	return max(from, 1), err == nil, err
}

// gather fills an envelope with what the destination has to get after a position, and returns the position up to which that is all. It goes
// on over stretches that hold nothing for the destination.
func (s *Service) gather(ctx context.Context, t *tenant.Tenant, d *sender, after int64, e *envelope) (int64, error) {
	newest, err := s.Feed.Position(ctx, d.tenant)
	if err != nil {
		return 0, err
	}
	if d.lagging && d.newest == nil {
		if d.newest, err = s.thin(ctx, t, d, after, newest); err != nil {
			return 0, err
		}
	}
	for {
		upTo, err := s.stretch(ctx, t, d, after, newest, e)
		if err != nil || len(e.PDUs) > 0 || len(e.EDUs) > 0 || upTo >= newest {
			return upTo, err
		}
		after = upTo
	}
}

// stretch fills an envelope from one stretch of positions.
func (s *Service) stretch(ctx context.Context, t *tenant.Tenant, d *sender, after, newest int64, e *envelope) (int64, error) {
	events, upTo, err := owed(ctx, s.DB, s.Rooms, t, d.destination, after, newest, maxPDUs)
	if err != nil {
		return 0, err
	}
	units, upTo, err := s.units(ctx, t, d.destination, after, upTo)
	if err != nil {
		return 0, err
	}
	e.EDUs = append(e.EDUs, units...)
	for _, ev := range events {
		if ev.Position > upTo {
			break
		}
		if only, thinned := d.newest[ev.RoomNID]; !thinned || ev.Position >= only {
			e.PDUs = append(e.PDUs, ev.JSON())
		}
	}
	return upTo, nil
}

// units lists the durable units of all sources for a destination, in the order of positions and within the bounds of a transaction, and the position
// up to which that is all.
func (s *Service) units(ctx context.Context, t *tenant.Tenant, destination id.Server, after, upTo int64) ([]EDU, int64, error) {
	var all []EDU
	for _, source := range s.Sources {
		units, complete, err := source.Outgoing(ctx, t, destination, after, upTo, maxEDUs)
		if err != nil {
			return nil, 0, err
		}
		upTo = min(upTo, complete)
		all = append(all, units...)
	}
	slices.SortStableFunc(all, func(a, b EDU) int { return cmp.Compare(a.Position, b.Position) })
	n, size := 0, 0
	for n < len(all) && n < maxEDUs && all[n].Position <= upTo && (n == 0 || size+len(all[n].Content) <= maxUnits) {
		size += len(all[n].Content)
		n++
	}
	if n == len(all) {
		return all, upTo, nil
	}
	next := all[n].Position // waits for the next transaction, with all that has the same position
	cut := n
	for cut > 0 && all[cut-1].Position == next {
		cut--
	}
	if cut == 0 && n > 0 { // a position that fills a transaction alone
		return all[:n], next, nil
	}
	return all[:cut], min(upTo, next-1), nil
}

// owed lists the events that the tenant owes a destination: its own, and those that it accepted as resident server.
func owed(ctx context.Context, db *database.DB, rooms *room.Service, t *tenant.Tenant, destination id.Server, after, upTo int64, limit int) ([]*room.Event, int64, error) {
	const most = 400
	rows, err := db.Query(ctx, "SELECT position FROM federation_relay WHERE tenant = $1 AND position > $2 AND position <= $3 ORDER BY position LIMIT $4",
		int64(t.ID), after, upTo, most)
	relayed, err := database.All(rows, err, database.Column[int64])
	if err != nil {
		return nil, 0, err
	}
	if len(relayed) == most {
		upTo = relayed[most-1]
	}
	return rooms.Outgoing(ctx, t, destination, after, upTo, limit, relayed)
}

// Relay adds to the plan of another server's event that this tenant accepted as resident server a note that it has to be passed on. The
// composition root hands it to package room, which calls it for every event before its plan goes to the committer (room.Options.Stored).
func (s *Service) Relay(ctx context.Context, t tenant.ID, e *room.Event, _ room.State, plan *stream.Plan) error {
	s.enters(t, e, plan)
	if len(plan.Outbox) == 0 {
		return nil
	}
	me, err := s.Tenants.ByID(ctx, t)
	if err != nil || e.Sender().Server() == me.Name {
		return err
	}
	plan.Positioned = append(plan.Positioned, stream.Statement{
		SQL:  "INSERT INTO federation_relay (tenant, position) VALUES ($1, $2)",
		Args: []any{int64(t), stream.At(0)}})
	return nil
}

// catchUpLimit is how many missed events of a room are sent one by one after an outage; of more only the newest is, and the other server
// fetches what it wants (engine rule 21).
const catchUpLimit = 100

// thin finds the rooms of which the destination missed too much, with the position of the one event to send.
func (s *Service) thin(ctx context.Context, t *tenant.Tenant, d *sender, after, newest int64) (map[int64]int64, error) {
	type missed struct {
		n    int
		last int64
	}
	rooms := make(map[int64]missed)
	for after < newest {
		events, complete, err := owed(ctx, s.DB, s.Rooms, t, d.destination, after, newest, 1000)
		if err != nil {
			return nil, err
		}
		for _, ev := range events {
			rooms[ev.RoomNID] = missed{rooms[ev.RoomNID].n + 1, ev.Position}
		}
		after = complete
	}
	only := make(map[int64]int64)
	for nid, m := range rooms {
		if m.n > catchUpLimit {
			only[nid] = m.last
		}
	}
	return only, nil
}

// send carries one transaction and settles its outcome.
func (s *Service) send(ctx context.Context, t *tenant.Tenant, d *sender, tx *transaction) (wait time.Duration, err error) {
	var result struct {
		PDUs map[id.Event]struct {
			Error string `json:"error"`
		} `json:"pdus"`
	}
	stop := s.keepClaim(d, tx)
	err = s.fetch(ctx, t, d.destination, call{method: http.MethodPut, path: pathOf(v1+"/send", tx.id), body: tx.body}, whenUp, &result)
	stop()
	if ctx.Err() != nil && err != nil {
		return 0, s.release(context.WithoutCancel(ctx), d, tx) // stopping: the next start sends it again
	}
	ctx = context.WithoutCancel(ctx)
	var gone *Unreachable
	var refused *Refused
	var garbage *Malformed
	policyError := mxerror.From(err)
	switch {
	case err == nil:
		for event, r := range result.PDUs {
			if r.Error != "" {
				s.Log.InfoContext(ctx, "event refused by another server", "tenant", string(t.Name), "destination", string(d.destination), "event", string(event))
			}
		}
		return 0, s.settle(ctx, t, d, tx)
	case errors.As(err, &gone):
		d.lagging, d.newest = true, nil
		return s.hostPause(ctx, d.destination), s.release(ctx, d, tx)
	case errors.As(err, &refused) && refused.Status == http.StatusTooManyRequests:
		return max(refused.RetryAfter, s.config.RetryMin), s.release(ctx, d, tx) // too fast: nothing is wrong with either side
	case errors.As(err, &refused):
		d.lagging, d.newest = true, nil
		return s.onRefusal(ctx, t, d, tx, refused)
	case errors.As(err, &garbage): // a proxy's page, say: it may not have got what was sent
		d.lagging, d.newest = true, nil
		return s.onRefusal(ctx, t, d, tx, &Refused{Server: d.destination, Status: http.StatusNotFound})
	case policyError != nil && policyError.Status == http.StatusForbidden:
		return s.onRefusal(ctx, t, d, tx, &Refused{Server: d.destination, Status: policyError.Status, Code: policyError.Code, Reason: policyError})
	}
	return 0, errors.Join(err, s.release(ctx, d, tx))
}

// hostPause is how long to leave an unreachable host alone.
func (s *Service) hostPause(ctx context.Context, server id.Server) time.Duration {
	wait, _, err := s.reach.pause(ctx, server)
	if err != nil || wait == 0 {
		return s.config.RetryMin
	}
	return wait
}

// onRefusal decides what becomes of a transaction that the destination answered with an error.
func (s *Service) onRefusal(ctx context.Context, t *tenant.Tenant, d *sender, tx *transaction, r *Refused) (time.Duration, error) {
	if r.broken() {
		return s.hostPause(ctx, d.destination), s.release(ctx, d, tx)
	}
	switch r.Status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusRequestTimeout:
	default:
		if d.poison++; d.poison >= maxPoison {
			s.Log.ErrorContext(ctx, "a transaction was refused too often and is left out", "tenant", string(t.Name),
				"destination", string(d.destination), "status", r.Status, "code", r.Code)
			return 0, s.settle(ctx, t, d, tx)
		}
	}
	d.refused++
	pause := s.config.pause(d.refused)
	if err := s.storeRefusals(ctx, d.route, d.refused, s.now().Add(pause)); err != nil {
		return pause, err
	}
	return pause, s.release(ctx, d, tx)
}

// release gives up the claim on a stored transaction without an outcome; it is sent again with the same content.
func (s *Service) release(ctx context.Context, d *sender, tx *transaction) error {
	d.resumed = false
	if tx.upTo == 0 {
		return nil
	}
	_, err := s.DB.Exec(ctx, "UPDATE federation_outgoing SET attempts = $4, claimed_until = 0 WHERE tenant = $1 AND destination = $2 AND txn_id = $3",
		int64(d.tenant), string(d.destination), tx.id, d.poison)
	return err
}

// settle records that the destination has everything up to the transaction's end: its row goes, the outbox row goes or advances, the slices
// drop what was delivered. Holding the tenant's row, nothing newer can come in between (engine rule 20).
func (s *Service) settle(ctx context.Context, t *tenant.Tenant, d *sender, tx *transaction) error {
	if d.refused > 0 {
		if err := s.storeRefusals(ctx, d.route, 0, time.Time{}); err != nil {
			return err
		}
	}
	d.refused, d.poison, d.resumed = 0, 0, true
	if err := s.noteDelivered(ctx, d.route); err != nil {
		return err
	}
	if tx.upTo == 0 {
		return nil
	}
	return s.DB.Write(ctx, func(w *database.Tx) error {
		if _, err := w.Exec(ctx, "DELETE FROM federation_outgoing WHERE tenant = $1 AND destination = $2 AND txn_id = $3",
			int64(d.tenant), string(d.destination), tx.id); err != nil {
			return err
		}
		for _, source := range s.Sources {
			if err := source.Delivered(ctx, w, t, d.destination, tx.upTo); err != nil {
				return err
			}
		}
		_, err := s.closeRow(ctx, w, d, tx.upTo)
		return err
	})
}

// drained deletes the outbox row when nothing newer than what was scanned has been committed.
func (s *Service) drained(ctx context.Context, _ *tenant.Tenant, d *sender) (done bool, err error) {
	if _, pending, err := s.pendingFrom(ctx, d); err != nil || !pending {
		return err == nil, err
	}
	err = s.DB.Write(ctx, func(w *database.Tx) error {
		var err error
		done, err = s.closeRow(ctx, w, d, d.scanned)
		return err
	})
	if done {
		d.lagging, d.newest = false, nil
	}
	return done, err
}

// closeRow deletes the destination's outbox row when upTo is the tenant's last position, and moves it forward otherwise. It locks the
// tenant's row first: whoever commits later finds no row and inserts one.
func (s *Service) closeRow(ctx context.Context, w *database.Tx, d *sender, upTo int64) (deleted bool, err error) {
	var position int64
	if err := w.QueryRow(ctx, "UPDATE tenant SET state = state WHERE tenant = $1 RETURNING position", int64(d.tenant)).Scan(&position); err != nil {
		return false, err
	}
	if position <= upTo {
		if _, err := w.Exec(ctx, "DELETE FROM outbox WHERE tenant = $1 AND destination = $2", int64(d.tenant), string(d.destination)); err != nil {
			return false, err
		}
		_, err := w.Exec(ctx, "DELETE FROM federation_relay WHERE tenant = $1 AND NOT EXISTS (SELECT 1 FROM outbox WHERE tenant = $1)", int64(d.tenant))
		return err == nil, err
	}
	_, err = w.Exec(ctx, "UPDATE outbox SET pending_from = $3 WHERE tenant = $1 AND destination = $2 AND pending_from < $3",
		int64(d.tenant), string(d.destination), upTo+1)
	return false, err
}

// refusalPause is how long the destination has still to be left alone because it refused the tenant.
func (s *Service) refusalPause(ctx context.Context, d *sender) (time.Duration, error) {
	var retryAt int64
	err := s.DB.QueryRow(ctx, "SELECT failures, retry_at FROM federation_refusal WHERE tenant = $1 AND destination = $2",
		int64(d.tenant), string(d.destination)).Scan(&d.refused, &retryAt)
	if errors.Is(err, sql.ErrNoRows) {
		d.refused = 0
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	d.lagging = true
	return max(0, time.UnixMilli(retryAt).Sub(s.now())), nil
}

// storeRefusals writes or, with no failures, deletes the row of a destination that refuses a tenant.
func (s *Service) storeRefusals(ctx context.Context, r route, failures int64, retryAt time.Time) error {
	if failures == 0 {
		_, err := s.DB.Exec(ctx, "DELETE FROM federation_refusal WHERE tenant = $1 AND destination = $2", int64(r.tenant), string(r.destination))
		return err
	}
	_, err := s.DB.Exec(ctx, `INSERT INTO federation_refusal (tenant, destination, failures, retry_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (tenant, destination) DO UPDATE SET failures = excluded.failures, retry_at = excluded.retry_at`,
		int64(r.tenant), string(r.destination), failures, retryAt.UnixMilli())
	return err
}

// SPDX-License-Identifier: Apache-2.0

package appservice

import (
	"context"
	"database/sql"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

const (
	// answerWithin is how long a service may work on a transaction.
	answerWithin = time.Minute
	// lease is how long a node's claim on a service holds; it is renewed while a request is under way.
	lease = 9 * time.Second
	// saveAfter is how many positions of others' changes a sender passes over before it stores where it is.
	saveAfter = 1000
	// maxVolatile bounds the rooms with typing and the users with presence that wait for a service.
	maxVolatile = 500
)

// sender is what a node knows of a service that it sends to. At rest it has neither a goroutine nor a timer.
type sender struct {
	*service
	t *tenant.Tenant

	// Of Service.mu:
	running, again bool
	timer          *time.Timer
	wokenAt        time.Time
	typing         map[int64]bool
	presence       map[id.User]bool

	// Of the goroutine:
	loaded   bool
	position int64 // up to here nothing is left for the service
	stored   int64 // what the database says
	pending  *transaction
	failures int
	legacy   time.Time // until then the old paths are used
}

// transaction is what one PUT carries. One of volatile data only (upTo 0) is not stored, and not repeated when it fails.
type transaction struct {
	id    string
	upTo  int64
	body  []byte
	taken []inbox
}

// inbox names to-device messages of a transaction: those up to its last position have been received.
type inbox struct {
	User   id.User   `json:"u"`
	Device id.Device `json:"d"`
	UpTo   int64     `json:"p"`
}

// run starts the sender's goroutine or tells the running one to look again; the mutex is held.
func (s *Service) run(d *sender) {
	if s.closed || !s.started {
		return
	}
	if d.running {
		d.again = true
		return
	}
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.running, d.again = true, false
	s.work.Go(func(ctx context.Context) {
		for {
			wait, err := s.deliver(ctx, d)
			if err != nil && ctx.Err() == nil {
				s.o.Log.Warn("application service could not be told", "tenant", string(d.server), "service", d.ID, "error", err)
				wait = max(wait, s.o.RetryMin)
				d.loaded, d.pending = false, nil
			}
			if s.rest(d, wait) {
				return
			}
		}
	})
}

// rest ends a run, unless something came meanwhile. A positive wait is when to go on.
func (s *Service) rest(d *sender, wait time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		d.running = false
		return true
	}
	if wait > 0 {
		d.running, d.again = false, false
		d.typing = nil // late typing is no longer true
		d.timer = time.AfterFunc(wait, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if d.timer != nil {
				d.timer = nil
				s.run(d)
			}
		})
		return true
	}
	if d.again {
		d.again = false
		return false
	}
	d.running = false
	return true
}

// deliver sends transaction after transaction, in order, until nothing is left. A positive wait says when to try again.
func (s *Service) deliver(ctx context.Context, d *sender) (wait time.Duration, err error) {
	for ctx.Err() == nil {
		if !d.loaded {
			if wait, err := s.load(ctx, d); err != nil || wait > 0 {
				return wait, err
			}
		}
		if d.pending == nil {
			tx, err := s.build(ctx, d)
			if err != nil {
				return 0, err
			}
			if tx == nil {
				return 0, s.save(ctx, d)
			}
			if tx.upTo > 0 {
				ours, err := s.store(ctx, d, tx)
				if err != nil {
					return 0, err
				}
				if !ours {
					d.loaded = false
					continue
				}
			}
			d.pending = tx
		}
		if err := s.put(ctx, d, d.pending); err != nil {
			if ctx.Err() != nil {
				return 0, nil
			}
			d.failures++
			s.o.Log.Warn("application service did not take a transaction", "tenant", string(d.server), "service", d.ID, "failures", d.failures, "error", err)
			if d.pending.upTo == 0 {
				d.pending = nil
			}
			return s.pause(d.failures), nil
		}
		d.failures = 0
		if err := s.delivered(ctx, d, d.pending); err != nil {
			return 0, err
		}
		d.pending = nil
	}
	return 0, nil
}

// pause is the back-off after a number of failures in a row.
func (s *Service) pause(failures int) time.Duration {
	wait := s.o.RetryMin
	for range failures - 1 {
		if wait = 2 * wait; wait >= s.o.RetryMax {
			return s.o.RetryMax
		}
	}
	return wait
}

// load reads where the service is and takes over a transaction of an earlier run, unless another node holds the claim.
func (s *Service) load(ctx context.Context, d *sender) (wait time.Duration, err error) {
	var tx transaction
	var body, taken string
	var owner, until int64
	err = s.o.DB.QueryRow(ctx, "SELECT position, txn_id, up_to, body, taken, sender, claimed_until FROM appservice_stream WHERE tenant = $1 AND service = $2",
		int64(d.t.ID), d.ID).Scan(&d.stored, &tx.id, &tx.upTo, &body, &taken, &owner, &until)
	if err != nil {
		return 0, err
	}
	d.position, d.pending = d.stored, nil
	now := time.Now().UnixMilli()
	if owner != s.node && until > now {
		return time.Duration(until-now+1) * time.Millisecond, nil
	}
	if tx.id != "" {
		n, err := s.o.DB.Exec(ctx, `UPDATE appservice_stream SET sender = $4, claimed_until = $5 WHERE tenant = $1 AND service = $2 AND txn_id = $3
			AND (sender = $4 OR claimed_until <= $6)`, int64(d.t.ID), d.ID, tx.id, s.node, now+lease.Milliseconds(), now)
		if err != nil {
			return 0, err
		}
		if n == 0 {
			return lease, nil
		}
		tx.body = []byte(body)
		if taken != "" {
			if err := json.Unmarshal([]byte(taken), &tx.taken); err != nil {
				return 0, err
			}
		}
		d.pending = &tx
	}
	d.loaded = true
	return 0, nil
}

// store keeps a transaction under its id before anybody sees it. It answers false when another node was faster.
func (s *Service) store(ctx context.Context, d *sender, tx *transaction) (bool, error) {
	taken := ""
	if len(tx.taken) > 0 {
		raw, err := json.Marshal(tx.taken)
		if err != nil {
			return false, err
		}
		taken = string(raw)
	}
	now := time.Now().UnixMilli()
	n, err := s.o.DB.Exec(ctx, `UPDATE appservice_stream SET txn_id = $4, up_to = $5, body = $6, taken = $7, sender = $8, claimed_until = $9
		WHERE tenant = $1 AND service = $2 AND position = $3 AND txn_id = '' AND (sender = $8 OR claimed_until <= $10)`,
		int64(d.t.ID), d.ID, d.stored, tx.id, tx.upTo, string(tx.body), taken, s.node, now+lease.Milliseconds(), now)
	return n == 1, err
}

// delivered notes that a service has taken a transaction, and deletes the to-device messages in it (engine rule 28).
func (s *Service) delivered(ctx context.Context, d *sender, tx *transaction) error {
	if tx.upTo == 0 {
		return nil
	}
	err := s.o.DB.Write(ctx, func(w *database.Tx) error {
		n, err := w.Exec(ctx, `UPDATE appservice_stream SET position = up_to, txn_id = '', body = '', taken = '', claimed_until = 0
			WHERE tenant = $1 AND service = $2 AND txn_id = $3`, int64(d.t.ID), d.ID, tx.id)
		if err != nil || n == 0 {
			return err
		}
		for _, box := range tx.taken {
			_, err := w.Exec(ctx, "DELETE FROM to_device WHERE tenant = $1 AND user_id = $2 AND device = $3 AND position <= $4",
				int64(d.t.ID), string(box.User), string(box.Device), box.UpTo)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	d.position, d.stored = max(d.position, tx.upTo), tx.upTo
	return nil
}

// save stores the position of a service that much has passed by which did not concern it.
func (s *Service) save(ctx context.Context, d *sender) error {
	if d.position-d.stored < saveAfter {
		return nil
	}
	n, err := s.o.DB.Exec(ctx, "UPDATE appservice_stream SET position = $4 WHERE tenant = $1 AND service = $2 AND position = $3 AND txn_id = ''",
		int64(d.t.ID), d.ID, d.stored, d.position)
	if err != nil {
		return err
	}
	if n == 0 {
		d.loaded = false
		return nil
	}
	d.stored = d.position
	return nil
}

// put sends a transaction; the claim on it is renewed meanwhile.
func (s *Service) put(ctx context.Context, d *sender, tx *transaction) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	if tx.upTo > 0 {
		defer s.keepClaim(ctx, d, tx)()
	}
	path := "/transactions/" + url.PathEscape(tx.id)
	if time.Now().Before(d.legacy) {
		status, _, err := s.call(ctx, d.service, request{method: http.MethodPut, path: path, body: tx.body, old: true})
		return success(status, err)
	}
	status, answer, err := s.call(ctx, d.service, request{method: http.MethodPut, path: prefix + path, body: tx.body})
	if err == nil && unknownPath(status, answer) {
		old, _, oldErr := s.call(ctx, d.service, request{method: http.MethodPut, path: path, body: tx.body, old: true})
		if success(old, oldErr) == nil {
			d.legacy = time.Now().Add(legacyFor)
			return nil
		}
	}
	return success(status, err)
}

func success(status int, err error) error {
	if err == nil && status/100 != 2 {
		err = errors.New("status " + strconv.Itoa(status))
	}
	return err
}

// keepClaim renews the claim until the returned function is called.
func (s *Service) keepClaim(ctx context.Context, d *sender, tx *transaction) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	s.work.Go(func(context.Context) {
		ticker := time.NewTicker(lease / 3)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-ticker.C:
				_, err := s.o.DB.Exec(ctx, "UPDATE appservice_stream SET claimed_until = $5 WHERE tenant = $1 AND service = $2 AND txn_id = $3 AND sender = $4",
					int64(d.t.ID), d.ID, tx.id, s.node, now.Add(lease).UnixMilli())
				if err != nil && ctx.Err() == nil && !errors.Is(err, sql.ErrNoRows) {
					s.o.Log.Warn("claim on an application service was not renewed", "service", d.ID, "error", err)
				}
			}
		}
	})
	return cancel
}

// release gives up the claim on what was not answered, so that the next start need not wait for its end.
func (s *Service) release(ctx context.Context) {
	for k := range s.byKey {
		d := s.byKey[k]
		if d.pending == nil || d.pending.upTo == 0 {
			continue
		}
		_, err := s.o.DB.Exec(ctx, "UPDATE appservice_stream SET claimed_until = 0 WHERE tenant = $1 AND service = $2 AND sender = $3", int64(d.t.ID), d.ID, s.node)
		if err != nil {
			s.o.Log.Warn("claim on an application service was not released", "service", d.ID, "error", err)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"database/sql"
	"slices"
	"sync"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// maxVolatile bounds the ephemeral units that wait in memory for one destination; the oldest go first.
const maxVolatile = 100

// route names a tenant's traffic to one other server.
type route struct {
	tenant      tenant.ID
	destination id.Server
}

// outbox runs one sender per destination that has something to get. Only such destinations are in memory: a sender ends when nothing is left,
// and one that has to wait is a timer. All of it can be lost: the rows of the table outbox say what is pending.
type outbox struct {
	s      *Service
	places *places // bounds transactions under way
	node   int64   // names this node's claims
	// onRest, when set, is told whenever a sender's goroutine ends; tests wait for it.
	onRest func(route)

	mu      sync.Mutex
	senders map[route]*sender
	started bool
	closed  bool
}

// sender is the state of one active destination. Its fields belong to outbox.mu, except those of its own goroutine.
type sender struct {
	route
	running  bool
	again    bool // something came while it was running
	timer    *time.Timer
	volatile []EDU

	// Of the goroutine:
	resumed bool            // the stored transaction of an earlier run has been looked for
	lagging bool            // the destination missed something: catching up
	newest  map[int64]int64 // room → position of the only event to send of those missed
	scanned int64           // up to here nothing is left for the destination
	refused int64           // refusals in a row
	poison  int             // refusals of the same transaction's content
}

func newOutbox(s *Service) *outbox {
	return &outbox{s: s, places: newPlaces(&s.config), node: database.NewID(), senders: make(map[route]*sender)}
}

// start lets senders run.
func (o *outbox) start() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.started = true
}

// nudge says that a destination has something to get. It never blocks.
func (o *outbox) nudge(t tenant.ID, destination id.Server) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.sender(route{t, destination})
	if s.timer == nil { // a destination that has to wait waits on
		o.run(s)
	}
}

// add hands over volatile units for a destination. A destination in back-off keeps only the newest few.
func (o *outbox) add(t tenant.ID, destination id.Server, unit EDU) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.sender(route{t, destination})
	kept := s.volatile[:0]
	for _, old := range s.volatile {
		if unit.Key == "" || old.Key != unit.Key || old.Type != unit.Type {
			kept = append(kept, old)
		}
	}
	s.volatile = append(kept, unit)
	if over := len(s.volatile) - maxVolatile; over > 0 {
		s.volatile = append([]EDU(nil), s.volatile[over:]...)
	}
	if s.timer == nil {
		o.run(s)
	}
}

// sender returns the entry of a route; the lock is held.
func (o *outbox) sender(r route) *sender {
	s := o.senders[r]
	if s == nil {
		s = &sender{route: r}
		o.senders[r] = s
	}
	return s
}

// run starts the sender's goroutine, or tells the running one to look again; the lock is held.
func (o *outbox) run(s *sender) {
	if o.closed || !o.started {
		return
	}
	if s.running {
		s.again = true
		return
	}
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
	s.running, s.again = true, false
	o.s.work.Go(func(ctx context.Context) { o.s.deliver(ctx, s) })
}

// rest ends a run of the sender's goroutine. It answers false when something came meanwhile and the goroutine has to go on. A positive wait
// keeps the entry until then.
func (o *outbox) rest(s *sender, wait time.Duration) (ended bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	defer func() {
		if ended && o.onRest != nil {
			o.onRest(s.route)
		}
	}()
	if wait > 0 && !o.closed {
		s.running, s.again = false, false
		s.volatile = nil // what is true for a moment only is not when it arrives late
		s.timer = time.AfterFunc(wait, func() {
			o.mu.Lock()
			defer o.mu.Unlock()
			s.timer = nil
			o.run(s)
		})
		return true
	}
	if s.again && !o.closed {
		s.again = false
		return false
	}
	s.running = false
	if len(s.volatile) == 0 || o.closed {
		delete(o.senders, s.route)
	}
	return true
}

// takeVolatile returns and forgets up to n volatile units.
func (o *outbox) takeVolatile(s *sender, n int) []EDU {
	o.mu.Lock()
	defer o.mu.Unlock()
	n = min(n, len(s.volatile))
	units := slices.Clone(s.volatile[:n])
	s.volatile = slices.Clone(s.volatile[n:])
	return units
}

// press lets a sender try at once, also one that has to wait.
func (o *outbox) press(r route) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.run(o.sender(r))
}

// wake lets every sender to a server try at once.
func (o *outbox) wake(server id.Server) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for r, s := range o.senders {
		if r.destination == server && s.timer != nil {
			o.run(s)
		}
	}
}

// forgive ends the pause after refusals of a tenant by a server that now talks with it.
func (o *outbox) forgive(ctx context.Context, t *tenant.Tenant, server id.Server) {
	o.mu.Lock()
	s := o.senders[route{t.ID, server}]
	waiting := s != nil && s.timer != nil
	o.mu.Unlock()
	if !waiting {
		return
	}
	if err := o.s.storeRefusals(context.WithoutCancel(ctx), s.route, 0, time.Time{}); err != nil {
		o.s.Log.WarnContext(ctx, "end of refusals could not be stored", "tenant", string(t.Name), "destination", string(server), "error", err)
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if s.timer != nil {
		o.run(s)
	}
}

// close stops what waits; what runs ends with the service's context.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	for r, s := range o.senders {
		if s.timer != nil {
			s.timer.Stop()
			s.timer = nil
			delete(o.senders, r)
		}
	}
}

// sweepPage is how many rows of the outbox are read at once.
const sweepPage = 200

// pickUp looks through the rows of the outbox, at the start and then once in a while: for what was pending before the start, and for what another node
// was told of. Nothing idle has a row.
func (s *Service) pickUp(ctx context.Context) error {
	var last route
	for {
		// tenant: the cell's own look at all of them, for whichever it has to send.
		rows, err := s.DB.Query(ctx, `SELECT tenant, destination FROM outbox WHERE tenant > $1 OR tenant = $1 AND destination > $2
			ORDER BY tenant, destination LIMIT $3`, int64(last.tenant), string(last.destination), sweepPage)
		page, err := database.All(rows, err, func(rows *sql.Rows) (route, error) {
			var r route
			err := rows.Scan(&r.tenant, &r.destination)
			return r, err
		})
		if err != nil {
			return err
		}
		for _, r := range page {
			s.outbox.nudge(r.tenant, r.destination)
		}
		if len(page) < sweepPage {
			return nil
		}
		last = page[len(page)-1]
	}
}

// SendEDU sends a volatile unit (typing, presence) to other servers. It is coalesced, goes with the next transaction, and is lost
// with the process or when a destination stays away for long.
func (s *Service) SendEDU(_ context.Context, t *tenant.Tenant, destinations []id.Server, unit EDU) {
	for _, d := range destinations {
		if d != t.Name {
			s.outbox.add(t.ID, d, unit)
		}
	}
}

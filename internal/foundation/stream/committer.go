// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"errors"
	"log/slog"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
)

const (
	// maxBatch is how many plans one transaction takes (engine rule 3).
	maxBatch = 64
	// gatherBelow and gatherFor: a busy SQLite writer waits a moment when fewer plans than this wait, because a flush costs more than the
	// delay (commit.md, section 3). PostgreSQL lost by it.
	gatherBelow = 8
	gatherFor   = 2 * time.Millisecond
	// moreFor bounds the wait for plans that were announced by the one before ([Plan.More]), one by one; moreInAll that of a whole batch, which others
	// wait for as well.
	moreFor   = 2 * time.Millisecond
	moreInAll = 10 * time.Millisecond
	// queueSize bounds the plans that wait; further senders block.
	queueSize = 1024
)

// Committer is the one writer of positions in a node.
type Committer struct {
	db    *database.DB
	feed  *Feed
	log   *slog.Logger
	queue chan *Pending
	quit  chan struct{}
	ended chan struct{}
	once  sync.Once
	// mu closes the gate: Submit holds it for reading while it enqueues, Close for writing.
	mu     sync.RWMutex
	closed bool

	pipe  database.Pipeline
	id    int64
	batch int64
	// deferred are plans that met a repeated Unique key; they open the next batch.
	deferred []*Pending
	lastSize int

	stats struct{ batches, plans, stale atomic.Int64 }
}

// Stats are totals since the start: transactions, plans committed, plans refused by their guard.
type Stats struct{ Batches, Plans, Stale int64 }

// NewCommitter starts the committer of a node; Close stops it.
func NewCommitter(ctx context.Context, db *database.DB, feed *Feed, log *slog.Logger) (*Committer, error) {
	pipe, err := db.Pipeline(ctx)
	if err != nil {
		return nil, err
	}
	c := &Committer{db: db, feed: feed, log: log, pipe: pipe, id: database.NewID(),
		queue: make(chan *Pending, queueSize), quit: make(chan struct{}), ended: make(chan struct{})}
	go c.run()
	return c, nil
}

// Stats returns what the committer has done so far.
func (c *Committer) Stats() Stats {
	return Stats{c.stats.batches.Load(), c.stats.plans.Load(), c.stats.stale.Load()}
}

// Commit hands over a plan and waits for its transaction. It returns the position of the plan's first change.
func (c *Committer) Commit(ctx context.Context, p *Plan) (int64, error) {
	return c.Submit(p).Wait(ctx)
}

// Submit hands over a plan without waiting, so that a room's turn can end before the commit (engine rule 4). Plans of one caller keep
// their order.
func (c *Committer) Submit(p *Plan) *Pending {
	pending := &Pending{plan: p, done: make(chan struct{})}
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.closed {
		pending.err = ErrClosed
		close(pending.done)
		return pending
	}
	c.queue <- pending
	return pending
}

// Close commits what has been handed over, refuses what comes later, and returns when the last transaction has ended.
func (c *Committer) Close() {
	c.once.Do(func() {
		c.mu.Lock()
		c.closed = true
		c.mu.Unlock()
		close(c.quit)
	})
	<-c.ended
}

// run is the committer's only goroutine. Its transactions run under a context of their own, never under a request's.
func (c *Committer) run() {
	defer close(c.ended)
	ctx := context.Background()
	defer c.pipe.Close(ctx) //nolint:errcheck // the program ends
	for {
		batch := c.collect()
		if len(batch) == 0 {
			return
		}
		c.lastSize = len(batch)
		c.process(ctx, batch)
	}
}

// collect waits for work and takes what is there. It returns nothing when the committer is closed and the queue empty.
func (c *Committer) collect() []*Pending {
	batch := c.deferred
	c.deferred = nil
	if len(batch) == 0 {
		select {
		case p := <-c.queue:
			batch = append(batch, p)
		case <-c.quit:
			select {
			case p := <-c.queue:
				batch = append(batch, p)
			default:
				return nil
			}
		}
	}
	batch = c.drain(batch)
	if len(batch) < gatherBelow && c.lastSize >= gatherBelow/2 && !c.db.Postgres() {
		timer := time.NewTimer(gatherFor)
		defer timer.Stop()
		for len(batch) < gatherBelow {
			select {
			case p := <-c.queue:
				batch = append(batch, p)
				continue
			case <-timer.C:
			case <-c.quit:
			}
			break
		}
		batch = c.drain(batch)
	}
	return c.unique(c.announced(batch))
}

// announced waits for what the last plan of a batch announced, and takes with it what else has come.
func (c *Committer) announced(batch []*Pending) []*Pending {
	var wait *time.Timer
	for began := time.Now(); len(batch) < maxBatch && batch[len(batch)-1].plan.More && time.Since(began) < moreInAll; {
		if wait == nil {
			wait = time.NewTimer(moreFor)
			defer wait.Stop()
		} else {
			wait.Reset(moreFor)
		}
		select {
		case p := <-c.queue:
			batch = c.drain(append(batch, p))
		case <-wait.C:
			return batch
		case <-c.quit:
			return batch
		}
	}
	return batch
}

func (c *Committer) drain(batch []*Pending) []*Pending {
	for len(batch) < maxBatch {
		select {
		case p := <-c.queue:
			batch = append(batch, p)
		default:
			return batch
		}
	}
	return batch
}

// tenantKey is a Unique key of one tenant.
type tenantKey struct {
	tenant tenant.ID
	key    string
}

// tenantRoom is a room of one tenant.
type tenantRoom struct {
	tenant tenant.ID
	room   int64
}

// unique defers plans that repeat a key of an earlier one in the batch, and what follows them in their room, whose order must not change.
func (c *Committer) unique(batch []*Pending) []*Pending {
	seen := map[tenantKey]bool{}
	held := map[tenantRoom]bool{}
	kept := batch[:0]
	for _, p := range batch {
		room := tenantRoom{p.plan.Tenant, p.plan.Room}
		repeated := p.plan.Room != 0 && held[room]
		for _, k := range p.plan.Unique {
			repeated = repeated || seen[tenantKey{p.plan.Tenant, k}]
		}
		if repeated {
			held[room] = true
			c.deferred = append(c.deferred, p)
			continue
		}
		for _, k := range p.plan.Unique {
			seen[tenantKey{p.plan.Tenant, k}] = true
		}
		kept = append(kept, p)
	}
	return kept
}

// process commits a batch; an error is retried once for the whole batch and then plan by plan, so that only the culprit fails (engine rule 3).
func (c *Committer) process(ctx context.Context, batch []*Pending) {
	sort.SliceStable(batch, func(i, j int) bool {
		a, b := batch[i].plan, batch[j].plan
		if a.Tenant != b.Tenant {
			return a.Tenant < b.Tenant
		}
		return a.Room < b.Room
	})
	err := c.try(ctx, batch)
	if err != nil && (c.db.Retryable(err) || errors.Is(err, database.ErrConnectionLost)) {
		err = c.try(ctx, batch)
	}
	if err == nil {
		return
	}
	if unknown := errors.Is(err, database.ErrCommitUnknown) && !errors.Is(err, database.ErrConnectionLost); unknown || len(batch) == 1 {
		for _, p := range batch {
			c.fail(p, err)
		}
		return
	}
	for _, p := range batch {
		if err := c.try(ctx, []*Pending{p}); err != nil {
			c.fail(p, err)
		}
	}
}

func (c *Committer) fail(p *Pending, err error) {
	c.log.Error("a plan could not be committed", "tenant", int64(p.plan.Tenant), "trace", p.plan.Trace, "error", err)
	p.err = err
	close(p.done)
}

// try runs one transaction in the order of engine rule 1. On error nothing has been written and nobody has been answered.
func (c *Committer) try(ctx context.Context, batch []*Pending) (err error) {
	c.batch++
	defer func() {
		if err != nil {
			if e := c.pipe.Rollback(ctx); e != nil {
				c.log.Error("rollback", "error", e)
			}
		}
	}()
	first := c.mark()
	marks := len(first)
	for _, p := range batch {
		if p.plan.Guard != nil {
			first = append(first, *p.plan.Guard)
		}
	}
	affected, err := c.pipe.Begin(ctx, first)
	if err != nil {
		return err
	}
	won, lost := split(batch, affected[marks:])
	if len(won) == 0 {
		if err := c.pipe.Rollback(ctx); err != nil {
			return err
		}
		c.refuse(lost)
		return nil
	}
	firsts, err := c.positions(ctx, won)
	if err != nil {
		return err
	}
	if err := c.pipe.Commit(ctx, c.positioned(won, firsts)); err != nil {
		if !errors.Is(err, database.ErrCommitUnknown) {
			return err
		}
		through, askErr := c.wentThrough(ctx)
		if askErr != nil { // nobody knows: another try might be a second one
			return errors.Join(err, askErr)
		}
		if !through {
			return errors.Join(database.ErrConnectionLost, err)
		}
	}
	c.stats.batches.Add(1)
	c.stats.plans.Add(int64(len(won)))
	c.tell(ctx, won, firsts)
	for i, p := range won {
		p.first = firsts[i]
		if p.plan.Committed != nil {
			p.plan.Committed(firsts[i])
		}
		c.feed.publish(p.plan, firsts[i])
	}
	for _, p := range won {
		close(p.done)
	}
	c.refuse(lost) // after the commit: a refusal may rest on a row of this batch
	return nil
}

// tell writes at the level debug which request came into which transaction and at which position.
func (c *Committer) tell(ctx context.Context, won []*Pending, firsts []int64) {
	if !c.log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	for i, p := range won {
		c.log.DebugContext(ctx, "committed", "trace", p.plan.Trace, "batch", c.batch, "tenant", int64(p.plan.Tenant), "room", p.plan.Room, "position", firsts[i])
	}
}

// split separates the plans whose guard touched its row from those that lost.
func split(batch []*Pending, affected []int64) (won, lost []*Pending) {
	g := 0
	for _, p := range batch {
		if p.plan.Guard == nil {
			won = append(won, p)
			continue
		}
		if affected[g] == 1 {
			won = append(won, p)
		} else {
			lost = append(lost, p)
		}
		g++
	}
	return won, lost
}

func (c *Committer) refuse(lost []*Pending) {
	for _, p := range lost {
		c.stats.stale.Add(1)
		p.err = ErrStale
		close(p.done)
	}
}

// positions writes the rows that need no position, then locks the tenants in ascending order and takes their positions: the tenant's row is
// the last lock taken, so it is held for one insert and the flush. It returns the first position of each plan.
func (c *Committer) positions(ctx context.Context, won []*Pending) ([]int64, error) {
	var rows, locks []Statement
	var need int64
	for i, p := range won {
		rows = append(rows, p.plan.Rows...)
		need += int64(len(p.plan.Changes))
		if i+1 == len(won) || won[i+1].plan.Tenant != p.plan.Tenant {
			if need > 0 {
				locks = append(locks, Statement{
					SQL:  "UPDATE tenant SET position = position + $2 WHERE tenant = $1 RETURNING position",
					Args: []any{int64(p.plan.Tenant), need}})
			}
			need = 0
		}
	}
	last, err := c.pipe.Run(ctx, rows, locks)
	if err != nil {
		return nil, err
	}
	ends := make(map[tenant.ID]int64, len(locks))
	for i, l := range locks {
		ends[tenant.ID(l.Args[0].(int64))] = last[i] - l.Args[1].(int64)
	}
	firsts := make([]int64, len(won))
	for i, p := range won {
		firsts[i] = ends[p.plan.Tenant] + 1
		ends[p.plan.Tenant] += int64(len(p.plan.Changes))
	}
	return firsts, nil
}

// mark returns the statement on the batch row, which tells after a lost connection whether the transaction went through. It is the transaction's first, so
// that whoever asks waits for the transaction's end.
func (c *Committer) mark() []Statement {
	if !c.db.Postgres() {
		return nil
	}
	return []Statement{{
		SQL:  "INSERT INTO commit_batch (committer, batch) VALUES ($1, $2) ON CONFLICT (committer) DO UPDATE SET batch = excluded.batch",
		Args: []any{c.id, c.batch}}}
}

// positioned returns the statements of the last round trip: stamped rows and outbox rows.
func (c *Committer) positioned(won []*Pending, firsts []int64) []Statement {
	var out []Statement
	for i, p := range won {
		for _, s := range p.plan.Positioned {
			out = append(out, resolve(s, firsts[i]))
		}
		for _, destination := range p.plan.Outbox {
			out = append(out, Statement{
				SQL:  "INSERT INTO outbox (tenant, destination, pending_from) VALUES ($1, $2, $3) ON CONFLICT (tenant, destination) DO NOTHING",
				Args: []any{int64(p.plan.Tenant), string(destination), firsts[i]}})
		}
	}
	return out
}

// wentThrough asks for the batch row after the connection was lost during COMMIT. The database may be at work on that transaction still; writing the row
// waits for its end.
func (c *Committer) wentThrough(ctx context.Context) (through bool, err error) {
	for range 30 {
		var batch int64
		err = c.db.Write(ctx, func(tx *database.Tx) error {
			return tx.QueryRow(ctx, "INSERT INTO commit_batch (committer, batch) VALUES ($1, 0) ON CONFLICT (committer) DO UPDATE SET batch = commit_batch.batch RETURNING batch",
				c.id).Scan(&batch)
		})
		if err == nil {
			return batch == c.batch, nil
		}
		c.log.Warn("asking whether a transaction went through", "error", err)
		time.Sleep(time.Second) // the database is away; nothing else can be done meanwhile
	}
	return false, err
}

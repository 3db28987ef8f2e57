// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/cache"
	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// reachMemory is how long a host is taken for reachable without asking the database whether another node found it otherwise.
const reachMemory = 10 * time.Second

// reach knows per host and cell who cannot be reached, whichever tenant found out (engine rule 21). It is safe for concurrent use.
type reach struct {
	db     *database.DB
	config *Config
	now    func() time.Time

	mu   sync.Mutex
	down map[id.Server]*outage
	up   cache.Cache[id.Server, struct{}]
}

// outage is the back-off of one unreachable host.
type outage struct {
	failures int64
	retryAt  time.Time
	probing  bool // somebody is trying; the others wait for the outcome
}

func newReach(db *database.DB, c *Config, now func() time.Time) *reach {
	return &reach{db: db, config: c, now: now, down: make(map[id.Server]*outage), up: cache.New(cache.Options[id.Server, struct{}]{
		Entries: 20_000, Written: reachMemory,
	})}
}

// begin asks for leave to try a host. A positive wait means not now; otherwise the caller must report to success, failure or abandon.
func (r *reach) begin(ctx context.Context, server id.Server) (wait time.Duration, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.down[server]
	if o == nil {
		if o, err = r.load(ctx, server); err != nil || o == nil {
			return 0, err
		}
	}
	if now := r.now(); now.Before(o.retryAt) {
		return o.retryAt.Sub(now), nil
	}
	if o.probing {
		return r.config.RetryMin, nil
	}
	o.probing = true
	return 0, nil
}

// pause says how long a host has still to be left alone, and whether it is in an outage at all, without asking for leave to try.
func (r *reach) pause(ctx context.Context, server id.Server) (wait time.Duration, down bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.down[server]
	if o == nil {
		if o, err = r.load(ctx, server); err != nil || o == nil {
			return 0, false, err
		}
	}
	if o.probing {
		return r.config.RetryMin, true, nil
	}
	return max(0, o.retryAt.Sub(r.now())), true, nil
}

// load asks the database for an outage that another node found or that outlived a restart. The lock is held: a host that is up is not asked
// about again for a while.
func (r *reach) load(ctx context.Context, server id.Server) (*outage, error) {
	if _, ok := r.up.Get(server); ok {
		return nil, nil
	}
	var o outage
	var retryAt int64
	err := r.db.QueryRow(ctx, "SELECT failures, retry_at FROM server_reach WHERE server = $1", string(server)).Scan(&o.failures, &retryAt)
	if errors.Is(err, sql.ErrNoRows) {
		r.up.Set(server, struct{}{})
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	o.retryAt = time.UnixMilli(retryAt)
	r.down[server] = &o
	return &o, nil
}

// success ends an outage; it says whether there was one, so that whoever waits for the host can be woken.
func (r *reach) success(ctx context.Context, server id.Server) (recovered bool, err error) {
	r.mu.Lock()
	_, recovered = r.down[server]
	delete(r.down, server)
	r.up.Set(server, struct{}{})
	r.mu.Unlock()
	if !recovered {
		return false, nil
	}
	_, err = r.db.Exec(ctx, "DELETE FROM server_reach WHERE server = $1", string(server))
	return true, err
}

// failure begins or lengthens an outage and returns how long to leave the host alone. Failures of requests that ignore the back-off do not
// lengthen a pause that is still running.
func (r *reach) failure(ctx context.Context, server id.Server) (time.Duration, error) {
	r.mu.Lock()
	now := r.now()
	o := r.down[server]
	if o == nil {
		o = &outage{}
		r.down[server] = o
	}
	r.up.Invalidate(server)
	o.probing = false
	if wait := o.retryAt.Sub(now); wait > 0 {
		r.mu.Unlock()
		return wait, nil
	}
	o.failures++
	pause := r.config.pause(o.failures)
	o.retryAt = now.Add(pause)
	failures, retryAt := o.failures, o.retryAt.UnixMilli()
	r.mu.Unlock()
	_, err := r.db.Exec(ctx, `INSERT INTO server_reach (server, failures, retry_at) VALUES ($1, $2, $3)
		ON CONFLICT (server) DO UPDATE SET failures = excluded.failures, retry_at = excluded.retry_at`, string(server), failures, retryAt)
	return pause, err
}

// due ends the pause of an outage, which goes on otherwise.
func (r *reach) due(ctx context.Context, server id.Server) error {
	r.mu.Lock()
	now := r.now()
	if o := r.down[server]; o != nil {
		o.retryAt = now
	}
	r.mu.Unlock()
	_, err := r.db.Exec(ctx, "UPDATE server_reach SET retry_at = $2 WHERE server = $1 AND retry_at > $2", string(server), now.UnixMilli())
	return err
}

// reset forgets an outage, whoever found it.
func (r *reach) reset(ctx context.Context, server id.Server) error {
	r.mu.Lock()
	delete(r.down, server)
	r.up.Set(server, struct{}{})
	r.mu.Unlock()
	_, err := r.db.Exec(ctx, "DELETE FROM server_reach WHERE server = $1", string(server))
	return err
}

// abandon gives back the leave to try without an outcome, when the caller's context ended.
func (r *reach) abandon(server id.Server) {
	r.mu.Lock()
	if o := r.down[server]; o != nil {
		o.probing = false
	}
	r.mu.Unlock()
}

// isDown says whether the host is in an outage, as far as this node or, some seconds ago, the database knows.
func (r *reach) isDown(ctx context.Context, server id.Server) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down[server] != nil {
		return true, nil
	}
	o, err := r.load(ctx, server)
	return o != nil, err
}

// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"database/sql"
	"errors"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
)

// epochJump is how far a tenant's positions jump with a new epoch: further than anybody committed since a backup, so that no position is given twice.
const epochJump = 1_000_000_000

// RaiseEpoch begins a new epoch of a tenant, because commits that others have heard of may have been lost (engine rule 7): tokens of the old one are
// answered as a gap. It returns the new epoch. A node that runs forgets what it remembers of the tenant by [Feed.Forget] afterwards.
func RaiseEpoch(ctx context.Context, db *database.DB, t tenant.ID) (epoch int64, err error) {
	err = db.Write(ctx, func(tx *database.Tx) error {
		return tx.QueryRow(ctx, "UPDATE tenant SET epoch = epoch + 1, position = position + $2 WHERE tenant = $1 RETURNING epoch", int64(t), int64(epochJump)).Scan(&epoch)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return 0, tenant.ErrUnknown
	}
	return epoch, err
}

// ErrForgotten ends a wait by [Feed.Forget].
var ErrForgotten = errors.New("the tenant begins anew")

// Forget drops what is remembered of a tenant. Who waits there gets [ErrForgotten], because what was known of the tenant when the wait began holds no longer.
func (f *Feed) Forget(t tenant.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	tl, ok := f.tails[t]
	if !ok {
		return
	}
	delete(f.tails, t)
	for u, waiters := range tl.waiters {
		for w := range waiters {
			w.forgotten = true
		}
		tl.wakeUser(u)
	}
}

// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"time"
)

const (
	// txnKept is how long a client's transaction id is kept (engine rule 5); afterwards it names a new event.
	txnKept = 24 * time.Hour
	// txnSweep is how often older ones are looked for, txnChunk how many are removed at once: senders wait no longer than for that.
	txnSweep = time.Hour
	txnChunk = 500
)

// Start begins to forget what clients can no longer repeat.
func (s *Service) Start() {
	s.work.Every(txnSweep, s.Log, "old transaction ids were not removed", func(ctx context.Context) error {
		for {
			if more, err := s.forgetTxns(ctx); err != nil || !more {
				return err
			}
		}
	})
}

// forgetTxns removes the oldest transaction ids of all tenants that are old enough. more is false when there was none; then nothing is written.
func (s *Service) forgetTxns(ctx context.Context) (more bool, err error) {
	before := s.now().Add(-txnKept).UnixMilli()
	err = s.DB.QueryRow(ctx, "SELECT EXISTS (SELECT tenant FROM txn WHERE created < $1)", before).Scan(&more)
	if err != nil || !more {
		return false, err
	}
	_, err = s.DB.Exec(ctx, `DELETE FROM txn WHERE (tenant, user_id, device, scope, txn_id) IN
		(SELECT tenant, user_id, device, scope, txn_id FROM txn WHERE created < $1 ORDER BY created LIMIT $2)`, before, txnChunk)
	return err == nil, err
}

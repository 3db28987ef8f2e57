// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
)

// PauseAfter and StagePasses are known to the tests.
var PauseAfter = pauseAfter

const StagePasses = stagePasses

// PauseStaged sets how long staged PDUs wait until they are tried again.
func (s *Service) PauseStaged(d time.Duration) {
	s.stager.pause = func(int64) time.Duration { return d }
}

// ErrMissingState and MaxAttempts are known to the tests.
var ErrMissingState = errMissingState

const MaxAttempts = maxAttempts

// Attempts says how often a turn is taken whose preparation fails with an error, and how it ends.
func (s *Service) Attempts(ctx context.Context, t *tenant.Tenant, r *Room, fails error) (n int, err error) {
	_, err = s.commit(ctx, t, r, func(*head) (addition, error) { n++; return addition{}, fails })
	return n, err
}

// Forgetful makes the cache of events so small that it keeps nothing.
func (s *Service) Forgetful() { s.events = newEventCache(1) }

// SetNow sets the clock.
func (s *Service) SetNow(now func() time.Time) { s.now = now }

// TxnChunk and ForgetTxns are known to the tests.
const TxnChunk = txnChunk

func (s *Service) ForgetTxns(ctx context.Context) (more bool, err error) { return s.forgetTxns(ctx) }

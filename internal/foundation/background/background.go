// SPDX-License-Identifier: Apache-2.0

package background

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Work is a service's background work. It is safe for concurrent use, but only running work starts more during Close.
type Work struct {
	ctx     context.Context
	stop    context.CancelFunc
	running sync.WaitGroup
}

// New returns work that Close ends.
func New() *Work {
	w := &Work{}
	w.ctx, w.stop = context.WithCancel(context.Background())
	return w
}

// Context ends when Close begins.
func (w *Work) Context() context.Context { return w.ctx }

// Go runs f; Close waits for it.
func (w *Work) Go(f func(context.Context)) {
	w.running.Go(func() { f(w.ctx) })
}

// Every runs f now, and again each time the interval has passed, until Close. An error is logged under the message, unless the work has ended.
func (w *Work) Every(interval time.Duration, log *slog.Logger, message string, f func(context.Context) error) {
	w.Go(func(ctx context.Context) {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				log.Warn(message, "error", err)
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
}

// Close ends the context and waits for everything that runs. It may be called again.
func (w *Work) Close() {
	w.stop()
	w.running.Wait()
}

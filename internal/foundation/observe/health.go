// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
)

// Health answers whether a node lives and whether it should get requests. It is safe for concurrent use.
type Health struct {
	ready  atomic.Bool
	mu     sync.Mutex
	checks []check
}

type check struct {
	name string
	f    func(context.Context) error
}

// Check adds something that must work for the node to be ready, such as the database answering.
func (h *Health) Check(name string, f func(context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks = append(h.checks, check{name, f})
}

// SetReady is called with true when all listeners accept and with false when the stop begins, so that balancers turn away first.
func (h *Health) SetReady(ready bool) { h.ready.Store(ready) }

// Ready answers nil when the node should get requests.
func (h *Health) Ready(ctx context.Context) error {
	if !h.ready.Load() {
		return errNotReady
	}
	h.mu.Lock()
	checks := h.checks
	h.mu.Unlock()
	for _, c := range checks {
		if err := c.f(ctx); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

var errNotReady = fmt.Errorf("starting or stopping")

// Handler serves /livez (the process answers) and /readyz (it should get requests, otherwise 503 with the reason).
func (h *Health) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := h.Ready(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// SPDX-License-Identifier: Apache-2.0

package media

import (
	"context"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// lookAgain is how often a waiting download asks the database, for uploads that come to another node.
const lookAgain = time.Second

// arrival is closed when an announced upload has come to this node. It exists only while somebody waits.
type arrival struct {
	came    chan struct{}
	waiting int
}

// arrived wakes the downloads that wait for an announced upload.
func (s *Service) arrived(k mediaKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a, ok := s.arrivals[k]; ok {
		close(a.came)
		delete(s.arrivals, k)
	}
}

// await returns a channel that is closed when the upload comes, and the function that ends the waiting.
func (s *Service) await(k mediaKey) (came <-chan struct{}, done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.arrivals[k]
	if !ok {
		a = &arrival{came: make(chan struct{})}
		s.arrivals[k] = a
	}
	a.waiting++
	return a.came, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if a.waiting--; a.waiting == 0 && s.arrivals[k] == a {
			delete(s.arrivals, k)
		}
	}
}

// own finds one of the tenant's own media and waits for an announced one to come. M_NOT_YET_UPLOADED when it did not in time.
func (s *Service) own(ctx context.Context, t tenant.ID, media string, wait time.Duration) (*item, error) {
	m, err := s.find(ctx, t, "", media)
	if err != nil || m.hash != "" {
		return m, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, wait, mxerror.NotYetUploaded)
	defer cancel()
	came, done := s.await(mediaKey{t, media})
	defer done()
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for {
		// The look comes after await: an upload between the two is not missed.
		m, err := s.find(ctx, t, "", media)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil || m.hash != "" {
			return m, err
		}
		select {
		case <-came:
			came = nil // once is enough: the look finds it
		case <-again.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

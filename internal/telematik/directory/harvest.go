// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/health/fhir"
)

// Whoever searches gets so many resources at once and then so many a second: enough for people who look for others all day, too few for a copy of the
// directory (1.5 million entries would take ten days), which clients must not make (A_27744 and following).
const (
	harvestBurst  = 5_000
	harvestRefill = 5.0
	// maxMeters bounds how many searchers are remembered; beyond it the fullest allowances are forgotten, which changes nothing for them.
	maxMeters = 100_000
)

// harvest counts what each searcher was given.
type harvest struct {
	mu     sync.Mutex
	meters map[string]*meter
}

type meter struct {
	left float64
	at   time.Time
}

// spend takes from a searcher's allowance what an answer holds. It may fall below nothing: the next search waits until it is made up for.
func (h *harvest) spend(who string, n int, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.of(who, now).left -= float64(n)
}

// wait says how long a searcher must wait before the next search.
func (h *harvest) wait(who string, now time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.of(who, now)
	if m.left >= 1 {
		return 0
	}
	return time.Duration((1 - m.left) / harvestRefill * float64(time.Second))
}

func (h *harvest) of(who string, now time.Time) *meter {
	m, ok := h.meters[who]
	if !ok {
		if len(h.meters) >= maxMeters {
			h.forget(now)
		}
		m = &meter{left: harvestBurst, at: now}
		h.meters[who] = m
		return m
	}
	m.left, m.at = m.filled(now), now
	return m
}

func (m *meter) filled(now time.Time) float64 {
	return math.Min(harvestBurst, m.left+now.Sub(m.at).Seconds()*harvestRefill)
}

// forget drops those whose allowance is full again, and all if that frees nothing.
func (h *harvest) forget(now time.Time) {
	for who, m := range h.meters {
		if m.filled(now) >= harvestBurst {
			delete(h.meters, who)
		}
	}
	if len(h.meters) >= maxMeters {
		clear(h.meters)
	}
}

// throttle refuses a searcher who asks too often or has had too much.
func (s *Service) throttle(w http.ResponseWriter, who string) error {
	if s.o.Limiter == nil {
		return nil
	}
	ok, wait := s.o.Limiter.Allow(limit.Search, "", who)
	if ok {
		if wait = s.harvest.wait(who, s.o.Now()); wait == 0 {
			return nil
		}
	}
	w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
	return fhir.Refuse(http.StatusTooManyRequests, fhir.CodeThrottled, "too many searches or results; the directory is not there to be copied")
}

// taken counts what an answer gave away.
func (s *Service) taken(who string, bundle *fhir.Bundle) {
	if s.o.Limiter != nil {
		s.harvest.spend(who, len(bundle.Entry), s.o.Now())
	}
}

// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/konsil-health/konsil/bench/limits"
)

// few is the number of tenants that the many are compared with.
const few = 10

// idle is what a server costs while nobody talks to it.
type idle struct {
	start                     time.Duration
	resident                  float64 // bytes
	heap                      float64 // bytes in use after a collection
	goroutines, files, timers float64
}

// tenants compares a server with many idle tenants to one with ten.
func tenants(ctx context.Context, o Options, r *Report) error {
	small, _, err := idleWith(ctx, o, few, false)
	if err != nil {
		return err
	}
	big, touched, err := idleWith(ctx, o, o.Tenants, true)
	if err != nil {
		return err
	}
	put := func(suffix string, x idle) {
		r.Figures["start_ms_"+suffix] = milliseconds(x.start)
		r.Figures["resident_mib_"+suffix] = mebibytes(x.resident)
		r.Figures["heap_mib_"+suffix] = mebibytes(x.heap)
		r.Figures["goroutines_"+suffix] = x.goroutines
		r.Figures["open_files_"+suffix] = x.files
		if o.Timers {
			r.Figures["timers_"+suffix] = x.timers
		}
	}
	put(strconv.Itoa(few), small)
	put(strconv.Itoa(o.Tenants), big)
	touched.start = 0
	put("after_one_request_each", touched)
	delete(r.Figures, "start_ms_after_one_request_each")
	r.Limits["goroutines"], r.Limits["open_files"] = small.goroutines, small.files
	r.Limits["resident_mib_more"] = 60
	r.Figures["resident_mib_more"] = mebibytes(big.resident - small.resident)
	r.Ratios["start"] = round(big.start.Seconds() / small.start.Seconds())
	r.Ratios["resident"] = round(big.resident / small.resident)
	return nil
}

// idleWith boots a server over a database with n tenants, twice so that nothing of a first start is measured, and reads its figures: at rest, and when
// touch is set once more after every tenant has answered one request.
func idleWith(ctx context.Context, o Options, n int, touch bool) (rest, touched idle, err error) {
	o.Progress(fmt.Sprintf("%d tenants", n))
	p, err := newPlace(ctx, o)
	if err != nil {
		return idle{}, idle{}, err
	}
	defer func() { err = errors.Join(err, p.remove()) }()
	names, err := limits.Tenants(ctx, p.url, n)
	if err != nil {
		return idle{}, idle{}, err
	}
	if o.Timers {
		o.Environ = append(o.Environ[:len(o.Environ):len(o.Environ)], "GODEBUG=memprofilerate=1")
	}
	for again := range 2 {
		s, err := start(ctx, o, p)
		if err != nil {
			return idle{}, idle{}, err
		}
		if again == 1 {
			if rest, touched, err = s.look(ctx, o, touch, names); err != nil {
				s.kill()
				return idle{}, idle{}, err
			}
		}
		if err := s.stop(); err != nil {
			return idle{}, idle{}, err
		}
	}
	return rest, touched, nil
}

// look reads the figures at rest and, when asked, after one request to every tenant.
func (s *process) look(ctx context.Context, o Options, touch bool, names []string) (rest, touched idle, err error) {
	if rest, err = s.idle(ctx, o); err != nil || !touch {
		return rest, idle{}, err
	}
	if err := s.touch(ctx, names); err != nil {
		return idle{}, idle{}, err
	}
	touched, err = s.idle(ctx, o)
	return rest, touched, err
}

// idle reads the server's figures after a garbage collection.
func (s *process) idle(ctx context.Context, o Options) (idle, error) {
	profile, err := s.operatorGet(ctx, "/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		return idle{}, err
	}
	m, err := s.metrics(ctx)
	if err != nil {
		return idle{}, err
	}
	x := idle{start: s.ready, resident: m["process_resident_memory_bytes"], heap: m["go_memstats_heap_alloc_bytes"],
		goroutines: m["go_goroutines"], files: m["process_open_fds"]}
	if o.Timers {
		x.timers = countTimers(string(profile))
	}
	return x, nil
}

// allocation is the head of a record of a heap profile in text form: objects in use first.
var allocation = regexp.MustCompile(`(?m)^(\d+): \d+ \[`)

// countTimers counts the objects in use that time made for timers and tickers, in a heap profile of every allocation.
func countTimers(profile string) float64 {
	var n float64
	records := allocation.FindAllStringSubmatchIndex(profile, -1)
	for i, r := range records {
		end := len(profile)
		if i+1 < len(records) {
			end = records[i+1][0]
		}
		if strings.Contains(profile[r[0]:end], "time.newTimer") {
			count, err := strconv.ParseFloat(profile[r[2]:r[3]], 64)
			if err == nil {
				n += count
			}
		}
	}
	return n
}

// touch asks every tenant once, by its host name.
func (s *process) touch(ctx context.Context, names []string) error {
	c, err := dial(s.client)
	if err != nil {
		return err
	}
	defer c.close()
	for _, name := range names {
		c.host = name
		status, body, err := c.do("GET", "/_matrix/client/versions", "", nil)
		if err != nil {
			return err
		}
		if status != 200 {
			return fmt.Errorf("versions of %s: %d %s", name, status, body)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

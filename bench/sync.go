// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// The loads of the benches of sync.
const (
	// listeners is how many others hear each message of bench deliver.
	listeners = 9
	// deliverPause is between two messages of one sender: about half of what the server can do.
	deliverPause = 15 * time.Millisecond
	// initialMessages is how many messages each room of bench sync-initial has, initialRepeats how often the first sync is asked for.
	initialMessages = 5
	initialRepeats  = 7
	// maxIdle bounds the waiting connections of bench sync-idle: both ends of them need a file each. idleUsers share them.
	maxIdle   = 19_000
	idleUsers = 50
)

// account registers a user and returns its connection with its token.
func account(s *process, name string) (*sender, error) {
	c, err := dial(s.client)
	if err != nil {
		return nil, err
	}
	x := &sender{client: c}
	var session struct {
		Token string `json:"access_token"`
	}
	if err := c.call("POST", "/_matrix/client/v3/register", "", map[string]any{"username": name, "password": "a long bench passphrase",
		"auth": map[string]string{"type": "m.login.dummy"}}, &session); err != nil {
		c.close()
		return nil, err
	}
	x.token = session.Token
	return x, nil
}

// serving runs f with a server of its own.
func serving(ctx context.Context, o Options, f func(s *process) error) (err error) {
	p, err := newPlace(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.remove()) }()
	s, err := start(ctx, o, p, serverName)
	if err != nil {
		return err
	}
	if err := f(s); err != nil {
		s.kill()
		return err
	}
	return s.stop()
}

// nextBatch asks /sync and returns where it ends.
func (x *sender) nextBatch(query string) (string, error) {
	var answer struct {
		Next string `json:"next_batch"`
	}
	err := x.call("GET", "/_matrix/client/v3/sync?"+query, x.token, nil, &answer)
	return answer.Next, err
}

// syncInitial measures the first sync of a user in 200 and in 500 rooms.
func syncInitial(ctx context.Context, o Options, r *Report) error {
	return serving(ctx, o, func(s *process) error {
		for _, n := range []int{200, 500} {
			if err := initialOf(ctx, o, s, n, r); err != nil {
				return err
			}
		}
		return nil
	})
}

func initialOf(ctx context.Context, o Options, s *process, rooms int, r *Report) error {
	o.Progress(fmt.Sprintf("making %d rooms of %d messages", rooms, initialMessages))
	writer, err := account(s, "writer"+strconv.Itoa(rooms))
	if err != nil {
		return err
	}
	defer writer.close()
	reader, err := account(s, "reader"+strconv.Itoa(rooms))
	if err != nil {
		return err
	}
	defer reader.close()
	for i := range rooms {
		var room struct {
			ID string `json:"room_id"`
		}
		if err := writer.call("POST", "/_matrix/client/v3/createRoom", writer.token, map[string]any{"preset": "public_chat", "name": "Raum " + strconv.Itoa(i)}, &room); err != nil {
			return err
		}
		writer.room = url.PathEscape(room.ID)
		if err := reader.call("POST", "/_matrix/client/v3/rooms/"+writer.room+"/join", reader.token, map[string]any{}, &room); err != nil {
			return err
		}
		for range initialMessages {
			if err := writer.one(); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	filter := "filter=" + url.QueryEscape(`{"room":{"timeline":{"limit":5},"state":{"lazy_load_members":true}}}`)
	for name, ask := range map[string]func() error{
		"sync": func() error { _, err := reader.nextBatch(filter); return err },
		"sliding": func() error {
			return reader.call("POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", reader.token, map[string]any{"lists": map[string]any{"all": map[string]any{
				"ranges": [][]int{{0, 19}}, "timeline_limit": 5, "required_state": [][]string{{"m.room.member", "$LAZY"}, {"m.room.create", ""}}}}}, &struct{}{})
		},
	} {
		before, err := s.metrics(ctx)
		if err != nil {
			return err
		}
		var times []time.Duration
		for range initialRepeats {
			began := time.Now()
			if err := ask(); err != nil {
				return err
			}
			times = append(times, time.Since(began))
		}
		after, err := s.metrics(ctx)
		if err != nil {
			return err
		}
		of := "_" + name + "_" + strconv.Itoa(rooms)
		r.Figures["first_ms"+of] = milliseconds(times[0])
		slices.Sort(times)
		r.Figures["median_ms"+of] = milliseconds(quantile(times, 0.5))
		r.Figures["bytes"+of] = float64(len(reader.body))
		r.Figures["cpu_ms"+of] = round((after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]) * 1000 / initialRepeats)
		r.Figures["queries"+of] = round((after["konsil_database_queries_total"] - before["konsil_database_queries_total"]) / initialRepeats)
	}
	r.Limits["median_ms_sync_200"] = 100
	return nil
}

// delivery measures what a message costs that nine others wait for, and how long it takes to them.
func delivery(ctx context.Context, o Options, r *Report) error {
	return serving(ctx, o, func(s *process) error {
		writer, err := account(s, "writer")
		if err != nil {
			return err
		}
		defer writer.close()
		var room struct {
			ID string `json:"room_id"`
		}
		if err := writer.call("POST", "/_matrix/client/v3/createRoom", writer.token, map[string]any{"preset": "public_chat"}, &room); err != nil {
			return err
		}
		writer.room = url.PathEscape(room.ID)
		var all []*sender
		for i := range listeners {
			x, err := account(s, "listener"+strconv.Itoa(i))
			if err != nil {
				return err
			}
			defer x.close()
			if err := x.call("POST", "/_matrix/client/v3/rooms/"+writer.room+"/join", x.token, map[string]any{}, &room); err != nil {
				return err
			}
			all = append(all, x)
		}
		return listening(ctx, o, s, writer, all, r)
	})
}

// listening lets the listeners poll while the writer writes.
func listening(ctx context.Context, o Options, s *process, writer *sender, all []*sender, r *Report) error {
	var sent atomic.Int64 // when the newest message was sent, ns
	var heard atomic.Int64
	stop, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, len(all))
	ready := make(chan struct{}, len(all))
	for i, x := range all {
		wg.Go(func() {
			since, err := x.nextBatch("timeout=0")
			ready <- struct{}{}
			for err == nil && stop.Err() == nil {
				before := since
				since, err = x.nextBatch("timeout=1000&since=" + url.QueryEscape(since))
				if began := sent.Load(); since != before && began > 0 && stop.Err() == nil {
					x.latencies = append(x.latencies, time.Duration(time.Now().UnixNano()-began))
					heard.Add(1)
				}
			}
			errs[i] = err
		})
	}
	for range all {
		<-ready
	}
	time.Sleep(warmUp)
	before, err := s.metrics(ctx)
	if err != nil {
		return err
	}
	profiled := make(chan error, 1)
	go func() { profiled <- s.maybeProfile(ctx, o) }()
	own := generatorSeconds()
	messages := 0
	for end := time.Now().Add(o.Duration); time.Now().Before(end) && ctx.Err() == nil; messages++ {
		sent.Store(time.Now().UnixNano())
		if err := writer.one(); err != nil {
			return err
		}
		time.Sleep(deliverPause)
	}
	own = generatorSeconds() - own
	after, err := s.metrics(ctx)
	cancel()
	wg.Wait()
	if err = errors.Join(append(errs, err, <-profiled)...); err != nil {
		return err
	}
	var times []time.Duration
	for _, x := range all {
		times = append(times, x.latencies...)
	}
	slices.Sort(times)
	n := float64(messages)
	r.Figures["messages"] = n
	r.Figures["heard_per_message"] = round(float64(heard.Load()) / n)
	r.Figures["p50_ms"], r.Figures["p99_ms"] = milliseconds(quantile(times, 0.5)), milliseconds(quantile(times, 0.99))
	r.Figures["cpu_ms_per_message"] = round((after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]) * 1000 / n)
	r.Figures["generator_cpu_ms_per_message"] = round(own * 1000 / n)
	r.Figures["queries_per_message"] = round((after["konsil_database_queries_total"] - before["konsil_database_queries_total"]) / n)
	r.Limits["cpu_ms_per_message"], r.Limits["p50_ms"], r.Limits["p99_ms"] = 1.5, 10, 50
	if err := bareRequest(ctx, s, all, r); err != nil {
		return err
	}
	r.Ratios["cpu_to_ten_bare_requests"] = round(r.Figures["cpu_ms_per_message"] / (listeners + 1) / r.Limits["bare_request_cpu_ms"])
	return nil
}

// bareRequest measures what one request of a constant answer costs the server at the same pace and moment: it takes the machine out of the figures.
func bareRequest(ctx context.Context, s *process, all []*sender, r *Report) error {
	before, err := s.metrics(ctx)
	if err != nil {
		return err
	}
	const rounds = 60
	for range rounds {
		if _, err := together(ctx, len(all), len(all), func(i int) error { return all[i].fetch("/_matrix/client/versions") }); err != nil {
			return err
		}
		time.Sleep(deliverPause)
	}
	after, err := s.metrics(ctx)
	r.Limits["bare_request_cpu_ms"] = round((after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]) * 1000 / float64(rounds*len(all)))
	return err
}

// syncIdle measures the memory that waiting syncs hold.
func syncIdle(ctx context.Context, o Options, r *Report) error {
	n := min(o.Tenants, maxIdle)
	return serving(ctx, o, func(s *process) error {
		var users []*sender
		var tokens []string
		for i := range min(idleUsers, n) {
			x, err := account(s, "idler"+strconv.Itoa(i))
			if err != nil {
				return err
			}
			defer x.close()
			since, err := x.nextBatch("timeout=0")
			if err != nil {
				return err
			}
			users, tokens = append(users, x), append(tokens, since)
		}
		if _, err := s.operatorGet(ctx, "/debug/pprof/heap?gc=1"); err != nil {
			return err
		}
		before, err := s.metrics(ctx)
		if err != nil {
			return err
		}
		o.Progress(fmt.Sprintf("opening %d waiting syncs", n))
		var open []net.Conn
		defer func() {
			for _, c := range open {
				c.Close()
			}
		}()
		for i := range n {
			c, err := net.DialTimeout("tcp", s.client, 5*time.Second)
			if err != nil {
				return err
			}
			open = append(open, c)
			u := i % len(users)
			if _, err := fmt.Fprintf(c, "GET /_matrix/client/v3/sync?timeout=90000&set_presence=offline&since=%s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n",
				url.QueryEscape(tokens[u]), s.client, users[u].token); err != nil {
				return err
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		waiting, err := s.waits(ctx, n)
		if err != nil {
			return err
		}
		if o.HeapProfile != "" {
			if err := s.profile(ctx, "/debug/pprof/heap?gc=1", o.HeapProfile); err != nil {
				return err
			}
		}
		if _, err := s.operatorGet(ctx, "/debug/pprof/heap?gc=1"); err != nil {
			return err
		}
		after, err := s.metrics(ctx)
		if err != nil {
			return err
		}
		each := func(name string) float64 { return round((after[name] - before[name]) / float64(n) / 1024) }
		r.Figures["connections"], r.Figures["goroutines_each"] = float64(n), round((waiting-before["go_goroutines"])/float64(n))
		r.Figures["resident_kib_each"] = each("process_resident_memory_bytes")
		r.Figures["heap_kib_each"], r.Figures["stack_kib_each"] = each("go_memstats_heap_alloc_bytes"), each("go_memstats_stack_inuse_bytes")
		// The resident memory alone says little: at the start it holds what hashing the users' passwords took and the collector has not given back.
		r.Figures["held_kib_each"] = round(r.Figures["heap_kib_each"] + r.Figures["stack_kib_each"])
		r.Limits["held_kib_each"] = 24
		return nil
	})
}

// waits waits until the server has a goroutine for each connection and the number stands still.
func (s *process) waits(ctx context.Context, n int) (float64, error) {
	last := 0.0
	for range 60 {
		m, err := s.metrics(ctx)
		if err != nil {
			return 0, err
		}
		if g := m["go_goroutines"]; g >= float64(n) && g == last {
			return g, nil
		} else {
			last = g
		}
		time.Sleep(500 * time.Millisecond)
	}
	return 0, fmt.Errorf("%d syncs do not come to rest (%v goroutines)", n, last)
}

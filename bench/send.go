// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/konsil-health/konsil/bench/limits"
)

// The load of bench send.
const (
	serverName = "bench.localhost"
	// senders is how many users there are, each with a room of their own; the loads use the first 1, 8 and all of them.
	senders = 64
	// maxEvents bounds a load whatever its duration.
	maxEvents = 500_000
	// warmUp precedes each load and is not measured.
	warmUp = time.Second
	// ciphertext is about what Megolm makes of a sentence: the event has 1.2 kB.
	ciphertext = 450
)

// sender is a user with a connection and a room.
type sender struct {
	*client
	token, room string
	txn         int
	last        string // the newest acknowledged event
	latencies   []time.Duration
}

// send measures durable messages per second by 1, 8 and 64 senders.
func send(ctx context.Context, o Options, r *Report) (err error) {
	p, err := newPlace(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.remove()) }()
	s, err := start(ctx, o, p, serverName)
	if err != nil {
		return err
	}
	defer func() {
		if s != nil {
			s.kill()
		}
	}()
	o.Progress(fmt.Sprintf("server is up, making %d users and rooms", senders))
	all, err := prepare(s)
	defer func() {
		for _, x := range all {
			x.close()
		}
	}()
	if err != nil {
		return err
	}
	var batch float64
	for _, n := range []int{1, 8, senders} {
		if batch, err = load(ctx, o, s, all[:n], strconv.Itoa(n), r); err != nil {
			return err
		}
	}
	if err := gather(all); err != nil {
		return err
	}
	if _, err = load(ctx, o, s, all, strconv.Itoa(senders)+"_in_one_room", r); err != nil {
		return err
	}
	if r.Limits["http_requests_per_second"], err = bareHTTP(ctx, s, all, o.Duration/2); err != nil {
		return err
	}
	if o.HeapProfile != "" {
		if err := s.profile(ctx, "/debug/pprof/heap?gc=1", o.HeapProfile); err != nil {
			return err
		}
	}
	lost, s2, err := afterKill(ctx, o, s, p, all)
	s = s2
	if err != nil {
		return err
	}
	r.Figures["acknowledged_but_lost_after_kill"] = float64(lost)
	if err := s.stop(); err != nil {
		return err
	}
	s = nil
	o.Progress("measuring the bare limits")
	return bareLimits(ctx, o, r, batch)
}

// prepare registers the users, two at a time, and makes their rooms.
func prepare(s *process) ([]*sender, error) {
	all := make([]*sender, senders)
	errs := make([]error, senders)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < senders; i = next.Add(1) - 1 {
				all[i], errs[i] = newSender(s, int(i))
			}
		})
	}
	wg.Wait()
	made := slices.DeleteFunc(all, func(x *sender) bool { return x == nil })
	return made, errors.Join(errs...)
}

func newSender(s *process, i int) (*sender, error) {
	c, err := dial(s.client)
	if err != nil {
		return nil, err
	}
	x := &sender{client: c}
	var session struct {
		Token string `json:"access_token"`
	}
	var room struct {
		ID string `json:"room_id"`
	}
	err = c.call("POST", "/_matrix/client/v3/register", "", map[string]any{
		"username": "sender" + strconv.Itoa(i), "password": "a long bench passphrase", "auth": map[string]string{"type": "m.login.dummy"}}, &session)
	if err == nil {
		x.token = session.Token
		err = c.call("POST", "/_matrix/client/v3/createRoom", x.token, map[string]any{"preset": "private_chat"}, &room)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	x.room = url.PathEscape(room.ID)
	return x, nil
}

// message is an event's content of usual size.
var message = []byte(`{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"` + strings.Repeat("Aw", ciphertext/2) +
	`","device_id":"BENCHDEVIC","sender_key":"` + strings.Repeat("k", 43) + `","session_id":"` + strings.Repeat("s", 43) + `"}`)

// one sends a message and remembers how long that took.
func (x *sender) one() error {
	x.txn++
	began := time.Now()
	status, body, err := x.do("PUT", "/_matrix/client/v3/rooms/"+x.room+"/send/m.room.encrypted/"+strconv.Itoa(x.txn), x.token, message)
	if err != nil {
		return err
	}
	if status != 200 {
		return fmt.Errorf("send: %d %s", status, body)
	}
	x.latencies = append(x.latencies, time.Since(began))
	_, id, _ := strings.Cut(string(body), `"event_id":"`)
	x.last, _, _ = strings.Cut(id, `"`)
	return nil
}

// run lets all senders send for a time, bounded in count, and returns how long it really took.
func run(ctx context.Context, all []*sender, d time.Duration) (time.Duration, error) {
	var wg sync.WaitGroup
	errs := make([]error, len(all))
	began := time.Now()
	end := began.Add(d)
	for i, x := range all {
		x.latencies = x.latencies[:0]
		wg.Go(func() {
			for range maxEvents / len(all) {
				if errs[i] = x.one(); errs[i] != nil || time.Now().After(end) || ctx.Err() != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(began), errors.Join(append(errs, ctx.Err())...)
}

// gather brings all senders into one room.
func gather(all []*sender) error {
	if err := all[0].open(); err != nil {
		return err
	}
	for _, x := range all[1:] {
		if err := x.join(all[0].room); err != nil {
			return err
		}
		x.room = all[0].room
	}
	return nil
}

// load measures some senders under a name and returns the mean batch.
func load(ctx context.Context, o Options, s *process, all []*sender, n string, r *Report) (batch float64, err error) {
	o.Progress(strings.ReplaceAll(n, "_", " ") + ": sending")
	if _, err := run(ctx, all, warmUp); err != nil {
		return 0, err
	}
	profiled := make(chan error, 1)
	if o.Profile != "" && n == strconv.Itoa(senders) {
		go func() {
			profiled <- s.profile(ctx, "/debug/pprof/profile?seconds="+strconv.Itoa(max(1, int(o.Duration.Seconds())-1)), o.Profile)
		}()
	} else {
		profiled <- nil
	}
	before, err := s.metrics(ctx)
	if err != nil {
		return 0, err
	}
	own := generatorSeconds()
	took, err := run(ctx, all, o.Duration)
	if err != nil {
		return 0, err
	}
	own = generatorSeconds() - own
	after, err := s.metrics(ctx)
	if err = errors.Join(err, <-profiled); err != nil {
		return 0, err
	}
	var times []time.Duration
	for _, x := range all {
		times = append(times, x.latencies...)
	}
	slices.Sort(times)
	events := float64(len(times))
	grew := func(name string) float64 { return after[name] - before[name] }
	r.Figures["events_per_second_"+n] = round(events / took.Seconds())
	r.Figures["p50_ms_"+n] = milliseconds(quantile(times, 0.50))
	r.Figures["p99_ms_"+n] = milliseconds(quantile(times, 0.99))
	r.Figures["cpu_us_per_event_"+n] = round(grew("process_cpu_seconds_total") * 1e6 / events)
	r.Figures["generator_cpu_us_per_event_"+n] = round(own * 1e6 / events)
	r.Figures["queries_per_event_"+n] = round(grew("konsil_database_queries_total") / events)
	r.Figures["statements_per_event_"+n] = round(grew("konsil_database_statements_total") / events)
	if batches := grew("konsil_commit_batches_total"); batches > 0 {
		batch = grew("konsil_commit_plans_total") / batches
	}
	r.Figures["batch_"+n] = round(batch)
	r.Figures["resident_mib_"+n] = mebibytes(after["process_resident_memory_bytes"])
	return batch, nil
}

// bareHTTP asks all connections for a constant answer: what HTTP alone lets through.
func bareHTTP(ctx context.Context, s *process, all []*sender, d time.Duration) (float64, error) {
	var wg sync.WaitGroup
	var count atomic.Int64
	errs := make([]error, len(all))
	began := time.Now()
	end := began.Add(d)
	for i, x := range all {
		wg.Go(func() {
			for time.Now().Before(end) && ctx.Err() == nil {
				status, _, err := x.do("GET", "/_matrix/client/versions", "", nil)
				if err == nil && status != 200 {
					err = fmt.Errorf("versions: %d", status)
				}
				if errs[i] = err; err != nil {
					return
				}
				count.Add(1)
			}
		})
	}
	wg.Wait()
	return round(float64(count.Load()) / time.Since(began).Seconds()), errors.Join(errs...)
}

// afterKill kills the server, starts it again, and counts which of the senders' newest acknowledged events are not there.
func afterKill(ctx context.Context, o Options, s *process, p *place, all []*sender) (lost int, _ *process, err error) {
	s.kill()
	if s, err = start(ctx, o, p, serverName); err != nil {
		return 0, nil, err
	}
	c, err := dial(s.client)
	if err != nil {
		return 0, s, err
	}
	defer c.close()
	for _, x := range all {
		status, _, err := c.do("GET", "/_matrix/client/v3/rooms/"+x.room+"/event/"+url.PathEscape(x.last), x.token, nil)
		if err != nil {
			return 0, s, err
		}
		if status != 200 || !strings.Contains(string(c.body), `"`+x.last+`"`) {
			lost++
		}
	}
	return lost, s, nil
}

// bareLimits measures what the database, the disk and the signature could do, and the quotients.
func bareLimits(ctx context.Context, o Options, r *Report, batch float64) (err error) {
	p, err := newPlace(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.remove()) }()
	d := max(o.Duration/2, 200*time.Millisecond)
	flush, err := limits.Disk(ctx, p.folder, d/2)
	if err != nil {
		return err
	}
	group := max(1, int(batch+0.5))
	grouped, err := limits.Database(ctx, p.url, group, len(message)+700, d)
	if err != nil {
		return err
	}
	single, err := limits.Database(ctx, p.url, 1, len(message)+700, d)
	if err != nil {
		return err
	}
	sign := limits.Signature(d / 4)
	r.Limits["disk_flush_p50_ms"], r.Limits["disk_flush_p99_ms"] = milliseconds(flush.P50), milliseconds(flush.P99)
	r.Limits["database_group"] = float64(group)
	r.Limits["database_events_per_second"] = round(grouped.PerSecond)
	r.Limits["database_single_p50_ms"] = milliseconds(single.P50)
	r.Limits["database_cpu_us_per_event"] = round(grouped.CPU)
	r.Limits["signature_us"] = round(sign.Seconds() * 1e6)
	f := r.Figures
	r.Ratios["events_64_to_database"] = round(f["events_per_second_64"] / grouped.PerSecond)
	r.Ratios["events_64_to_http"] = round(f["events_per_second_64"] / r.Limits["http_requests_per_second"])
	r.Ratios["p50_1_to_database_single"] = round(f["p50_ms_1"] / milliseconds(single.P50))
	r.Ratios["cpu_64_to_signature"] = round(f["cpu_us_per_event_64"] / r.Limits["signature_us"])
	return nil
}

// quantile of sorted times; 0 of none.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func milliseconds(d time.Duration) float64 { return round(d.Seconds() * 1000) }

func mebibytes(bytes float64) float64 { return round(bytes / (1 << 20)) }

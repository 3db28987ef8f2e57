// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/url"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/konsil-health/konsil/bench/limits"
)

// busyEvents is how many events bench federation sends per second of its duration, more than a server takes; most is its bound.
const busyEvents, mostEvents = 4000, 60_000

// visitor is the measured server with a user on it, and the peer.
type visitor struct {
	*process
	*client // of its user
	peer    *peer
	token   string
}

// visit starts a server that knows a peer with a room of n members.
func visit(ctx context.Context, o Options, p *place, n int) (_ *visitor, err error) {
	o.Progress(fmt.Sprintf("making a room of %d members", n))
	v := &visitor{}
	defer func() {
		if err != nil {
			v.close()
		}
	}()
	if v.peer, err = newPeer(p.folder, n); err != nil {
		return nil, err
	}
	o.extra = fmt.Sprintf("private_addresses: true\nfederation:\n  resolve:\n    %q: {address: %q, ca: %q}\n", v.peer.name, v.peer.address, v.peer.authority)
	if v.process, err = start(ctx, o, p, serverName); err != nil {
		return nil, err
	}
	if v.client, err = dial(v.process.client); err != nil {
		return nil, err
	}
	var session struct {
		Token string `json:"access_token"`
	}
	err = v.call("POST", "/_matrix/client/v3/register", "", map[string]any{
		"username": "visitor", "password": "a long bench passphrase", "auth": map[string]string{"type": "m.login.dummy"}}, &session)
	v.token = session.Token
	return v, err
}

func (v *visitor) close() {
	if v.client != nil {
		v.client.close()
	}
	if v.process != nil {
		v.kill()
	}
	if v.peer != nil {
		v.peer.close()
	}
}

// enter joins the peer's room and returns how long that took.
func (v *visitor) enter() (time.Duration, error) {
	began := time.Now()
	var joined struct {
		Room string `json:"room_id"`
	}
	err := v.callWithin(5*time.Minute, "POST", "/_matrix/client/v3/join/"+url.PathEscape(v.peer.room)+"?via="+v.peer.name, v.token, map[string]any{}, &joined)
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, v.log)
	}
	return time.Since(began), err
}

// join measures how long a join of a big room over federation takes.
func join(ctx context.Context, o Options, r *Report) (err error) {
	p, err := newPlace(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.remove()) }()
	v, err := visit(ctx, o, p, o.Members)
	if err != nil {
		return err
	}
	defer v.close()
	before, err := v.metrics(ctx)
	if err != nil {
		return err
	}
	o.Progress("joining")
	peak := v.watchMemory(ctx)
	took, err := v.enter()
	r.Figures["peak_resident_mib"] = mebibytes(peak())
	if err != nil {
		return err
	}
	after, err := v.metrics(ctx)
	if err != nil {
		return err
	}
	r.Figures["members"] = float64(o.Members)
	r.Figures["join_seconds"] = round(took.Seconds())
	r.Figures["cpu_seconds"] = round(after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"])
	r.Figures["cpu_us_per_member"] = round(r.Figures["cpu_seconds"] * 1e6 / float64(o.Members))
	r.Limits["verifications_per_second"] = round(verifyRate(o.Duration / 4))
	r.Ratios["join_to_bare_verification"] = round(took.Seconds() / (float64(o.Members) / r.Limits["verifications_per_second"]))
	return nil
}

// watchMemory follows the server's resident memory until the returned function is called, which tells the most.
func (v *visitor) watchMemory(ctx context.Context) func() float64 {
	stop, done := make(chan struct{}), make(chan struct{})
	var most float64
	go func() {
		defer close(done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			if m, err := v.metrics(ctx); err == nil {
				most = max(most, m["process_resident_memory_bytes"])
			}
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	return func() float64 {
		close(stop)
		<-done
		return most
	}
}

// federation measures how many PDUs per second one busy peer gets in, with full verification.
func federation(ctx context.Context, o Options, r *Report) (err error) {
	p, err := newPlace(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.remove()) }()
	v, err := visit(ctx, o, p, 64)
	if err != nil {
		return err
	}
	defer v.close()
	if _, err := v.enter(); err != nil {
		return err
	}
	n := min(int(o.Duration.Seconds()*busyEvents), mostEvents)
	o.Progress(fmt.Sprintf("signing %d events", n))
	list := v.peer.transactions(serverName, <-v.peer.joins, n)
	warm := min(len(list)/10+1, len(list))
	if err := deliver(v.federation, serverName, list[:warm]); err != nil {
		return err
	}
	before, err := v.metrics(ctx)
	if err != nil {
		return err
	}
	o.Progress("sending")
	profiled := make(chan error, 1)
	go func() { profiled <- v.maybeProfile(ctx, o) }()
	peak := v.watchMemory(ctx)
	began := time.Now()
	count, rest := 0, list[warm:]
	for len(rest) > 0 && time.Since(began) < o.Duration && ctx.Err() == nil {
		k := min(10, len(rest))
		if err := deliver(v.federation, serverName, rest[:k]); err != nil {
			return err
		}
		for _, t := range rest[:k] {
			count += t.events
		}
		rest = rest[k:]
	}
	took := time.Since(began)
	r.Figures["peak_resident_mib"] = mebibytes(peak())
	after, err := v.metrics(ctx)
	if err != nil {
		return err
	}
	if err := <-profiled; err != nil {
		return err
	}
	events := float64(count)
	r.Figures["pdus_per_second"] = round(events / took.Seconds())
	r.Figures["pdus"] = events
	r.Figures["cpu_us_per_pdu"] = round((after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]) * 1e6 / events)
	r.Figures["queries_per_pdu"] = round((after["konsil_database_queries_total"] - before["konsil_database_queries_total"]) / events)
	r.Figures["statements_per_pdu"] = round((after["konsil_database_statements_total"] - before["konsil_database_statements_total"]) / events)
	batch := 1.0
	if b := after["konsil_commit_batches_total"] - before["konsil_commit_batches_total"]; b > 0 {
		batch = (after["konsil_commit_plans_total"] - before["konsil_commit_plans_total"]) / b
	}
	r.Figures["batch"] = round(batch)
	v.close()
	return federationLimits(ctx, o, r)
}

// maybeProfile writes a CPU profile of the server when one is asked for.
func (s *process) maybeProfile(ctx context.Context, o Options) error {
	if o.Profile == "" {
		return nil
	}
	return s.profile(ctx, fmt.Sprintf("/debug/pprof/profile?seconds=%d", max(1, int(o.Duration.Seconds())-1)), o.Profile)
}

// federationLimits measures what signatures and the database alone let through.
func federationLimits(ctx context.Context, o Options, r *Report) (err error) {
	o.Progress("measuring the bare limits")
	p, err := newPlace(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.remove()) }()
	grouped, err := limits.Database(ctx, p.url, 50, len(message)+700, o.Duration/2)
	if err != nil {
		return err
	}
	r.Limits["verifications_per_second"] = round(verifyRate(o.Duration / 4))
	r.Limits["database_events_per_second_in_groups_of_50"] = round(grouped.PerSecond)
	r.Ratios["pdus_to_verifications"] = round(r.Figures["pdus_per_second"] / r.Limits["verifications_per_second"])
	r.Ratios["pdus_to_database"] = round(r.Figures["pdus_per_second"] / grouped.PerSecond)
	return nil
}

// verifyRate is how many Ed25519 signatures all processors verify per second.
func verifyRate(d time.Duration) float64 {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return 0
	}
	text := make([]byte, 800)
	signature := ed25519.Sign(private, text)
	var n atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for time.Since(began) < max(d, 100*time.Millisecond) {
				if ed25519.Verify(public, text, signature) {
					n.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return float64(n.Load()) / time.Since(began).Seconds()
}

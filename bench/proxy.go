// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// proxyConfiguration is a proxy in front of a server of a bench. Its federation list cannot be had, and nobody within one server asks for it.
const proxyConfiguration = `roles: [proxy]
environment: development
data: %q
tenants: [%q]
listeners: {client: ["127.0.0.1:0"]}
rate_limits: false
telematik: {federation_list: "http://127.0.0.1:9/FederationList/federationList.jws"}
proxy: {homeserver: "http://%s"}
logging: {access: false, level: info, format: json}
`

// proxied measures what konsil proxy adds to a message and to a sync that has nothing to tell: the same requests, one by one in turn, to the server
// directly and through the proxy.
func proxied(ctx context.Context, o Options, r *Report) error {
	return serving(ctx, o, func(s *process) (err error) {
		folder, err := os.MkdirTemp(o.Folder, "konsil-bench-proxy-")
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
		file := filepath.Join(folder, "proxy.yaml")
		if err := os.WriteFile(file, fmt.Appendf(nil, proxyConfiguration, folder, serverName, s.client), 0o600); err != nil {
			return err
		}
		front, err := startFile(ctx, o, file)
		if err != nil {
			return err
		}
		if err := besides(ctx, o, s, front, r); err != nil {
			front.kill()
			return err
		}
		return front.stop()
	})
}

// besides asks both.
func besides(ctx context.Context, o Options, s, front *process, r *Report) error {
	direct, err := account(s, "writer")
	if err != nil {
		return err
	}
	defer direct.close()
	var room struct {
		ID string `json:"room_id"`
	}
	if err := direct.call("POST", "/_matrix/client/v3/createRoom", direct.token, map[string]any{"preset": "private_chat"}, &room); err != nil {
		return err
	}
	direct.room = url.PathEscape(room.ID)
	c, err := dial(front.client)
	if err != nil {
		return err
	}
	through := &sender{client: c, token: direct.token, room: direct.room, txn: maxEvents} // transactions of the same device
	defer through.close()

	o.Progress("messages")
	if err := inTurn(ctx, o, r, "send", direct, through, func(x *sender) error { return x.one() }); err != nil {
		return err
	}
	o.Progress("syncs")
	at, err := direct.nextBatch("timeout=0")
	if err != nil {
		return err
	}
	return inTurn(ctx, o, r, "idle_sync", direct, through, func(x *sender) error {
		began := time.Now()
		if _, err := x.nextBatch("timeout=0&since=" + url.QueryEscape(at)); err != nil {
			return err
		}
		x.latencies = append(x.latencies, time.Since(began))
		return nil
	})
}

// inTurn lets both do something alternately, and reports how long each took and what lies between.
func inTurn(ctx context.Context, o Options, r *Report, name string, direct, through *sender, do func(*sender) error) error {
	for _, d := range []time.Duration{min(warmUp, o.Duration), o.Duration} {
		direct.latencies, through.latencies = nil, nil
		for end := time.Now().Add(d); time.Now().Before(end) && len(direct.latencies) < maxEvents; {
			if err := errors.Join(do(direct), do(through), ctx.Err()); err != nil {
				return err
			}
		}
	}
	slices.Sort(direct.latencies)
	slices.Sort(through.latencies)
	for q, of := range map[float64]string{0.50: "_p50_ms", 0.99: "_p99_ms"} {
		before, after := milliseconds(quantile(direct.latencies, q)), milliseconds(quantile(through.latencies, q))
		r.Limits[name+"_direct"+of], r.Figures[name+"_proxied"+of], r.Figures[name+"_added"+of] = before, after, round(after-before)
	}
	r.Figures[name+"_pairs"] = float64(len(direct.latencies))
	return nil
}

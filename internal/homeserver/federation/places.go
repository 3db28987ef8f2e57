// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"sync"

	"github.com/konsil-health/konsil/internal/matrix/id"
)

// places bounds the transactions under way: in all, to each host, and to hosts that lately failed. A host that takes the whole time-out for every
// answer holds up its own places and nobody else's. It is safe for concurrent use.
type places struct {
	sound, probes chan struct{}
	most          int // to one host

	mu    sync.Mutex
	hosts map[id.Server]*hostPlaces
}

// hostPlaces are the places of one host, while somebody uses or waits for one.
type hostPlaces struct {
	taken chan struct{}
	users int
}

func newPlaces(c *Config) *places {
	return &places{sound: make(chan struct{}, c.Senders), probes: make(chan struct{}, c.Probes), most: c.HostSenders, hosts: make(map[id.Server]*hostPlaces)}
}

// atHost waits for one of a host's places and returns what gives it back. It is taken first, before a place among all: those who were here before
// may meanwhile have found out that the host fails.
func (p *places) atHost(ctx context.Context, server id.Server) (leave func(), err error) {
	h := p.host(server)
	select {
	case h.taken <- struct{}{}:
	case <-ctx.Done():
		p.forget(server, h)
		return nil, ctx.Err()
	}
	return func() {
		<-h.taken
		p.forget(server, h)
	}, nil
}

// enter waits for a place among all, or among the probes of hosts that failed, and returns what gives it back.
func (p *places) enter(ctx context.Context, failing bool) (leave func(), err error) {
	kind := p.sound
	if failing {
		kind = p.probes
	}
	select {
	case kind <- struct{}{}:
		return func() { <-kind }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *places) host(server id.Server) *hostPlaces {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.hosts[server]
	if h == nil {
		h = &hostPlaces{taken: make(chan struct{}, p.most)}
		p.hosts[server] = h
	}
	h.users++
	return h
}

// forget drops the host's places with their last user: an idle host is no entry.
func (p *places) forget(server id.Server, h *hostPlaces) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h.users--; h.users == 0 {
		delete(p.hosts, server)
	}
}

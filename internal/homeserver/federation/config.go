// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"crypto/x509"
	"net/netip"
	"time"

	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Config is what an operator may set. The zero value is an ordinary server on the public internet.
type Config struct {
	// Resolve places servers by name, before any discovery.
	Resolve map[id.Server]Override
	// Roots verify other servers' certificates; nil means the system's.
	Roots *x509.CertPool
	// AllowPrivate lets every address be connected to, AllowPrefixes only those in the given ranges, beside public ones.
	AllowPrivate  bool
	AllowPrefixes []netip.Prefix
	// ForceHTTP sends requests between tenants of this cell over HTTP as well.
	ForceHTTP bool

	// ConnectTimeout bounds a TCP connection and its TLS handshake (default 10 s), LookupTimeout a delegation file or service record (5 s),
	// RequestTimeout an ordinary request (30 s), JoinTimeout one whose answer is a room's state (5 min).
	ConnectTimeout, LookupTimeout, RequestTimeout, JoinTimeout time.Duration
	// RetryMin is the first pause after a failure (default 1 s), growing by RetryFactor (2) up to RetryMax (1 h).
	RetryMin, RetryMax time.Duration
	RetryFactor        float64
	// KeyServers are asked for the keys of servers that do not answer themselves, as notaries.
	KeyServers []id.Server
	// IdentityServers may be asked about third-party invites; "*" stands for all of them. Empty offers no such invites.
	IdentityServers []id.Server
	// Sweep is how often rows of the outbox are looked for that no nudge has brought (default 30 s).
	Sweep time.Duration
	// Senders bounds how many transactions are under way at once (default 64). HostSenders bounds those to one host, whichever tenants they
	// come from (8), Probes those to hosts that lately failed (16): they have places of their own, so that dead and slow hosts never take the
	// place of one that answers.
	Senders, HostSenders, Probes int
	// HostConnections bounds the connections to one server (default 16); who finds none waits within its own time-out.
	HostConnections int
	// OriginTransactions bounds the transactions of one server to one tenant that are worked on at once (default 4); one more is answered
	// with M_LIMIT_EXCEEDED. The specification lets a server have one under way.
	OriginTransactions int
	// MaxResponse bounds an ordinary answer in bytes (default 16 MiB), MaxState one that holds a room's state (256 MiB), MaxMedia a file
	// fetched for the media repository (200 MiB).
	MaxResponse, MaxState, MaxMedia int64
	// Version is what GET /_matrix/federation/v1/version answers.
	Version string
}

// withDefaults fills what was left out.
func (c Config) withDefaults() Config {
	setDuration := func(d *time.Duration, value time.Duration) {
		if *d <= 0 {
			*d = value
		}
	}
	setDuration(&c.ConnectTimeout, 10*time.Second)
	setDuration(&c.LookupTimeout, 5*time.Second)
	setDuration(&c.RequestTimeout, 30*time.Second)
	setDuration(&c.JoinTimeout, 5*time.Minute)
	setDuration(&c.RetryMin, time.Second)
	setDuration(&c.RetryMax, time.Hour)
	setDuration(&c.Sweep, 30*time.Second)
	c.RetryMax = max(c.RetryMax, c.RetryMin)
	if c.RetryFactor < 1 {
		c.RetryFactor = 2
	}
	setSize := func(n *int64, value int64) {
		if *n <= 0 {
			*n = value
		}
	}
	setSize(&c.MaxResponse, 16<<20)
	setSize(&c.MaxState, 256<<20)
	setSize(&c.MaxMedia, 200<<20)
	setNumber := func(n *int, value int) {
		if *n <= 0 {
			*n = value
		}
	}
	setNumber(&c.Senders, 64)
	setNumber(&c.HostSenders, 8)
	setNumber(&c.Probes, 16)
	setNumber(&c.HostConnections, 16)
	setNumber(&c.OriginTransactions, 4)
	if c.Version == "" {
		c.Version = "development"
	}
	return c
}

// pause is the back-off after the given number of failures in a row.
func (c *Config) pause(failures int64) time.Duration {
	d := float64(c.RetryMin)
	for range failures - 1 {
		if d >= float64(c.RetryMax) {
			break
		}
		d *= c.RetryFactor
	}
	return min(time.Duration(d), c.RetryMax)
}

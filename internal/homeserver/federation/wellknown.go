// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Limits of a delegation file and of how long its answer holds (server-server API, "Resolving server names", step 3).
const (
	wellKnownMaxBytes  = 50 << 10
	wellKnownDefault   = 24 * time.Hour
	wellKnownMost      = 48 * time.Hour
	wellKnownLeast     = time.Minute
	wellKnownErrorBase = 30 * time.Second
	wellKnownErrorMost = time.Hour
	wellKnownRedirects = 5
)

// delegation is what a host's /.well-known/matrix/server said. An empty server means that there is none, or that it could not be fetched.
type delegation struct {
	server   id.Server
	expires  time.Time
	failures int
}

// parseWellKnown reads the body of a delegation file.
func parseWellKnown(body []byte) (id.Server, error) {
	var doc struct {
		Server string `json:"m.server"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return "", fmt.Errorf("well-known: %w", err)
	}
	server, err := id.ParseServer(doc.Server)
	if err != nil {
		return "", fmt.Errorf("well-known: m.server: %w", err)
	}
	return server, nil
}

// delegated answers the delegation of a host name, from the cache while it holds.
func (r *resolver) delegated(ctx context.Context, host string) id.Server {
	before, known := r.delegations.Get(host)
	if known && r.now().Before(before.expires) {
		return before.server
	}
	server, ttl, err := r.fetchWellKnown(ctx, host)
	next := delegation{server: server}
	if err != nil {
		if ctx.Err() != nil {
			return "" // our caller gave up, which says nothing about the host
		}
		next.failures = before.failures + 1
		ttl = min(wellKnownErrorBase<<min(before.failures, 10), wellKnownErrorMost)
	}
	next.expires = r.now().Add(ttl)
	r.delegations.Set(host, next)
	return next.server
}

func (r *resolver) fetchWellKnown(ctx context.Context, host string) (id.Server, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, r.lookupTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/.well-known/matrix/server", nil)
	if err != nil {
		return "", 0, err
	}
	resp, err := r.wellKnown.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", 0, fmt.Errorf("well-known of %s: status %d", host, resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, wellKnownMaxBytes+1))
	if err != nil {
		return "", 0, err
	}
	if len(body) > wellKnownMaxBytes {
		return "", 0, fmt.Errorf("well-known of %s: more than %d bytes", host, wellKnownMaxBytes)
	}
	server, err := parseWellKnown(body)
	if err != nil {
		return "", 0, err
	}
	return server, cacheTime(resp.Header, r.now()), nil
}

// cacheTime reads how long an answer may be kept from its Cache-Control and Expires headers, within our bounds.
func cacheTime(h http.Header, now time.Time) time.Duration {
	ttl := wellKnownDefault
	if at, err := http.ParseTime(h.Get("Expires")); err == nil {
		ttl = at.Sub(now)
	}
	for _, directive := range strings.Split(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.ToLower(strings.TrimSpace(directive)), "=")
		switch name {
		case "no-store", "no-cache":
			ttl = 0
		case "max-age":
			seconds, err := strconv.ParseInt(strings.Trim(value, `"`), 10, 64)
			if err == nil && seconds >= 0 {
				ttl = time.Duration(min(seconds, int64(wellKnownMost/time.Second))) * time.Second
			}
		}
	}
	return max(wellKnownLeast, min(ttl, wellKnownMost))
}

// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/bench/limits"
)

// centralConfiguration is that of the central services under measurement.
const centralConfiguration = `environment: development
roles: [directory, federation_list]
data: %q
database: {url: %q}
listeners: {central: ["127.0.0.1:0"], operator: "127.0.0.1:0"}
rate_limits: %v
logging: {access: false, level: info, format: json}
central:
  url: http://127.0.0.1
  providers: [{name: bench, token: "` + benchSecret + `"}]
  services: [{name: bench, token: "` + benchSecret + `"}]
`

const benchSecret = "a secret of the bench alone"

// searchers are the numbers of clients that search at once.
var searchers = []int{1, 4}

// directoryBench measures a directory: import, then searches by name, name and place, speciality and distance, and while a name is typed, by 1 and 4
// clients, and how soon somebody who copies it is slowed down.
func directoryBench(ctx context.Context, o Options, r *Report) (err error) {
	p, err := newPlace(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.remove()) }()
	o.Progress(fmt.Sprintf("importing %d entries", o.Entries))
	imported, err := limits.Directory(ctx, p.url, o.Entries, func(done int) { o.Progress(fmt.Sprintf("  %d entries", done)) })
	if err != nil {
		return err
	}
	r.Figures["entries"], r.Figures["resources"] = float64(imported.Entries), float64(imported.Resources)
	r.Figures["import_s"] = round(imported.Took.Seconds())
	r.Figures["import_entries_per_second"] = round(float64(imported.Entries) / imported.Took.Seconds())
	r.Figures["import_resources_per_second"] = round(float64(imported.Resources) / imported.Took.Seconds())
	r.Figures["database_mib"] = mebibytes(float64(imported.Size))
	if err := searches(ctx, o, p, r); err != nil {
		return err
	}
	return harvested(ctx, o, p, r)
}

// searches runs each kind of search with each number of clients.
func searches(ctx context.Context, o Options, p *place, r *Report) error {
	s, token, err := startCentral(ctx, o, p, false)
	if err != nil {
		return err
	}
	defer s.kill()
	queries := limits.Queries(o.Entries)
	for _, n := range searchers {
		bare, err := searchLoad(ctx, s, "", []string{"metadata"}, n, o.Duration/4)
		if err != nil {
			return err
		}
		slices.Sort(bare)
		suffix := "_" + strconv.Itoa(n)
		r.Limits["http"+suffix+"_p50_ms"] = milliseconds(quantile(bare, 0.50))
		for _, kind := range slices.Sorted(maps.Keys(queries)) {
			o.Progress(fmt.Sprintf("%s, %d clients", kind, n))
			if _, err := searchLoad(ctx, s, token, queries[kind], n, o.Duration/8); err != nil { // warm up
				return err
			}
			began := time.Now()
			times, err := searchLoad(ctx, s, token, queries[kind], n, o.Duration/2)
			if err != nil {
				return err
			}
			name := kind + suffix
			r.Figures[name+"_per_second"] = round(float64(len(times)) / time.Since(began).Seconds())
			slices.Sort(times)
			r.Figures[name+"_p50_ms"], r.Figures[name+"_p99_ms"] = milliseconds(quantile(times, 0.50)), milliseconds(quantile(times, 0.99))
			r.Ratios[name+"_p50_to_http"] = round(r.Figures[name+"_p50_ms"] / r.Limits["http"+suffix+"_p50_ms"])
		}
	}
	m, err := s.metrics(ctx)
	if err != nil {
		return err
	}
	r.Figures["resident_mib"] = mebibytes(m["process_resident_memory_bytes"])
	return s.stop()
}

// startCentral boots the central services and gets a token that searches.
func startCentral(ctx context.Context, o Options, p *place, rateLimits bool) (*process, string, error) {
	file := filepath.Join(p.folder, "central.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, centralConfiguration, p.folder, p.url, rateLimits), 0o600); err != nil {
		return nil, "", err
	}
	s, err := startFile(ctx, o, file)
	if err != nil {
		return nil, "", err
	}
	token, err := searchToken(s)
	if err != nil {
		s.kill()
		return nil, "", err
	}
	return s, token, nil
}

// searchToken exchanges client credentials for a token, as an insurer's app does.
func searchToken(s *process) (string, error) {
	c, err := dial(s.client)
	if err != nil {
		return "", err
	}
	defer c.close()
	var answer struct {
		Token string `json:"access_token"`
	}
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {"bench"}, "client_secret": {benchSecret}}.Encode()
	c.contentType = "application/x-www-form-urlencoded"
	for _, step := range []struct{ method, path, body string }{
		{"POST", "/auth/realms/Service-Authenticate/protocol/openid-connect/token", form}, {"GET", "/service-authenticate", ""},
	} {
		status, body, err := c.do(step.method, step.path, answer.Token, []byte(step.body))
		if err != nil {
			return "", err
		}
		if status != 200 {
			return "", fmt.Errorf("%s: %d %s", step.path, status, body)
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			return "", err
		}
	}
	return answer.Token, nil
}

// maxSearches bounds a load whatever its duration.
const maxSearches = 200_000

// searchLoad lets some clients search for a time and returns how long each search took.
func searchLoad(ctx context.Context, s *process, token string, queries []string, clients int, d time.Duration) ([]time.Duration, error) {
	var wg sync.WaitGroup
	errs, took := make([]error, clients), make([][]time.Duration, clients)
	end := time.Now().Add(d)
	for i := range clients {
		wg.Go(func() {
			c, err := dial(s.client)
			if err != nil {
				errs[i] = err
				return
			}
			defer c.close()
			for n := range maxSearches / clients {
				began := time.Now()
				status, body, err := c.do("GET", "/fdv/search/"+queries[(n*clients+i*7)%len(queries)], token, nil)
				if err == nil && status != 200 {
					err = fmt.Errorf("search: %d %s", status, body)
				}
				if errs[i] = err; err != nil {
					return
				}
				took[i] = append(took[i], time.Since(began))
				if time.Now().After(end) || ctx.Err() != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return slices.Concat(took...), errors.Join(append(errs, ctx.Err())...)
}

// maxHarvest ends an attempt to copy the directory that nothing slows down.
const maxHarvest = 5000

// harvested copies the directory with limits on, as fast as it can, and notes when it is refused.
func harvested(ctx context.Context, o Options, p *place, r *Report) error {
	o.Progress("harvesting")
	s, token, err := startCentral(ctx, o, p, true)
	if err != nil {
		return err
	}
	defer s.kill()
	c, err := dial(s.client)
	if err != nil {
		return err
	}
	defer c.close()
	queries := limits.Queries(o.Entries)["prefix"]
	for n := range maxHarvest {
		status, body, err := c.do("GET", "/fdv/search/"+queries[n%len(queries)]+"&_count=100", token, nil)
		if err != nil {
			return err
		}
		if status == 429 {
			r.Figures["harvest_searches_until_throttled"] = float64(n)
			return s.stop()
		}
		if status != 200 {
			return fmt.Errorf("harvest: %d %s", status, body)
		}
	}
	return fmt.Errorf("%d searches in a row were not throttled", maxHarvest)
}

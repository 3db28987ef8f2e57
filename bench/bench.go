// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Options says what is measured and on what. The zero value of each field but Program and Database has a sensible meaning.
type Options struct {
	// Program is the konsil binary; Environ is added to its environment.
	Program string
	Environ []string
	// Database is "sqlite" or "postgres"; Postgres is the server for the latter, on which a schema is made and dropped.
	Database, Postgres string
	// Folder holds the database and media while the bench runs; empty is the system's temporary folder. It should be a real disk.
	Folder string
	// Duration is how long each load lasts; 0 is 5 s, the most is a minute.
	Duration time.Duration
	// Tenants is how many tenants bench tenants compares with ten, and how many syncs wait in bench sync-idle; 0 is 10,000.
	Tenants int
	// Entries is how many entries bench directory imports; 0 is 1.5 million.
	Entries int
	// Members is how many members the rooms of the benches join and join-local have, and that of members up to 1,000; 0 is 10,000.
	Members int
	// Profile names a file for a CPU profile of the server under the heaviest load; HeapProfile one of its memory afterwards.
	Profile, HeapProfile string
	// Timers makes bench tenants count the server's timers too. That records every allocation, so times and memory mean less then.
	Timers bool
	// Progress is told what happens; nil for nobody.
	Progress func(text string)

	extra string // further lines of the server's configuration
}

// Report is what a bench found. Names of figures end with their unit where they have one.
type Report struct {
	Bench    string             `json:"bench"`
	Database string             `json:"database"`
	Figures  map[string]float64 `json:"figures"`
	Limits   map[string]float64 `json:"limits"`
	Ratios   map[string]float64 `json:"ratios"`
}

// Names lists the benches.
func Names() []string {
	return []string{"directory", "send", "deliver", "sync-initial", "sync-idle", "tenants", "resolve", "federation", "join", "join-local", "members", "messages", "upload", "neighbours", "proxy"}
}

// Run runs a bench. It ends by itself; when ctx ends first it stops and cleans up at once.
func Run(ctx context.Context, name string, o Options) (*Report, error) {
	if o.Database != "sqlite" && o.Database != "postgres" {
		return nil, fmt.Errorf("database %q: expected sqlite or postgres", o.Database)
	}
	if o.Duration <= 0 {
		o.Duration = 5 * time.Second
	}
	o.Duration = min(o.Duration, time.Minute)
	if o.Tenants == 0 {
		o.Tenants = 10_000
	}
	if o.Tenants < 1 || o.Tenants > 200_000 {
		return nil, fmt.Errorf("%d tenants: expected 1 to 200000", o.Tenants)
	}
	if o.Entries == 0 {
		o.Entries = 1_500_000
	}
	if o.Entries < 100 || o.Entries > 5_000_000 {
		return nil, fmt.Errorf("%d entries: expected 100 to 5000000", o.Entries)
	}
	if o.Members == 0 {
		o.Members = 10_000
	}
	if o.Members < 1 || o.Members > 200_000 {
		return nil, fmt.Errorf("%d members: expected 1 to 200000", o.Members)
	}
	if o.Postgres == "" {
		o.Postgres = "postgres://postgres@127.0.0.1:5432/postgres?sslmode=disable"
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	r := &Report{Bench: name, Database: o.Database, Figures: map[string]float64{}, Limits: map[string]float64{}, Ratios: map[string]float64{}}
	switch name {
	case "directory":
		return r, directoryBench(ctx, o, r)
	case "send":
		return r, send(ctx, o, r)
	case "deliver":
		return r, delivery(ctx, o, r)
	case "sync-initial":
		return r, syncInitial(ctx, o, r)
	case "sync-idle":
		return r, syncIdle(ctx, o, r)
	case "tenants":
		return r, tenants(ctx, o, r)
	case "resolve":
		r.Database = "no database"
		return r, resolve(ctx, o, r)
	case "federation":
		return r, federation(ctx, o, r)
	case "join":
		return r, join(ctx, o, r)
	case "join-local":
		return r, joinLocal(ctx, o, r)
	case "members":
		return r, members(ctx, o, r)
	case "messages":
		return r, scroll(ctx, o, r)
	case "upload":
		return r, upload(ctx, o, r)
	case "neighbours":
		return r, neighbours(ctx, o, r)
	case "proxy":
		return r, proxied(ctx, o, r)
	}
	return nil, fmt.Errorf("bench %q: there are %s", name, strings.Join(Names(), ", "))
}

// WriteJSON writes the report as one JSON object.
func (r *Report) WriteJSON(w io.Writer) error {
	b, err := json.Marshal(r, json.Deterministic(true), jsontext.WithIndent("  "))
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// WriteTable writes the report for people.
func (r *Report) WriteTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%s on %s\n", r.Bench, r.Database)
	for _, part := range []struct {
		title  string
		values map[string]float64
	}{{"figures", r.Figures}, {"limits in the same run", r.Limits}, {"ratios", r.Ratios}} {
		if len(part.values) == 0 {
			continue
		}
		fmt.Fprintf(t, "\n%s\n", part.title)
		for _, name := range slices.Sorted(maps.Keys(part.values)) {
			fmt.Fprintf(t, "  %s\t%s\n", name, number(part.values[name]))
		}
	}
	return t.Flush()
}

// number writes a figure with the digits that mean something.
func number(v float64) string {
	switch {
	case v == float64(int64(v)) || v >= 1000:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// round keeps JSON readable: six significant digits are more than any run repeats.
func round(v float64) float64 {
	var out float64
	if _, err := fmt.Sscanf(fmt.Sprintf("%.6g", v), "%g", &out); err != nil {
		return v
	}
	return out
}

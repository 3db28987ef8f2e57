// SPDX-License-Identifier: Apache-2.0

package bench_test

import (
	"context"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/konsil-health/konsil/bench"
	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/server"
)

// asServer in the environment makes the test binary the program under measurement.
const asServer = "KONSIL_BENCH_AS_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(asServer) == "" {
		os.Exit(m.Run())
	}
	os.Unsetenv(asServer)
	if err := serve(os.Args[len(os.Args)-1]); err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
}

// serve is `konsil serve --config FILE`.
func serve(file string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c, err := config.Load(config.Source{File: file, Environ: []string{}})
	if err != nil {
		return err
	}
	s, err := server.New(ctx, c, server.Options{})
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

// measure runs a bench with the test binary as server.
func measure(t *testing.T, name string, o bench.Options) *bench.Report {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o.Program, o.Environ, o.Folder = program, []string{asServer + "=1"}, t.TempDir()
	if o.Database == "postgres" {
		o.Postgres = postgres(t)
	}
	r, err := bench.Run(t.Context(), name, o)
	if err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(o.Folder)
	if err != nil || len(left) > 0 {
		t.Errorf("the bench left %v, %v", left, err)
	}
	return r
}

// postgres is the server of KONSIL_TEST_POSTGRES or the local one; without any the test is skipped.
func postgres(t *testing.T) string {
	t.Helper()
	url, asked := os.LookupEnv("KONSIL_TEST_POSTGRES")
	if !asked {
		url = "postgres://postgres@127.0.0.1:5432/test?sslmode=disable"
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		if asked {
			t.Fatal(err)
		}
		t.Skip("no PostgreSQL on 127.0.0.1:5432; set KONSIL_TEST_POSTGRES to test with one")
	}
	conn.Close(ctx)
	return url
}

// noise is how many goroutines or files may come and go with the connection that asks for their number.
const noise = 4

// TestIdleTenantsCostNothing: 10,000 tenants of whom nobody is there need no goroutine, file or timer, and at most 60 MiB (design rule 5).
func TestIdleTenantsCostNothing(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"sqlite", "postgres"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			f := measure(t, "tenants", bench.Options{Database: kind, Timers: true}).Figures
			t.Logf("%v", f)
			for _, what := range []string{"goroutines_", "open_files_", "timers_"} {
				if few, many := f[what+"10"], f[what+"10000"]; many > few+noise {
					t.Errorf("%s: %v with 10 tenants, %v with 10000", what, few, many)
				}
			}
			if f["timers_10"] == 0 {
				t.Error("no timer was found at all: the count does not work")
			}
			if more := f["resident_mib_more"]; more > 60 {
				t.Errorf("10,000 idle tenants need %v MiB more", more)
			}
			if more := f["heap_mib_after_one_request_each"] - f["heap_mib_10"]; more > 60 {
				t.Errorf("10,000 tenants that were asked once keep %v MiB", more)
			}
		})
	}
}

// TestDirectory runs the bench for a moment on both databases: its report is whole, and a copy of the directory is slowed down.
func TestDirectory(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"sqlite", "postgres"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			f := measure(t, "directory", bench.Options{Database: kind, Entries: 600, Duration: 200 * time.Millisecond}).Figures
			for _, name := range []string{"import_entries_per_second", "database_mib", "name_1_p50_ms", "name_4_p99_ms", "name_place_4_p50_ms", "speciality_near_1_p99_ms", "prefix_4_p99_ms",
				"harvest_searches_until_throttled"} {
				if f[name] <= 0 {
					t.Errorf("%s is %v", name, f[name])
				}
			}
			if f["resources"] != 1800 {
				t.Errorf("%v resources of 600 entries", f["resources"])
			}
		})
	}
}

// TestSend runs the bench for a moment: its report is whole, what it acknowledged survived the kill, and the counts are within budget.
func TestSend(t *testing.T) {
	t.Parallel()
	r := measure(t, "send", bench.Options{Database: "sqlite", Duration: 100 * time.Millisecond})
	for _, n := range []string{"1", "8", "64"} {
		for _, name := range []string{"events_per_second_", "p50_ms_", "p99_ms_", "cpu_us_per_event_", "batch_"} {
			if r.Figures[name+n] <= 0 {
				t.Errorf("%s%s is %v", name, n, r.Figures[name+n])
			}
		}
		if got := r.Figures["statements_per_event_"+n]; got > 5 {
			t.Errorf("%v statements per event with %s senders", got, n)
		}
	}
	if lost := r.Figures["acknowledged_but_lost_after_kill"]; lost != 0 {
		t.Errorf("%v acknowledged events were lost", lost)
	}
	var table, object strings.Builder
	if err := r.WriteTable(&table); err != nil || !strings.Contains(table.String(), "events_per_second_64") {
		t.Errorf("table: %v\n%s", err, table.String())
	}
	if err := r.WriteJSON(&object); err != nil || !strings.HasPrefix(object.String(), "{") {
		t.Errorf("JSON: %v\n%s", err, object.String())
	}
}

// TestFederationBenches: a join over federation, a busy peer and two neighbours; what is asserted is that everything arrives.
func TestFederationBenches(t *testing.T) {
	t.Parallel()
	for name, figure := range map[string]string{"join": "join_seconds", "federation": "pdus_per_second", "neighbours": "messages_per_second_between"} {
		t.Run(name, func(t *testing.T) {
			r := measure(t, name, bench.Options{Database: "sqlite", Duration: 300 * time.Millisecond, Members: 100})
			if r.Figures[figure] <= 0 {
				t.Errorf("%s: %v", figure, r.Figures)
			}
		})
	}
}

// TestProxyBench: as many requests go through the proxy as past it; what they took is nobody's assertion.
func TestProxyBench(t *testing.T) {
	t.Parallel()
	r := measure(t, "proxy", bench.Options{Database: "sqlite", Duration: 200 * time.Millisecond})
	for _, what := range []string{"send", "idle_sync"} {
		if r.Figures[what+"_pairs"] < 1 || r.Figures[what+"_proxied_p50_ms"] <= 0 || r.Limits[what+"_direct_p99_ms"] <= 0 {
			t.Errorf("%s: %v %v", what, r.Figures, r.Limits)
		}
	}
}

// TestRoomBenches: the benches of rooms and media end and say what they found.
func TestRoomBenches(t *testing.T) {
	t.Parallel()
	for name, figure := range map[string]string{"join-local": "joins_to_30", "members": "members", "upload": "uploads"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := measure(t, name, bench.Options{Database: "sqlite", Members: 30})
			for _, f := range []string{"_per_second", "_p50_ms", "_cpu_us", "_generator_cpu_us"} {
				if r.Figures[figure+f] <= 0 {
					t.Errorf("%s%s is %v", figure, f, r.Figures[figure+f])
				}
			}
		})
	}
}

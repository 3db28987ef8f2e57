// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import (
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/konsiltest"
)

// The ways in which two servers can meet. The last is the third one on PostgreSQL.
const (
	twoCells  = "two cells"
	overTLS   = "neighbours over TLS"
	inProcess = "neighbours in process"
	postgres  = "neighbours in process on PostgreSQL"
)

// TestThreeWays tells the same story of two servers three ways: two nodes over TLS, two tenants of one cell over TLS, and the same by
// function call. Every answer's status and error code, who is refused, and what each of the three people sees in the end (events, state, members,
// device lists, keys) must be equal. A fourth telling has its data in PostgreSQL.
//
// Requirements: AF_10062.
func TestThreeWays(t *testing.T) {
	t.Parallel()
	ways := []string{twoCells, overTLS, inProcess, postgres}
	told := make([][]string, len(ways))
	t.Run("tell", func(t *testing.T) {
		for i, way := range ways {
			t.Run(way, func(t *testing.T) {
				t.Parallel()
				told[i] = threeWays(t, way)
			})
		}
	})
	for i, way := range ways[1:] {
		one, other := told[0], told[i+1]
		if len(other) == 0 {
			continue // skipped
		}
		for n := range max(len(one), len(other)) {
			if a, b := at(one, n), at(other, n); a != b {
				t.Fatalf("the ways differ after\n%s\n\n%s:\n%s\n\n%s:\n%s", around(one, n-5, n), ways[0], around(one, n, n+4), way, around(other, n, n+4))
			}
		}
	}
	if len(told[0]) < 500 {
		t.Errorf("only %d things were compared", len(told[0]))
	}
}

// around are the lines from one to before another.
func around(list []string, from, to int) string {
	return strings.Join(list[min(max(0, from), len(list)):min(to, len(list))], "\n")
}

func at(list []string, n int) string {
	if n < len(list) {
		return list[n]
	}
	return "nothing"
}

func threeWays(t *testing.T, way string) []string {
	s := &storybook{t: t, names: map[string]string{}, identity: konsiltest.NewPeer(t, "id.test")}
	if way == twoCells {
		n := konsiltest.New(t, konsiltest.Spec{Tenants: []string{"praxis.test"}, Configure: s.configure}, konsiltest.Spec{Tenants: []string{"klinik.test"}, Configure: s.configure})
		s.begin(n, n.Cell(0), n.Cell(1))
	} else {
		database := ""
		if way == postgres {
			database = databasetest.Postgres(t)
		}
		n := konsiltest.New(t, konsiltest.Spec{Tenants: []string{"praxis.test", "klinik.test"}, Database: database, Configure: func(c *config.Config) {
			s.configure(c)
			c.Federation.InProcess = way != overTLS
		}})
		s.begin(n, n.Cell(0), n.Cell(0))
	}
	s.tell()
	if way == twoCells {
		everyEndpoint(t, s.network.Passages())
	}
	return s.lines
}

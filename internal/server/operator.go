// SPDX-License-Identifier: Apache-2.0

package server

import (
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus"
)

// operator is what the operator's listener serves: metrics, health, profiles of the running program, acts on rooms and destinations.
func (s *Server) operator() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.node.metrics.Handler())
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	if s.node.rooms != nil {
		s.node.roomOrders(mux)
		s.node.federationOrders(mux)
		s.node.epochOrder(mux)
	}
	mux.Handle("/", s.health.Handler())
	return mux
}

// count adds what the database and the committer count to the metrics.
func (n *node) count() {
	counter := func(name, help string, value func() int64) {
		n.metrics.Registerer().MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(value()) }))
	}
	counter("konsil_database_queries_total", "Queries answered by the readers.", func() int64 { return n.db.Counters().Queries })
	counter("konsil_database_statements_total", "Statements of write transactions.", func() int64 { return n.db.Counters().Statements })
	counter("konsil_commit_batches_total", "Transactions of the committer.", func() int64 { return n.committer.Stats().Batches })
	counter("konsil_commit_plans_total", "Plans committed.", func() int64 { return n.committer.Stats().Plans })
	counter("konsil_commit_stale_total", "Plans that lost their guard.", func() int64 { return n.committer.Stats().Stale })
}

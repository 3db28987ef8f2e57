// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics is the registry of one node. Slices register their collectors with [Metrics.Registerer]; names begin with "konsil_".
type Metrics struct{ registry *prometheus.Registry }

// NewMetrics returns a registry that holds the Go runtime's and the process's own figures.
func NewMetrics() *Metrics {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return &Metrics{registry: r}
}

// Registerer is where collectors are registered. A nil Metrics gives a registry that nobody reads, so that slices need no special case in tests.
func (m *Metrics) Registerer() prometheus.Registerer {
	if m == nil {
		return prometheus.NewRegistry()
	}
	return m.registry
}

// Handler serves the metrics in Prometheus' text format. It belongs on the operator's listener only.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Gatherer reads the metrics back, for pages and tests.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }

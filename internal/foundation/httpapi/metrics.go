// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts requests by route, never by anything a caller chooses, so that their number is bounded.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func newMetrics(r prometheus.Registerer) metrics {
	m := metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "konsil_http_requests_total", Help: "Requests answered, by route, status and transport.",
		}, []string{"method", "route", "status", "transport"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "konsil_http_request_seconds", Help: "Time to answer, by route; long polls count with their waiting.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 30},
		}, []string{"route"}),
	}
	r.MustRegister(m.requests, m.seconds)
	return m
}

func (m metrics) observe(r *Request, status int, took time.Duration, transport string) {
	method, route := "other", "unknown"
	if r.route != nil {
		method, route = r.route.Method, r.route.Path
	}
	m.requests.WithLabelValues(method, route, strconv.Itoa(status), transport).Inc()
	m.seconds.WithLabelValues(route).Observe(took.Seconds())
}

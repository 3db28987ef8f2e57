// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/event"
)

// metrics count what happens to events and rooms by its cause. No label holds anything that a peer chooses.
type metrics struct {
	events     *prometheus.CounterVec
	gaps       prometheus.Counter
	rebuilt    prometheus.Counter
	staged     *prometheus.CounterVec
	alarms     *prometheus.CounterVec
	resolution prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		events: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "konsil_room_events_total",
			Help: "Events committed to timelines, by where they were made and what was decided about them."}, []string{"origin", "verdict"}),
		gaps: prometheus.NewCounter(prometheus.CounterOpts{Name: "konsil_room_gaps_total", Help: "Events committed without all that they follow."}),
		rebuilt: prometheus.NewCounter(prometheus.CounterOpts{Name: "konsil_room_rebuilt_total",
			Help: "Events built anew because the room's head had moved meanwhile."}),
		staged: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "konsil_room_staged_total",
			Help: "Received events whose past had to be fetched, by what became of them."}, []string{"outcome"}),
		alarms: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "konsil_room_state_alarms_total",
			Help: "Resolutions that removed a member or changed power levels without an event for it."}, []string{"cause"}),
		resolution: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "konsil_room_resolution_seconds",
			Help: "Time to resolve the state of branches that differ.", Buckets: []float64{.001, .005, .02, .1, .5, 2, 10}}),
	}
	if r != nil {
		r.MustRegister(m.events, m.gaps, m.rebuilt, m.staged, m.alarms, m.resolution)
	}
	return m
}

// committed counts an event that is durable now; own ones are of the tenant's users, gap says that something before it is missing.
func (m *metrics) committed(e *Event, own, gap bool) {
	origin, verdict := "received", "live"
	if own {
		origin = "own"
	}
	switch {
	case e.Rejected:
		verdict = "rejected"
	case e.SoftFailed:
		verdict = "soft_failed"
	}
	m.events.WithLabelValues(origin, verdict).Inc()
	if gap {
		m.gaps.Inc()
	}
}

func (m *metrics) resolved(since time.Time) { m.resolution.Observe(time.Since(since).Seconds()) }

// alarm tells the operator of what a resolution did without an event for it and what is hardly ever meant: a member is gone, power levels are other ones
// (engine rule 17). A topic that goes back to an older one is how branches merge.
func (s *Service) alarm(ctx context.Context, t tenant.ID, r *Room, before State, keys []event.Key, after map[event.Key]*event.Event, a addition) error {
	if a.fresh { // a join from outside replaces what the room was when we left it
		return nil
	}
	var members []event.Key
	for _, k := range keys {
		switch {
		case a.event.IsState() && k == a.event.Key():
		case k.Type == event.TypePowerLevels:
			s.alarmed(ctx, r, k, a, "power_levels")
		case k.Type == "m.room.member" && before[k] != "" && (after[k] == nil || after[k].Membership() != "join"):
			members = append(members, k)
		}
	}
	found, err := s.pick(ctx, t, before, members)
	for k, m := range found {
		if m.Membership() == "join" {
			s.alarmed(ctx, r, k, a, "member")
		}
	}
	return err
}

func (s *Service) alarmed(ctx context.Context, r *Room, k event.Key, a addition, cause string) {
	s.metrics.alarms.WithLabelValues(cause).Inc()
	s.Log.WarnContext(ctx, "a resolution changed the state without an event for it", "cause", cause, "room", r.NID, "state_key", k.StateKey, "event", string(a.event.ID()))
}

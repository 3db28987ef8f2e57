// SPDX-License-Identifier: Apache-2.0

package room_test

import (
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
)

// counted is a metric's value: of a counter with the given labels, or how often a histogram was fed.
func (h *house) counted(t *testing.T, name string, labels ...string) float64 {
	t.Helper()
	families, err := h.counts.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var values []string
			for _, l := range m.GetLabel() {
				values = append(values, l.GetValue())
			}
			if len(values) == len(labels) && (len(labels) == 0 || values[0] == labels[0] && values[len(values)-1] == labels[len(labels)-1]) {
				return m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return 0
}

// TestAlarm: a room is closed while somebody joins it elsewhere. The resolution takes the join back without an event for it, which an operator learns of;
// what an event says by itself, or a topic that another branch had, is no alarm (engine rule 17).
func TestAlarm(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		h := open(t, db)
		p := meet(t, h, "10")
		levels := `{"users":{"@anna:a.example":100,"@ben:b.example":100}}`
		if _, err := h.Send(t.Context(), h.t, room.Draft{Room: p.r.ID, Sender: anna, Type: event.TypePowerLevels, StateKey: new(string), Content: jsontext.Value(levels)}); err != nil {
			t.Fatal(err)
		}
		fork := p.heads()
		topic := p.make(fork, ben2, "m.room.topic", "", `{"topic":"x"}`)
		join := p.make(fork, eva, event.TypeMember, string(eva), `{"membership":"join"}`)
		closed := p.make(fork, ben2, "m.room.join_rules", "", `{"join_rule":"invite"}`)
		p.accept(topic)
		p.accept(join)
		if n := h.counted(t, "konsil_room_state_alarms_total", "member"); n != 0 {
			t.Errorf("%v alarms before anything was lost", n)
		}
		p.accept(closed)
		if p.state()[event.Key{Type: event.TypeMember, StateKey: string(eva)}] != nil {
			t.Fatal("the join stands; the test shows nothing")
		}
		if n := h.counted(t, "konsil_room_state_alarms_total", "member"); n != 1 {
			t.Errorf("%v alarms for a lost member", n)
		}
		if n := h.counted(t, "konsil_room_state_alarms_total", "power_levels"); n != 0 {
			t.Errorf("%v alarms for power levels", n)
		}
		if own, received := h.counted(t, "konsil_room_events_total", "own", "live"), h.counted(t, "konsil_room_events_total", "received", "live"); own < 5 || received != 4 /* two joins, topic, join rules */ {
			t.Errorf("counted %v own and %v received events", own, received)
		}
		if n := h.counted(t, "konsil_room_resolution_seconds"); n == 0 {
			t.Error("no resolution was counted")
		}
	})
}

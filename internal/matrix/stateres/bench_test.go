// SPDX-License-Identifier: Apache-2.0

package stateres_test

import (
	"fmt"
	"testing"

	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/matrixtest"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
	"github.com/konsil-health/konsil/internal/matrix/stateres"
)

// memory is a plain source.
type memory map[id.Event]*event.Event

func (m memory) Event(e id.Event) *event.Event { return m[e] }
func (m memory) Rejected(id.Event) bool        { return false }

// bigFork makes a room whose two sides differ in about 2·pairs events: on each side members join and, every so many
// events, the power levels change, somebody is banned, and other state is set. With every at 1 it is a chain of
// power levels, all of which are in the auth difference.
func bigFork(b *testing.B, ver string, pairs, every int) (*roomversion.Version, []state, memory) {
	b.Helper()
	r := matrixtest.New(ver, 3)
	src := memory{}
	for _, v := range r.Log {
		src[v.Event.ID()] = v.Event
	}
	base := r.Log[len(r.Log)-1].After
	creator := r.Create.Sender()
	sets := make([]state, 2)
	for side := range sets {
		s := authrule.Map{}
		for k, eid := range base {
			s[k] = src[eid]
		}
		prev := r.Log[len(r.Log)-1].Event.ID()
		now := int64(1_800_000_000_000)
		add := func(typ, key string, sender id.User, content string) {
			now += 10
			d := event.Draft{
				Version: r.Version, Room: r.ID, Type: typ, StateKey: &key, Sender: sender, Content: []byte(content),
				PrevEvents: []id.Event{prev}, Depth: 100, Timestamp: now + int64(side),
			}
			for _, a := range authrule.Select(authrule.Needed(r.Version, typ, &key, sender, d.Content), s) {
				d.AuthEvents = append(d.AuthEvents, a.ID())
			}
			e, err := d.Build(sender.Server(), matrixtest.KeyID, matrixtest.Key(sender.Server()))
			if err != nil {
				b.Fatal(err)
			}
			s[e.Key()], src[e.ID()], prev = e, e, e.ID()
		}
		add(event.TypeJoinRules, "", creator, `{"join_rule":"public"}`)
		for i := range pairs - 1 {
			who := id.User(fmt.Sprintf("@m%d:s1.example", i))
			switch i % every {
			case 0:
				add(event.TypePowerLevels, "", creator, fmt.Sprintf(`{"users":{%q:50},"events_default":%d}`, who, i%7))
			case 1:
				add(event.TypeMember, string(who), creator, `{"membership":"ban"}`)
			case 2:
				add("org.example.state", fmt.Sprint(i), creator, fmt.Sprintf(`{"side":%d}`, side))
			default:
				add(event.TypeMember, string(who), who, `{"membership":"join"}`)
			}
		}
		sets[side] = state{}
		for k, e := range s {
			sets[side][k] = e.ID()
		}
	}
	return r.Version, sets, src
}

// BenchmarkResolve resolves 10,000 conflicted events. The aim is under a second on one core.
func BenchmarkResolve(b *testing.B) {
	for _, c := range []struct {
		name, ver string
		every     int
	}{{"10", "10", 50}, {"12", "12", 50}, {"10-power", "10", 1}, {"12-power", "12", 1}} {
		b.Run(c.name, func(b *testing.B) {
			v, sets, src := bigFork(b, c.ver, 5000, c.every)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := stateres.Resolve(v, sets, src); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(src)), "events")
		})
	}
}

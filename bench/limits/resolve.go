// SPDX-License-Identifier: Apache-2.0

package limits

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"time"

	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
	"github.com/konsil-health/konsil/internal/matrix/stateres"
)

// Fork is a room whose two branches contradict each other, ready to be resolved again and again.
type Fork struct {
	version *roomversion.Version
	sets    []map[event.Key]id.Event
	events  memory
	// Conflicted is how many events the branches disagree about.
	Conflicted int
}

// memory is a stateres.Source.
type memory map[id.Event]*event.Event

func (m memory) Event(e id.Event) *event.Event { return m[e] }
func (m memory) Rejected(id.Event) bool        { return false }

const benchCreator = id.User("@creator:bench.example")

// fork is a room in the making.
type fork struct {
	*Fork
	room id.Room
	key  ed25519.PrivateKey
	now  int64
}

// NewFork makes a fork of a room of the version with about that many conflicted events: on each side members join and, every so many events, the
// power levels change, somebody is banned and other state is set. With every at 1 each event changes the power levels, the worst case.
func NewFork(version string, conflicted, every int) (*Fork, error) {
	v, ok := roomversion.Get(version)
	if !ok {
		return nil, fmt.Errorf("room version %q is not known", version)
	}
	f := &fork{Fork: &Fork{version: v, events: memory{}}, key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), now: 1_700_000_000_000}
	if !v.RoomIDIsHash {
		f.room = "!bench:bench.example"
	}
	base := authrule.Map{}
	create, err := f.add(base, "", event.TypeCreate, "", benchCreator, fmt.Sprintf(`{"creator":%q,"room_version":%q}`, benchCreator, version))
	if err != nil {
		return nil, err
	}
	f.room = create.Room()
	join, err := f.add(base, create.ID(), event.TypeMember, string(benchCreator), benchCreator, `{"membership":"join"}`)
	if err != nil {
		return nil, err
	}
	rules, err := f.add(base, join.ID(), event.TypeJoinRules, "", benchCreator, `{"join_rule":"public"}`)
	if err != nil {
		return nil, err
	}
	for side := range 2 {
		state := authrule.Map{}
		for k, e := range base {
			state[k] = e
		}
		if err := f.branch(state, rules.ID(), side, conflicted/2, every); err != nil {
			return nil, err
		}
		set := make(map[event.Key]id.Event, len(state))
		for k, e := range state {
			set[k] = e.ID()
		}
		f.sets = append(f.sets, set)
	}
	f.Conflicted = len(f.events) - 3
	return f.Fork, nil
}

func (f *fork) branch(state authrule.Map, prev id.Event, side, n, every int) error {
	creator := ""
	if !f.version.PrivilegedCreators {
		creator = fmt.Sprintf("%q:100,", benchCreator)
	}
	for i := range n {
		who := id.User(fmt.Sprintf("@m%d:bench.example", i))
		typ, key, sender, content := event.TypeMember, string(who), who, fmt.Sprintf(`{"membership":"join","displayname":"%d"}`, side)
		switch i % every {
		case 0:
			typ, key, sender = event.TypePowerLevels, "", benchCreator
			content = fmt.Sprintf(`{"users":{%s%q:50},"events_default":%d}`, creator, who, i%7)
		case 1:
			sender, content = benchCreator, `{"membership":"ban"}`
		case 2:
			typ, key, sender, content = "org.example.state", fmt.Sprint(i), benchCreator, fmt.Sprintf(`{"side":%d}`, side)
		}
		e, err := f.add(state, prev, typ, key, sender, content)
		if err != nil {
			return err
		}
		prev = e.ID()
	}
	return nil
}

// add builds an event on another one, permitted by the state, and puts it into the state.
func (f *fork) add(state authrule.Map, prev id.Event, typ, key string, sender id.User, content string) (*event.Event, error) {
	f.now += 10
	d := event.Draft{Version: f.version, Room: f.room, Type: typ, StateKey: &key, Sender: sender, Content: []byte(content), Depth: 1, Timestamp: f.now,
		Hashes: map[id.Event]string{}}
	if prev != "" {
		d.PrevEvents, d.Depth = []id.Event{prev}, f.events[prev].Depth()+1
		d.Hashes[prev] = "x" // written in versions 1 and 2; nothing reads it
	}
	for _, a := range authrule.Select(authrule.Needed(f.version, typ, &key, sender, d.Content), state) {
		d.AuthEvents = append(d.AuthEvents, a.ID())
		d.Hashes[a.ID()] = "x"
	}
	e, err := d.Build("bench.example", "ed25519:1", f.key)
	if err != nil {
		return nil, err
	}
	f.events[e.ID()], state[e.Key()] = e, e
	return e, nil
}

// Resolve resolves the fork on one processor for about d, at least once, and returns the mean time of one resolution.
func (f *Fork) Resolve(ctx context.Context, d time.Duration) (time.Duration, error) {
	n := 0
	began := time.Now()
	for n == 0 || time.Since(began) < d && n < maxSamples && ctx.Err() == nil {
		if _, err := stateres.Resolve(f.version, f.sets, f.events); err != nil {
			return 0, err
		}
		n++
	}
	return time.Since(began) / time.Duration(n), ctx.Err()
}

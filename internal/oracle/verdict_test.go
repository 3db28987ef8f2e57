// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"cmp"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"

	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/matrixtest"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// rooms is how many rooms of each version a test compares. The default bounds the whole module to about a minute of
// one core; ORACLE_ROOMS asks for more.
func rooms(t *testing.T) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(cmp.Or(os.Getenv("ORACLE_ROOMS"), "12"), 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// generated keeps the rooms that all tests look at, so that each is made once. They are read only.
var generated sync.Map

func room(ver string, seed uint64) *matrixtest.Room {
	type key struct {
		ver  string
		seed uint64
	}
	made, _ := generated.LoadOrStore(key{ver, seed}, sync.OnceValue(func() *matrixtest.Room { return grow(ver, seed) }))
	return made.(func() *matrixtest.Room)()
}

func grow(ver string, seed uint64) *matrixtest.Room {
	r := matrixtest.New(ver, 0xd1ff+seed)
	r.Grow(100)
	return r
}

func forRooms(t *testing.T, run func(*testing.T, *matrixtest.Room)) {
	for _, ver := range roomversion.Supported() {
		t.Run(ver, func(t *testing.T) {
			for seed := range rooms(t) {
				run(t, room(ver, seed))
			}
		})
	}
}

// judge is another implementation's authorisation of one event against one state; nil where it does not know the version.
type judge func(*event.Event, authrule.State) error

// differs names the reason of a known difference, "" for one that is not known.
type differs func(e *event.Event, s authrule.State, ours, theirs error) string

func authState(v *matrixtest.Verdict) authrule.Map {
	s := authrule.Map{}
	for _, a := range v.Auth {
		if a.IsState() {
			s[a.Key()] = a
		}
	}
	return s
}

func compareVerdicts(t *testing.T, open func(*testing.T, *matrixtest.Room) judge, known differs) {
	forRooms(t, func(t *testing.T, room *matrixtest.Room) {
		judge := open(t, room)
		if judge == nil {
			return
		}
		reasons := map[string]int{}
		for _, v := range room.Log {
			for name, c := range map[string]struct {
				state authrule.Map
				ours  error
			}{"auth events": {authState(v), v.ByAuth}, "state before": {room.State(v.Before), v.ByState}} {
				theirs := judge(v.Event, c.state)
				if (c.ours == nil) == (theirs == nil) {
					continue
				}
				reason := known(v.Event, c.state, c.ours, theirs)
				reasons[reason]++
				if reason == "" {
					t.Errorf("against %s:\nours: %v\ntheirs: %v\n%s%s", name, c.ours, theirs, v.Event.JSON(), describe(v.Event, c.state))
				}
			}
		}
		for reason, n := range reasons {
			t.Logf("%d times: %s", n, reason)
		}
	})
}

func describe(e *event.Event, s authrule.State) string {
	out := ""
	for _, a := range authrule.Select(authrule.NeededBy(e), s) {
		out += fmt.Sprintf("\n  %s %q by %s: %s", a.Type(), *a.StateKey(), a.Sender(), a.Content())
	}
	return out
}

func TestGMSLVerdicts(t *testing.T) {
	t.Parallel()
	compareVerdicts(t, func(t *testing.T, room *matrixtest.Room) judge {
		g := newGMSL(t, room)
		return func(e *event.Event, s authrule.State) error { return g.allowed(t, e, s) }
	}, gmslDiffers)
}

// SPDX-License-Identifier: Apache-2.0

package stateres_test

import (
	"bytes"
	"crypto/sha1"
	"fmt"
	"testing"

	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/matrixtest"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// story is a room told by hand: a common past, two branches, and what has to remain.
type story struct {
	t        *testing.T
	r        *matrixtest.Room
	now      int64
	creator  id.User
	mod, bob id.User
}

func tell(t *testing.T, run func(s *story)) {
	t.Parallel()
	for _, ver := range roomversion.Supported()[1:] { // version 1 has stories of its own
		t.Run(ver, func(t *testing.T) {
			run(newStory(t, ver))
		})
	}
}

func newStory(t *testing.T, ver string) *story {
	t.Helper()
	// A seed whose room is open to all servers and has no further creators.
	r := matrixtest.New(ver, 2)
	s := &story{t: t, r: r, now: 2_000_000_000_000, creator: r.Users[0], mod: r.Users[2], bob: r.Users[4]}
	s.main(event.TypeJoinRules, "", s.creator, `{"join_rule":"public"}`)
	s.main(event.TypePowerLevels, "", s.creator, s.levels(50))
	s.main(event.TypeMember, string(s.mod), s.mod, `{"membership":"join"}`)
	s.main(event.TypeMember, string(s.bob), s.bob, `{"membership":"join"}`)
	return s
}

func (s *story) levels(mod int) string {
	creator := ""
	if !s.r.Version.PrivilegedCreators {
		creator = fmt.Sprintf("%q:100,", s.creator)
	}
	return fmt.Sprintf(`{"users":{%s%q:%d}}`, creator, s.mod, mod)
}

// on adds an event on another one; it has to be allowed.
func (s *story) on(prev *matrixtest.Verdict, typ, key string, sender id.User, content string) *matrixtest.Verdict {
	s.t.Helper()
	s.now += 1000
	d := event.Draft{Type: typ, StateKey: &key, Sender: sender, Content: []byte(content), Timestamp: s.now}
	v := s.r.Append(d, []*matrixtest.Verdict{prev})
	if v.Rejected {
		s.t.Fatalf("%s by %s %s: %v", typ, sender, content, v.ByState)
	}
	return v
}

func (s *story) head() *matrixtest.Verdict { return s.r.Log[len(s.r.Log)-1] }

func (s *story) main(typ, key string, sender id.User, content string) *matrixtest.Verdict {
	s.t.Helper()
	return s.on(s.head(), typ, key, sender, content)
}

// want resolves the states after a and b and expects an event at a key, nil for none.
func (s *story) want(a, b *matrixtest.Verdict, key event.Key, e *matrixtest.Verdict) {
	s.t.Helper()
	for _, sets := range [][]state{{a.After, b.After}, {b.After, a.After}} {
		got := resolve(s.t, s.r, sets)
		var want id.Event
		if e != nil {
			want = e.Event.ID()
		}
		if got[key] != want {
			s.t.Errorf("%v is %s, want %s\n%s", key, got[key], want, describe(s.r, got))
		}
	}
}

var topic = event.Key{Type: "m.room.topic"}

func memberKey(u id.User) event.Key { return event.Key{Type: event.TypeMember, StateKey: string(u)} }

func TestBanBeatsWhatTheBannedDoMeanwhile(t *testing.T) {
	tell(t, func(s *story) {
		before := s.main("m.room.topic", "", s.creator, `{"topic":"old"}`)
		ban := s.on(before, event.TypeMember, string(s.mod), s.creator, `{"membership":"ban"}`)
		set := s.on(before, "m.room.topic", "", s.mod, `{"topic":"mine"}`)
		s.want(ban, set, memberKey(s.mod), ban)
		s.want(ban, set, topic, before)
	})
}

func TestDemotionBeatsWhatTheDemotedDoMeanwhile(t *testing.T) {
	tell(t, func(s *story) {
		base := s.head()
		joined := s.r.Verdict(base.After[memberKey(s.bob)])
		kick := s.on(base, event.TypeMember, string(s.bob), s.mod, `{"membership":"leave"}`)
		demote := s.on(base, event.TypePowerLevels, "", s.creator, s.levels(0)) // later, but with more power
		s.want(kick, demote, event.Key{Type: event.TypePowerLevels}, demote)
		s.want(kick, demote, memberKey(s.bob), joined)
	})
}

func TestClosingTheDoorBeatsWhoComesInMeanwhile(t *testing.T) {
	tell(t, func(s *story) {
		base := s.head()
		stranger := s.r.Users[5]
		join := s.on(base, event.TypeMember, string(stranger), stranger, `{"membership":"join"}`)
		invite := s.on(base, event.TypeJoinRules, "", s.creator, `{"join_rule":"invite"}`)
		s.want(join, invite, event.Key{Type: event.TypeJoinRules}, invite)
		s.want(join, invite, memberKey(stranger), nil)
	})
}

func TestLaterTopicWins(t *testing.T) {
	tell(t, func(s *story) {
		base := s.head()
		early := s.on(base, "m.room.topic", "", s.creator, `{"topic":"early"}`)
		late := s.on(base, "m.room.topic", "", s.mod, `{"topic":"late"}`)
		s.want(early, late, topic, late)
		// At the same millisecond the greater id is applied last.
		s.now -= 1000
		same := s.on(base, "m.room.topic", "", s.creator, `{"topic":"same"}`)
		last := late
		if same.Event.ID() > late.Event.ID() {
			last = same
		}
		s.want(same, late, topic, last)
	})
}

func TestTopicUnderNewerLevelsWins(t *testing.T) {
	tell(t, func(s *story) {
		base := s.head()
		levels := s.on(base, event.TypePowerLevels, "", s.creator, s.levels(60))
		newer := s.on(levels, "m.room.topic", "", s.mod, `{"topic":"under the new levels"}`)
		// Later by the clock, but its sender did not know the new levels: mainline before timestamp.
		older := s.on(base, "m.room.topic", "", s.creator, `{"topic":"under the old levels"}`)
		s.want(newer, older, event.Key{Type: event.TypePowerLevels}, levels)
		s.want(newer, older, topic, newer)
	})
}

func TestBothLeaveTheOthersAlone(t *testing.T) {
	tell(t, func(s *story) {
		base := s.head()
		name := s.on(base, "m.room.name", "", s.creator, `{"name":"a"}`)
		set := s.on(base, "m.room.topic", "", s.mod, `{"topic":"b"}`)
		s.want(name, set, topic, set)
		s.want(name, set, event.Key{Type: "m.room.name"}, name)
		s.want(name, set, event.CreateKey, s.r.Log[0])
	})
}

// TestVersion1 tells what version 1 does: depth decides, and older state may come back.
func TestVersion1(t *testing.T) {
	t.Parallel()
	s := newStory(t, "1")
	base := s.head()
	// The deeper topic wins, whenever it was set; at the same depth the smaller SHA-1 of the id.
	shallow := s.on(base, "m.room.topic", "", s.creator, `{"topic":"late but shallow"}`)
	deep := s.on(s.on(base, "org.example.state", "", s.creator, `{}`), "m.room.topic", "", s.mod, `{"topic":"deep"}`)
	s.want(shallow, deep, topic, deep)
	same := s.on(base, "m.room.topic", "", s.creator, `{"topic":"same depth"}`)
	x, y := sha1.Sum([]byte(shallow.Event.ID())), sha1.Sum([]byte(same.Event.ID()))
	first := shallow
	if bytes.Compare(x[:], y[:]) > 0 {
		first = same
	}
	s.want(shallow, same, topic, first)
	// What only one side has is no conflict: the ban stands although it is not deeper.
	ban := s.on(base, event.TypeMember, string(s.r.Users[5]), s.creator, `{"membership":"ban"}`)
	s.want(ban, deep, memberKey(s.r.Users[5]), ban)
	// A ban is not followed by what the banned user did deeper down: after it the join is not allowed.
	banned := s.on(base, event.TypeMember, string(s.bob), s.creator, `{"membership":"ban"}`)
	again := s.on(s.on(base, "org.example.state", "x", s.creator, `{}`), event.TypeMember, string(s.bob), s.bob, `{"membership":"join","displayname":"x"}`)
	s.want(banned, again, memberKey(s.bob), banned)
	// Power levels go first, so the topic of whom they demote falls, and the less deep one of the creator stands.
	demoted := s.on(s.on(base, "org.example.state", "y", s.creator, `{}`), event.TypePowerLevels, "", s.creator, s.levels(0))
	own := s.on(demoted, "m.room.topic", "", s.creator, `{"topic":"of the creator"}`)
	raised := s.on(base, event.TypePowerLevels, "", s.creator, s.levels(51))
	for range 4 {
		raised = s.on(raised, "org.example.state", "z", s.mod, fmt.Sprintf(`{"now":%d}`, s.now))
	}
	theirs := s.on(raised, "m.room.topic", "", s.mod, `{"topic":"deepest, without power"}`)
	s.want(own, theirs, event.Key{Type: event.TypePowerLevels}, demoted)
	s.want(own, theirs, topic, own)
}

// SPDX-License-Identifier: Apache-2.0

package authrule

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// CreatorLevel is the level of creators from room version 12 on: above every number that an event can hold.
const CreatorLevel = math.MaxInt64

// PowerLevels answers which level a user has and an action needs. It is a small value over the parsed event, free to
// copy.
type PowerLevels struct {
	content *levels // nil without a power levels event
	info    *createInfo
	above   bool // creators stand above levels
}

// ReadPowerLevels reads the levels of a room from its power levels event (nil when it has none) and its create
// event. It fails when the event holds something that the room version does not take for a level; such an event
// is never allowed into a state.
func ReadPowerLevels(v *roomversion.Version, pl *event.Event, create *event.Event) (PowerLevels, error) {
	p := PowerLevels{above: v.PrivilegedCreators}
	if create != nil {
		p.info = infoOf(create)
	}
	if pl == nil {
		return p, nil
	}
	p.content = levelsOf(v, pl)
	return p, p.content.err
}

// User is the user's level. Creators have CreatorLevel from room version 12 on.
func (p PowerLevels) User(u id.User) int64 {
	if p.above && p.info != nil && slices.Contains(p.info.creators, u) {
		return CreatorLevel
	}
	if p.content == nil {
		if !p.above && p.info != nil && u == p.info.creator {
			return 100
		}
		return 0
	}
	if l, ok := p.content.users[string(u)]; ok {
		return l
	}
	return p.top(usersDefault, 0)
}

// Event is the level that sending an event of the type needs.
func (p PowerLevels) Event(typ string, state bool) int64 {
	if p.content != nil {
		if l, ok := p.content.events[typ]; ok {
			return l
		}
	}
	if state {
		return p.top(stateDefault, 50)
	}
	return p.top(eventsDefault, 0)
}

// Invite is the level that inviting needs.
func (p PowerLevels) Invite() int64 { return p.top(invite, 0) }

// Kick is the level that kicking needs, beside standing above the target.
func (p PowerLevels) Kick() int64 { return p.top(kick, 50) }

// Ban is the level that banning and unbanning need, beside standing above the target.
func (p PowerLevels) Ban() int64 { return p.top(ban, 50) }

// Redact is the level that redacting events of other servers' users needs.
func (p PowerLevels) Redact() int64 { return p.top(redact, 50) }

// Notification is the level that a notification of the key needs, e.g. "room"; 50 when not set.
func (p PowerLevels) Notification(key string) int64 {
	if p.content != nil {
		if l, ok := p.content.notifications[key]; ok {
			return l
		}
	}
	return 50
}

func (p PowerLevels) top(i int, missing int64) int64 {
	if p.content != nil && p.content.top[i].set {
		return p.content.top[i].value
	}
	return missing
}

// Indexes into levels.top, in the order of topNames.
const (
	usersDefault = iota
	eventsDefault
	stateDefault
	ban
	redact
	kick
	invite
	topCount
)

var topNames = [topCount]string{"users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"}

type level struct {
	value int64
	set   bool
}

// levels is the content of a power levels event.
type levels struct {
	top                          [topCount]level
	users, events, notifications map[string]int64
	err                          error
}

func levelsOf(v *roomversion.Version, pl *event.Event) *levels {
	if pl.Type() != event.TypePowerLevels {
		return &levels{err: fmt.Errorf("%s is not a power levels event", pl.ID())}
	}
	return pl.Memo(func() any { return parseLevels(v, pl.Content()) }).(*levels)
}

func parseLevels(v *roomversion.Version, content jsontext.Value) *levels {
	l := &levels{}
	for name, value := range canonicaljson.Members(content) {
		switch n := string(name); n {
		case "users":
			l.users = l.object(v, n, value)
			for u := range l.users {
				if _, err := id.ParseUser(u); err != nil {
					l.fail(fmt.Errorf("power levels: users: %w", err))
				}
			}
		case "events":
			l.events = l.object(v, n, value)
		case "notifications":
			l.notifications = l.object(v, n, value)
		default:
			if i := slices.Index(topNames[:], n); i >= 0 {
				number, ok := readLevel(v, value)
				if !ok {
					l.fail(fmt.Errorf("power levels: %s is not an integer", n))
				}
				l.top[i] = level{number, true}
			}
		}
	}
	return l
}

func (l *levels) fail(err error) {
	if l.err == nil {
		l.err = err
	}
}

func (l *levels) object(v *roomversion.Version, name string, value jsontext.Value) map[string]int64 {
	if !canonicaljson.IsObject(value) {
		if value.Kind() == 'n' && name != "users" && !v.IntegerPowerLevels {
			return nil // occurs in old rooms; nothing forbade it
		}
		l.fail(fmt.Errorf("power levels: %s is not an object", name))
		return nil
	}
	m := make(map[string]int64)
	for key, value := range canonicaljson.Members(value) {
		number, ok := readLevel(v, value)
		if !ok {
			l.fail(fmt.Errorf("power levels: %s of %q is not an integer", name, key))
		}
		m[string(key)] = number
	}
	return m
}

// readLevel reads one level: a JSON integer, before version 10 also a string that is one, and before version 6 any
// number ("m.room.power_levels events accept values as floats").
func readLevel(v *roomversion.Version, value jsontext.Value) (int64, bool) {
	if n, ok := canonicaljson.Int(value); ok || v.IntegerPowerLevels {
		return n, ok
	}
	if value.Kind() == '0' && !v.StrictJSON {
		return truncated(value)
	}
	s, ok := canonicaljson.String(value)
	if !ok {
		return 0, false
	}
	s = strings.TrimSpace(s)
	digits := strings.TrimLeft(s, "+-")
	if len(s)-len(digits) > 1 || digits == "" {
		return 0, false
	}
	for i := range len(digits) {
		if digits[i] < '0' || digits[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// truncated is a number without what stands behind its point; numbers beyond all integers are the greatest one.
func truncated(value jsontext.Value) (int64, bool) {
	f, err := strconv.ParseFloat(string(value), 64)
	switch {
	case err != nil:
		return 0, false
	case f >= math.MaxInt64:
		return math.MaxInt64, true
	case f <= math.MinInt64:
		return math.MinInt64, true
	}
	return int64(f), true
}

// powerLevels is the rule about changes of m.room.power_levels (9 until version 11, 10 in version 12).
func (c *check) powerLevels(sender int64) error {
	next := levelsOf(c.v, c.e)
	if next.err != nil {
		return deny("%v", next.err)
	}
	if c.v.PrivilegedCreators {
		for _, u := range c.info.creators {
			if _, ok := next.users[string(u)]; ok {
				return deny("creator %s stands among users of the power levels", u)
			}
		}
	}
	current := c.state.Get(powerLevelsKey)
	if current == nil {
		return nil
	}
	have := levelsOf(c.v, current)
	if have.err != nil {
		return deny("%v", have.err)
	}
	for i, name := range topNames {
		old, new := have.top[i], next.top[i]
		if old == new {
			continue
		}
		if old.set && old.value > sender || new.set && new.value > sender {
			return deny("sender with level %d cannot change %s", sender, name)
		}
	}
	if err := changed("events", have.events, next.events, sender, nil); err != nil {
		return err
	}
	if c.v.NotificationLevels {
		if err := changed("notifications", have.notifications, next.notifications, sender, nil); err != nil {
			return err
		}
	}
	own := string(c.e.Sender())
	return changed("users", have.users, next.users, sender, &own)
}

// changed checks the entries of one map. With own set, entries are of users: nobody touches another user of his own
// level or above.
func changed(name string, old, new map[string]int64, sender int64, own *string) error {
	for key, was := range old {
		now, still := new[key]
		if still && now == was {
			continue
		}
		if was > sender || own != nil && key != *own && was >= sender {
			return deny("sender with level %d cannot change %s of %q from %d", sender, name, key, was)
		}
	}
	for key, now := range new {
		if was, before := old[key]; before && was == now {
			continue
		}
		if now > sender {
			return deny("sender with level %d cannot set %s of %q to %d", sender, name, key, now)
		}
	}
	return nil
}

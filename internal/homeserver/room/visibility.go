// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// The values of m.room.history_visibility.
const (
	worldReadable = "world_readable"
	shared        = "shared"
	invited       = "invited"
	joined        = "joined"
)

// sight is what one snapshot says about somebody's right to see.
type sight struct{ visibility, membership string }

// Visible returns those of a room's events that a local user may see, each as the user may see it (see [Service.Erase]), in their order, decided for each by the state before it (engine rule
// 15); for the user's own membership event also by the state after. Under "shared" a user who has been joined since may see too.
func (s *Service) Visible(ctx context.Context, t tenant.ID, user id.User, roomNID int64, events []*Event) ([]*Event, error) {
	joinedLater, err := s.everJoined(ctx, t, user, roomNID)
	if err != nil {
		return nil, err
	}
	return s.visible(ctx, t, user, events, joinedLater)
}

// VisibleToMember is Visible for a user who is known to be joined to the room now.
func (s *Service) VisibleToMember(ctx context.Context, t tenant.ID, user id.User, events []*Event) ([]*Event, error) {
	return s.visible(ctx, t, user, events, func(*Event) bool { return true })
}

func (s *Service) visible(ctx context.Context, t tenant.ID, user id.User, events []*Event, joinedLater func(*Event) bool) ([]*Event, error) {
	v := viewer{s: s, t: t, user: user, cache: map[int64]sight{}}
	erased, err := s.Erased(ctx, t)
	if err != nil {
		return nil, err
	}
	out := make([]*Event, 0, len(events))
	for _, e := range events {
		ok, err := v.sees(ctx, e, joinedLater)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		if erased[e.Sender()] {
			if then, err := v.at(ctx, e.Snapshot); err != nil {
				return nil, err
			} else if then.membership != "join" {
				if e, err = withoutContent(e); err != nil {
					return nil, err
				}
			}
		}
		out = append(out, e)
	}
	return out, nil
}

// everJoined returns a test whether the user was joined at or after an event's place in time; a current member always was.
func (s *Service) everJoined(ctx context.Context, t tenant.ID, user id.User, roomNID int64) (func(*Event) bool, error) {
	m, err := s.Membership(ctx, t, roomNID, user)
	if err != nil {
		return nil, err
	}
	if m.Membership == "join" {
		return func(*Event) bool { return true }, nil
	}
	if m.Membership == "" || m.Event == "" {
		return func(*Event) bool { return false }, nil
	}
	left, err := s.Events(ctx, t, []id.Event{m.Event})
	if err != nil {
		return nil, err
	}
	last := left[m.Event]
	if last == nil || last.Outlier {
		return func(*Event) bool { return false }, nil
	}
	before, err := s.StateBefore(ctx, t, last)
	if err != nil {
		return nil, err
	}
	was, err := s.StateEvent(ctx, t, before, memberKey(user))
	if err != nil {
		return nil, err
	}
	if was == nil || was.Membership() != "join" {
		return func(*Event) bool { return false }, nil
	}
	return func(e *Event) bool {
		return e.Topological < last.Topological || (e.Position > 0 && e.Position <= last.Position)
	}, nil
}

type viewer struct {
	s     *Service
	t     tenant.ID
	user  id.User
	cache map[int64]sight
}

func (v *viewer) sees(ctx context.Context, e *Event, joinedLater func(*Event) bool) (bool, error) {
	if e.Outlier || e.Rejected || e.SoftFailed {
		return false, nil
	}
	before, err := v.at(ctx, e.Snapshot)
	if err != nil {
		return false, err
	}
	if e.Key() == memberKey(v.user) && e.IsState() {
		after, err := v.at(ctx, e.SnapshotAfter)
		if err != nil {
			return false, err
		}
		if allows(after.visibility, after.membership, false) {
			return true, nil
		}
	}
	// A change of the visibility is seen by whoever may see under either value.
	if e.Type() == "m.room.history_visibility" && e.IsState() {
		after, err := v.at(ctx, e.SnapshotAfter)
		if err != nil {
			return false, err
		}
		if allows(after.visibility, after.membership, joinedLater(e)) {
			return true, nil
		}
	}
	return allows(before.visibility, before.membership, joinedLater(e)), nil
}

// allows is the rule of the specification's history visibility for one event.
func allows(visibility, membership string, joinedLater bool) bool {
	switch {
	case visibility == worldReadable, membership == "join":
		return true
	case visibility == invited:
		return membership == "invite"
	case visibility == joined:
		return false
	default: // shared, and unknown values
		return joinedLater
	}
}

func (v *viewer) at(ctx context.Context, snapshot int64) (sight, error) {
	if c, ok := v.cache[snapshot]; ok {
		return c, nil
	}
	state, err := v.s.StateAt(ctx, v.t, snapshot)
	if err != nil {
		return sight{}, err
	}
	found, err := v.s.pick(ctx, v.t, state, []event.Key{{Type: "m.room.history_visibility"}, memberKey(v.user)})
	if err != nil {
		return sight{}, err
	}
	c := sight{visibility: shared}
	if e := found[event.Key{Type: "m.room.history_visibility"}]; e != nil {
		c.visibility = stringField(e.Content(), "history_visibility")
	}
	if e := found[memberKey(v.user)]; e != nil {
		c.membership = e.Membership()
	}
	v.cache[snapshot] = c
	return c, nil
}

// VisibleToServer returns those of a room's events that a server may have, each as it may have it: events of which no user of the server may
// know the content come redacted (server-server API, backfilling).
func (s *Service) VisibleToServer(ctx context.Context, t tenant.ID, server id.Server, events []*Event) ([]*Event, error) {
	cache, there := map[int64]bool{}, map[int64]bool{}
	erased, err := s.Erased(ctx, t)
	if err != nil {
		return nil, err
	}
	out := make([]*Event, 0, len(events))
	for _, e := range events {
		if e.Outlier || e.Rejected {
			continue
		}
		ok, done := cache[e.Snapshot]
		if !done {
			var err error
			if ok, err = s.serverSees(ctx, t, server, e.Snapshot); err != nil {
				return nil, err
			}
			cache[e.Snapshot] = ok
		}
		if !ok && e.Sender().Server() != server && (!e.IsState() || id.User(*e.StateKey()).Server() != server) {
			if e, err = withoutContent(e); err != nil {
				return nil, err
			}
		} else if ok && erased[e.Sender()] {
			was, done := there[e.Snapshot]
			if !done {
				if was, err = s.serverThere(ctx, t, server, e.Snapshot, false); err != nil {
					return nil, err
				}
				there[e.Snapshot] = was
			}
			if !was {
				if e, err = withoutContent(e); err != nil {
					return nil, err
				}
			}
		}
		out = append(out, e)
	}
	return out, nil
}

func (s *Service) serverSees(ctx context.Context, t tenant.ID, server id.Server, snapshot int64) (bool, error) {
	state, err := s.StateAt(ctx, t, snapshot)
	if err != nil {
		return false, err
	}
	hv, err := s.StateEvent(ctx, t, state, event.Key{Type: "m.room.history_visibility"})
	if err != nil {
		return false, err
	}
	visibility := shared
	if hv != nil {
		visibility = stringField(hv.Content(), "history_visibility")
	}
	if visibility != invited && visibility != joined {
		return true, nil
	}
	return s.serverThere(ctx, t, server, snapshot, visibility == invited)
}

// serverThere says whether a user of a server was joined, or with invites at least invited, in a state.
func (s *Service) serverThere(ctx context.Context, t tenant.ID, server id.Server, snapshot int64, invites bool) (bool, error) {
	state, err := s.StateAt(ctx, t, snapshot)
	if err != nil {
		return false, err
	}
	var keys []event.Key
	for k := range state {
		if k.Type == "m.room.member" && id.User(k.StateKey).Server() == server {
			keys = append(keys, k)
		}
	}
	members, err := s.pick(ctx, t, state, keys)
	if err != nil {
		return false, err
	}
	for _, m := range members {
		if m.Membership() == "join" || (invites && m.Membership() == "invite") {
			return true, nil
		}
	}
	return false, nil
}

// SPDX-License-Identifier: Apache-2.0

package ephemeral

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

const (
	online  = "online"
	offline = "offline"
	away    = "unavailable"
	// offlineAfter: a user whose clients have not synced for so long is offline. It is longer than a sync may wait.
	offlineAfter = 2 * time.Minute
	// maxStatus bounds a status message in bytes, maxPresence the users of an EDU.
	maxStatus   = 1024
	maxPresence = 500
)

// presence is what this node knows of users who are or were online. It is empty while presence is off.
type presence struct {
	mu    sync.Mutex
	users map[tenant.ID]map[id.User]*presenceState
	// latest is each tenant's counter at the last change, so that a sync looks only when there is something.
	latest map[tenant.ID]uint64
}

type presenceState struct {
	State  string
	Status string
	Active time.Time
	// changed is the node's counter at the last change.
	changed uint64
	stop    func() bool
}

func newPresence() *presence {
	return &presence{users: map[tenant.ID]map[id.User]*presenceState{}, latest: map[tenant.ID]uint64{}}
}

func (p *presence) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, users := range p.users {
		for _, u := range users {
			if u.stop != nil {
				u.stop()
			}
		}
	}
	clear(p.users)
}

// presenceContent is the content of an m.presence event and the answer of the status endpoint.
type presenceContent struct {
	Presence string  `json:"presence"`
	Ago      *int64  `json:"last_active_ago,omitzero"`
	Current  *bool   `json:"currently_active,omitzero"`
	Status   *string `json:"status_msg,omitzero"`
}

func (u *presenceState) content(now time.Time) presenceContent {
	ago := max(now.Sub(u.Active).Milliseconds(), 0)
	c := presenceContent{Presence: u.State, Ago: &ago}
	if u.State == online {
		current := now.Sub(u.Active) < offlineAfter
		c.Current = &current
	}
	if u.Status != "" {
		c.Status = &u.Status
	}
	return c
}

func (s *Service) putPresence(ctx context.Context, r *httpapi.Request) (any, error) {
	var body struct {
		Presence string  `json:"presence"`
		Status   *string `json:"status_msg"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if id.User(r.Var("userId")) != r.Session.User {
		return nil, mxerror.Forbidden.With("You can only set your own presence.")
	}
	if !validPresence(body.Presence) {
		return nil, mxerror.InvalidParam.With("presence must be online, offline or unavailable")
	}
	status := ""
	if body.Status != nil {
		status = *body.Status
	}
	if len(status) > maxStatus {
		return nil, mxerror.InvalidParam.With("the status message is too long")
	}
	if s.o.Policy != nil {
		if err := s.o.Policy.Presence(r.Tenant, status); err != nil {
			return nil, err
		}
	}
	if !s.o.Presence {
		return nil, nil
	}
	return nil, s.setPresence(ctx, r.Tenant, r.Session.User, body.Presence, &status)
}

func validPresence(state string) bool { return state == online || state == offline || state == away }

func (s *Service) getPresence(ctx context.Context, r *httpapi.Request) (any, error) {
	user, err := id.ParseUser(r.Var("userId"))
	if err != nil {
		return nil, mxerror.InvalidParam.With("this is no user id")
	}
	if user != r.Session.User {
		shares, err := s.o.Rooms.SharesRoom(ctx, r.Tenant.ID, r.Session.User, user)
		if err != nil {
			return nil, err
		}
		if !shares {
			return nil, mxerror.Forbidden.With("You share no room with this user.")
		}
	}
	s.presence.mu.Lock()
	defer s.presence.mu.Unlock()
	if u := s.presence.users[r.Tenant.ID][user]; u != nil {
		return u.content(s.o.Now()), nil
	}
	return presenceContent{Presence: offline}, nil
}

// Active notes that a user's client syncs: with state "offline" it does not count, with "" it is online.
func (s *Service) Active(ctx context.Context, t *tenant.Tenant, user id.User, state string) error {
	if !s.o.Presence || state == offline {
		return nil
	}
	if state == "" {
		state = online
	}
	return s.setPresence(ctx, t, user, state, nil)
}

// setPresence stores a local user's state and tells who shares a room; a nil status stays as it is.
func (s *Service) setPresence(ctx context.Context, t *tenant.Tenant, user id.User, state string, status *string) error {
	p := s.presence
	p.mu.Lock()
	u := p.of(t.ID, user)
	changed := u.State != state || status != nil && *status != u.Status
	u.State, u.Active = state, s.o.Now()
	if status != nil {
		u.Status = *status
	}
	if u.stop != nil {
		u.stop()
		u.stop = nil
	}
	if state != offline {
		u.stop = s.o.After(offlineAfter, func() {
			if err := s.setPresence(context.Background(), t, user, offline, nil); err != nil {
				s.o.Log.Warn("presence was not passed on", "error", err)
			}
		})
	}
	content := u.content(s.o.Now())
	p.mu.Unlock()
	if !changed {
		return nil
	}
	servers, err := s.announce(ctx, t, user)
	if err != nil || s.o.Send == nil || len(servers) == 0 {
		return err
	}
	raw, err := json.Marshal(presenceEDU{[]presenceUpdate{{user, content}}})
	if err != nil {
		return err
	}
	s.o.Send(ctx, t, servers, EDUPresence, string(user), raw)
	return nil
}

// of returns a user's state, new ones offline. The caller holds the mutex.
func (p *presence) of(t tenant.ID, user id.User) *presenceState {
	if p.users[t] == nil {
		p.users[t] = map[id.User]*presenceState{}
	}
	if p.users[t][user] == nil {
		p.users[t][user] = &presenceState{State: offline}
	}
	return p.users[t][user]
}

// announce wakes the local users who share a room with somebody and returns the other servers that do.
func (s *Service) announce(ctx context.Context, t *tenant.Tenant, user id.User) ([]id.Server, error) {
	shared, err := s.o.Rooms.SharedUsers(ctx, t.ID, user)
	if err != nil {
		return nil, err
	}
	var audience []id.User
	var servers []id.Server
	for u := range shared {
		if server := u.Server(); server == t.Name {
			audience = append(audience, u)
		} else if !slices.Contains(servers, server) {
			servers = append(servers, server)
		}
	}
	p := s.presence
	p.mu.Lock()
	defer p.mu.Unlock()
	n := s.o.Feed.WakeUsers(t.ID, audience...)
	p.of(t.ID, user).changed = n
	p.latest[t.ID] = n
	if s.o.PresenceChanged != nil {
		s.o.PresenceChanged(t.ID, user)
	}
	return servers, nil
}

// presenceEDU is the content of an m.presence EDU.
type presenceEDU struct {
	Push []presenceUpdate `json:"push"`
}

type presenceUpdate struct {
	User id.User `json:"user_id"`
	presenceContent
}

// ReceivePresence takes an m.presence EDU; while presence is off it is dropped.
func (s *Service) ReceivePresence(ctx context.Context, t *tenant.Tenant, origin id.Server, content jsontext.Value) error {
	var edu presenceEDU
	if !s.o.Presence || json.Unmarshal(content, &edu) != nil {
		return nil
	}
	for i, update := range edu.Push {
		if i == maxPresence || update.User.Server() != origin || !validPresence(update.Presence) {
			continue
		}
		s.presence.mu.Lock()
		u := s.presence.of(t.ID, update.User)
		u.State, u.Status, u.Active = update.Presence, "", s.o.Now()
		if update.Status != nil && len(*update.Status) <= maxStatus {
			u.Status = *update.Status
		}
		if update.Ago != nil && *update.Ago > 0 {
			u.Active = u.Active.Add(-time.Duration(min(*update.Ago, (24*time.Hour).Milliseconds())) * time.Millisecond)
		}
		s.presence.mu.Unlock()
		if _, err := s.announce(ctx, t, update.User); err != nil {
			return err
		}
	}
	return nil
}

// PresenceEvent is an m.presence event as /sync shows it.
type PresenceEvent struct {
	Type    string          `json:"type"`
	Sender  id.User         `json:"sender"`
	Content presenceContent `json:"content"`
}

// PresenceOf returns the presence of some users as far as it is known here; the caller knows who may see it.
func (s *Service) PresenceOf(t tenant.ID, users map[id.User]bool) []PresenceEvent {
	if !s.o.Presence || len(users) == 0 {
		return nil
	}
	s.presence.mu.Lock()
	defer s.presence.mu.Unlock()
	var out []PresenceEvent
	for u, wanted := range users {
		if state := s.presence.users[t][u]; wanted && state != nil {
			out = append(out, PresenceEvent{EDUPresence, u, state.content(s.o.Now())})
		}
	}
	slices.SortFunc(out, func(a, b PresenceEvent) int { return cmp.Compare(a.Sender, b.Sender) })
	return out
}

// PresenceSince returns the presence of those who share a room with the user, as far as it changed after a counter of this node.
func (s *Service) PresenceSince(ctx context.Context, t tenant.ID, user id.User, since uint64) ([]PresenceEvent, error) {
	s.presence.mu.Lock()
	nothing := s.presence.latest[t] <= since
	s.presence.mu.Unlock()
	if !s.o.Presence || nothing {
		return nil, nil
	}
	shared, err := s.o.Rooms.SharedUsers(ctx, t, user)
	if err != nil {
		return nil, err
	}
	s.presence.mu.Lock()
	defer s.presence.mu.Unlock()
	var out []PresenceEvent
	for u, state := range s.presence.users[t] {
		if _, ok := shared[u]; ok && state.changed > since {
			out = append(out, PresenceEvent{EDUPresence, u, state.content(s.o.Now())})
		}
	}
	slices.SortFunc(out, func(a, b PresenceEvent) int { return cmp.Compare(a.Sender, b.Sender) })
	return out, nil
}

// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// maxJoinServers is how many servers a join tries.
const maxJoinServers = 10

// Join makes a local user a member of a room, through another server when no local user is in it. via are servers to try first; reason may be
// empty; extra are further fields of the member event's content (third_party_signed has become third_party_invite by then).
func (s *Service) Join(ctx context.Context, t *tenant.Tenant, user id.User, room id.Room, via []id.Server, reason string) error {
	if err := s.mayEnter(ctx, t.ID, room); err != nil {
		return err
	}
	key := fmt.Sprintf("%d %s", t.ID, room)
	if err := s.joins.enter(ctx, key); err != nil {
		return err
	}
	defer s.joins.leave(key)
	r, err := s.Lookup(ctx, t.ID, room)
	if err != nil && !errors.Is(err, mxerror.NotFound) {
		return err
	}
	in, m := false, Member{}
	if r != nil {
		if m, err = s.Membership(ctx, t.ID, r.NID, user); err != nil {
			return err
		}
		if in, err = s.ServerInRoom(ctx, t.ID, r.NID, t.Name); err != nil {
			return err
		}
		if in && m.Membership == "join" {
			return nil
		}
		via = s.joinServers(ctx, t, r, m, via)
	} else {
		via = withRoomServer(via, room)
	}
	if in {
		early, err := s.aheadOfRoom(ctx, t.ID, m)
		if err != nil {
			return err
		}
		err = s.joinHere(ctx, t, r, user, reason)
		switch {
		case err == nil:
			s.entered(ctx, t, user, room)
			return nil
		case errors.Is(err, mxerror.UnableToAuthoriseJoin):
			servers, serr := s.JoinedServers(ctx, t.ID, r.NID) // somebody else may vouch for the user
			if serr != nil {
				return serr
			}
			via = append(via, servers...)
		case !early || !errors.Is(err, mxerror.Forbidden):
			return err
		}
	}
	if err := s.joinElsewhere(ctx, t, r, user, room, via, reason, in); err != nil {
		return err
	}
	s.entered(ctx, t, user, room)
	return nil
}

// aheadOfRoom says whether an invitation has reached the user but not the room as it is here: the inviter's server hands it over on its own, before it
// sends the event to the room's servers. Until then only that server can let the user in.
func (s *Service) aheadOfRoom(ctx context.Context, t tenant.ID, m Member) (bool, error) {
	if m.Membership != "invite" {
		return false, nil
	}
	found, err := s.Events(ctx, t, []id.Event{m.Event})
	return found[m.Event] == nil, err
}

// joinServers completes the servers to try by the inviter's and the room's.
func (s *Service) joinServers(ctx context.Context, t *tenant.Tenant, r *Room, m Member, via []id.Server) []id.Server {
	if m.Membership == "invite" {
		if inviter, err := s.inviter(ctx, t.ID, m.User, r.NID); err == nil && inviter != "" {
			via = append(slices.Clone(via), inviter.Server())
		}
	}
	return withRoomServer(via, r.ID)
}

func withRoomServer(via []id.Server, room id.Room) []id.Server {
	if server, ok := room.Server(); ok {
		return append(slices.Clone(via), server)
	}
	return via
}

// inviter returns who sent a local user the invite stored for a room.
func (s *Service) inviter(ctx context.Context, t tenant.ID, user id.User, roomNID int64) (id.User, error) {
	stripped, err := s.InviteState(ctx, t, user, roomNID)
	if err != nil {
		return "", err
	}
	for _, raw := range stripped {
		var e struct {
			Type     string  `json:"type"`
			StateKey string  `json:"state_key"`
			Sender   id.User `json:"sender"`
		}
		if json.Unmarshal(raw, &e) == nil && e.Type == "m.room.member" && e.StateKey == string(user) {
			return e.Sender, nil
		}
	}
	return "", nil
}

// joinHere joins a room that the server is in.
func (s *Service) joinHere(ctx context.Context, t *tenant.Tenant, r *Room, user id.User, reason string) error {
	content, err := s.memberContent(ctx, t, user, "join", reason)
	if err != nil {
		return err
	}
	d := stateDraft("m.room.member", string(user), content)
	d.Room, d.Sender = r.ID, user
	_, err = s.append(ctx, t, r, d, func(state State, d *Draft) error {
		authoriser, err := s.authoriser(ctx, t, r, state, user)
		if err != nil || authoriser == "" {
			return err
		}
		d.Content = withField(d.Content, "join_authorised_via_users_server", string(authoriser))
		return nil
	})
	return err
}

// withField returns an object with one more string field.
func withField(content jsontext.Value, name, value string) jsontext.Value {
	m := map[string]any{}
	var raw map[string]jsontext.Value
	if json.Unmarshal(content, &raw) == nil {
		for k, v := range raw {
			m[k] = v
		}
	}
	m[name] = value
	return object(m)
}

// joinRules is the content of m.room.join_rules.
type joinRules struct {
	JoinRule string `json:"join_rule"`
	Allow    []struct {
		Type   string  `json:"type"`
		RoomID id.Room `json:"room_id"`
	} `json:"allow"`
}

// authoriser decides on a restricted join: it returns the local user who vouches for the joining one, or "" when nobody has to. It answers
// M_UNABLE_TO_AUTHORISE_JOIN when the allowed rooms are not known here, M_UNABLE_TO_GRANT_JOIN when no local user may invite, and M_FORBIDDEN
// when the user is in none of them.
func (s *Service) authoriser(ctx context.Context, t *tenant.Tenant, r *Room, state State, user id.User) (id.User, error) {
	found, err := s.pick(ctx, t.ID, state, []event.Key{{Type: "m.room.join_rules"}, memberKey(user)})
	if err != nil {
		return "", err
	}
	rulesEvent := found[event.Key{Type: "m.room.join_rules"}]
	if rulesEvent == nil || !r.Version.RestrictedJoins {
		return "", nil
	}
	var rules joinRules
	if json.Unmarshal(rulesEvent.Content(), &rules) != nil {
		return "", nil
	}
	if rules.JoinRule != "restricted" && (rules.JoinRule != "knock_restricted" || !r.Version.KnockRestricted) {
		return "", nil
	}
	if m := found[memberKey(user)]; m != nil && (m.Membership() == "invite" || m.Membership() == "join") {
		return "", nil
	}
	unknown, ok := false, false
	for _, a := range rules.Allow {
		if a.Type != "m.room_membership" {
			continue
		}
		allowed, known, err := s.inAllowedRoom(ctx, t, a.RoomID, user)
		if err != nil {
			return "", err
		}
		ok = ok || allowed
		unknown = unknown || !known
	}
	switch {
	case !ok && unknown:
		return "", mxerror.UnableToAuthoriseJoin.With("This server cannot tell whether %s is in a room that allows the join.", user)
	case !ok:
		return "", mxerror.Forbidden.With("%s is in none of the rooms that allow to join this one.", user)
	}
	return s.whoMayInvite(ctx, t, r, state)
}

// inAllowedRoom says whether the user is in a room that allows the join; known is false when this server is not in that room.
func (s *Service) inAllowedRoom(ctx context.Context, t *tenant.Tenant, room id.Room, user id.User) (allowed, known bool, err error) {
	a, err := s.Lookup(ctx, t.ID, room)
	if errors.Is(err, mxerror.NotFound) {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	if known, err = s.ServerInRoom(ctx, t.ID, a.NID, t.Name); err != nil || !known {
		return false, false, err
	}
	m, err := s.Membership(ctx, t.ID, a.NID, user)
	return m.Membership == "join", true, err
}

func (s *Service) whoMayInvite(ctx context.Context, t *tenant.Tenant, r *Room, state State) (id.User, error) {
	levels, err := s.PowerLevels(ctx, t.ID, state)
	if err != nil {
		return "", err
	}
	users, err := s.JoinedUsers(ctx, t.ID, r.NID)
	if err != nil {
		return "", err
	}
	var best id.User
	for _, u := range users {
		if u.Server() == t.Name && levels.User(u) >= levels.Invite() && (best == "" || levels.User(u) > levels.User(best)) {
			best = u
		}
	}
	if best == "" {
		return "", mxerror.UnableToGrantJoin.With("No user of this server may invite to the room.")
	}
	return best, nil
}

// joinElsewhere joins through the first server that lets us.
func (s *Service) joinElsewhere(ctx context.Context, t *tenant.Tenant, r *Room, user id.User, room id.Room, via []id.Server, reason string, in bool) error {
	if s.Remote == nil {
		return mxerror.NotFound.With("This room is not known here.")
	}
	var last error
	tried := map[id.Server]bool{t.Name: true}
	for _, server := range via {
		if tried[server] || len(tried) > maxJoinServers {
			continue
		}
		tried[server] = true
		err := s.joinThrough(ctx, t, r, user, room, server, reason, in)
		if err == nil {
			return nil
		}
		s.Log.InfoContext(ctx, "join through another server", "server", server, "error", err)
		if last == nil || mxerror.From(err) != nil {
			last = err
		}
	}
	if last == nil {
		return mxerror.NotFound.With("No server is known that could let %s into the room.", user)
	}
	if e := mxerror.From(last); e != nil {
		return e
	}
	return mxerror.New(502, "M_UNKNOWN", "No server in the room could be reached.")
}

func (s *Service) joinThrough(ctx context.Context, t *tenant.Tenant, r *Room, user id.User, room id.Room, server id.Server, reason string, in bool) error {
	tmpl, err := s.Remote.MakeJoin(ctx, t, server, room, user, roomversion.Supported())
	if err != nil {
		return err
	}
	if r != nil && r.Version.ID != tmpl.Version.ID {
		return fmt.Errorf("%s says that the room has version %s, not %s", server, tmpl.Version.ID, r.Version.ID)
	}
	content, err := s.memberContent(ctx, t, user, "join", reason)
	if err != nil {
		return err
	}
	e, err := s.fromTemplate(ctx, t, tmpl, room, user, content)
	if err != nil {
		return err
	}
	joined, err := s.Remote.SendJoin(ctx, t, server, e)
	if err != nil {
		return err
	}
	if joined.Event == nil || joined.Event.ID() != e.ID() {
		joined.Event = e
	}
	if in { // another server vouched for it or knew the invitation; the room is here already
		return s.Accept(ctx, t, server, joined.Event)
	}
	return s.enter(ctx, t, r, tmpl.Version, room, joined)
}

// fromTemplate makes our event of a make_join, make_leave or make_knock answer. Of the answer it takes what the server must know (prev and auth
// events, depth, the authoriser), the rest it says itself.
func (s *Service) fromTemplate(ctx context.Context, t *tenant.Tenant, tmpl Template, room id.Room, user id.User, content jsontext.Value) (*event.Event, error) {
	d, err := event.ParseProto(tmpl.Version, tmpl.Event)
	if err != nil {
		return nil, fmt.Errorf("event template: %w", err)
	}
	if d.Type != "m.room.member" || d.Room != room || d.Sender != user || d.StateKey == nil || *d.StateKey != string(user) {
		return nil, errors.New("the event template is for something else than what was asked")
	}
	if authoriser := stringField(d.Content, "join_authorised_via_users_server"); authoriser != "" {
		content = withField(content, "join_authorised_via_users_server", authoriser)
	}
	key, err := s.Keyring.Signing(ctx, t.ID)
	if err != nil {
		return nil, err
	}
	d.Content, d.Timestamp = content, s.now().UnixMilli()
	return d.Build(t.Name, key.ID, key.Private)
}

// enter stores the room that a join opened to us: its state and auth chain as outliers, the memberships, and our join as its extremity.
func (s *Service) enter(ctx context.Context, t *tenant.Tenant, r *Room, v *roomversion.Version, room id.Room, joined Joined) error {
	if r == nil {
		r = &Room{NID: database.NewID(), ID: room, Version: v}
		if err := s.storeRoom(ctx, t.ID, r); err != nil {
			return err
		}
	} else if err := s.ensureHead(ctx, t.ID, r); err != nil {
		return err
	}
	all := append(slices.Clone(joined.AuthChain), joined.State...)
	if err := s.storeOutliers(ctx, t, r, all); err != nil {
		return err
	}
	ids := make([]id.Event, len(joined.State))
	for i, e := range joined.State {
		ids[i] = e.ID()
	}
	stored, err := s.Events(ctx, t.ID, ids)
	if err != nil {
		return err
	}
	before := State{}
	for _, e := range stored {
		if e.IsState() && !e.Rejected && e.RoomNID == r.NID {
			before[e.Key()] = e.ID()
		}
	}
	if err := s.allowed(ctx, t.ID, joined.Event, before); err != nil {
		return mxerror.Forbidden.With("The room's state does not allow the join: %v", err)
	}
	if err := s.memberships(ctx, t, r, before, stored); err != nil {
		return err
	}
	s.heads.cache.Invalidate(headKey{t.ID, r.NID})
	_, err = s.commit(ctx, t, r, func(h *head) (addition, error) {
		kept, err := s.untold(ctx, t, r, h, joined, all)
		if err != nil {
			return addition{}, err
		}
		b, stmts := snapshot{state: State{}}.next(t.ID, r.NID, before)
		return addition{event: joined.Event, before: b, stmts: stmts, fresh: true, kept: kept, missing: joined.Event.PrevEvents()}, nil
	})
	if err != nil {
		return err
	}
	return s.arrived(ctx, t, r, joined.Event.Sender())
}

// untold lists the room's old ends that are our own events and of which the resident server has not shown to know. Others will learn of them and
// merge them; we must do the same, or we would see another room than they do.
func (s *Service) untold(ctx context.Context, t *tenant.Tenant, r *Room, h *head, joined Joined, told []*event.Event) ([]id.Event, error) {
	ends, err := s.known(ctx, t.ID, r.NID, h.extremities)
	if err != nil {
		return nil, err
	}
	for _, e := range told {
		delete(ends, e.ID())
	}
	for _, eid := range joined.Event.PrevEvents() {
		delete(ends, eid)
	}
	var kept []id.Event
	for _, eid := range h.extremities {
		if e := ends[eid]; e != nil && e.Sender().Server() == t.Name {
			kept = append(kept, eid)
		}
	}
	return kept, nil
}

// arrived refuses a join that went under in the merge with what we did before and the others do not know yet: mostly that the user had left.
func (s *Service) arrived(ctx context.Context, t *tenant.Tenant, r *Room, user id.User) error {
	m, err := s.Membership(ctx, t.ID, r.NID, user)
	if err == nil && m.Membership != "join" {
		err = mxerror.Forbidden.With("The room's servers are still learning that %s had left it. Try again in a moment.", user)
	}
	return err
}

// ensureHead makes the head row of a room that was known only by an invite.
func (s *Service) ensureHead(ctx context.Context, t tenant.ID, r *Room) error {
	_, err := s.DB.Exec(ctx, `INSERT INTO room_head (tenant, room, version, extremities, snapshot, topological) VALUES ($1, $2, 0, '[]', 0, 0)
		ON CONFLICT (tenant, room) DO NOTHING`, int64(t), r.NID)
	return err
}

// memberships writes the members of a room that we enter, ahead of the join that makes them visible. The tenant's own users are left to the
// join itself and to what they know already.
func (s *Service) memberships(ctx context.Context, t *tenant.Tenant, r *Room, state State, events map[id.Event]*Event) error {
	var stmts []stream.Statement
	for k, eid := range state {
		if k.Type != "m.room.member" || events[eid] == nil || id.User(k.StateKey).Server() == t.Name {
			continue
		}
		stmts = append(stmts, memberRow(t.ID, id.User(k.StateKey), r.NID, events[eid].Membership(), eid, int64(0), nil))
	}
	return s.ahead(ctx, stmts)
}

// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// upgradeTypes are the state events that a replacement room takes over.
var upgradeTypes = []string{"m.room.server_acl", "m.room.encryption", "m.room.name", "m.room.avatar", "m.room.topic", "m.room.guest_access",
	"m.room.history_visibility", "m.room.join_rules", "m.room.power_levels"}

func (s *Service) handleUpgrade(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := r.Room()
	if err != nil {
		return nil, err
	}
	var body struct {
		NewVersion string    `json:"new_version"`
		Creators   []id.User `json:"additional_creators"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.NewVersion == "" {
		return nil, mxerror.MissingParam.With("new_version is missing.")
	}
	replacement, err := s.Upgrade(ctx, r.Tenant, r.Session.User, room, body.NewVersion, body.Creators)
	return map[string]any{"replacement_room": replacement}, err
}

// Upgrade replaces a room by one of another version and leaves a tombstone (client-server API, "Room Upgrades"). The user needs the level to
// send the tombstone. creators replace the old room's additional creators; they are not copied (matrix.md, section 3).
func (s *Service) Upgrade(ctx context.Context, t *tenant.Tenant, user id.User, room id.Room, version string, creators []id.User) (id.Room, error) {
	old, err := s.joinedRoom(ctx, t, room, user)
	if err != nil {
		return "", err
	}
	v, err := s.createVersion(version)
	if err != nil {
		return "", err
	}
	state, err := s.CurrentState(ctx, t.ID, old)
	if err != nil {
		return "", err
	}
	levels, err := s.PowerLevels(ctx, t.ID, state)
	if err != nil {
		return "", err
	}
	if levels.User(user) < levels.Event("m.room.tombstone", true) {
		return "", mxerror.Forbidden.With("You may not upgrade this room.")
	}
	req := policy.CreateRoom{RoomVersion: v.ID, Preset: "private_chat", CreationContent: map[string]jsontext.Value{}}
	if err := s.takeOver(ctx, t, state, &req, user, creators, v.PrivilegedCreators); err != nil {
		return "", err
	}
	req.CreationContent["predecessor"] = object(map[string]any{"room_id": room})
	mayAll := true // the creators of newer versions may
	if !v.PrivilegedCreators {
		if req.PowerLevels, mayAll, err = raised(req.PowerLevels, user); err != nil {
			return "", err
		}
	}
	replacement, err := s.Create(ctx, t, user, req)
	if err != nil {
		return "", err
	}
	if !mayAll {
		if err := s.lower(ctx, t, replacement, user, levels.User(user)); err != nil {
			return "", err
		}
	}
	tombstone := stateDraft("m.room.tombstone", "", object(map[string]any{"body": "This room has been replaced", "replacement_room": replacement}))
	tombstone.Room, tombstone.Sender = room, user
	if _, err := s.append(ctx, t, old, tombstone, nil); err != nil {
		return "", err
	}
	if err := s.moveAliases(ctx, t, user, old, replacement); err != nil {
		return "", err
	}
	if err := s.moveListing(ctx, t, old, replacement); err != nil {
		return "", err
	}
	if err := s.quieten(ctx, t, user, old); err != nil {
		return "", err
	}
	s.entered(ctx, t, user, replacement)
	return replacement, nil
}

// raised gives a user the level that all state of a new room needs. Whoever may replace a room need not be allowed everything in it, but has to
// make the new one. mayAll says that nothing had to be changed.
func raised(content jsontext.Value, user id.User) (_ jsontext.Value, mayAll bool, err error) {
	levels, users, err := levelsOf(content)
	if err != nil {
		return nil, false, err
	}
	need := int64(50)
	if d, ok := canonicaljson.Int(levels["state_default"]); ok {
		need = d
	}
	for _, level := range canonicaljson.Members(levels["events"]) {
		if n, ok := canonicaljson.Int(level); ok {
			need = max(need, n)
		}
	}
	own, named := users[string(user)]
	if !named {
		own = levels["users_default"]
	}
	if whole(own) >= need {
		return content, true, nil
	}
	content, err = withLevel(levels, users, user, need)
	return content, false, err
}

// lower gives a user of a new room the level back that they had in the old one.
func (s *Service) lower(ctx context.Context, t *tenant.Tenant, room id.Room, user id.User, level int64) error {
	r, err := s.Lookup(ctx, t.ID, room)
	if err != nil {
		return err
	}
	state, err := s.CurrentState(ctx, t.ID, r)
	if err != nil {
		return err
	}
	e, err := s.StateEvent(ctx, t.ID, state, event.Key{Type: "m.room.power_levels"})
	if err != nil || e == nil {
		return err
	}
	levels, users, err := levelsOf(e.Content())
	if err != nil {
		return err
	}
	content, err := withLevel(levels, users, user, level)
	if err != nil {
		return err
	}
	d := stateDraft("m.room.power_levels", "", content)
	d.Room, d.Sender = room, user
	_, err = s.append(ctx, t, r, d, nil)
	return err
}

// levelsOf takes the content of power levels apart. Absent content is that of an empty event.
func levelsOf(content jsontext.Value) (levels, users map[string]jsontext.Value, err error) {
	if content == nil {
		content = jsontext.Value("{}")
	}
	if err := json.Unmarshal(content, &levels); err != nil {
		return nil, nil, err
	}
	if raw, ok := levels["users"]; ok {
		if err := json.Unmarshal(raw, &users); err != nil {
			return nil, nil, err
		}
	}
	if users == nil {
		users = map[string]jsontext.Value{}
	}
	return levels, users, nil
}

// withLevel puts power levels together again, with a user's level set.
func withLevel(levels, users map[string]jsontext.Value, user id.User, level int64) (jsontext.Value, error) {
	users[string(user)] = strconv.AppendInt(nil, level, 10)
	raw, err := json.Marshal(users)
	if err != nil {
		return nil, err
	}
	levels["users"] = raw
	return json.Marshal(levels, json.Deterministic(true))
}

// moveListing gives the replacement the old room's place in the public directory.
func (s *Service) moveListing(ctx context.Context, t *tenant.Tenant, old *Room, replacement id.Room) error {
	public, err := s.IsPublic(ctx, t.ID, old.NID)
	if err != nil || !public {
		return err
	}
	r, err := s.Lookup(ctx, t.ID, replacement)
	if err != nil {
		return err
	}
	if err := s.SetPublic(ctx, t.ID, r.NID, true); err != nil {
		return err
	}
	return s.SetPublic(ctx, t.ID, old.NID, false)
}

// quieten raises the levels for sending and inviting in a room that has been replaced, if the user may, so that nobody goes on in it by mistake.
func (s *Service) quieten(ctx context.Context, t *tenant.Tenant, user id.User, old *Room) error {
	state, err := s.CurrentState(ctx, t.ID, old)
	if err != nil {
		return err
	}
	e, err := s.StateEvent(ctx, t.ID, state, event.Key{Type: "m.room.power_levels"})
	if err != nil || e == nil {
		return err
	}
	var levels map[string]jsontext.Value
	if json.Unmarshal(e.Content(), &levels) != nil {
		return nil
	}
	quiet := max(50, whole(levels["users_default"])+1)
	changed := false
	for _, k := range []string{"events_default", "invite"} {
		if whole(levels[k]) < quiet {
			levels[k], changed = jsontext.Value(strconv.FormatInt(quiet, 10)), true
		}
	}
	if !changed {
		return nil
	}
	content, err := json.Marshal(levels, json.Deterministic(true))
	if err != nil {
		return err
	}
	d := stateDraft("m.room.power_levels", "", content)
	d.Room, d.Sender = old.ID, user
	if _, err := s.append(ctx, t, old, d, nil); err != nil && !errors.Is(err, mxerror.Forbidden) {
		return err
	}
	return nil
}

// whole reads a level; absent or of another type it counts as 0.
func whole(raw jsontext.Value) int64 {
	var n int64
	if json.Unmarshal(raw, &n) != nil {
		return 0
	}
	return n
}

// takeOver copies what a replacement room keeps.
func (s *Service) takeOver(ctx context.Context, t *tenant.Tenant, state State, req *policy.CreateRoom, user id.User, creators []id.User, privileged bool) error {
	create, err := s.create(ctx, t.ID, state)
	if err != nil || create == nil {
		return errors.Join(errors.New("the room has no create event"), err)
	}
	var old map[string]jsontext.Value
	if err := json.Unmarshal(create.Content(), &old); err != nil {
		return err
	}
	for k, raw := range old {
		if k != "creator" && k != "room_version" && k != "predecessor" && k != "additional_creators" {
			req.CreationContent[k] = raw
		}
	}
	if privileged && len(creators) > 0 {
		raw, err := json.Marshal(creators)
		if err != nil {
			return err
		}
		req.CreationContent["additional_creators"] = raw
	}
	for _, typ := range upgradeTypes {
		e, err := s.StateEvent(ctx, t.ID, state, event.Key{Type: typ})
		if err != nil {
			return err
		}
		switch {
		case e == nil:
		case typ == "m.room.power_levels":
			if req.PowerLevels, err = upgradedLevels(e.Content(), user, creators, privileged); err != nil {
				return err
			}
			if !privileged && create.Version().PrivilegedCreators { // who stood above the levels needs one now
				if req.PowerLevels, err = withCreators(req.PowerLevels, append(authrule.Creators(create), user)); err != nil {
					return err
				}
			}
		default:
			req.InitialState = append(req.InitialState, policy.StateEvent{Type: typ, Content: e.Content()})
		}
	}
	return nil
}

// upgradedLevels are the old room's levels; creators of a version 12 room must not stand among its users.
func upgradedLevels(content jsontext.Value, user id.User, creators []id.User, privileged bool) (jsontext.Value, error) {
	if !privileged {
		return content, nil
	}
	levels, users, err := levelsOf(content)
	if err != nil {
		return nil, err
	}
	delete(users, string(user))
	for _, c := range creators {
		delete(users, string(c))
	}
	raw, err := json.Marshal(users)
	if err != nil {
		return nil, err
	}
	levels["users"] = raw
	return json.Marshal(levels)
}

// withCreators gives the creators of a version 12 room the level that creators have in earlier ones.
func withCreators(content jsontext.Value, creators []id.User) (jsontext.Value, error) {
	levels, users, err := levelsOf(content)
	if err != nil {
		return nil, err
	}
	highest := int64(100) // what needs more than that could not be done by anybody
	for _, level := range canonicaljson.Members(levels["events"]) {
		if n, ok := canonicaljson.Int(level); ok {
			highest = max(highest, n)
		}
	}
	for _, c := range creators {
		if _, has := users[string(c)]; !has {
			users[string(c)] = strconv.AppendInt(nil, highest, 10)
		}
	}
	raw, err := json.Marshal(users)
	if err != nil {
		return nil, err
	}
	levels["users"] = raw
	return json.Marshal(levels)
}

// moveAliases makes the tenant's own aliases of a room lead to its replacement.
func (s *Service) moveAliases(ctx context.Context, t *tenant.Tenant, user id.User, old *Room, replacement id.Room) error {
	aliases, err := s.Aliases(ctx, t.ID, old.ID)
	if err != nil || len(aliases) == 0 {
		return err
	}
	if _, err := s.DB.Exec(ctx, "UPDATE room_alias SET room_id = $3 WHERE tenant = $1 AND room_id = $2", int64(t.ID), string(old.ID), string(replacement)); err != nil {
		return err
	}
	state, err := s.CurrentState(ctx, t.ID, old)
	if err != nil {
		return err
	}
	e, err := s.StateEvent(ctx, t.ID, state, event.Key{Type: "m.room.canonical_alias"})
	if err != nil || e == nil {
		return err
	}
	d := stateDraft("m.room.canonical_alias", "", e.Content())
	d.Room, d.Sender = replacement, user
	r, err := s.Lookup(ctx, t.ID, replacement)
	if err != nil {
		return err
	}
	if _, err := s.append(ctx, t, r, d, nil); err != nil {
		return err
	}
	empty := stateDraft("m.room.canonical_alias", "", object(map[string]any{}))
	empty.Room, empty.Sender = old.ID, user
	_, err = s.append(ctx, t, old, empty, nil)
	return err
}

// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// preset is what a createRoom preset sets (client-server API, POST /createRoom).
type preset struct{ joinRule, history, guests string }

var presets = map[string]preset{
	"private_chat":         {"invite", shared, "can_join"},
	"trusted_private_chat": {"invite", shared, "can_join"},
	"public_chat":          {"public", shared, "forbidden"},
}

// maxInitialState bounds what one createRoom may write.
const maxInitialState = 200

// Create makes a room and returns its id. Its events are committed one after the other; the invitees are invited last.
func (s *Service) Create(ctx context.Context, t *tenant.Tenant, creator id.User, req policy.CreateRoom) (id.Room, error) {
	if err := s.Policy.CreateRoom(ctx, t, creator, &req); err != nil {
		return "", err
	}
	v, err := s.createVersion(req.RoomVersion)
	if err != nil {
		return "", err
	}
	if err := s.checkCreate(&req); err != nil {
		return "", err
	}
	for _, u := range req.Invitees() {
		if err := s.mayInvite(ctx, t, policy.Invite{Inviter: creator, Invitee: u, RoomVersion: v.ID, Direct: req.IsDirect}); err != nil {
			return "", err
		}
	}
	var alias id.Alias
	if req.Alias != "" {
		if alias, err = s.freeAlias(ctx, t, req.Alias); err != nil {
			return "", err
		}
	}
	r, err := s.openRoom(ctx, t, creator, v, req)
	if err != nil {
		return "", err
	}
	if err := s.furnish(ctx, t, r, creator, req, alias); err != nil {
		s.abandon(context.WithoutCancel(ctx), t, r, creator)
		return "", err
	}
	return r.ID, nil
}

// furnish gives a new room its first state, its alias and its guests.
func (s *Service) furnish(ctx context.Context, t *tenant.Tenant, r *Room, creator id.User, req policy.CreateRoom, alias id.Alias) error {
	drafts, err := s.initialEvents(ctx, t, r, creator, req, alias)
	if err != nil {
		return err
	}
	for _, d := range drafts {
		d.Room, d.Sender = r.ID, creator
		if _, err := s.append(ctx, t, r, d, nil); err != nil {
			if errors.Is(err, mxerror.Forbidden) {
				return mxerror.InvalidRoomState.With("The initial state does not allow %s: %v", d.Type, err)
			}
			return err
		}
	}
	if alias != "" {
		if err := s.addAlias(ctx, t.ID, alias, r.ID, creator); err != nil {
			return err
		}
	}
	if req.Visibility == "public" {
		if err := s.SetPublic(ctx, t.ID, r.NID, true); err != nil {
			return err
		}
	}
	for _, u := range req.Invite {
		if err := s.Invite(ctx, t, r.ID, creator, u, "", req.IsDirect); err != nil {
			return err
		}
	}
	for _, raw := range req.Invite3PID {
		var p ThirdParty
		if err := json.Unmarshal(raw, &p); err != nil {
			return err
		}
		if err := s.InviteThirdParty(ctx, t, r.ID, creator, p); err != nil {
			return err
		}
	}
	return nil
}

// abandon takes the creator out of a room that could not be made as asked, so that a second attempt leaves no half-made one in their list.
func (s *Service) abandon(ctx context.Context, t *tenant.Tenant, r *Room, creator id.User) {
	_, err := s.DB.Exec(ctx, "DELETE FROM room_alias WHERE tenant = $1 AND room_id = $2", int64(t.ID), string(r.ID))
	if err == nil {
		err = s.SetPublic(ctx, t.ID, r.NID, false)
	}
	if err == nil {
		err = s.Leave(ctx, t, creator, r.ID, "")
	}
	if err == nil {
		err = s.Forget(ctx, t, creator, r.ID)
	}
	if err != nil {
		s.Log.WarnContext(ctx, "a room that could not be made is left as it is", "room", r.NID, "error", err)
	}
}

func (s *Service) createVersion(version string) (*roomversion.Version, error) {
	if version == "" {
		version = s.Policy.DefaultRoomVersion()
	}
	v, ok := roomversion.Get(version)
	if !ok {
		return nil, mxerror.UnsupportedRoomVersion.With("Room version %q is not supported here.", version)
	}
	return v, nil
}

func (s *Service) checkCreate(req *policy.CreateRoom) error {
	if req.Preset == "" {
		req.Preset = "private_chat"
		if req.Visibility == "public" {
			req.Preset = "public_chat"
		}
	}
	if _, ok := presets[req.Preset]; !ok {
		return mxerror.InvalidParam.With("Preset %q is not known.", req.Preset)
	}
	if req.Visibility != "" && req.Visibility != "public" && req.Visibility != "private" {
		return mxerror.InvalidParam.With("Visibility is public or private.")
	}
	if len(req.InitialState) > maxInitialState {
		return mxerror.InvalidParam.With("At most %d initial state events are taken.", maxInitialState)
	}
	for _, u := range req.Invitees() {
		if _, err := id.ParseUser(string(u)); err != nil {
			return mxerror.InvalidParam.With("%q is not a Matrix user id.", u)
		}
	}
	for _, raw := range req.Invite3PID {
		var p ThirdParty
		if json.Unmarshal(raw, &p) != nil {
			return mxerror.BadJSON.With("An entry of invite_3pid does not have the expected form.")
		}
		if err := s.offered(p); err != nil {
			return err
		}
	}
	return nil
}

// openRoom stores the room with its create event, from which a version 12 room takes its id.
func (s *Service) openRoom(ctx context.Context, t *tenant.Tenant, creator id.User, v *roomversion.Version, req policy.CreateRoom) (*Room, error) {
	content := map[string]any{}
	for k, raw := range req.CreationContent {
		content[k] = raw
	}
	content["room_version"] = v.ID
	if !v.CreatorIsSender {
		content["creator"] = creator
	} else {
		delete(content, "creator")
	}
	if v.PrivilegedCreators && req.Preset == "trusted_private_chat" && len(req.Invite) > 0 {
		if err := addCreators(content, req.Invite); err != nil {
			return nil, err
		}
	}
	r := &Room{NID: database.NewID(), Version: v}
	if !v.RoomIDIsHash {
		r.ID = id.Room("!" + randomLetters(18) + ":" + string(t.Name))
	}
	key, err := s.Keyring.Signing(ctx, t.ID)
	if err != nil {
		return nil, err
	}
	empty := ""
	e, err := event.Draft{Version: v, Room: r.ID, Type: "m.room.create", StateKey: &empty, Sender: creator, Content: object(content), Depth: 1,
		Timestamp: s.now().UnixMilli()}.Build(t.Name, key.ID, key.Private)
	if err != nil {
		return nil, err
	}
	r.ID = event.CreateRoomID(e)
	if err := s.allowed(ctx, t.ID, e, State{}); err != nil {
		return nil, badCreate(err)
	}
	if err := s.storeRoom(ctx, t.ID, r); err != nil {
		return nil, err
	}
	_, err = s.commit(ctx, t, r, func(*head) (addition, error) {
		return addition{event: e, before: snapshot{state: State{}}, fresh: true}, nil
	})
	return r, err
}

// addCreators makes the invitees of a trusted room creators like its maker (room version 12).
func addCreators(content map[string]any, users []id.User) error {
	var have []id.User
	if raw, ok := content["additional_creators"].(jsontext.Value); ok {
		if json.Unmarshal(raw, &have) != nil {
			return mxerror.InvalidParam.With("additional_creators is a list of user ids.")
		}
	}
	for _, u := range users {
		if !slices.Contains(have, u) {
			have = append(have, u)
		}
	}
	content["additional_creators"] = have
	return nil
}

// badCreate: creation_content that the auth rules refuse is the client's mistake.
func badCreate(err error) error {
	if e := mxerror.From(forbidden(err)); e != nil && errors.Is(e, mxerror.Forbidden) {
		return mxerror.InvalidParam.With("creation_content: %v", err)
	}
	return err
}

// storeRoom makes the rows of a room that the tenant did not know; the head's first guard expects version 0.
func (s *Service) storeRoom(ctx context.Context, t tenant.ID, r *Room) error {
	err := s.DB.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO room (tenant, room, room_id, version, created) VALUES ($1, $2, $3, $4, $5)",
			int64(t), r.NID, string(r.ID), r.Version.ID, s.now().UnixMilli()); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO room_head (tenant, room, version, extremities, snapshot, topological) VALUES ($1, $2, 0, '[]', 0, 0)", int64(t), r.NID)
		return err
	})
	if err != nil {
		return fmt.Errorf("store room: %w", err)
	}
	s.rooms.Set(roomKey{t, r.ID}, r)
	return nil
}

// initialEvents lists what follows the create event, in the order of the specification.
func (s *Service) initialEvents(ctx context.Context, t *tenant.Tenant, r *Room, creator id.User, req policy.CreateRoom, alias id.Alias) ([]Draft, error) {
	p := presets[req.Preset]
	member, err := s.memberContent(ctx, t, creator, "join", "")
	if err != nil {
		return nil, err
	}
	levels, err := powerLevels(r.Version, creator, req)
	if err != nil {
		return nil, err
	}
	list := []Draft{stateDraft("m.room.member", string(creator), member), stateDraft("m.room.power_levels", "", levels)}
	if alias != "" {
		list = append(list, stateDraft("m.room.canonical_alias", "", object(map[string]any{"alias": alias})))
	}
	given := map[event.Key]bool{}
	for _, e := range req.InitialState {
		given[event.Key{Type: e.Type, StateKey: e.StateKey}] = true
	}
	for _, d := range []Draft{
		stateDraft("m.room.join_rules", "", object(map[string]any{"join_rule": p.joinRule})),
		stateDraft("m.room.history_visibility", "", object(map[string]any{"history_visibility": p.history})),
		stateDraft("m.room.guest_access", "", object(map[string]any{"guest_access": p.guests})),
	} {
		if !given[event.Key{Type: d.Type}] {
			list = append(list, d)
		}
	}
	for _, e := range req.InitialState {
		if e.Type == "" || len(e.Content) == 0 || e.Content.Kind() != '{' {
			return nil, mxerror.BadJSON.With("Every initial state event needs a type and an object as content.")
		}
		list = append(list, stateDraft(e.Type, e.StateKey, e.Content))
	}
	if req.Name != "" {
		list = append(list, stateDraft("m.room.name", "", object(map[string]any{"name": req.Name})))
	}
	if req.Topic != "" {
		list = append(list, stateDraft("m.room.topic", "", object(map[string]any{"topic": req.Topic,
			"m.topic": map[string]any{"m.text": []any{map[string]any{"body": req.Topic}}}})))
	}
	return list, nil
}

func stateDraft(typ, key string, content jsontext.Value) Draft {
	return Draft{Type: typ, StateKey: &key, Content: content}
}

// powerLevels is the room's first power levels: the defaults, the preset's, then the client's override.
func powerLevels(v *roomversion.Version, creator id.User, req policy.CreateRoom) (jsontext.Value, error) {
	users := map[string]any{}
	if !v.PrivilegedCreators {
		users[string(creator)] = 100
		if req.Preset == "trusted_private_chat" {
			for _, u := range req.Invite {
				users[string(u)] = 100
			}
		}
	}
	events := map[string]any{"m.room.name": 50, "m.room.avatar": 50, "m.room.power_levels": 100, "m.room.history_visibility": 100,
		"m.room.canonical_alias": 50, "m.room.tombstone": 100, "m.room.server_acl": 100, "m.room.encryption": 100,
		"org.matrix.msc3401.call.member": 0} // everybody may take part in a call
	if v.PrivilegedCreators {
		events["m.room.tombstone"] = 150
	}
	content := map[string]any{"users": users, "users_default": 0, "events": events, "events_default": 0, "state_default": 50,
		"ban": 50, "kick": 50, "redact": 50, "invite": 0, "historical": 100}
	if len(req.PowerLevels) > 0 {
		var override map[string]jsontext.Value
		if err := json.Unmarshal(req.PowerLevels, &override); err != nil {
			return nil, mxerror.BadJSON.With("power_level_content_override is an object.")
		}
		for k, raw := range override {
			content[k] = raw
		}
	}
	return object(content), nil
}

// memberContent is the content of a local user's member event.
func (s *Service) memberContent(ctx context.Context, t *tenant.Tenant, user id.User, membership, reason string) (jsontext.Value, error) {
	content := map[string]any{"membership": membership}
	if reason != "" {
		content["reason"] = reason
	}
	if s.Profile != nil && user.Server() == t.Name {
		name, avatar, err := s.Profile(ctx, t.ID, user)
		if err != nil {
			return nil, err
		}
		if name != "" {
			content["displayname"] = name
		}
		if avatar != "" {
			content["avatar_url"] = avatar
		}
	}
	return object(content), nil
}

// randomLetters returns n random letters for a room id.
func randomLetters(n int) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	b := make([]byte, 0, n)
	var buf [32]byte
	for len(b) < n {
		rand.Read(buf[:])
		for _, c := range buf {
			if int(c) < 256/len(alphabet)*len(alphabet) && len(b) < n { // no bias
				b = append(b, alphabet[int(c)%len(alphabet)])
			}
		}
	}
	return string(b)
}

// flights lets one of several equal joins do the work.
type flights struct {
	sem chan struct{}
	in  map[string]chan struct{}
}

func newFlights() *flights {
	f := &flights{sem: make(chan struct{}, 1), in: map[string]chan struct{}{}}
	return f
}

// enter waits until nobody else works on key; the caller calls leave afterwards.
func (f *flights) enter(ctx context.Context, key string) error {
	for {
		f.sem <- struct{}{}
		busy, ok := f.in[key]
		if !ok {
			f.in[key] = make(chan struct{})
			<-f.sem
			return nil
		}
		<-f.sem
		select {
		case <-busy:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *flights) leave(key string) {
	f.sem <- struct{}{}
	close(f.in[key])
	delete(f.in, key)
	<-f.sem
}

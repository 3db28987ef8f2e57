// SPDX-License-Identifier: Apache-2.0

package push

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/pushrule"
)

// errUnchanged ends a change of account data that has nothing to write.
var errUnchanged = errors.New("nothing to change")

// Follow lets a user's settings follow an upgraded room: its tags, its place among the direct chats and the push rules that name it hold for the
// replacement too (client-server API, "Room Upgrades": servers should carry them over). What the user has already set for the new room stays.
func (s *Service) Follow(ctx context.Context, t tenant.ID, user id.User, old, replacement id.Room) error {
	return errors.Join(
		s.followTags(ctx, t, user, old, replacement),
		s.followDirect(ctx, t, user, old, replacement),
		s.followRules(ctx, t, user, old, replacement),
	)
}

func (s *Service) followTags(ctx context.Context, t tenant.ID, user id.User, old, replacement id.Room) error {
	tags, exists, err := s.o.Accounts.AccountDatum(ctx, t, user, old, "m.tag")
	if err != nil || !exists {
		return err
	}
	return s.carry(ctx, t, user, replacement, "m.tag", func(_ jsontext.Value, exists bool) (jsontext.Value, error) {
		if exists {
			return nil, errUnchanged
		}
		return tags, nil
	})
}

func (s *Service) followDirect(ctx context.Context, t tenant.ID, user id.User, old, replacement id.Room) error {
	return s.carry(ctx, t, user, "", "m.direct", func(content jsontext.Value, exists bool) (jsontext.Value, error) {
		var chats map[string][]id.Room
		if !exists || json.Unmarshal(content, &chats) != nil {
			return nil, errUnchanged
		}
		changed := false
		for other, rooms := range chats {
			if slices.Contains(rooms, old) && !slices.Contains(rooms, replacement) {
				chats[other], changed = append(rooms, replacement), true
			}
		}
		if !changed {
			return nil, errUnchanged
		}
		return json.Marshal(chats, json.Deterministic(true))
	})
}

func (s *Service) followRules(ctx context.Context, t tenant.ID, user id.User, old, replacement id.Room) error {
	return s.carry(ctx, t, user, "", ruleType, func(content jsontext.Value, exists bool) (jsontext.Value, error) {
		rules := readRules(content, exists, user)
		changed := false
		for _, kind := range pushrule.Kinds {
			for _, r := range slices.Clone(*rules.Of(kind)) {
				moved, names := renamed(r, string(old), string(replacement))
				if !names || len(*rules.Of(kind)) >= maxRules || rules.Find(kind, moved.ID) != nil {
					continue
				}
				changed = rules.Put(kind, moved, pushrule.Place{After: r.ID}) || changed
			}
		}
		if !changed {
			return nil, errUnchanged
		}
		return json.Marshal(stored{rules}, json.Deterministic(true), jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true))
	})
}

// renamed is a rule of the user's own with another room in the place of the one that it names; names says whether it names it by its id, as rules
// of a room do.
func renamed(r pushrule.Rule, old, replacement string) (_ pushrule.Rule, names bool) {
	if r.Default || !strings.Contains(r.ID, old) {
		return r, false
	}
	r.ID = strings.ReplaceAll(r.ID, old, replacement)
	conditions := slices.Clone(r.Conditions)
	for i, c := range conditions {
		conditions[i] = bytes.ReplaceAll(c, []byte(old), []byte(replacement)) // room ids hold nothing that JSON would escape
	}
	r.Conditions = conditions
	return r, true
}

// carry is a change of account data that may find nothing to do.
func (s *Service) carry(ctx context.Context, t tenant.ID, user id.User, room id.Room, typ string, change func(jsontext.Value, bool) (jsontext.Value, error)) error {
	err := s.o.Accounts.ChangeAccountData(ctx, t, user, room, typ, change)
	if errors.Is(err, errUnchanged) {
		return nil
	}
	return err
}

// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/pushrule"
)

// The classes of events by the default rules, stored once with each event (engine rule 31).
const (
	// Silent events notify nobody, unless they mention somebody.
	Silent int64 = iota
	// Notifies events notify everybody in the room with the default rules.
	Notifies
)

// nobody stands for a user that no event names: no user id begins like this.
const nobody = id.User("\x00")

// everybody judges by the default rules as they apply to any member.
var everybody = pushrule.Compile(pushrule.Default(nobody))

// Class returns the class of an event. Package room stores it with the event.
func Class(_ context.Context, _ tenant.ID, e *event.Event, joinedMembers int) int64 {
	if everybody.Evaluate(pushrule.About(e), pushrule.Context{Members: joinedMembers}).Notify {
		return Notifies
	}
	return Silent
}

// mentions is m.mentions of an event's content.
type mentions struct {
	Users []id.User `json:"user_ids"`
	Room  bool      `json:"room"`
}

// readMentions reads whom an event mentions; ok is false when it highlights nobody.
func readMentions(e *room.Event) (m mentions, ok bool) {
	var c struct {
		Mentions mentions `json:"m.mentions"`
	}
	if json.Unmarshal(e.Content(), &c, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) != nil {
		return m, false
	}
	return c.Mentions, len(c.Mentions.Users) > 0 || c.Mentions.Room || e.IsState()
}

// mayHighlight says whether an event may have rows of highlights.
func mayHighlight(e *room.Event) bool {
	_, ok := readMentions(e)
	return ok
}

// maxMentions bounds how many mentioned users of an event get a highlight.
const maxMentions = 200

// Highlights adds to the plan of an event the rows of the highlights that it makes by the default rules: one for each local member mentioned,
// one for the whole room. state is the room's state with the event. Package room calls it before the event is committed.
func (s *Service) Highlights(ctx context.Context, t tenant.ID, e *room.Event, state room.State, plan *stream.Plan) error {
	m, ok := readMentions(e)
	if !ok || len(plan.Changes) == 0 {
		return nil
	}
	about := pushrule.Context{MayNotify: func(key string) bool {
		levels, err := s.o.Rooms.PowerLevels(ctx, t, state)
		return err == nil && levels.User(e.Sender()) >= levels.Notification(key)
	}}
	subject := pushrule.About(e.Event)
	extra := !everybody.Evaluate(subject, pushrule.Context{Members: 3}).Notify
	if v := everybody.Evaluate(subject, about); v.Highlight {
		s.add(plan, e, "", extra)
	}
	seen := map[id.User]bool{e.Sender(): true}
	for i, user := range m.Users {
		if i == maxMentions {
			break
		}
		if seen[user] {
			continue
		}
		seen[user] = true
		member, err := s.o.Rooms.StateEvent(ctx, t, state, event.Key{Type: event.TypeMember, StateKey: string(user)})
		if err != nil {
			return err
		}
		if member == nil || member.Membership() != "join" {
			continue
		}
		local, err := s.o.Accounts.Exists(ctx, t, user)
		if err != nil {
			return err
		}
		if local && pushrule.Compile(pushrule.Default(user)).Evaluate(subject, about).Highlight {
			s.add(plan, e, user, extra)
		}
	}
	return nil
}

// add adds a highlight's row; the event is the plan's first change.
func (s *Service) add(plan *stream.Plan, e *room.Event, user id.User, extra bool) {
	plan.Positioned = append(plan.Positioned, stream.Statement{
		SQL:  `INSERT INTO highlight (tenant, room, user_id, position, event_id, sender, thread, extra) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		Args: []any{int64(plan.Tenant), e.RoomNID, string(user), stream.At(0), string(e.ID()), string(e.Sender()), string(threadRoot(e.Content())), extra},
	})
}

// threadRoot returns the root that an event names as its thread, or nothing.
func threadRoot(content jsontext.Value) id.Event {
	var c struct {
		RelatesTo struct {
			Type  string   `json:"rel_type"`
			Event id.Event `json:"event_id"`
		} `json:"m.relates_to"`
	}
	if json.Unmarshal(content, &c, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) != nil || c.RelatesTo.Type != "m.thread" {
		return ""
	}
	return c.RelatesTo.Event
}

// SPDX-License-Identifier: Apache-2.0

package pushrule

import (
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/matrix/id"
)

// master switches off everything and stands above even the user's own rules.
const master = ".m.rule.master"

// The rules about threads (MSC4306). They are off until somebody subscribes to a thread, so that people whose clients know nothing of
// subscriptions are told of threads as before.
const (
	UnsubscribedThread = ".io.element.msc4306.rule.unsubscribed_thread"
	SubscribedThread   = ".io.element.msc4306.rule.subscribed_thread"
)

// The actions of the default rules.
const (
	notify    = `"notify"`
	sound     = `{"set_tweak":"sound","value":"default"}`
	ring      = `{"set_tweak":"sound","value":"ring"}`
	highlight = `{"set_tweak":"highlight"}`
)

// Default returns the server-default rules of the specification (v1.19, "Predefined Rules") for a user.
func Default(user id.User) Ruleset {
	return Ruleset{
		Override: []Rule{
			{ID: master, Default: true, Conditions: []jsontext.Value{}, Actions: []jsontext.Value{}},
			rule(".m.rule.suppress_notices", conditions(match("content.msgtype", "m.notice"))),
			rule(".m.rule.invite_for_me", conditions(match("type", "m.room.member"), match("content.membership", "invite"), match("state_key", string(user))),
				notify, sound),
			rule(".m.rule.member_event", conditions(match("type", "m.room.member"))),
			rule(".m.rule.is_user_mention", conditions(property("event_property_contains", `content.m\.mentions.user_ids`, string(user))),
				notify, sound, highlight),
			rule(".m.rule.is_room_mention", conditions(property("event_property_is", `content.m\.mentions.room`, true),
				object(map[string]any{"kind": "sender_notification_permission", "key": "room"})), notify, highlight),
			rule(".m.rule.tombstone", conditions(match("type", "m.room.tombstone"), match("state_key", "")), notify, highlight),
			rule(".m.rule.reaction", conditions(match("type", "m.reaction"))),
			rule(".m.rule.room.server_acl", conditions(match("type", "m.room.server_acl"), match("state_key", ""))),
			rule(".m.rule.suppress_edits", conditions(property("event_property_is", `content.m\.relates_to.rel_type`, "m.replace"))),
		},
		Content:     []Rule{},
		PostContent: []Rule{off(rule(UnsubscribedThread, conditions(thread(false)))), off(rule(SubscribedThread, conditions(thread(true)), notify, sound))},
		Room:        []Rule{},
		Sender:      []Rule{},
		Underride: []Rule{
			rule(".m.rule.call", conditions(match("type", "m.call.invite")), notify, ring),
			rule(".m.rule.encrypted_room_one_to_one", conditions(twoMembers(), match("type", "m.room.encrypted")), notify, sound),
			rule(".m.rule.room_one_to_one", conditions(twoMembers(), match("type", "m.room.message")), notify, sound),
			rule(".m.rule.message", conditions(match("type", "m.room.message")), notify),
			rule(".m.rule.encrypted", conditions(match("type", "m.room.encrypted")), notify),
		},
	}
}

func rule(ruleID string, conditions []jsontext.Value, actions ...string) Rule {
	r := Rule{ID: ruleID, Default: true, Enabled: true, Conditions: conditions, Actions: []jsontext.Value{}}
	for _, a := range actions {
		r.Actions = append(r.Actions, jsontext.Value(a))
	}
	return r
}

func off(r Rule) Rule {
	r.Enabled = false
	return r
}

func conditions(c ...jsontext.Value) []jsontext.Value { return c }

func match(key, pattern string) jsontext.Value {
	return object(map[string]any{"kind": "event_match", "key": key, "pattern": pattern})
}

func property(kind, key string, value any) jsontext.Value {
	return object(map[string]any{"kind": kind, "key": key, "value": value})
}

func twoMembers() jsontext.Value {
	return object(map[string]any{"kind": "room_member_count", "is": "2"})
}

func thread(subscribed bool) jsontext.Value {
	return object(map[string]any{"kind": threadSubscription, "subscribed": subscribed})
}

func object(m map[string]any) jsontext.Value {
	raw, err := json.Marshal(m, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		panic(err) // strings and booleans always encode
	}
	return raw
}

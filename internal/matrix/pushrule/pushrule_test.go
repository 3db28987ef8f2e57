// SPDX-License-Identifier: Apache-2.0

package pushrule

import (
	"fmt"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

const me = "@me:a.example"

// pdu makes an event; stateKey is appended as it stands, for example `,"state_key":""`.
func pdu(t testing.TB, typ, content, stateKey string) *event.Event {
	t.Helper()
	v, _ := roomversion.Get("10")
	raw := fmt.Sprintf(`{"type":%q,"content":%s,"room_id":"!r:a.example","sender":"@you:a.example","origin_server_ts":7,"depth":1,"prev_events":[],"auth_events":[],"hashes":{"sha256":"x"},"signatures":{}%s}`,
		typ, content, stateKey)
	e, err := event.FromStored(v, "$e", []byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestDefaultRules(t *testing.T) {
	t.Parallel()
	allowed := func(key string) bool { return key == "room" }
	for _, c := range []struct {
		name, typ, content, stateKey string
		ctx                          Context
		rule                         string
		notify, highlight            bool
	}{
		{"message", "m.room.message", `{"body":"hi","msgtype":"m.text"}`, "", Context{Members: 5}, ".m.rule.message", true, false},
		{"in a chat of two", "m.room.message", `{"body":"hi","msgtype":"m.text"}`, "", Context{Members: 2}, ".m.rule.room_one_to_one", true, false},
		{"encrypted", "m.room.encrypted", `{}`, "", Context{Members: 3}, ".m.rule.encrypted", true, false},
		{"encrypted for two", "m.room.encrypted", `{}`, "", Context{Members: 2}, ".m.rule.encrypted_room_one_to_one", true, false},
		{"notice", "m.room.message", `{"body":"hi","msgtype":"m.notice"}`, "", Context{}, ".m.rule.suppress_notices", false, false},
		{"mention", "m.room.message", `{"body":"x","m.mentions":{"user_ids":["@other:b","` + me + `"]}}`, "", Context{}, ".m.rule.is_user_mention", true, true},
		{"mention of another", "m.room.message", `{"body":"x","m.mentions":{"user_ids":["@other:b"]}}`, "", Context{}, ".m.rule.message", true, false},
		{"room mention", "m.room.message", `{"body":"x","m.mentions":{"room":true}}`, "", Context{MayNotify: allowed}, ".m.rule.is_room_mention", true, true},
		{"room mention without the level", "m.room.message", `{"body":"x","m.mentions":{"room":true}}`, "", Context{}, ".m.rule.message", true, false},
		{"room mention as text", "m.room.message", `{"body":"x","m.mentions":{"room":"true"}}`, "", Context{MayNotify: allowed}, ".m.rule.message", true, false},
		{"the name in the body", "m.room.message", `{"body":"me"}`, "", Context{DisplayName: "me"}, ".m.rule.message", true, false},
		{"invite", "m.room.member", `{"membership":"invite"}`, `,"state_key":"` + me + `"`, Context{}, ".m.rule.invite_for_me", true, false},
		{"invite of another", "m.room.member", `{"membership":"invite"}`, `,"state_key":"@x:b"`, Context{}, ".m.rule.member_event", false, false},
		{"tombstone", "m.room.tombstone", `{}`, `,"state_key":""`, Context{}, ".m.rule.tombstone", true, true},
		{"tombstone as message", "m.room.tombstone", `{}`, "", Context{}, "", false, false},
		{"reaction", "m.reaction", `{}`, "", Context{}, ".m.rule.reaction", false, false},
		{"acl", "m.room.server_acl", `{}`, `,"state_key":""`, Context{}, ".m.rule.room.server_acl", false, false},
		{"edit", "m.room.message", `{"body":"x","m.relates_to":{"rel_type":"m.replace"}}`, "", Context{}, ".m.rule.suppress_edits", false, false},
		{"call", "m.call.invite", `{}`, "", Context{}, ".m.rule.call", true, false},
		{"anything else", "m.room.name", `{"name":"x"}`, `,"state_key":""`, Context{}, "", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v := Compile(Default(me)).Evaluate(About(pdu(t, c.typ, c.content, c.stateKey)), c.ctx)
			if v.Rule != c.rule || v.Notify != c.notify || v.Highlight != c.highlight {
				t.Errorf("got %+v", v)
			}
		})
	}
}

func TestConditions(t *testing.T) {
	t.Parallel()
	body := func(s string) string { b, _ := json.Marshal(map[string]string{"body": s}); return string(b) }
	for _, c := range []struct {
		condition, content string
		ctx                Context
		want               bool
	}{
		{`{"kind":"event_match","key":"content.body","pattern":"ex*ple"}`, body("An example event."), Context{}, true},
		{`{"kind":"event_match","key":"content.body","pattern":"ex*ple"}`, body("exple"), Context{}, true},
		{`{"kind":"event_match","key":"content.body","pattern":"ex*ple"}`, body("An exciting triple-whammy"), Context{}, true},
		{`{"kind":"event_match","key":"content.body","pattern":"ex*ple"}`, body("An examples"), Context{}, false},
		{`{"kind":"event_match","key":"content.body","pattern":"cake"}`, body("CAKE!"), Context{}, true},
		{`{"kind":"event_match","key":"content.body","pattern":"cake"}`, body("pancake"), Context{}, false},
		{`{"kind":"event_match","key":"content.body","pattern":"a.c"}`, body("abc"), Context{}, false},
		{`{"kind":"event_match","key":"content.topic","pattern":"lunc?*"}`, `{"topic":"Lunch plans"}`, Context{}, true},
		{`{"kind":"event_match","key":"content.topic","pattern":"lunc?*"}`, `{"topic":" lunch"}`, Context{}, false},
		{`{"kind":"event_match","key":"content.topic","pattern":"lunc?*"}`, `{"topic":"lunc"}`, Context{}, false},
		{`{"kind":"event_match","key":"content.topic","pattern":"*"}`, `{"topic":null}`, Context{}, false},
		{`{"kind":"event_match","key":"content.topic","pattern":"*"}`, `{}`, Context{}, false},
		{`{"kind":"event_match","key":"content.topic","pattern":"line*end"}`, `{"topic":"line\nend"}`, Context{}, true},
		{`{"kind":"event_match","key":"content"}`, `{}`, Context{}, false},
		{`{"kind":"event_property_is","key":"content.m\\.federate","value":true}`, `{"m.federate":true}`, Context{}, true},
		{`{"kind":"event_property_is","key":"content.m\\.federate","value":true}`, `{"m.federate":"true"}`, Context{}, false},
		{`{"kind":"event_property_is","key":"content.m\\.federate","value":true}`, `{"m.federate":1}`, Context{}, false},
		{`{"kind":"event_property_is","key":"content.n","value":5}`, `{"n":5}`, Context{}, true},
		{`{"kind":"event_property_is","key":"content.n","value":null}`, `{"n":null}`, Context{}, true},
		{`{"kind":"event_property_is","key":"content.n","value":null}`, `{}`, Context{}, false},
		{`{"kind":"event_property_is","key":"content.n","value":{}}`, `{"n":{}}`, Context{}, false},
		{`{"kind":"event_property_contains","key":"content.l","value":"x"}`, `{"l":["y","x"]}`, Context{}, true},
		{`{"kind":"event_property_contains","key":"content.l","value":"x"}`, `{"l":"x"}`, Context{}, false},
		{`{"kind":"event_property_contains","key":"content.l","value":"x"}`, `{"l":["xx",["x"],{"x":"x"}]}`, Context{}, false},
		{`{"kind":"event_property_is","key":"content.m\\\\foo","value":1}`, `{"m\\foo":1}`, Context{}, true},
		{`{"kind":"contains_display_name"}`, body("hello Anna Weber, there"), Context{DisplayName: "Anna Weber"}, true},
		{`{"kind":"contains_display_name"}`, body("Annabell"), Context{DisplayName: "Anna"}, false},
		{`{"kind":"contains_display_name"}`, body("anything"), Context{}, false},
		{`{"kind":"room_member_count","is":"2"}`, `{}`, Context{Members: 2}, true},
		{`{"kind":"room_member_count","is":"==2"}`, `{}`, Context{Members: 3}, false},
		{`{"kind":"room_member_count","is":"<=10"}`, `{}`, Context{Members: 10}, true},
		{`{"kind":"room_member_count","is":"<10"}`, `{}`, Context{Members: 10}, false},
		{`{"kind":"room_member_count","is":">=3"}`, `{}`, Context{Members: 3}, true},
		{`{"kind":"room_member_count","is":">3"}`, `{}`, Context{Members: 4}, true},
		{`{"kind":"room_member_count","is":"about 3"}`, `{}`, Context{Members: 3}, false},
		{`{"kind":"device"}`, `{}`, Context{}, false},
		{`"event_match"`, `{}`, Context{}, false},
	} {
		rs := Ruleset{Override: []Rule{{ID: "own", Enabled: true, Conditions: []jsontext.Value{jsontext.Value(c.condition)}, Actions: []jsontext.Value{jsontext.Value(`"notify"`)}}}}
		if v := Compile(rs).Evaluate(About(pdu(t, "x", c.content, "")), c.ctx); v.Notify != c.want {
			t.Errorf("%s on %s: %v", c.condition, c.content, v.Notify)
		}
	}
}

func TestOrderOfRules(t *testing.T) {
	t.Parallel()
	act := func(s string) []jsontext.Value { return []jsontext.Value{jsontext.Value(s)} }
	rs := Default(me)
	e := About(pdu(t, "m.room.message", `{"body":"there is cake"}`, ""))
	check := func(rule string) {
		t.Helper()
		if v := Compile(rs).Evaluate(e, Context{}); v.Rule != rule {
			t.Errorf("decided by %q, want %q", v.Rule, rule)
		}
	}
	check(".m.rule.message")
	cake := "cake"
	if !rs.Put(Sender, Rule{ID: "@you:a.example", Enabled: true}, Place{}) || !rs.Put(Room, Rule{ID: "!r:a.example", Enabled: true}, Place{}) {
		t.Fatal("put")
	}
	check("!r:a.example")
	rs.Put(Content, Rule{ID: "cake", Enabled: true, Pattern: &cake, Actions: act(`"dont_notify"`)}, Place{})
	check("cake")
	rs.Put(Override, Rule{ID: "own", Enabled: true, Actions: act(`"notify"`)}, Place{})
	check("own")
	rs.Put(Override, Rule{ID: "first", Enabled: true}, Place{})
	check("first")
	if !rs.Put(Override, Rule{ID: "first", Enabled: true}, Place{After: "own"}) {
		t.Error("moving down was refused")
	}
	check("own")
	if !rs.Put(Override, Rule{ID: "third", Enabled: true}, Place{Before: "own", After: "first"}) {
		t.Error("before and after")
	}
	check("third")
	if rs.Put(Override, Rule{ID: "x"}, Place{Before: ".m.rule.reaction"}) || rs.Put(Override, Rule{ID: "x"}, Place{After: "nobody"}) {
		t.Error("a place beside a rule that is not the user's own")
	}
	if rs.Override[0].ID != master {
		t.Errorf("the first rule is %s", rs.Override[0].ID)
	}
	rs.Find(Override, master).Enabled = true
	check(master)
	if rs.Delete(Override, master) || !rs.Delete(Override, "own") || rs.Delete(Override, "own") {
		t.Error("delete")
	}
}

func TestMergeKeepsWhatTheUserChanged(t *testing.T) {
	t.Parallel()
	rs := Default(me)
	if !rs.CountsAsDefault(me) {
		t.Error("the default differs from itself")
	}
	rs.Find(Underride, ".m.rule.message").Actions = []jsontext.Value{jsontext.Value(`"notify"`), jsontext.Value(`{"set_tweak":"sound","value":"ding"}`)}
	if !rs.CountsAsDefault(me) {
		t.Error("a sound changes the counts")
	}
	rs.Find(Underride, ".m.rule.message").Actions = nil
	if rs.CountsAsDefault(me) {
		t.Error("silence does not change the counts")
	}
	rs.Put(Override, Rule{ID: "own", Enabled: true}, Place{})
	rs.Override = append(rs.Override, Rule{ID: ".m.rule.of_the_past", Default: true, Enabled: true})
	rs.Underride = rs.Underride[1:] // .m.rule.call is new to this user
	raw, err := json.Marshal(rs)
	if err != nil {
		t.Fatal(err)
	}
	var stored Ruleset
	if err := json.Unmarshal(raw, &stored); err != nil {
		t.Fatal(err)
	}
	m := stored.Merge(me)
	if m.Find(Override, ".m.rule.of_the_past") != nil || m.Find(Underride, ".m.rule.call") == nil || len(m.Find(Underride, ".m.rule.message").Actions) != 0 {
		t.Errorf("merged %+v", m)
	}
	if m.Override[0].ID != master || m.Override[1].ID != "own" {
		t.Errorf("order %s, %s", m.Override[0].ID, m.Override[1].ID)
	}
}

// TestThreadRules: the rules about threads stand between those about words and those about rooms, and say nothing until they are switched on
// (MSC4306).
func TestThreadRules(t *testing.T) {
	t.Parallel()
	const reply = `{"body":"Kuchen","m.relates_to":{"rel_type":"m.thread","event_id":"$root"}}`
	follows := func(root id.Event) bool { return root == "$root" }
	nothing := func(id.Event) bool { return false }
	on := Default(me)
	for i := range on.PostContent {
		on.PostContent[i].Enabled = true
	}
	muted, word := on, on
	muted.Room = []Rule{rule("!r:a.example", nil)}
	muted.Room[0].Default = false
	pattern := "kuchen"
	word.Content = []Rule{{ID: "word", Enabled: true, Pattern: &pattern, Actions: rule("", nil, notify, highlight).Actions}}
	for _, c := range []struct {
		name       string
		rules      Ruleset
		content    string
		subscribed func(id.Event) bool
		rule       string
		notify     bool
	}{
		{"off", Default(me), reply, follows, ".m.rule.message", true},
		{"off, not subscribed", Default(me), reply, nothing, ".m.rule.message", true},
		{"subscribed", on, reply, follows, SubscribedThread, true},
		{"not subscribed", on, reply, nothing, UnsubscribedThread, false},
		{"outside of threads", on, `{"body":"x"}`, follows, ".m.rule.message", true},
		{"another relation", on, `{"body":"x","m.relates_to":{"rel_type":"m.reference","event_id":"$root"}}`, follows, ".m.rule.message", true},
		{"no root", on, `{"body":"x","m.relates_to":{"rel_type":"m.thread"}}`, nothing, ".m.rule.message", true},
		{"nobody knows", on, reply, nil, ".m.rule.message", true},
		{"a mention", on, `{"body":"x","m.mentions":{"user_ids":["` + me + `"]},"m.relates_to":{"rel_type":"m.thread","event_id":"$root"}}`, nothing, ".m.rule.is_user_mention", true},
		{"a muted room", muted, reply, follows, SubscribedThread, true},
		{"a word", word, reply, nothing, "word", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ev := Compile(c.rules)
			if v := ev.Evaluate(About(pdu(t, "m.room.message", c.content, "")), Context{Members: 5, Subscribed: c.subscribed}); v.Rule != c.rule || v.Notify != c.notify {
				t.Errorf("got %+v", v)
			}
			if want := c.rules.PostContent[0].Enabled; ev.AsksForThreads() != want {
				t.Errorf("asks for threads: %v, want %v", !want, want)
			}
		})
	}
}

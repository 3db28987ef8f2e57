// SPDX-License-Identifier: Apache-2.0

package push_test

import (
	"net/url"
	"reflect"
	"testing"

	. "github.com/konsil-health/konsil/internal/homeserver/clientsync/clientsynctest"
)

func chat(g *Rig) (anna, ben *Person, room string) {
	anna, ben = g.Person("anna"), g.Person("ben")
	room = anna.Create(M{"preset": "private_chat"})
	anna.Invite(room, ben)
	ben.Join(room)
	anna.Sync("")
	ben.Sync("")
	return anna, ben, room
}

const threads = "filter=%7B%22room%22%3A%7B%22timeline%22%3A%7B%22unread_thread_notifications%22%3Atrue%7D%7D%7D"

// unread returns what a sync says of a room: notifications and highlights.
func unread(t *testing.T, p *Person, room string) [2]float64 {
	t.Helper()
	u, _ := p.Sync("").At("rooms", "join", room, "unread_notifications").(M)
	if u == nil {
		return [2]float64{-1, -1}
	}
	return [2]float64{u["notification_count"].(float64), u["highlight_count"].(float64)}
}

func text(s string, more M) M {
	m := M{"msgtype": "m.text", "body": s}
	for k, v := range more {
		m[k] = v
	}
	return m
}

func read(p *Person, room, event string, body M) {
	p.TB.Helper()
	p.Do("POST", Room(room)+"/receipt/m.read/"+url.PathEscape(event), body).OK(nil)
}

func TestUnreadCounts(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, room := chat(g)
		expect := func(what string, n, h float64) {
			t.Helper()
			if got := unread(t, ben, room); got != [2]float64{n, h} {
				t.Errorf("%s: %v, want %v and %v", what, got, n, h)
			}
		}
		first := anna.Say(room, "1")
		expect("a message", 1, 0)
		anna.Message(room, M{"msgtype": "m.notice", "body": "x"})
		anna.Event(room, "m.reaction", M{"m.relates_to": M{"rel_type": "m.annotation", "event_id": first, "key": "x"}})
		expect("a notice and a reaction", 1, 0)
		anna.Message(room, text("ben?", M{"m.mentions": M{"user_ids": []any{string(ben.ID), "@other:b.test", string(ben.ID)}}}))
		expect("a mention", 2, 1)
		second := anna.Message(room, text("alle", M{"m.mentions": M{"room": true}}))
		expect("a mention of the room", 3, 2)
		anna.Event(room, "org.silent", M{"m.mentions": M{"user_ids": []any{string(ben.ID)}}})
		expect("a mention in something silent", 4, 3)
		read(ben, room, second, M{})
		expect("read up to the mention of the room", 1, 1)
		e := anna.Say(room, "2")
		expect("one more", 2, 1)
		anna.Do("PUT", Room(room)+"/redact/"+e+"/r", M{}).OK(nil)
		expect("redacted", 1, 1)
		ben.Say(room, "gelesen")
		expect("an answer is a receipt", 0, 0)
		anna.Say(room, "3")
		expect("the next", 1, 0)
		if got := unread(t, ben.On("NEW"), room); got != [2]float64{1, 0} {
			t.Errorf("a new device counts %v", got)
		}
		// Without the level nobody mentions the room.
		ben.Message(room, text("alle", M{"m.mentions": M{"room": true}}))
		if got := unread(t, anna, room); got[1] != 0 {
			t.Errorf("anna counts %v", got)
		}
		g.Person("carla")
	})
}

func TestThreadCounts(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, room := chat(g)
		root := anna.Say(room, "Wurzel")
		reply := func(mention bool) string {
			more := M{"m.relates_to": M{"rel_type": "m.thread", "event_id": root}}
			if mention {
				more["m.mentions"] = M{"user_ids": []any{string(ben.ID)}}
			}
			return anna.Message(room, text("x", more))
		}
		reply(false)
		last := reply(true)
		get := func() (main, thread any) {
			t.Helper()
			a := ben.Sync(threads)
			return a.At("rooms", "join", room, "unread_notifications"), a.At("rooms", "join", room, "unread_thread_notifications", root)
		}
		before := ben.Since
		main, thread := get()
		if !reflect.DeepEqual(main, M{"notification_count": 1.0, "highlight_count": 0.0}) || !reflect.DeepEqual(thread, M{"notification_count": 2.0, "highlight_count": 1.0}) {
			t.Errorf("main %v, thread %v", main, thread)
		}
		ben.Since = before
		if got := unread(t, ben, room); got != [2]float64{3, 1} {
			t.Errorf("all together %v", got)
		}
		read(ben, room, root, M{"thread_id": "main"})
		main, thread = get()
		if At(main, "notification_count") != 0.0 || At(thread, "notification_count") != 2.0 {
			t.Errorf("main read: main %v, thread %v", main, thread)
		}
		read(ben, room, last, M{"thread_id": root})
		if main, thread = get(); At(main, "notification_count") != 0.0 || thread != nil {
			t.Errorf("thread read: main %v, thread %v", main, thread)
		}
	})
}

func rules(p *Person) M {
	p.TB.Helper()
	m := M{}
	p.Do("GET", V3+"/pushrules/global/", nil).OK(&m)
	return m
}

func TestRules(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, room := chat(g)
		path := V3 + "/pushrules/global/"
		if m := rules(ben); At(m, "override", 0, "rule_id") != ".m.rule.master" || At(m, "underride", 4, "rule_id") != ".m.rule.encrypted" {
			t.Errorf("default rules %v", m)
		}
		ben.Do("PUT", path+"content/cake", M{"pattern": "cake", "actions": []any{"notify", M{"set_tweak": "highlight"}, "dont_notify"}}).OK(nil)
		ben.Do("PUT", path+"content/lie?before=cake", M{"pattern": "cake*lie", "actions": []any{}}).OK(nil)
		if m := rules(ben); At(m, "content", 0, "rule_id") != "lie" || At(m, "content", 1, "rule_id") != "cake" || At(m, "content", 1, "enabled") != true {
			t.Errorf("own rules %v", m["content"])
		}
		// The change reaches all devices, and counts follow the user's own rules.
		b := ben.Sync("")
		if e := b.Events("account_data", "events"); len(e) != 1 || e[0]["type"] != "m.push_rules" || At(e[0], "content", "global", "content", 1, "rule_id") != "cake" {
			t.Errorf("account data %v", e)
		}
		anna.Say(room, "There is cake!")
		if got := unread(t, ben, room); got != [2]float64{1, 1} {
			t.Errorf("cake: %v", got)
		}
		anna.Say(room, "The cake is a lie")
		if got := unread(t, ben, room); got != [2]float64{1, 1} {
			t.Errorf("lie: %v", got)
		}
		ben.Do("PUT", path+"room/"+url.PathEscape(room), M{"actions": []any{}}).OK(nil)
		anna.Say(room, "stumm")
		if got := unread(t, ben, room); got != [2]float64{1, 1} {
			t.Errorf("a silent room: %v", got)
		}
		ben.Do("PUT", path+"override/.m.rule.master/enabled", M{"enabled": true}).OK(nil)
		anna.Say(room, "cake")
		if got := unread(t, ben, room); got != [2]float64{0, 0} {
			t.Errorf("everything off: %v", got)
		}
		if a := ben.Do("GET", path+"override/.m.rule.master/enabled", nil).OK(nil); a.Get("enabled") != "true" {
			t.Errorf("enabled %s", a.Body)
		}
		ben.Do("PUT", path+"underride/.m.rule.message/actions", M{"actions": []any{"notify", M{"set_tweak": "sound", "value": "x"}}}).OK(nil)
		if a := ben.Do("GET", path+"underride/.m.rule.message/actions", nil).OK(nil); a.Get("actions") == "" {
			t.Errorf("actions %s", a.Body)
		}
		ben.Do("GET", path+"content/lie", nil).OK(nil)
		ben.Do("DELETE", path+"content/lie", nil).OK(nil)
		ben.Do("GET", path+"content/lie", nil).Fails(404, "M_NOT_FOUND")
		ben.Do("DELETE", path+"content/lie", nil).Fails(404, "M_NOT_FOUND")
		ben.Do("DELETE", path+"override/.m.rule.master", nil).Fails(404, "M_NOT_FOUND")
		for what, body := range map[string]any{"content/.x": M{"pattern": "x", "actions": []any{}}, "content/a%2Fb": M{"pattern": "x", "actions": []any{}},
			"override/x": M{"actions": []any{"shout"}}, "sender/x": M{"actions": []any{}}, "room/x": M{"actions": []any{}}, "device/x": M{"actions": []any{}},
			"underride/x": M{"actions": []any{M{"x": 1}}}} {
			ben.Do("PUT", path+what, body).Fails(400, "M_INVALID_PARAM")
		}
		ben.Do("PUT", path+"content/x", M{"actions": []any{}}).Fails(400, "M_MISSING_PARAM")
		ben.Do("PUT", path+"override/x", M{}).Fails(400, "M_MISSING_PARAM")
		ben.Do("PUT", path+"override/x", M{"actions": []any{1}}).Fails(400, "M_BAD_JSON")
		ben.Do("PUT", path+"override/x", M{"actions": []any{}, "conditions": []any{M{}}}).Fails(400, "M_BAD_JSON")
		ben.Do("PUT", path+"override/x", "{").Fails(400, "M_NOT_JSON")
		ben.Do("PUT", path+"override/x?before=nothing", M{"actions": []any{}}).Fails(400, "M_UNKNOWN")
		ben.Do("PUT", path+"override/x/enabled", M{"enabled": true}).Fails(404, "M_NOT_FOUND")
		ben.Do("PUT", path+"override/.m.rule.master/enabled", M{}).Fails(400, "M_MISSING_PARAM")
		ben.Do("PUT", path+"override/x/actions", M{"actions": []any{}}).Fails(404, "M_NOT_FOUND")
		ben.Do("PUT", path+"override/.m.rule.master/actions", M{}).Fails(400, "M_MISSING_PARAM")
		all := M{}
		ben.Do("GET", V3+"/pushrules/", nil).OK(&all)
		if At(all, "global", "content", 0, "rule_id") != "cake" {
			t.Errorf("all rules %v", all)
		}
	})
}

func TestNotifications(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, room := chat(g)
		first := anna.Say(room, "1")
		second := anna.Message(room, text("2", M{"m.mentions": M{"user_ids": []any{string(ben.ID)}}}))
		anna.Message(room, M{"msgtype": "m.notice", "body": "x"})
		ben.Say(room, "eigene")
		read(ben, room, first, M{})
		get := func(query string) M {
			t.Helper()
			m := M{}
			ben.Do("GET", V3+"/notifications?"+query, nil).OK(&m)
			return m
		}
		m := get("")
		if At(m, "notifications", 0, "event", "event_id") != second || At(m, "notifications", 1, "event", "event_id") != first ||
			At(m, "notifications", 2, "event", "type") != "m.room.member" || At(m, "notifications", 3) != nil || // the invitation

			At(m, "notifications", 0, "read") != false || At(m, "notifications", 1, "read") != true || At(m, "notifications", 0, "room_id") != room {
			t.Errorf("notifications %v", m)
		}
		m = get("limit=1")
		m = get("limit=1&from=" + url.QueryEscape(m["next_token"].(string)))
		if At(m, "notifications", 0, "event", "event_id") != first {
			t.Errorf("second page %v", m)
		}
		if m = get("only=highlight"); At(m, "notifications", 0, "event", "event_id") != second || At(m, "notifications", 1) != nil {
			t.Errorf("highlights %v", m)
		}
		ben.Do("GET", V3+"/notifications?from=x", nil).Fails(400, "M_INVALID_PARAM")
		ben.Do("GET", V3+"/notifications?only=x", nil).Fails(400, "M_INVALID_PARAM")
		ben.Do("GET", V3+"/notifications?limit=x", nil).Fails(400, "M_INVALID_PARAM")
	})
}

func TestPushers(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		pusher := func(more M) M {
			m := M{"app_id": "app", "pushkey": "key", "kind": "http", "app_display_name": "App", "device_display_name": "Phone", "lang": "de",
				"data": M{"url": "https://push.test/_matrix/push/v1/notify", "format": "event_id_only"}}
			for k, v := range more {
				if m[k] = v; v == "" {
					delete(m, k)
				}
			}
			return m
		}
		set := func(p *Person, body any) { t.Helper(); p.Do("POST", V3+"/pushers/set", body).OK(nil) }
		count := func(p *Person) int {
			t.Helper()
			m := M{}
			p.Do("GET", V3+"/pushers", nil).OK(&m)
			return len(m["pushers"].([]any))
		}
		set(anna, pusher(nil))
		set(anna, pusher(M{"lang": "en"}))
		set(anna, pusher(M{"pushkey": "second"}))
		if n := count(anna); n != 2 {
			t.Errorf("%d pushers", n)
		}
		set(ben, pusher(M{"append": true}))
		if a, b := count(anna), count(ben); a != 2 || b != 1 {
			t.Errorf("appended: %d and %d", a, b)
		}
		set(ben, pusher(nil))
		if a, b := count(anna), count(ben); a != 1 || b != 1 {
			t.Errorf("taken over: %d and %d", a, b)
		}
		set(ben, M{"app_id": "app", "pushkey": "key", "kind": nil})
		if n := count(ben); n != 0 {
			t.Errorf("deleted: %d", n)
		}
		for code, bodies := range map[string][]any{
			"M_MISSING_PARAM": {M{}, pusher(M{"kind": ""}), pusher(M{"lang": ""}), pusher(M{"data": ""}), pusher(M{"data": M{}})},
			"M_INVALID_PARAM": {pusher(M{"kind": "carrier-pigeon"}), pusher(M{"data": M{"url": "ftp://x/_matrix/push/v1/notify"}}), pusher(M{"data": M{"url": "https://push.test/"}}),
				pusher(M{"app_id": string(make([]byte, 65))})},
			"M_BAD_JSON": {pusher(M{"data": 5}), pusher(M{"kind": 5})},
		} {
			for _, body := range bodies {
				anna.Do("POST", V3+"/pushers/set", body).Fails(400, code)
			}
		}
	})
}

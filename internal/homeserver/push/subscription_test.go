// SPDX-License-Identifier: Apache-2.0

package push_test

import (
	"net/url"
	"reflect"
	"testing"

	. "github.com/konsil-health/konsil/internal/homeserver/clientsync/clientsynctest"
)

const (
	subscriptions = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions"
	threadsOf     = "io.element.msc4308.thread_subscriptions"
)

func subscription(room, root string) string {
	return "/_matrix/client/unstable/io.element.msc4306/rooms/" + url.PathEscape(room) + "/thread/" + url.PathEscape(root) + "/subscription"
}

func subscribe(p *Person, room, root string) {
	p.TB.Helper()
	p.Do("PUT", subscription(room, root), M{}).OK(nil)
}

func answer(p *Person, room, root, s string, more M) string {
	p.TB.Helper()
	m := text(s, more)
	m["m.relates_to"] = M{"rel_type": "m.thread", "event_id": root}
	return p.Message(room, m)
}

// TestThreadSubscriptions: a subscription is made, by hand and by a client on its own, changed and ended.
func TestThreadSubscriptions(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, room := chat(g)
		root := anna.Say(room, "Wurzel")
		path := subscription(room, root)
		var about M
		ben.Do("GET", "/_matrix/client/versions", nil).OK(&about)
		if At(about, "unstable_features", "org.matrix.msc4306") != true || At(about, "unstable_features", "org.matrix.msc4308") != true {
			t.Errorf("features: %v", about)
		}
		automatic := func(want string) {
			t.Helper()
			if a := ben.Do("GET", path, nil).OK(nil); a.Get("automatic") != want {
				t.Errorf("automatic: %s", a.Body)
			}
		}
		ben.Do("GET", path, nil).Fails(404, "M_NOT_FOUND")
		ben.Do("DELETE", path, nil).OK(nil)
		first := answer(anna, room, root, "1", nil)
		other := answer(anna, room, anna.Say(room, "andere"), "x", nil)
		ben.Do("PUT", path, M{"automatic": first}).OK(nil)
		automatic("true")
		subscribe(ben, room, root)
		automatic("false")
		ben.Do("PUT", path, M{"automatic": first}).OK(nil)
		automatic("false") // what a person has said stands above what a client does
		ben.Do("DELETE", path, nil).OK(nil)
		ben.Do("DELETE", path, nil).OK(nil)
		ben.Do("GET", path, nil).Fails(404, "M_NOT_FOUND")
		ben.Do("PUT", path, M{"automatic": first}).Fails(409, "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION")
		ben.Do("PUT", path, M{"automatic": answer(anna, room, root, "2", nil)}).OK(nil)
		automatic("true")
		ben.Do("DELETE", path, nil).OK(nil)
		subscribe(ben, room, root)
		automatic("false")
		for _, cause := range []string{other, root, "$unknown"} {
			ben.Do("PUT", path, M{"automatic": cause}).Fails(400, "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD")
		}
		ben.Do("PUT", path, M{"automatic": true}).Fails(400, "M_BAD_JSON")
		ben.Do("PUT", path, M{"automatic": "x"}).Fails(400, "M_INVALID_PARAM")
		ben.Do("PUT", path, "{").Fails(400, "M_NOT_JSON")

		// Threads that are not there, or not for the caller, cannot be told apart.
		carla := g.Person("carla")
		for what, p := range map[string]string{"an unknown root": subscription(room, "$unknown"), "an unknown room": subscription("!x:a.test", root),
			"a root of another room": subscription(anna.Create(M{}), root)} {
			for method, body := range map[string]any{"GET": nil, "PUT": M{}, "DELETE": nil} {
				t.Log(what, method)
				ben.Do(method, p, body).Fails(404, "M_NOT_FOUND")
				carla.Do(method, path, body).Fails(404, "M_NOT_FOUND")
			}
		}
		ben.Leave(room)
		ben.Do("GET", path, nil).OK(nil)
		ben.Do("POST", Room(room)+"/forget", M{}).OK(nil)
		for method, body := range map[string]any{"GET": nil, "PUT": M{}, "DELETE": nil} {
			ben.Do(method, path, body).Fails(404, "M_NOT_FOUND")
		}
	})
}

// TestSubscribedThreadsNotify: from the first subscription on, threads notify whoever is subscribed to them, and nobody else unless mentioned.
func TestSubscribedThreadsNotify(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, room := chat(g)
		followed, ignored := anna.Say(room, "A"), anna.Say(room, "B")
		expect := func(what string, n, h float64) {
			t.Helper()
			ben.Since = "" // counts come with a room, and not all that changes them changes a room
			if got := unread(t, ben, room); got != [2]float64{n, h} {
				t.Errorf("%s: %v, want %v and %v", what, got, n, h)
			}
		}
		enabled := func(rule string, want bool) {
			t.Helper()
			for _, r := range rules(ben)["postcontent"].([]any) {
				if At(r, "rule_id") == rule && At(r, "enabled") != want {
					t.Errorf("%v, want enabled %v", r, want)
				}
			}
		}
		const off, on = ".io.element.msc4306.rule.unsubscribed_thread", ".io.element.msc4306.rule.subscribed_thread"
		if list := rules(ben)["postcontent"].([]any); len(list) != 2 || At(list[0], "rule_id") != off || At(list[1], "rule_id") != on {
			t.Fatalf("rules about threads: %v", list)
		}
		enabled(off, false)
		enabled(on, false)
		read(ben, room, ignored, M{})
		expect("all read", 0, 0)
		answer(anna, room, followed, "a1", nil)
		answer(anna, room, ignored, "b1", nil)
		expect("as ever without subscriptions", 2, 0)

		subscribe(ben, room, followed)
		enabled(off, true)
		enabled(on, true)
		if e := ben.Sync("").Events("account_data", "events"); len(e) != 1 || e[0]["type"] != "m.push_rules" || At(e[0], "content", "global", "postcontent", 0, "enabled") != true {
			t.Errorf("push rules in a sync: %v", e)
		}
		expect("one thread of two", 1, 0)
		answer(anna, room, ignored, "b2", nil)
		answer(anna, room, followed, "a2", nil)
		expect("the thread goes on", 2, 0)
		answer(anna, room, ignored, "b3", M{"m.mentions": M{"user_ids": []any{string(ben.ID)}}})
		expect("a mention", 3, 1)
		anna.Say(room, "draußen")
		expect("outside of threads", 4, 1)
		a := ben.On("OTHER").Sync(threads)
		if a.At("rooms", "join", room, "unread_thread_notifications", followed, "notification_count") != 2.0 ||
			a.At("rooms", "join", room, "unread_thread_notifications", ignored, "notification_count") != 1.0 {
			t.Errorf("threads: %v", a.At("rooms", "join", room))
		}
		m := M{}
		ben.Do("GET", V3+"/notifications", nil).OK(&m)
		var told []any
		for _, n := range m["notifications"].([]any) {
			told = append(told, At(n, "event", "content", "body"))
		}
		if want := []any{"draußen", "b3", "a2", "a1"}; len(told) < 4 || !reflect.DeepEqual(told[:4], want) {
			t.Errorf("notifications of %v, want first %v", told, want)
		} else if actions := At(m, "notifications", 2, "actions"); !reflect.DeepEqual(actions, []any{"notify", M{"set_tweak": "sound", "value": "default"}}) {
			t.Errorf("actions of a subscribed thread: %v", actions)
		}

		// A muted room does not mute the threads that somebody follows.
		ben.Do("PUT", V3+"/pushrules/global/room/"+url.PathEscape(room), M{"actions": []any{}}).OK(nil)
		expect("a muted room", 3, 1)
		ben.Do("DELETE", V3+"/pushrules/global/room/"+url.PathEscape(room), nil).OK(nil)
		ben.Do("DELETE", subscription(room, followed), nil).OK(nil)
		expect("unsubscribed", 2, 1)

		// Whoever switches the rules off keeps them off.
		ben.Do("PUT", V3+"/pushrules/global/postcontent/"+off+"/enabled", M{"enabled": false}).OK(nil)
		subscribe(ben, room, ignored)
		enabled(off, false)
		expect("without the rule", 6, 1)
		ben.Do("PUT", V3+"/pushrules/global/postcontent/mine", M{"actions": []any{"notify"}}).Fails(400, "M_INVALID_PARAM")
		ben.Do("DELETE", V3+"/pushrules/global/postcontent/"+on, nil).Fails(404, "M_NOT_FOUND")
	})
}

// TestThreadSubscriptionList: sliding sync tells changes of subscriptions, and a list goes back to those that an answer could not hold.
func TestThreadSubscriptionList(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, room := chat(g)
		ask := func(limit int) M {
			x := M{"enabled": true}
			if limit > 0 {
				x["limit"] = limit
			}
			return M{"lists": M{}, "extensions": M{threadsOf: x}}
		}
		if a := ben.Slide(ask(0)); a.At("extensions", threadsOf) != nil {
			t.Errorf("nothing yet: %v", a.At("extensions"))
		}
		begin := ben.Pos
		var roots []string
		for range 5 {
			roots = append(roots, anna.Say(room, "x"))
			subscribe(ben, room, roots[len(roots)-1])
		}
		ben.Do("DELETE", subscription(room, roots[0]), nil).OK(nil) // the newest change

		a := ben.Slide(ask(2))
		x := a.At("extensions", threadsOf)
		if At(x, "unsubscribed", room, roots[0], "bump_stamp") == nil || At(x, "subscribed", room, roots[4], "automatic") != false ||
			len(At(x, "subscribed", room).(M)) != 1 || At(x, "prev_batch") == nil {
			t.Fatalf("the newest two: %v", x)
		}
		if At(x, "unsubscribed", room, roots[0], "bump_stamp").(float64) <= At(x, "subscribed", room, roots[4], "bump_stamp").(float64) {
			t.Errorf("bump stamps: %v", x)
		}
		page := func(query string) M {
			t.Helper()
			m := M{}
			ben.Do("GET", subscriptions+"?dir=b"+query, nil).OK(&m)
			return m
		}
		to := "&limit=2&to=" + url.QueryEscape(begin)
		m := page(to + "&from=" + url.QueryEscape(At(x, "prev_batch").(string)))
		if s, _ := At(m, "subscribed", room).(M); len(s) != 2 || s[roots[3]] == nil || s[roots[2]] == nil || m["end"] == nil || m["unsubscribed"] != nil {
			t.Errorf("two more: %v", m)
		}
		m = page(to + "&from=" + url.QueryEscape(m["end"].(string)))
		if s, _ := At(m, "subscribed", room).(M); len(s) != 1 || s[roots[1]] == nil || m["end"] != nil {
			t.Errorf("the last: %v", m)
		}
		if m = page(""); len(At(m, "subscribed", room).(M)) != 4 || len(At(m, "unsubscribed", room).(M)) != 1 || m["end"] != nil {
			t.Errorf("all: %v", m)
		}
		if m = page("&to=" + url.QueryEscape(ben.Pos)); len(m) != 0 {
			t.Errorf("since the newest pos: %v", m)
		}
		if a = ben.Slide(ask(0)); a.At("extensions", threadsOf) != nil {
			t.Errorf("told twice: %v", a.At("extensions"))
		}
		// Another device is told all of it, one that waits at once; nobody else hears anything.
		fresh := ben.On("NEW")
		if x := fresh.Slide(ask(0)).At("extensions", threadsOf); len(At(x, "subscribed", room).(M)) != 4 || len(At(x, "unsubscribed", room).(M)) != 1 || At(x, "prev_batch") != nil {
			t.Errorf("a new device: %v", x)
		}
		done := make(chan *Answer, 1)
		waits := ask(0)
		waits["timeout"] = 60000
		go func() { done <- fresh.Slide(waits) }()
		ben.Do("DELETE", subscription(room, roots[1]), nil).OK(nil)
		if x := (<-done).At("extensions", threadsOf); At(x, "unsubscribed", room, roots[1]) == nil {
			t.Errorf("a waiting device: %v", x)
		}
		if x := anna.Slide(ask(0)).At("extensions", threadsOf); x != nil {
			t.Errorf("somebody else: %v", x)
		}
		for _, query := range []string{"", "?dir=f", "?dir=b&limit=0", "?dir=b&limit=x", "?dir=b&from=x", "?dir=b&to=x"} {
			ben.Do("GET", subscriptions+query, nil).Fails(400, "M_INVALID_PARAM")
		}
		for _, limit := range []any{0, -1} {
			ben.Do("POST", Sliding, M{"extensions": M{threadsOf: M{"enabled": true, "limit": limit}}}).Fails(400, "M_INVALID_PARAM")
		}
	})
}

// TestThreadSubscriptionsEndWithTheAccount: a deactivated account leaves none behind.
func TestThreadSubscriptionsEndWithTheAccount(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, room := chat(g)
		root := anna.Say(room, "Wurzel")
		subscribe(anna, room, root)
		subscribe(ben, room, root)
		if err := g.Accounts.Deactivate(t.Context(), g.A, ben.ID); err != nil {
			t.Fatal(err)
		}
		var user string
		if err := g.DB.QueryRow(t.Context(), "SELECT MIN(user_id) FROM thread_subscription HAVING COUNT(*) = 1").Scan(&user); err != nil || user != string(anna.ID) {
			t.Errorf("a subscription of %q is left, %v", user, err)
		}
	})
}

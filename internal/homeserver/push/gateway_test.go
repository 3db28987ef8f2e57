// SPDX-License-Identifier: Apache-2.0

package push_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/foundation/httpapi/spectest"
	"github.com/konsil-health/konsil/internal/konsiltest"
)

const (
	clientV3 = "/_matrix/client/v3"
	// within only ends a test that hangs.
	within = time.Minute
)

type object = map[string]any

// gateway is a push gateway that keeps what it gets.
type gateway struct {
	t   *testing.T
	url string

	mu       sync.Mutex
	got      []object // notifications that were taken
	tries    int
	failing  int
	rejected []string
	arrived  chan struct{}
}

func newGateway(t *testing.T) *gateway {
	g := &gateway{t: t, arrived: make(chan struct{})}
	server := httptest.NewServer(spectest.Requests(t, g))
	t.Cleanup(server.Close)
	g.url = server.URL + "/_matrix/push/v1/notify"
	return g
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body object
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || r.Method != "POST" || r.URL.Path != "/_matrix/push/v1/notify" {
		g.t.Errorf("%s %s: %v", r.Method, r.URL, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tries++
	if g.failing > 0 {
		g.failing--
		w.WriteHeader(http.StatusBadGateway)
	} else {
		g.got = append(g.got, body["notification"].(object))
		if err := json.NewEncoder(w).Encode(object{"rejected": append([]string{}, g.rejected...)}); err != nil {
			g.t.Error(err)
		}
	}
	close(g.arrived)
	g.arrived = make(chan struct{})
}

// await returns the first notification, so far or to come, that holds something.
func (g *gateway) await(what string, holds func(n object) bool) object {
	g.t.Helper()
	deadline := time.After(within)
	for seen := 0; ; {
		g.mu.Lock()
		list, more := g.got, g.arrived
		g.mu.Unlock()
		for ; seen < len(list); seen++ {
			if holds(list[seen]) {
				return list[seen]
			}
		}
		select {
		case <-more:
		case <-deadline:
			g.t.Fatalf("the gateway never got %s; it got %v", what, list)
		}
	}
}

func (g *gateway) event(eid string) object {
	g.t.Helper()
	return g.await("event "+eid, func(n object) bool { return n["event_id"] == eid })
}

func (g *gateway) fail(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failing = n
}

func unreadIn(n object) float64 {
	c, _ := konsiltest.At(n, "counts", "unread").(float64)
	return c
}

func (g *gateway) pusher(app, key string, data object) object {
	d := object{"url": g.url}
	for k, v := range data {
		d[k] = v
	}
	return object{"kind": "http", "app_id": app, "pushkey": key, "app_display_name": "App", "device_display_name": "Phone", "lang": "de", "data": d}
}

func gatewayCell(t *testing.T, database string) *konsiltest.Cell {
	t.Helper()
	return konsiltest.New(t, konsiltest.Spec{Tenants: []string{"hs1"}, Database: database,
		Configure: func(c *config.Config) { c.PrivateAddresses = true }}).Cell(0)
}

func setPusher(u *konsiltest.Session, pusher object) { u.Do("POST", clientV3+"/pushers/set", pusher) }

func pushersOf(u *konsiltest.Session) int {
	return len(u.Do("GET", clientV3+"/pushers", nil)["pushers"].([]any))
}

func inRoom(room string) string { return clientV3 + "/rooms/" + url.PathEscape(room) }

func markRead(u *konsiltest.Session, room, eid string) {
	u.Do("POST", inRoom(room)+"/receipt/m.read/"+url.PathEscape(eid), object{})
}

func TestNotificationsReachTheGateway(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 1, func(t *testing.T, urls []string) {
		g, c := newGateway(t), gatewayCell(t, urls[0])
		alice, bob := c.SignIn(t, "@alice:hs1"), c.SignIn(t, "@bob:hs1")
		setPusher(bob, g.pusher("app", "key", object{"brand": "x"}))
		setPusher(bob, g.pusher("ids", "key2", object{"format": "event_id_only"}))
		room := alice.CreateRoom(object{"preset": "private_chat", "name": "Station 3", "invite": []string{"@bob:hs1"}})
		invite := g.await("the invitation", func(n object) bool { return n["type"] == "m.room.member" && n["room_id"] == room })
		if invite["user_is_target"] != true || konsiltest.At(invite, "content", "membership") != "invite" || unreadIn(invite) != 1 {
			t.Errorf("%v", invite)
		}
		bob.Join(room)
		eid := alice.Send(room, "hello")
		n := g.await("the message", func(n object) bool { return n["event_id"] == eid && n["type"] != nil })
		device := konsiltest.At(n, "devices", 0)
		if n["room_id"] != room || n["sender"] != "@alice:hs1" || n["type"] != "m.room.message" || n["room_name"] != "Station 3" ||
			n["prio"] != "high" || konsiltest.At(n, "content", "body") != "hello" || n["user_is_target"] != nil || unreadIn(n) != 1 {
			t.Errorf("%v", n)
		}
		if konsiltest.At(device, "app_id") != "app" || konsiltest.At(device, "pushkey") != "key" || konsiltest.At(device, "data", "url") != nil ||
			konsiltest.At(device, "data", "brand") != "x" || konsiltest.At(device, "tweaks", "sound") != "default" || konsiltest.At(device, "pushkey_ts") == nil {
			t.Errorf("%v", device)
		}
		short := g.await("the short form", func(n object) bool {
			return n["event_id"] == eid && konsiltest.At(n, "devices", 0, "pushkey") == "key2"
		})
		if short["content"] != nil || short["sender"] != nil || short["room_id"] != room || short["type"] != nil || unreadIn(short) != 1 {
			t.Errorf("%v", short)
		}
		second := alice.Send(room, "again")
		if n := g.event(second); unreadIn(n) != 2 {
			t.Errorf("%v", n)
		}
		// Reading tells the new count, even when it is none.
		markRead(bob, room, second)
		g.await("the count", func(n object) bool { return n["event_id"] == nil && konsiltest.At(n, "counts", "unread") == 0.0 })

		// What the rules silence, what is the user's own and what an ignored user says, notifies nobody; what comes after does.
		alice.Do("PUT", inRoom(room)+"/send/m.room.message/notice", object{"msgtype": "m.notice", "body": "psst"})
		bob.Send(room, "my own")
		carol := c.SignIn(t, "@carol:hs1")
		alice.Do("POST", inRoom(room)+"/invite", object{"user_id": carol.User})
		carol.Join(room)
		bob.Do("PUT", clientV3+"/user/"+url.PathEscape(bob.User)+"/account_data/m.ignored_user_list", object{"ignored_users": object{carol.User: object{}}})
		hidden := carol.Send(room, "ignored")
		last := alice.Do("PUT", inRoom(room)+"/send/m.room.message/mention",
			object{"msgtype": "m.text", "body": "bob!", "m.mentions": object{"user_ids": []string{bob.User}}})["event_id"].(string)
		n = g.await("the mention", func(n object) bool { return n["event_id"] == last && n["type"] != nil })
		if konsiltest.At(n, "devices", 0, "tweaks", "highlight") != true {
			t.Errorf("%v", n)
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		seen := map[string]int{}
		for _, n := range g.got {
			if n["sender"] == bob.User || n["event_id"] == hidden || konsiltest.At(n, "content", "body") == "psst" {
				t.Errorf("notified of %v", n)
			}
			if eid, ok := n["event_id"].(string); ok {
				key := eid + fmt.Sprint(konsiltest.At(n, "devices", 0, "pushkey"))
				if seen[key]++; seen[key] > 1 {
					t.Errorf("%s twice", key)
				}
			}
		}
	})
}

func TestGatewayOutage(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 1, func(t *testing.T, urls []string) {
		g, c := newGateway(t), gatewayCell(t, urls[0])
		alice, bob := c.SignIn(t, "@alice:hs1"), c.SignIn(t, "@bob:hs1")
		room := alice.CreateRoom(object{"preset": "public_chat"})
		bob.Join(room)
		setPusher(bob, g.pusher("app", "key", object{"org.matrix.msc4076.disable_badge_count": true}))
		g.fail(1 << 30)
		want := []string{alice.Send(room, "one"), alice.Send(room, "two")}
		for tries := 0; tries < 2; {
			g.mu.Lock()
			more := g.arrived
			tries = g.tries
			g.mu.Unlock()
			if tries < 2 {
				<-more
			}
		}
		c.Restart()
		want = append(want, alice.Send(room, "three"))
		g.fail(2)
		n := g.event(want[2])
		if n["counts"] != nil {
			t.Errorf("counts for a client that wants none: %v", n)
		}
		markRead(bob, room, want[2])
		want = append(want, alice.Send(room, "four"))
		g.event(want[3])
		g.mu.Lock()
		defer g.mu.Unlock()
		var got []string
		for _, n := range g.got {
			got = append(got, fmt.Sprint(n["event_id"]))
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestRejectedPushersGo(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 1, func(t *testing.T, urls []string) {
		g, c := newGateway(t), gatewayCell(t, urls[0])
		alice, bob := c.SignIn(t, "@alice:hs1"), c.SignIn(t, "@bob:hs1")
		room := alice.CreateRoom(object{"preset": "public_chat"})
		bob.Join(room)
		setPusher(bob, g.pusher("app", "bad", nil))
		setPusher(bob, g.pusher("app", "good", nil))
		g.mu.Lock()
		g.rejected = []string{"bad"}
		g.mu.Unlock()
		g.event(alice.Send(room, "x"))
		for deadline := time.Now().Add(within); pushersOf(bob) != 1; {
			if time.Now().After(deadline) {
				t.Fatal("the rejected pusher is still there")
			}
		}
		// The same key for somebody else, without append: it is theirs now.
		setPusher(alice, g.pusher("app", "good", nil))
		if n := pushersOf(bob); n != 0 {
			t.Errorf("%d pushers left", n)
		}
		added := g.pusher("app", "good", nil)
		added["append"] = true
		setPusher(bob, added)
		if pushersOf(bob) != 1 || pushersOf(alice) != 1 {
			t.Error("append took a pusher away")
		}
		// A pusher goes with its device.
		phone := c.Login(t, bob.User, bob.Password)
		setPusher(phone, g.pusher("app", "phone", nil))
		phone.Do("POST", clientV3+"/logout", object{})
		if n := pushersOf(bob); n != 1 {
			t.Errorf("%d pushers after the phone signed out", n)
		}
	})
}

func TestGatewayAddresses(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := konsiltest.New(t, konsiltest.Spec{Tenants: []string{"hs1"}}).Cell(0)
	alice, bob := c.SignIn(t, "@alice:hs1"), c.SignIn(t, "@bob:hs1")
	for _, address := range []string{g.url, "https://gateway.test/other", "ftp://gateway.test/_matrix/push/v1/notify", "https://u:p@gateway.test/_matrix/push/v1/notify", "x"} {
		body := g.pusher("app", "key", nil)
		body["data"] = object{"url": address}
		if status, answer := bob.Try("POST", clientV3+"/pushers/set", body); status != 400 || answer["errcode"] != "M_INVALID_PARAM" {
			t.Errorf("%s: %d %v", address, status, answer)
		}
	}
	// An https address that turns out to be private is never connected to.
	body := g.pusher("app", "key", nil)
	body["data"] = object{"url": "https" + g.url[len("http"):]}
	setPusher(bob, body)
	room := alice.CreateRoom(object{"preset": "public_chat"})
	bob.Join(room)
	alice.Send(room, "x")
	c.Restart() // with all that is under way
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.tries > 0 {
		t.Error("a private gateway was called")
	}
}

// TestSubscribedThreadsReachTheGateway: of a muted room a phone hears what is said in the threads that its user follows, and nothing else.
func TestSubscribedThreadsReachTheGateway(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 1, func(t *testing.T, urls []string) {
		g, c := newGateway(t), gatewayCell(t, urls[0])
		alice, bob := c.SignIn(t, "@alice:hs1"), c.SignIn(t, "@bob:hs1")
		room := alice.CreateRoom(object{"preset": "private_chat", "invite": []string{"@bob:hs1"}})
		bob.Join(room)
		followed, other := alice.Send(room, "A"), alice.Send(room, "B")
		bob.Do("PUT", clientV3+"/pushrules/global/room/"+url.PathEscape(room), object{"actions": []any{}})
		bob.Do("PUT", subscription(room, followed), object{})
		setPusher(bob, g.pusher("app", "key", object{}))
		reply := func(root, txn string) string {
			return alice.Do("PUT", inRoom(room)+"/send/m.room.message/"+txn,
				object{"msgtype": "m.text", "body": txn, "m.relates_to": object{"rel_type": "m.thread", "event_id": root}})["event_id"].(string)
		}
		silent := []string{reply(other, "x"), alice.Send(room, "outside")}
		first := reply(followed, "y")
		if n := g.event(first); konsiltest.At(n, "devices", 0, "tweaks", "sound") != "default" || unreadIn(n) != 1 {
			t.Errorf("%v", n)
		}
		bob.Do("DELETE", subscription(room, followed), nil)
		silent = append(silent, reply(followed, "z"))
		bob.Do("PUT", subscription(room, other), object{})
		g.event(reply(other, "last"))
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, n := range g.got {
			if slices.Contains(silent, fmt.Sprint(n["event_id"])) {
				t.Errorf("notified of %v", n)
			}
		}
	})
}

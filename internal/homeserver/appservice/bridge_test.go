// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package appservice_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	mxappservice "maunium.net/go/mautrix/appservice"
	"maunium.net/go/mautrix/event"
	mxid "maunium.net/go/mautrix/id"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/foundation/httpapi/spectest"
	"github.com/konsil-health/konsil/internal/konsiltest"
)

type m = map[string]any

// within only ends a test that hangs.
const within = time.Minute

// transaction is one that the server sent, as it came.
type transaction struct {
	id, path string
	body     m
	raw      string
}

// bridge is a real bridge's library between a node and the test, which sees what passes.
type bridge struct {
	*mxappservice.AppService
	t    *testing.T
	cell *konsiltest.Cell

	mu       sync.Mutex
	sent     []transaction
	failing  int // how many requests are answered 500 at first
	old      bool
	arrived  chan struct{}
	queries  []string
	onUser   func(mxid.UserID) bool
	onAlias  func(mxid.RoomAlias) bool
	protocol func(w http.ResponseWriter, r *http.Request)
}

func (b *bridge) QueryUser(u mxid.UserID) bool {
	b.note("user " + string(u))
	return b.onUser != nil && b.onUser(u)
}

func (b *bridge) QueryAlias(a mxid.RoomAlias) bool {
	b.note("alias " + string(a))
	return b.onAlias != nil && b.onAlias(a)
}

func (b *bridge) note(q string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queries = append(b.queries, q)
}

// ServeHTTP looks at what the node sends before the library does.
func (b *bridge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer secret-hs" {
		b.t.Errorf("%s without the token", r.URL.Path)
	}
	if strings.Contains(r.URL.Path, "/thirdparty/") {
		b.protocol(w, r)
		return
	}
	if strings.Contains(r.URL.Path, "/transactions/") {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			b.t.Error(err)
		}
		r.Body = io.NopCloser(strings.NewReader(string(raw)))
		tx := transaction{id: filepath.Base(r.URL.Path), path: r.URL.Path, raw: string(raw)}
		if err := json.Unmarshal(raw, &tx.body); err != nil {
			b.t.Error(err)
		}
		b.mu.Lock()
		b.sent = append(b.sent, tx)
		fail := b.failing > 0
		if fail {
			b.failing--
		}
		old := b.old
		close(b.arrived)
		b.arrived = make(chan struct{})
		b.mu.Unlock()
		if fail {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		if old {
			if strings.HasPrefix(r.URL.Path, "/_matrix") {
				http.NotFound(w, r)
				return
			}
			if r.URL.Query().Get("access_token") != "secret-hs" {
				b.t.Error("an old path without the token in its query")
			}
			r.URL.Path = "/_matrix/app/v1" + r.URL.Path
		}
	}
	b.Router.ServeHTTP(w, r)
}

func (b *bridge) fail(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failing = n
}

// await returns the first thing that pick finds in the transactions so far or to come.
func (b *bridge) await(what string, pick func(tx transaction) any) any {
	b.t.Helper()
	deadline := time.After(within)
	for seen := 0; ; {
		b.mu.Lock()
		list, more := b.sent, b.arrived
		b.mu.Unlock()
		for ; seen < len(list); seen++ {
			if found := pick(list[seen]); found != nil {
				return found
			}
		}
		select {
		case <-more:
		case <-deadline:
			b.t.Fatalf("the bridge never got %s; it got %v", what, list)
		}
	}
}

// in finds an entry of a list in a transaction.
func in(list string, holds func(e m) bool) func(transaction) any {
	return func(tx transaction) any {
		entries, _ := tx.body[list].([]any)
		for _, raw := range entries {
			if e := raw.(m); holds(e) {
				return e
			}
		}
		return nil
	}
}

func (b *bridge) event(eid string) m {
	b.t.Helper()
	return b.await("event "+eid, in("events", func(e m) bool { return e["event_id"] == eid })).(m)
}

// as is a request of the bridge for one of its users.
func (b *bridge) as(user, method, path string, body any) (int, m) {
	b.t.Helper()
	var in io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			b.t.Fatal(err)
		}
		in = strings.NewReader(string(raw))
	}
	sep := "?"
	if strings.Contains(path, "?") {
		sep = "&"
	}
	if user != "" {
		path += sep + "user_id=" + url.QueryEscape(user)
	}
	r, err := http.NewRequestWithContext(b.t.Context(), method, b.cell.URL+path, in)
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer secret-as")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	out := m{}
	if err := json.NewDecoder(res.Body).Decode(&out); err != nil {
		b.t.Fatal(err)
	}
	return res.StatusCode, out
}

const registration = `
id: bridge
url: %q
as_token: secret-as
hs_token: secret-hs
sender_localpart: bridgebot
rate_limited: false
receive_ephemeral: true
de.sorunome.msc2409.push_ephemeral: true
org.matrix.msc3202: true
protocols: [irc]
namespaces:
  users:
    - {exclusive: true, regex: "@irc_.*:hs1"}
  aliases:
    - {exclusive: true, regex: "#irc_.*:hs1"}
`

// start boots a node and a bridge registered with it.
func start(t *testing.T, database string) *bridge {
	t.Helper()
	b := &bridge{t: t, arrived: make(chan struct{})}
	server := httptest.NewServer(spectest.Requests(t, b))
	t.Cleanup(server.Close)
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "bridge.yaml"), fmt.Appendf(nil, registration, server.URL), 0o600); err != nil {
		t.Fatal(err)
	}
	reg, err := mxappservice.LoadRegistration(filepath.Join(folder, "bridge.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	net := konsiltest.New(t, konsiltest.Spec{Tenants: []string{"hs1"}, Database: database, Configure: func(c *config.Config) { c.AppServices = folder }})
	b.cell = net.Cell(0)
	if b.AppService, err = mxappservice.CreateFull(mxappservice.CreateOpts{Registration: reg, HomeserverDomain: "hs1", HomeserverURL: b.cell.URL}); err != nil {
		t.Fatal(err)
	}
	b.QueryHandler = b
	go func() { // the library hands over by channels of bounded size
		for {
			select {
			case <-b.Events:
			case <-b.ToDeviceEvents:
			case <-t.Context().Done():
				return
			}
		}
	}()
	return b
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func escape(s string) string { return url.PathEscape(s) }

func TestBridge(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 1, func(t *testing.T, urls []string) {
		b := start(t, urls[0])
		ctx := t.Context()
		bot := b.BotIntent()
		if !bot.EnsureAppserviceConnection(ctx) {
			t.Fatal("no connection")
		}
		alice := b.cell.SignIn(t, "@alice:hs1")
		room := alice.CreateRoom(m{"name": "portal", "preset": "private_chat"})
		alice.Send(room, "before the bridge")
		alice.Do("POST", "/_matrix/client/v3/rooms/"+escape(room)+"/invite", m{"user_id": "@bridgebot:hs1"})
		invite := b.await("the invitation", in("events", func(e m) bool {
			return e["type"] == "m.room.member" && e["state_key"] == "@bridgebot:hs1" && konsiltest.At(e, "content", "membership") == "invite"
		})).(m)
		if invite["room_id"] != room || konsiltest.At(invite, "unsigned", "invite_room_state", 0) == nil {
			t.Errorf("invitation: %v", invite)
		}
		ok(t, bot.EnsureJoined(ctx, mxid.RoomID(room)))
		first := alice.Send(room, "hello bridge")
		if e := b.event(first); e["sender"] != "@alice:hs1" || konsiltest.At(e, "content", "body") != "hello bridge" || e["room_id"] != room {
			t.Errorf("%v", e)
		}
		for _, tx := range b.sent {
			if strings.Contains(tx.raw, "before the bridge") {
				t.Error("the bridge got an event of a room that it was not in")
			}
		}

		// A ghost comes, writes with the time of its own network, and leaves.
		ghost := b.Intent("@irc_bob:hs1")
		ok(t, ghost.EnsureRegistered(ctx))
		ok(t, bot.EnsureInvited(ctx, mxid.RoomID(room), "@irc_bob:hs1"))
		ok(t, ghost.EnsureJoined(ctx, mxid.RoomID(room)))
		ok(t, ghost.SetDisplayName(ctx, "Bob"))
		sent, err := ghost.SendMessageEvent(ctx, mxid.RoomID(room), event.EventMessage, m{"msgtype": "m.text", "body": "old"},
			mautrix.ReqSendEvent{Timestamp: 1234567890})
		ok(t, err)
		if e := b.event(sent.EventID.String()); e["origin_server_ts"] != 1234567890.0 || e["sender"] != "@irc_bob:hs1" {
			t.Errorf("%v", e)
		}

		// What passes by, under both names.
		alice.Do("PUT", "/_matrix/client/v3/rooms/"+escape(room)+"/typing/"+escape(alice.User), m{"typing": true, "timeout": 30000})
		for _, list := range []string{"ephemeral", "de.sorunome.msc2409.ephemeral"} {
			b.await("typing in "+list, in(list, func(e m) bool {
				return e["type"] == "m.typing" && e["room_id"] == room && konsiltest.At(e, "content", "user_ids", 0) == alice.User
			}))
		}
		alice.Do("POST", "/_matrix/client/v3/rooms/"+escape(room)+"/receipt/m.read/"+escape(sent.EventID.String()), m{})
		b.await("the receipt", in("ephemeral", func(e m) bool {
			return e["type"] == "m.receipt" && e["room_id"] == room && konsiltest.At(e, "content", sent.EventID.String(), "m.read", alice.User) != nil
		}))
		alice.Do("PUT", "/_matrix/client/v3/presence/"+escape(alice.User)+"/status", m{"presence": "unavailable", "status_msg": "away"})
		b.await("presence", in("ephemeral", func(e m) bool {
			return e["type"] == "m.presence" && e["sender"] == alice.User && konsiltest.At(e, "content", "presence") == "unavailable"
		}))
		// A private receipt of somebody else is nobody's business.
		last := alice.Send(room, "last")
		alice.Do("POST", "/_matrix/client/v3/rooms/"+escape(room)+"/receipt/m.read.private/"+escape(last), m{})
		_, answer := b.as("@irc_bob:hs1", "POST", "/_matrix/client/v3/rooms/"+escape(room)+"/receipt/m.read.private/"+escape(last), m{})
		if len(answer) != 0 {
			t.Error(answer)
		}
		b.await("the ghost's private receipt", in("ephemeral", func(e m) bool {
			return konsiltest.At(e, "content", last, "m.read.private", "@irc_bob:hs1") != nil
		}))
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, tx := range b.sent {
			if strings.Contains(tx.raw, "m.read.private\":{\"@alice:hs1") {
				t.Error("the bridge got a private receipt of somebody else")
			}
		}
	})
}

func TestOutage(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 1, func(t *testing.T, urls []string) {
		b := start(t, urls[0])
		alice := b.cell.SignIn(t, "@alice:hs1")
		room := alice.CreateRoom(m{"preset": "public_chat"})
		ok(t, b.BotIntent().EnsureJoined(t.Context(), mxid.RoomID(room)))
		b.event(alice.Send(room, "there"))
		b.fail(1 << 30)
		var want []string
		for i := range 5 {
			want = append(want, alice.Send(room, fmt.Sprint(i)))
		}
		b.event(want[0]) // tried, and refused
		b.cell.Restart()
		for i := range 150 {
			want = append(want, alice.Send(room, fmt.Sprint("after ", i)))
		}
		b.fail(3)
		b.event(want[len(want)-1])
		// Each event came in order; what came again came in the very same transaction.
		bodies := map[string]string{}
		var got []string
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, tx := range b.sent {
			if before, again := bodies[tx.id]; again {
				if before != tx.raw {
					t.Errorf("transaction %s changed:\n%s\n%s", tx.id, before, tx.raw)
				}
				continue
			}
			bodies[tx.id] = tx.raw
			events := tx.body["events"].([]any)
			if len(events) > 100 {
				t.Errorf("%d events at once", len(events))
			}
			for _, e := range events {
				if e.(m)["type"] == "m.room.message" {
					got = append(got, e.(m)["event_id"].(string))
				}
			}
		}
		got = got[1:]
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("got %d events, want %d\n%v\n%v", len(got), len(want), got, want)
		}
	})
}

func TestOldService(t *testing.T) {
	t.Parallel()
	b := start(t, "")
	b.old = true
	alice := b.cell.SignIn(t, "@alice:hs1")
	room := alice.CreateRoom(m{"preset": "public_chat"})
	ok(t, b.BotIntent().EnsureJoined(t.Context(), mxid.RoomID(room)))
	eid := alice.Send(room, "by the old path")
	b.await("the event by the old path", func(tx transaction) any {
		if strings.HasPrefix(tx.path, "/transactions/") && strings.Contains(tx.raw, eid) {
			return tx
		}
		return nil
	})
}

func TestQueries(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 1, func(t *testing.T, urls []string) {
		b := start(t, urls[0])
		alice := b.cell.SignIn(t, "@alice:hs1")
		b.onUser = func(u mxid.UserID) bool {
			if u != "@irc_carol:hs1" {
				return false
			}
			return b.Intent(u).EnsureRegistered(context.Background()) == nil && b.Intent(u).SetDisplayName(context.Background(), "Carol") == nil
		}
		b.onAlias = func(a mxid.RoomAlias) bool {
			if a != "#irc_go:hs1" {
				return false
			}
			_, err := b.BotIntent().CreateRoom(context.Background(), &mautrix.ReqCreateRoom{RoomAliasName: "irc_go", Preset: "public_chat"})
			return err == nil
		}
		if name := alice.Do("GET", "/_matrix/client/v3/profile/@irc_carol:hs1", nil)["displayname"]; name != "Carol" {
			t.Errorf("%v", name)
		}
		if status, answer := alice.Try("GET", "/_matrix/client/v3/profile/@irc_nobody:hs1", nil); status != 404 {
			t.Errorf("%d %v", status, answer)
		}
		joined := alice.Do("POST", "/_matrix/client/v3/join/"+escape("#irc_go:hs1"), m{})
		if joined["room_id"] == nil {
			t.Error(joined)
		}
		for path, want := range map[string]int{"#irc_not:hs1": 404, "#other:hs1": 404} {
			if status, _ := alice.Try("GET", "/_matrix/client/v3/directory/room/"+escape(path), nil); status != want {
				t.Errorf("%s: %d", path, status)
			}
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if got := strings.Join(b.queries, ","); strings.Contains(got, "#other") || !strings.Contains(got, "alias #irc_not:hs1") {
			t.Error(got)
		}
	})
}

func TestNamespaces(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 1, func(t *testing.T, urls []string) {
		b := start(t, urls[0])
		alice := b.cell.SignIn(t, "@alice:hs1")
		room := alice.CreateRoom(m{"preset": "public_chat"})
		refused := func(what string, status int, answer m, wantStatus int, want string) {
			t.Helper()
			if status != wantStatus || answer["errcode"] != want {
				t.Errorf("%s: %d %v, want %s", what, status, answer, want)
			}
		}
		for _, name := range []string{"irc_x", "bridgebot"} {
			status, answer := alice.Try("POST", "/_matrix/client/v3/register", m{"username": name, "password": "correct horse", "auth": m{"type": "m.login.dummy"}})
			refused("register "+name, status, answer, 400, "M_EXCLUSIVE")
			status, answer = alice.Try("GET", "/_matrix/client/v3/register/available?username="+name, nil)
			refused("available "+name, status, answer, 400, "M_EXCLUSIVE")
		}
		status, answer := alice.Try("PUT", "/_matrix/client/v3/directory/room/"+escape("#irc_mine:hs1"), m{"room_id": room})
		refused("alias", status, answer, 400, "M_EXCLUSIVE")
		status, answer = alice.Try("POST", "/_matrix/client/v3/createRoom", m{"room_alias_name": "irc_mine"})
		refused("createRoom", status, answer, 400, "M_EXCLUSIVE")

		status, answer = b.as("", "POST", "/_matrix/client/v3/register", m{"type": "m.login.application_service", "username": "human", "inhibit_login": true})
		refused("outside", status, answer, 400, "M_EXCLUSIVE")
		status, answer = b.as("", "POST", "/_matrix/client/v3/register", m{"type": "m.login.application_service", "username": "irc_dave", "inhibit_login": true})
		if status != 200 || answer["user_id"] != "@irc_dave:hs1" || answer["access_token"] != nil {
			t.Errorf("%d %v", status, answer)
		}
		status, answer = b.as("", "POST", "/_matrix/client/v3/login", m{"type": "m.login.application_service", "identifier": m{"type": "m.id.user", "user": "irc_dave"}})
		if status != 200 || answer["user_id"] != "@irc_dave:hs1" || answer["access_token"] == nil {
			t.Errorf("%d %v", status, answer)
		}
		status, answer = b.as("", "POST", "/_matrix/client/v3/login", m{"type": "m.login.application_service", "identifier": m{"type": "m.id.user", "user": "alice"}})
		refused("login as somebody else", status, answer, 400, "M_EXCLUSIVE")
		status, answer = alice.Try("POST", "/_matrix/client/v3/login", m{"type": "m.login.application_service", "identifier": m{"type": "m.id.user", "user": "irc_dave"}})
		refused("login with another token", status, answer, 401, "M_UNKNOWN_TOKEN")
		status, answer = b.as("@alice:hs1", "GET", "/_matrix/client/v3/account/whoami", nil)
		refused("whoami as somebody else", status, answer, 403, "M_FORBIDDEN")
		status, answer = b.as("@irc_dave:hs1", "GET", "/_matrix/client/v3/account/whoami?device_id=NONE", nil)
		refused("unknown device", status, answer, 400, "M_UNKNOWN_DEVICE")
		status, answer = b.as("", "PUT", "/_matrix/client/v3/directory/room/"+escape("#human:hs1"), m{"room_id": room})
		refused("alias outside", status, answer, 400, "M_EXCLUSIVE")
		status, answer = alice.Try("POST", "/_matrix/client/v1/appservice/bridge/ping", m{})
		refused("ping by a user", status, answer, 403, "M_FORBIDDEN")
		status, answer = b.as("", "POST", "/_matrix/client/v1/appservice/other/ping", m{})
		refused("ping of another", status, answer, 403, "M_FORBIDDEN")

		// Devices without confirmation, and none left behind.
		device := "/_matrix/client/v3/devices/BRIDGE"
		if status, _ = b.as("@irc_dave:hs1", "PUT", device, m{"display_name": "bridge"}); status != 201 {
			t.Error(status)
		}
		if status, _ = b.as("@irc_dave:hs1", "PUT", device, m{"display_name": "renamed"}); status != 200 {
			t.Error(status)
		}
		if _, answer = b.as("@irc_dave:hs1", "GET", "/_matrix/client/v3/account/whoami?device_id=BRIDGE", nil); answer["device_id"] != "BRIDGE" {
			t.Error(answer)
		}
		if status, answer = b.as("@irc_dave:hs1", "DELETE", device, nil); status != 200 {
			t.Error(status, answer)
		}
	})
}

func TestEncryptionForBridges(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 1, func(t *testing.T, urls []string) {
		b := start(t, urls[0])
		alice := b.cell.SignIn(t, "@alice:hs1")
		room := alice.CreateRoom(m{"preset": "public_chat"})
		ok(t, b.BotIntent().EnsureJoined(t.Context(), mxid.RoomID(room)))
		if status, answer := b.as("", "PUT", "/_matrix/client/v3/devices/BRIDGE", m{}); status != 201 {
			t.Fatal(status, answer)
		}
		keys := m{"one_time_keys": m{"curve25519:A": "aaaa", "curve25519:B": "bbbb"}}
		if status, answer := b.as("", "POST", "/_matrix/client/v3/keys/upload?device_id=BRIDGE", keys); status != 200 {
			t.Fatal(status, answer)
		}
		b.fail(2)
		for i := range 3 {
			alice.Do("PUT", fmt.Sprintf("/_matrix/client/v3/sendToDevice/m.custom/%d", i), m{"messages": m{"@bridgebot:hs1": m{"BRIDGE": m{"n": i}}}})
		}
		for i := range 3 {
			b.await("message", in("de.sorunome.msc2409.to_device", func(e m) bool {
				return e["type"] == "m.custom" && e["sender"] == alice.User && e["to_user_id"] == "@bridgebot:hs1" && e["to_device_id"] == "BRIDGE" &&
					konsiltest.At(e, "content", "n") == float64(i)
			}))
		}
		b.await("key counts", func(tx transaction) any {
			if konsiltest.At(tx.body, "org.matrix.msc3202.device_one_time_keys_count", "@bridgebot:hs1", "BRIDGE", "curve25519") == 2.0 {
				return tx
			}
			return nil
		})
		// The messages were received: the device gets them no second time.
		b.event(alice.Send(room, "later"))
		_, sync := b.as("", "GET", "/_matrix/client/v3/sync?device_id=BRIDGE", nil)
		if list := konsiltest.At(sync, "to_device", "events"); list != nil && len(list.([]any)) > 0 {
			t.Error(list)
		}
		carol := b.cell.SignIn(t, "@carol:hs1")
		carol.Join(room)
		b.await("carol in the device lists", func(tx transaction) any {
			list, _ := konsiltest.At(tx.body, "org.matrix.msc3202.device_lists", "changed").([]any)
			for _, u := range list {
				if u == carol.User {
					return tx
				}
			}
			return nil
		})
		carol.Do("POST", "/_matrix/client/v3/rooms/"+escape(room)+"/leave", m{})
		b.await("carol gone", func(tx transaction) any {
			list, _ := konsiltest.At(tx.body, "org.matrix.msc3202.device_lists", "left").([]any)
			for _, u := range list {
				if u == carol.User {
					return tx
				}
			}
			return nil
		})
	})
}

func TestNetworks(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 1, func(t *testing.T, urls []string) {
		b := start(t, urls[0])
		b.protocol = func(w http.ResponseWriter, r *http.Request) {
			var answer any
			switch {
			case strings.HasSuffix(r.URL.Path, "/protocol/irc"):
				answer = m{"user_fields": []string{"nick"}, "location_fields": []string{"channel"}, "icon": "mxc://hs1/x", "field_types": m{"nick": m{"regexp": ".*", "placeholder": "n"}},
					"instances": []m{{"desc": "Libera", "fields": m{"network": "libera"}, "network_id": "libera"}}}
			case strings.HasSuffix(r.URL.Path, "/user/irc") && r.URL.Query().Get("nick") == "bob", r.URL.Query().Get("userid") == "@irc_bob:hs1":
				answer = []m{{"userid": "@irc_bob:hs1", "protocol": "irc", "fields": m{"nick": "bob"}}, {"broken": true}}
			case strings.HasSuffix(r.URL.Path, "/location/irc"), r.URL.Query().Get("alias") == "#irc_go:hs1":
				answer = []m{{"alias": "#irc_go:hs1", "protocol": "irc", "fields": m{"channel": "#go"}}}
			default:
				answer = []m{}
			}
			if err := json.NewEncoder(w).Encode(answer); err != nil {
				t.Error(err)
			}
		}
		alice := b.cell.SignIn(t, "@alice:hs1")
		const v3 = "/_matrix/client/v3"
		protocols := alice.Do("GET", v3+"/thirdparty/protocols", nil)
		instance, _ := konsiltest.At(protocols, "irc", "instances", 0, "instance_id").(string)
		if instance == "" || konsiltest.At(protocols, "irc", "user_fields", 0) != "nick" {
			t.Fatal(protocols)
		}
		alice.Do("GET", v3+"/thirdparty/protocol/irc", nil)
		for path, want := range map[string]int{"/thirdparty/protocol/xmpp": 404, "/thirdparty/user/irc?nick=nobody": 404, "/thirdparty/user": 400, "/thirdparty/location?alias=%23x:hs1": 404} {
			if status, answer := alice.Try("GET", v3+path, nil); status != want {
				t.Errorf("%s: %d %v", path, status, answer)
			}
		}
		for _, path := range []string{"/thirdparty/user/irc?nick=bob", "/thirdparty/user?userid=@irc_bob:hs1", "/thirdparty/location/irc?channel=go", "/thirdparty/location?alias=%23irc_go:hs1"} {
			r, err := http.NewRequestWithContext(t.Context(), "GET", b.cell.URL+v3+path, nil)
			ok(t, err)
			r.Header.Set("Authorization", "Bearer "+alice.Token)
			res, err := http.DefaultClient.Do(r)
			ok(t, err)
			var list []m
			ok(t, json.NewDecoder(res.Body).Decode(&list))
			res.Body.Close()
			if res.StatusCode != 200 || len(list) != 1 || list[0]["protocol"] != "irc" {
				t.Errorf("%s: %d %v", path, res.StatusCode, list)
			}
		}

		room := alice.CreateRoom(m{"preset": "public_chat", "name": "bridged"})
		other := alice.CreateRoom(m{"preset": "public_chat", "name": "plain", "visibility": "public"})
		if status, answer := alice.Try("PUT", v3+"/directory/list/appservice/libera/"+escape(room), m{"visibility": "public"}); status != 403 {
			t.Error(status, answer)
		}
		if status, answer := b.as("", "PUT", v3+"/directory/list/appservice/libera/"+escape(room), m{"visibility": "public"}); status != 200 {
			t.Fatal(status, answer)
		}
		listed := func(q m, want ...string) {
			t.Helper()
			var got []string
			for _, e := range alice.Do("POST", v3+"/publicRooms", q)["chunk"].([]any) {
				got = append(got, e.(m)["room_id"].(string))
			}
			if len(got) != len(want) || !strings.Contains(strings.Join(got, " ")+" ", want[0]+" ") {
				t.Errorf("%v: %v, want %v", q, got, want)
			}
		}
		listed(m{}, other)
		listed(m{"third_party_instance_id": instance}, room)
		listed(m{"include_all_networks": true}, room, other)
		if status, _ := alice.Try("POST", v3+"/publicRooms", m{"include_all_networks": true, "third_party_instance_id": instance}); status != 400 {
			t.Error(status)
		}
	})
}

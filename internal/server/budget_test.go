// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
)

// Budgets are tests (engine rule 34): they count, and never look at a clock.

// sentMessages is how many requests a budget is counted over. A session is read again after some seconds, so a slow machine may add a query.
const sentMessages = 20

// person is somebody signed in at the node under test.
type person struct {
	t     *testing.T
	base  string
	token string
}

// signUp registers an account.
func signUp(t *testing.T, s *Server, name string) *person {
	t.Helper()
	p := &person{t: t, base: "http://" + s.ClientAddress()}
	p.token = p.do("POST", "/_matrix/client/v3/register", map[string]any{"username": name, "password": "a long test passphrase",
		"auth": map[string]string{"type": "m.login.dummy"}})["access_token"].(string)
	return p
}

// do sends a request that must succeed.
func (p *person) do(method, path string, body any) map[string]any {
	p.t.Helper()
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			p.t.Fatal(err)
		}
	}
	req, err := http.NewRequest(method, p.base+path, strings.NewReader(string(text)))
	if err != nil {
		p.t.Fatal(err)
	}
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		p.t.Fatalf("%s %s: %d %s %v", method, path, res.StatusCode, answer, err)
	}
	out := map[string]any{}
	if err := json.Unmarshal(answer, &out); err != nil {
		p.t.Fatal(err)
	}
	return out
}

func (p *person) room() string {
	return url.PathEscape(p.do("POST", "/_matrix/client/v3/createRoom", map[string]any{"preset": "private_chat"})["room_id"].(string))
}

func (p *person) send(room, txn string) string {
	p.t.Helper()
	return p.do("PUT", "/_matrix/client/v3/rooms/"+room+"/send/m.room.message/"+txn, map[string]any{"msgtype": "m.text", "body": "Guten Tag"})["event_id"].(string)
}

func (p *person) sync(since string) string {
	p.t.Helper()
	return p.do("GET", "/_matrix/client/v3/sync?timeout=0&since="+url.QueryEscape(since), nil)["next_batch"].(string)
}

// onBoth runs f on a plain Matrix node over each database; gateways of push may be anywhere.
func onBoth(t *testing.T, f func(t *testing.T, s *Server)) {
	databasetest.EachURL(t, func(t *testing.T, url string) {
		s, stop := run(t, configure(t, fmt.Sprintf(`
tenants: [hs1]
database: {url: %q}
listeners: {client: ["127.0.0.1:0"]}
registration: {mode: open}
rate_limits: false
private_addresses: true
logging: {access: false}`, url)))
		f(t, s)
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// rows counts the rows of every table.
func rows(t *testing.T, db *database.DB) map[string]int64 {
	t.Helper()
	ctx := context.Background()
	list := "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
	if db.Postgres() {
		list = "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
	}
	r, err := db.Query(ctx, list)
	tables, err := database.All(r, err, database.Column[string])
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int64{}
	for _, table := range tables {
		var n int64
		if err := db.QueryRow(ctx, "SELECT COUNT(*) FROM "+table).Scan(&n); err != nil {
			t.Fatal(err)
		}
		out[table] = n
	}
	return out
}

func TestBudgetOfAMessage(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *Server) {
		alice := signUp(t, s, "alice")
		room := alice.room()
		first := alice.send(room, "warm")
		db := s.node.db
		stored, before := rows(t, db), db.Counters()
		for i := range sentMessages {
			alice.send(room, fmt.Sprint(i))
		}
		after := db.Counters()
		if n := after.Queries - before.Queries; n > sentMessages/4 {
			t.Errorf("%d queries for %d messages: the room's head and the session are in memory", n, sentMessages)
		}
		// The head with its guard, the transaction id, the event's id, the tenant's position, the event; on PostgreSQL the batch too.
		statements := int64(5)
		if db.Postgres() {
			statements = 6
		}
		if n := after.Statements - before.Statements; n > statements*sentMessages {
			t.Errorf("%d statements for %d messages, want at most %d each", n, sentMessages, statements)
		}
		for table, n := range rows(t, db) {
			want := int64(0)
			if table == "event" || table == "event_id" || table == "txn" {
				want = sentMessages
			}
			if n-stored[table] != want {
				t.Errorf("%d messages added %d rows to %s, want %d", sentMessages, n-stored[table], table, want)
			}
		}
		if again := alice.send(room, "warm"); again != first {
			t.Errorf("a repeated transaction made %s, want %s", again, first)
		}
	})
}

func TestBudgetOfAQuietSync(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *Server) {
		cost := func(name string, roomCount int) int64 {
			p := signUp(t, s, name)
			var busy string
			for range roomCount {
				busy = p.room()
			}
			p.send(busy, "1")
			since := p.sync("")
			since = p.sync(since)
			before := s.node.db.Counters()
			for range sentMessages {
				since = p.sync(since)
			}
			after := s.node.db.Counters()
			if n := after.Statements - before.Statements; n != 0 {
				t.Errorf("%d statements wrote during quiet syncs", n)
			}
			return after.Queries - before.Queries
		}
		few, many := cost("few", 2), cost("many", 30)
		t.Logf("%d quiet syncs: %d queries with 2 rooms, %d with 30", sentMessages, few, many)
		if few > sentMessages/4 { // sessions are read again after some seconds
			t.Errorf("a quiet sync asks the database %.1f times", float64(few)/sentMessages)
		}
		if many > few+sentMessages/4 {
			t.Errorf("%d quiet syncs need %d queries with 2 rooms and %d with 30 (engine rule 29: no query per room)", sentMessages, few, many)
		}
	})
}

// TestBudgetOfADelivery: who waits in a room for the same message shares the reading of it; a listener more asks the database nothing more.
func TestBudgetOfADelivery(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *Server) {
		cost := func(name string, listeners int) int64 {
			writer := signUp(t, s, name)
			room := writer.do("POST", "/_matrix/client/v3/createRoom", map[string]any{"preset": "public_chat"})["room_id"].(string)
			people := make([]*person, listeners)
			since := make([]string, listeners)
			for i := range people {
				people[i] = signUp(t, s, fmt.Sprint(name, i))
				people[i].do("POST", "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/join", map[string]any{})
			}
			deliver := func(message string) {
				sent := writer.send(url.PathEscape(room), message)
				for i, p := range people {
					answer := p.do("GET", "/_matrix/client/v3/sync?timeout=30000&since="+url.QueryEscape(since[i]), nil)
					since[i] = answer["next_batch"].(string)
					text, err := json.Marshal(answer)
					if err != nil || !strings.Contains(string(text), sent) || strings.Contains(string(text), "limited\":true") {
						t.Fatalf("listener %d got %s, want %s: %v", i, text, sent, err)
					}
				}
			}
			for i, p := range people {
				since[i] = p.sync("")
			}
			deliver("warm") // it brings what is remembered from then on
			before := s.node.db.Counters()
			for i := range sentMessages {
				deliver(fmt.Sprint(i))
			}
			after := s.node.db.Counters()
			return after.Queries - before.Queries
		}
		few, many := cost("few", 2), cost("many", 9)
		t.Logf("%d messages: %d queries with 2 listeners, %d with 9", sentMessages, few, many)
		if few > 5*sentMessages {
			t.Errorf("a delivered message asks the database %.1f times", float64(few)/sentMessages)
		}
		if many > few+sentMessages/2 { // sessions are read again after some seconds
			t.Errorf("%d messages need %d queries with 2 listeners and %d with 9", sentMessages, few, many)
		}
	})
}

// TestBudgetOfAFirstSync: a first sync asks the database as often for many rooms as for few, by either kind of sync.
func TestBudgetOfAFirstSync(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *Server) {
		cost := func(name string, roomCount int) (old, sliding int64) {
			p := signUp(t, s, name)
			for i := range roomCount {
				room := p.do("POST", "/_matrix/client/v3/createRoom", map[string]any{"preset": "private_chat", "name": fmt.Sprint("Raum ", i)})["room_id"].(string)
				p.send(url.PathEscape(room), fmt.Sprint(i))
			}
			before := s.node.db.Counters()
			answer := p.do("GET", "/_matrix/client/v3/sync?filter="+url.QueryEscape(`{"room":{"timeline":{"limit":1}}}`), nil)
			between := s.node.db.Counters()
			slid := p.do("POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", map[string]any{"lists": map[string]any{
				"all": map[string]any{"ranges": [][]int{{0, roomCount}}, "timeline_limit": 1, "required_state": [][]string{{"m.room.create", ""}}}}})
			after := s.node.db.Counters()
			if n := len(answer["rooms"].(map[string]any)["join"].(map[string]any)); n != roomCount || len(slid["rooms"].(map[string]any)) != n {
				t.Errorf("%d rooms, and %v by sliding sync, want %d", n, len(slid["rooms"].(map[string]any)), roomCount)
			}
			return between.Queries - before.Queries, after.Queries - between.Queries
		}
		fewOld, fewSliding := cost("few", 3)
		manyOld, manySliding := cost("many", 20)
		t.Logf("first sync: %d and %d queries for 3 rooms, %d and %d for 20", fewOld, fewSliding, manyOld, manySliding)
		if manyOld > fewOld+2 || manySliding > fewSliding+2 { // the session may be read again
			t.Errorf("a first sync needs %d and %d queries for 3 rooms, %d and %d for 20", fewOld, fewSliding, manyOld, manySliding)
		}
	})
}

// TestBudgetOfANotification: of a message that notifies people, each costs one look for its pushers, and everything else is in memory or shared.
func TestBudgetOfANotification(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *Server) {
		told := make(chan struct{}, 100)
		gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, `{"rejected":[]}`)
			told <- struct{}{}
		}))
		defer gateway.Close()
		const people = 5
		writer := signUp(t, s, "writer")
		room := url.PathEscape(writer.do("POST", "/_matrix/client/v3/createRoom", map[string]any{"preset": "public_chat"})["room_id"].(string))
		for i := range people {
			p := signUp(t, s, fmt.Sprint("reader", i))
			p.do("POST", "/_matrix/client/v3/rooms/"+room+"/join", map[string]any{})
			p.do("POST", "/_matrix/client/v3/pushers/set", map[string]any{"kind": "http", "app_id": "a", "pushkey": fmt.Sprint(i), "app_display_name": "A",
				"device_display_name": "D", "lang": "de", "data": map[string]any{"url": gateway.URL + "/_matrix/push/v1/notify"}})
		}
		notify := func(message string) {
			writer.send(room, message)
			for range people {
				<-told
			}
		}
		for i := range 3 { // these bring what is remembered from then on
			notify(fmt.Sprint("warm", i))
		}
		before := s.node.db.Counters()
		for i := range sentMessages {
			notify(fmt.Sprint(i))
		}
		after := s.node.db.Counters()
		n := after.Queries - before.Queries
		t.Logf("%d messages that notify %d people: %d queries", sentMessages, people, n)
		if n > 3*people*sentMessages {
			t.Errorf("a notification asks the database %.1f times", float64(n)/people/sentMessages)
		}
	})
}

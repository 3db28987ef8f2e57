// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
	"github.com/konsil-health/konsil/internal/matrix/signing"
)

// besieged is a, b and a scripted peer, all behind TLS, with one room of version 11 in which each has a user.
type besieged struct {
	pair
	evil *scripted
	room id.Room
}

func newBesieged(t *testing.T, config Config, bodyTime time.Duration) besieged {
	t.Helper()
	ca := newAuthority(t)
	evil := newScripted(t, ca, nameEvil)
	fa, fb := newFront(t, ca, string(nameA)), newFront(t, ca, string(nameB))
	resolve := map[id.Server]Override{nameEvil: evil.override(),
		nameA: {Address: fa.address(), Roots: ca.pool}, nameB: {Address: fb.address(), Roots: ca.pool}}
	maps.Copy(resolve, config.Resolve)
	config.Resolve = resolve
	a := newCell(t, setting{url: databasetest.SQLite(t), config: config, front: fa, bodyTime: bodyTime}, nameA).server(nameA)
	b := newCell(t, setting{url: databasetest.SQLite(t), config: config, front: fb}, nameB).server(nameB)
	s := besieged{pair{a, b}, evil, ""}
	s.room = a.create(a.user("anna"), policy.CreateRoom{Preset: "public_chat", RoomVersion: "11"})
	if err := b.rooms.Join(t.Context(), b.me, b.user("ben"), s.room, []id.Server{nameA}, ""); err != nil {
		t.Fatal(err)
	}
	s.joins(t)
	return s
}

var eve = id.User("@eve:" + string(nameEvil))

// joins lets the scripted peer's user into the room by make_join and send_join.
func (s *besieged) joins(t *testing.T) {
	t.Helper()
	rm := url.PathEscape(string(s.room))
	status, _, raw := s.evil.sends(s.a, http.MethodGet, v1+"/make_join/"+rm+"/"+url.PathEscape(string(eve))+"?ver=11", nil)
	if status != http.StatusOK {
		t.Fatalf("make_join: %d %s", status, raw)
	}
	e := s.evil.build(s.draft(t, func(d *event.Draft) {
		state := string(eve)
		d.Type, d.StateKey, d.Content = "m.room.member", &state, jsontext.Value(`{"membership":"join"}`)
		d.AuthEvents = nil
		for id := range canonicaljson.Elements(canonicaljson.Get(raw, "event", "auth_events")) {
			d.AuthEvents = append(d.AuthEvents, eventID(id))
		}
	}))
	status, _, raw = s.evil.sends(s.a, http.MethodPut, v2+"/send_join/"+rm+"/"+url.PathEscape(string(e.ID())), e.JSON())
	if status != http.StatusOK {
		t.Fatalf("send_join: %d %s", status, raw)
	}
	s.b.gets(s.b.user("ben"), e.ID())
}

func eventID(raw jsontext.Value) id.Event { return id.Event(strings.Trim(string(raw), `"`)) }

// draft is an event of the peer's user on top of what a knows.
func (s *besieged) draft(t *testing.T, edit func(*event.Draft)) event.Draft {
	t.Helper()
	rm, err := s.a.rooms.Lookup(t.Context(), s.a.me.ID, s.room)
	if err != nil {
		t.Fatal(err)
	}
	ends, err := s.a.rooms.Extremities(t.Context(), s.a.me.ID, rm)
	if err != nil {
		t.Fatal(err)
	}
	state, err := s.a.rooms.CurrentState(t.Context(), s.a.me.ID, rm)
	if err != nil {
		t.Fatal(err)
	}
	d := event.Draft{Version: rm.Version, Room: s.room, Type: "m.room.message", Sender: eve, Content: jsontext.Value(`{"body":"x","msgtype":"m.text"}`),
		PrevEvents: ends, Depth: 100, Timestamp: time.Now().UnixMilli()}
	for _, k := range []event.Key{{Type: "m.room.create"}, {Type: "m.room.power_levels"}, {Type: "m.room.member", StateKey: string(eve)}} {
		if state[k] != "" {
			d.AuthEvents = append(d.AuthEvents, state[k])
		}
	}
	if edit != nil {
		edit(&d)
	}
	return d
}

// resigned replaces a field of an event by any JSON and signs the result, whatever the rules say.
func (s *besieged) resigned(t *testing.T, e *event.Event, field, value string) []byte {
	t.Helper()
	raw := signing.Replace(e.JSON(), field, []byte(value))
	signed, err := signing.SignJSON(raw, string(s.evil.name), s.evil.keyID, s.evil.private)
	if err != nil {
		return raw // not even canonical: then nobody can sign it
	}
	return signed
}

// TestHostilePDUs: what cannot be an event is dropped or refused with its own result, and good events beside it get in.
func TestHostilePDUs(t *testing.T) {
	t.Parallel()
	s := newBesieged(t, Config{RetryMin: time.Millisecond, RetryMax: 10 * time.Millisecond}, time.Second)
	like := func(field, value string) []byte { return s.resigned(t, s.evil.build(s.draft(t, nil)), field, value) }
	forged := s.evil.build(s.draft(t, func(d *event.Draft) { d.Content = jsontext.Value(`{"body":"forged","msgtype":"m.text"}`) }))
	ofAnna := signing.Replace(forged.JSON(), "sender", []byte(`"@anna:a.example"`))
	broken := signing.Replace(forged.JSON(), "signatures", []byte(`{"evil.example":{"ed25519:s":"AAAA"}}`))
	room := fmt.Sprintf("%q", s.room)
	bad := map[string][]byte{
		"float":              like("content", `{"n":1.5}`),
		"exponent":           like("content", `{"n":1e3}`),
		"integer of 2^53":    like("content", `{"n":9007199254740992}`),
		"integer of -2^53":   like("content", `{"n":-9007199254740992}`),
		"huge integer":       like("content", `{"n":`+strings.Repeat("9", 400)+`}`),
		"content as list":    like("content", `[]`),
		"content missing":    like("content", `null`),
		"type as number":     like("type", `7`),
		"sender as object":   like("sender", `{}`),
		"foreign sender":     ofAnna,
		"sender without @":   like("sender", `"eve"`),
		"depth as text":      like("depth", `"1"`),
		"depth as float":     like("depth", `1.5`),
		"depth negative":     like("depth", `-1`),
		"depth too large":    like("depth", `9007199254740993`),
		"time as text":       like("origin_server_ts", `"now"`),
		"prev as text":       like("prev_events", `"$x"`),
		"prev as numbers":    like("prev_events", `[1,2]`),
		"too many prev":      like("prev_events", `[`+strings.TrimSuffix(strings.Repeat(`"$a",`, 21), ",")+`]`),
		"too many auth":      like("auth_events", `[`+strings.TrimSuffix(strings.Repeat(`"$a",`, 11), ",")+`]`),
		"state key number":   like("state_key", `7`),
		"hashes as list":     like("hashes", `[]`),
		"signatures as list": signing.Replace(forged.JSON(), "signatures", []byte(`[]`)),
		"broken signature":   broken,
		"no signature":       signing.Replace(forged.JSON(), "signatures", []byte(`{}`)),
		"only a room":        []byte(`{"room_id":` + room + `}`),
		"oversized":          like("content", `{"body":"`+strings.Repeat("x", 70<<10)+`"}`),
		"long type":          like("type", `"`+strings.Repeat("x", 256)+`"`),
		"cites itself": func() []byte {
			e := s.evil.build(s.draft(t, nil))
			return s.resigned(t, e, "auth_events", fmt.Sprintf("[%q]", e.ID()))
		}(),
	}
	before := s.shown(t)
	for name, raw := range bad {
		good := s.evil.build(s.draft(t, func(d *event.Draft) { d.Content = jsontext.Value(fmt.Sprintf(`{"body":%q,"msgtype":"m.text"}`, name)) }))
		answer := s.evil.transaction(s.a, "bad-"+url.PathEscape(name), raw, good.JSON())
		if canonicaljson.Get(answer, "pdus", string(good.ID())) == nil || canonicaljson.GetString(answer, "pdus", string(good.ID()), "error") != "" {
			t.Errorf("%s: the good event beside it: %.300s", name, answer)
		}
		if s.a.count(good.ID()) != 1 {
			t.Errorf("%s: the good event beside it is missing", name)
		}
	}
	if got := s.shown(t) - before; got != len(bad) {
		t.Errorf("%d events are shown, want the %d good ones", got, len(bad))
	}
}

// shown counts the events of evil's user that a shows.
func (s *besieged) shown(t *testing.T) (n int) {
	t.Helper()
	err := s.a.db.QueryRow(t.Context(), "SELECT COUNT(*) FROM event WHERE tenant = $1 AND position > 0 AND type = 'm.room.message' AND sender = $2",
		int64(s.a.me.ID), string(eve)).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestCyclicEvents: events of versions 1 and 2 name themselves, so two can cite each other. Neither is shown, nothing runs in circles, and later
// events arrive.
func TestCyclicEvents(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	evil := newScripted(t, ca, nameEvil)
	fa := newFront(t, ca, string(nameA))
	a := newCell(t, setting{url: databasetest.SQLite(t), front: fa, config: Config{Resolve: map[id.Server]Override{nameEvil: evil.override()}}}, nameA).server(nameA)
	s := besieged{pair: pair{a: a}, evil: evil, room: a.create(a.user("anna"), policy.CreateRoom{Preset: "public_chat", RoomVersion: "2"})}
	v, _ := roomversion.Get("2")
	one, two := id.Event("$one:evil.example"), id.Event("$two:evil.example")
	cites := func(eid, other id.Event) *event.Event {
		return evil.build(event.Draft{Version: v, Room: s.room, Type: "m.room.message", Sender: eve, Content: jsontext.Value(`{"body":"x"}`), ID: eid,
			PrevEvents: []id.Event{other}, AuthEvents: []id.Event{other}, Hashes: map[id.Event]string{other: "AAAA"}, Depth: 5, Timestamp: time.Now().UnixMilli()})
	}
	cycle := map[id.Event]*event.Event{one: cites(one, two), two: cites(two, one)}
	evil.plays(func(w http.ResponseWriter, r *http.Request) {
		list := []string{}
		for eid, e := range cycle {
			if strings.Contains(r.URL.Path, string(eid)) || !strings.Contains(r.URL.Path, "/event/") {
				list = append(list, string(e.JSON()))
			}
		}
		all := "[" + strings.Join(list, ",") + "]"
		fmt.Fprintf(w, `{"pdus":%s,"events":%s,"auth_chain":%s,"pdu_ids":[],"auth_chain_ids":[]}`, all, all, all)
	})
	evil.transaction(a, "cycle", cycle[one].JSON(), cycle[two].JSON())
	asked := evil.requests("")
	said := a.say(s.room, a.user("anna"), "unharmed")
	if a.count(said) != 1 || a.count(one, two) != 0 {
		t.Error("the cycle is shown, or a good event is not")
	}
	evil.transaction(a, "cycle-again", cycle[one].JSON())
	if n := evil.requests("") - asked; n > 60 {
		t.Errorf("%d requests after one event of the cycle", n)
	}
}

// TestHostileRequests: bodies, headers and paths that no server sends; each has its status and code.
func TestHostileRequests(t *testing.T) {
	t.Parallel()
	s := newBesieged(t, Config{}, 0)
	send := func(body string) *http.Request {
		return s.evil.request(s.a, http.MethodPut, v1+"/send/x", []byte(body))
	}
	with := func(req *http.Request, edit func(*http.Request)) *http.Request { edit(req); return req }
	huge := strings.Repeat("x", maxTransaction+1)
	deep := `{"pdus":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`
	for name, c := range map[string]struct {
		req    *http.Request
		status int
		code   string
	}{
		"no JSON":        {send("pdus"), 401, "M_UNAUTHORIZED"},
		"list":           {send("[]"), 400, "M_BAD_JSON"},
		"number as pdus": {send(`{"pdus":7}`), 400, "M_BAD_JSON"},
		"too deep":       {send(deep), 401, "M_UNAUTHORIZED"},
		"too large":      {send(huge), 413, "M_TOO_LARGE"},
		"too large, unannounced": {with(send(huge), func(r *http.Request) {
			r.ContentLength, r.Body = -1, io.NopCloser(strings.NewReader(huge))
		}), 413, "M_TOO_LARGE"},
		"body changed": {with(send(`{"pdus":[]}`), func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader(`{"pdus":{}}`)) }), 401, "M_UNAUTHORIZED"},
		"gzip":         {with(send(gzipped(1)), func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") }), 401, "M_UNAUTHORIZED"},
		"unsigned":     {with(send(`{"pdus":[]}`), func(r *http.Request) { r.Header.Del("Authorization") }), 401, "M_UNAUTHORIZED"},
		"nonsense":     {with(send(`{"pdus":[]}`), func(r *http.Request) { r.Header.Set("Authorization", "X-Matrix \xff") }), 401, "M_UNAUTHORIZED"},
		"for another": {with(send(`{"pdus":[]}`), func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), `destination="a.example"`, `destination="b.example"`, 1))
		}), 401, "M_UNAUTHORIZED"},
		"from another": {with(send(`{"pdus":[]}`), func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), string(nameEvil), string(nameB), 1))
		}), 401, "M_UNAUTHORIZED"},
		"invalid UTF-8": {send("{\"pdus\":[],\"\xff\":1}"), 401, "M_UNAUTHORIZED"},
		"no room":       {s.evil.request(s.a, http.MethodGet, v1+"/state/%ff", nil), 400, "M_INVALID_PARAM"},
		"long id":       {s.evil.request(s.a, http.MethodPut, v1+"/send/"+strings.Repeat("x", 300), []byte(`{"pdus":[]}`)), 400, "M_INVALID_PARAM"},
	} {
		status, code, raw := s.evil.does(s.a, c.req)
		if status == hungUp && c.status == http.StatusRequestEntityTooLarge {
			continue
		}
		if status != c.status || code != c.code {
			t.Errorf("%s: %d %s, want %d %s (%.200s)", name, status, code, c.status, c.code, raw)
		}
	}
}

// TestSlowClients: connections that send their request drop by drop are cut off, and meanwhile a good peer's events arrive.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	s := newBesieged(t, Config{}, time.Second)
	leakFree(t, func() {
		var conns []*tls.Conn
		defer func() {
			for _, c := range conns {
				c.Close() //nolint:errcheck // it is cut off already
			}
		}()
		for range 40 {
			c, err := tls.Dial("tcp", s.a.front.address(), &tls.Config{RootCAs: s.evil.roots, ServerName: string(nameA), NextProtos: []string{"http/1.1"}})
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, c)
			fmt.Fprintf(c, "PUT %s/send/slow HTTP/1.1\r\nHost: %s\r\nContent-Length: 1000\r\nAuthorization: X-Matrix origin=\"evil.example\",key=\"ed25519:s\",sig=\"AAAA\"\r\n\r\n{", v1, nameA) //nolint:errcheck // the answer shows it
		}
		var said []id.Event
		for i := range 10 {
			said = append(said, s.b.say(s.room, s.b.user("ben"), fmt.Sprint(i)))
		}
		s.a.gets(s.a.user("anna"), said...)
		for _, c := range conns {
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatalf("no answer to a body that does not come: %v", err)
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != http.StatusRequestTimeout || !strings.Contains(string(body), "M_UNKNOWN") {
				t.Fatalf("%d %s, %v", resp.StatusCode, body, err)
			}
		}
	})
}

// TestSlowServerHoldsUpNobody: every tenant has something for a server that never answers, more of them than may send at once. A good server gets its
// events meanwhile.
func TestSlowServerHoldsUpNobody(t *testing.T) {
	t.Parallel()
	s := newBesieged(t, Config{RequestTimeout: time.Hour, Senders: 3, HostSenders: 2, Probes: 1}, time.Second)
	blocked := make(chan struct{}, 100)
	s.evil.plays(func(_ http.ResponseWriter, r *http.Request) {
		blocked <- struct{}{}
		mute(nil, r)
	})
	for i := range 10 {
		me, err := s.a.tenants.Create(t.Context(), tenant.Spec{Name: id.Server(fmt.Sprintf("t%d.example", i))})
		if err != nil {
			t.Fatal(err)
		}
		s.a.fed.SendEDU(t.Context(), me, []id.Server{nameEvil}, EDU{Type: "m.typing", Content: jsontext.Value(`{}`)})
	}
	<-blocked
	<-blocked
	var said []id.Event
	for i := range 5 {
		said = append(said, s.a.say(s.room, s.a.user("anna"), fmt.Sprint(i)))
	}
	s.b.gets(s.b.user("ben"), said...)
	select {
	case <-blocked:
		t.Error("a host has more transactions under way than it may")
	default:
	}
}

// TestGarbageAfterSend: a server that answers a transaction with a page of something else gets it again later, with growing pauses, and nothing is
// lost.
func TestGarbageAfterSend(t *testing.T) {
	t.Parallel()
	s := newBesieged(t, Config{RetryMin: time.Hour}, time.Second)
	s.evil.plays(answers("text/html", "<html>"))
	s.a.say(s.room, s.a.user("anna"), "for you")
	s.a.when(s.a.waits(nameEvil))
	if s.a.pending(nameEvil) == 0 {
		t.Fatal("the event is taken for delivered")
	}
	got := make(chan string, 10)
	s.evil.plays(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got <- string(body)
		io.WriteString(w, `{"pdus":{}}`) //nolint:errcheck // the sender sees it
	})
	s.evil.sends(s.a, http.MethodGet, v1+"/publicRooms", nil) // it is heard of
	s.a.idle(nameEvil)
	close(got)
	all := ""
	for body := range got {
		all += body
	}
	if !strings.Contains(all, "for you") {
		t.Errorf("it got %s", all)
	}
}

// TestTransactionsAtOnce: a server that sends many transactions side by side is slowed down with the standard error, and loses nothing.
func TestTransactionsAtOnce(t *testing.T) {
	t.Parallel()
	s := newBesieged(t, Config{OriginTransactions: 1}, time.Second)
	hold, entered := make(chan struct{}), make(chan struct{}, 1)
	receive := s.a.fed.EDUs["m.typing"]
	s.a.fed.EDUs["m.presence"] = func(ctx context.Context, me *tenant.Tenant, origin id.Server, content jsontext.Value) error {
		entered <- struct{}{}
		<-hold
		return receive(ctx, me, origin, content)
	}
	body := `{"pdus":[],"edus":[{"edu_type":"m.presence","content":{}}]}`
	done := make(chan error, 1)
	go func() {
		resp, err := s.evil.client.Do(s.evil.request(s.a, http.MethodPut, v1+"/send/first", []byte(body)))
		if err == nil {
			resp.Body.Close() //nolint:errcheck // nothing is read
			if resp.StatusCode != http.StatusOK {
				err = errors.New(resp.Status)
			}
		}
		done <- err
	}()
	<-entered
	status, code, _ := s.evil.sends(s.a, http.MethodPut, v1+"/send/second", []byte(body))
	if status != http.StatusTooManyRequests || code != "M_LIMIT_EXCEEDED" {
		t.Errorf("one more transaction: %d %s", status, code)
	}
	said := s.b.say(s.room, s.b.user("ben"), "not held up")
	s.a.gets(s.a.user("anna"), said)
	close(hold)
	if err := <-done; err != nil {
		t.Errorf("the first transaction: %v", err)
	}
	if status, _, _ := s.evil.sends(s.a, http.MethodPut, v1+"/send/second", []byte(`{"pdus":[]}`)); status != http.StatusOK {
		t.Errorf("the second one again: %d", status)
	}
}

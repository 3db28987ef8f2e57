// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
	"github.com/konsil-health/konsil/internal/matrix/signing"
)

// ask sends a signed request from one server to another and returns the answer.
func (s *server) ask(to *server, method, path string, query url.Values, body any) ([]byte, error) {
	s.t.Helper()
	c := call{method: method, path: path, query: query}
	if body != nil {
		var err error
		if c.body, err = json.Marshal(body, encodeOptions); err != nil {
			s.t.Fatal(err)
		}
	}
	return s.fed.read(s.t.Context(), s.me, to.me.Name, c, always)
}

// refusedWith fails unless the other server answered with a status and code.
func refusedWith(t testing.TB, err error, status int, code string) {
	t.Helper()
	r, ok := err.(*Refused)
	if !ok || r.Status != status || r.Code != code {
		t.Errorf("got %v, want %d %s", err, status, code)
	}
}

// TestReads: the endpoints that show a room, to a server in it and to one outside of it.
func TestReads(t *testing.T) {
	t.Parallel()
	p := overTLS(t, databasetest.SQLite(t), databasetest.SQLite(t), Config{})
	r := meeting(t, p.a, p.b, "11")
	anna, ben := p.a.user("anna"), p.b.user("ben")
	var said []id.Event
	for i := range 15 {
		said = append(said, p.a.say(r, anna, fmt.Sprint(i)))
	}
	p.b.gets(ben, said...)
	last := said[len(said)-1]
	c := p.a.server(nameC)
	rm, at := url.PathEscape(string(r)), url.PathEscape(string(last))
	for _, path := range []string{
		"/event/" + at, "/event_auth/" + rm + "/" + at, "/state/" + rm + "?event_id=" + at, "/state_ids/" + rm + "?event_id=" + at,
		"/backfill/" + rm + "?limit=5&v=" + at, "/timestamp_to_event/" + rm + "?ts=0&dir=f",
	} {
		bare, rest, _ := strings.Cut(path, "?")
		query, err := url.ParseQuery(rest)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := p.a.ask(p.b, "GET", v1+bare, query, nil)
		if err != nil || !jsontext.Value(raw).IsValid() {
			t.Errorf("%s: %v", path, err)
		}
		_, err = c.ask(p.b, "GET", v1+bare, query, nil)
		refusedWith(t, err, 403, "M_FORBIDDEN")
	}
	rb, err := p.b.rooms.Lookup(t.Context(), p.b.me.ID, r)
	if err != nil {
		t.Fatal(err)
	}
	missing, err := p.a.fed.GetMissingEvents(t.Context(), p.a.me, nameB, rb, []id.Event{said[2]}, []id.Event{last}, 20)
	if err != nil || len(missing) != 11 || missing[0].ID() != said[3] || missing[10].ID() != said[13] {
		t.Errorf("missing events: %d, %v", len(missing), err)
	}
	back, err := p.a.fed.Backfill(t.Context(), p.a.me, nameB, rb, []id.Event{last}, 4)
	if err != nil || len(back) != 4 || back[0].ID() != last || back[3].ID() != said[11] {
		t.Errorf("backfill: %d, %v", len(back), err)
	}
	state, auth, err := p.a.fed.State(t.Context(), p.a.me, nameB, rb, last)
	ids, authIDs, err2 := p.a.fed.StateIDs(t.Context(), p.a.me, nameB, rb, last)
	if err != nil || err2 != nil || len(state) == 0 || len(state) != len(ids) || len(auth) == 0 || len(auth) != len(authIDs) {
		t.Errorf("state: %d and %d, auth chain: %d and %d, %v, %v", len(state), len(ids), len(auth), len(authIDs), err, err2)
	}
	_, err = p.a.ask(p.b, "GET", v1+"/event/"+url.PathEscape("$nothing"), nil, nil)
	refusedWith(t, err, 404, "M_NOT_FOUND")
	_, err = p.a.ask(p.b, "GET", v1+"/state/"+url.PathEscape("!nothing:b.example"), url.Values{"event_id": {"$x"}}, nil)
	refusedWith(t, err, 404, "M_NOT_FOUND")
	_, err = p.a.ask(p.b, "GET", v1+"/nonsense", nil, nil)
	refusedWith(t, err, 404, "M_UNRECOGNIZED")
	_, err = p.a.ask(p.b, "POST", v1+"/version", nil, struct{}{})
	refusedWith(t, err, 405, "M_UNRECOGNIZED")
}

// TestServerACL: a denied server is refused on every protected endpoint, and what it sends is ignored.
func TestServerACL(t *testing.T) {
	everyWay(t, func(t *testing.T, p pair) {
		ctx := t.Context()
		r := meeting(t, p.a, p.b, "10")
		anna, ben := p.a.user("anna"), p.b.user("ben")
		p.b.gets(ben, p.a.say(r, anna, "before"))
		empty := ""
		acl, err := p.a.rooms.Send(ctx, p.a.me, room.Draft{Room: r, Sender: anna, Type: "m.room.server_acl", StateKey: &empty,
			Content: jsontext.Value(`{"allow":["*"],"deny":["b.*"]}`)})
		if err != nil {
			t.Fatal(err)
		}
		p.b.gets(ben, acl) // a denied server that is still in the room is told
		denied := p.b.say(r, ben, "after")
		p.b.idle(p.a.me.Name)
		if p.a.count(denied) != 0 {
			t.Error("an event of a denied server was taken in")
		}
		rm := url.PathEscape(string(r))
		for _, path := range []string{"/make_join/" + rm + "/" + url.PathEscape("@x:b.example"), "/make_leave/" + rm + "/" + url.PathEscape(string(ben)),
			"/make_knock/" + rm + "/" + url.PathEscape("@x:b.example"), "/state/" + rm, "/state_ids/" + rm, "/backfill/" + rm, "/event_auth/" + rm + "/" + url.PathEscape(string(acl))} {
			_, err := p.b.ask(p.a, "GET", v1+path, url.Values{"event_id": {string(acl)}, "v": {string(acl)}, "limit": {"3"}, "ver": {"10"}}, nil)
			refusedWith(t, err, 403, "M_FORBIDDEN")
		}
		for _, path := range []string{v2 + "/send_join/", v2 + "/send_leave/", v1 + "/send_knock/"} {
			_, err := p.b.ask(p.a, "PUT", path+rm+"/$x", nil, struct{}{})
			refusedWith(t, err, 403, "M_FORBIDDEN")
		}
		_, err = p.b.ask(p.a, "POST", v1+"/get_missing_events/"+rm, nil, map[string]any{"earliest_events": []string{}, "latest_events": []string{string(acl)}})
		refusedWith(t, err, 403, "M_FORBIDDEN")
		body := fmt.Sprintf(`{"origin":%q,"origin_server_ts":1,"pdus":[],"edus":[
			{"edu_type":"m.typing","content":{"room_id":%q,"user_id":%q,"typing":true}},
			{"edu_type":"m.receipt","content":{%q:{"m.read":{}}}},
			{"edu_type":"m.direct_to_device","content":{"sender":%q}}]}`, p.b.me.Name, r, ben, r, ben)
		if _, err := p.b.ask(p.a, "PUT", v1+"/send/acl", nil, jsontext.Value(body)); err != nil {
			t.Fatal(err)
		}
		p.a.mu.Lock()
		defer p.a.mu.Unlock()
		for _, u := range p.a.edus {
			if u.tenant == p.a.me.Name && strings.Contains(u.content, string(r)) {
				t.Errorf("taken from a denied server: %s", u.content)
			}
		}
	})
}

// forged is a PDU of a user of b in a room that is signed with a key b does not publish.
func (s *server) forged(t testing.TB, r id.Room, edit func(*event.Draft)) *event.Event {
	t.Helper()
	rm, err := s.rooms.Lookup(t.Context(), s.me.ID, r)
	if err != nil {
		t.Fatal(err)
	}
	ends, err := s.rooms.Extremities(t.Context(), s.me.ID, rm)
	if err != nil {
		t.Fatal(err)
	}
	state, err := s.rooms.CurrentState(t.Context(), s.me.ID, rm)
	if err != nil {
		t.Fatal(err)
	}
	d := event.Draft{Version: rm.Version, Room: r, Type: "m.room.message", Sender: s.user("ben"), Content: jsontext.Value(`{"body":"x","msgtype":"m.text"}`),
		PrevEvents: ends, Depth: 100, Timestamp: s.fed.now().UnixMilli()}
	for _, k := range []event.Key{{Type: "m.room.create"}, {Type: "m.room.power_levels"}, {Type: "m.room.member", StateKey: string(s.user("ben"))}} {
		d.AuthEvents = append(d.AuthEvents, state[k])
	}
	if edit != nil {
		edit(&d)
	}
	key, err := s.fed.Keyring.Signing(t.Context(), s.me.ID)
	if err != nil {
		t.Fatal(err)
	}
	e, err := d.Build(s.me.Name, key.ID, key.Private)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestBadEvents: wrong signatures, unknown keys, changed content and foreign senders in a transaction; each has its own result.
func TestBadEvents(t *testing.T) {
	everyWay(t, func(t *testing.T, p pair) {
		r := meeting(t, p.a, p.b, "11")
		p.a.idle(p.b.me.Name)
		good := p.b.forged(t, r, nil)
		_, stranger, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		key, err := p.b.fed.Keyring.Signing(t.Context(), p.b.me.ID)
		if err != nil {
			t.Fatal(err)
		}
		second := p.b.forged(t, r, func(d *event.Draft) { d.Depth = 101 })
		bad := func(sign func(raw []byte) []byte) *event.Event {
			raw := signing.Replace(second.JSON(), "signatures", nil)
			e, err := event.Parse(second.Version(), sign(raw))
			if err != nil {
				t.Fatal(err)
			}
			return e
		}
		redactable := p.b.forged(t, r, func(d *event.Draft) { d.Depth = 102 })
		changed, err := event.Parse(redactable.Version(), signing.Replace(redactable.JSON(), "content", []byte(`{"body":"changed","msgtype":"m.text"}`)))
		if err != nil {
			t.Fatal(err)
		}
		foreign := p.b.forged(t, r, func(d *event.Draft) { d.Sender = p.a.user("anna") })
		wrongKey := bad(func(raw []byte) []byte {
			return signing.Replace(raw, "signatures", []byte(fmt.Sprintf(`{%q:{%q:"%s"}}`, p.b.me.Name, key.ID, signing.Encode(ed25519.Sign(stranger, []byte("x"))))))
		})
		unknownKey := bad(func(raw []byte) []byte {
			return signing.Replace(raw, "signatures", []byte(fmt.Sprintf(`{%q:{"ed25519:other":"%s"}}`, p.b.me.Name, signing.Encode(ed25519.Sign(stranger, []byte("x"))))))
		})
		for name, c := range map[string]struct {
			e    *event.Event
			want bool
		}{"good": {good, true}, "wrong key": {wrongKey, false}, "unknown key": {unknownKey, false}, "foreign sender": {foreign, false}, "changed": {changed, true}} {
			raw, err := p.b.ask(p.a, "PUT", v1+"/send/"+url.PathEscape(name), nil, envelope{Origin: p.b.me.Name, PDUs: []jsontext.Value{c.e.JSON()}})
			if err != nil {
				t.Fatal(err)
			}
			refused := canonicaljson.GetString(raw, "pdus", string(c.e.ID()), "error") != ""
			if canonicaljson.Get(raw, "pdus", string(c.e.ID())) == nil || refused == c.want {
				t.Errorf("%s: %s", name, raw)
			}
		}
		kept, err := p.a.rooms.Event(t.Context(), p.a.me.ID, changed.ID())
		if err != nil || strings.Contains(string(kept.JSON()), "changed") || !kept.IsRedactedForm() {
			t.Errorf("of an event whose content does not match its hash this is kept: %v", err)
		}
		if p.a.count(good.ID()) != 1 {
			t.Error("the good event is missing")
		}
	})
}

// TestTransactions: malformed and oversized ones, another origin's, and one that comes twice.
func TestTransactions(t *testing.T) {
	everyWay(t, func(t *testing.T, p pair) {
		r := meeting(t, p.a, p.b, "12")
		p.a.idle(p.b.me.Name)
		for name, c := range map[string]struct {
			body any
			code string
			at   int
		}{
			"list":   {jsontext.Value(`[]`), "M_BAD_JSON", 400},
			"origin": {envelope{Origin: "c.example", PDUs: []jsontext.Value{}}, "M_FORBIDDEN", 403},
			"pdus":   {envelope{Origin: p.b.me.Name, PDUs: make([]jsontext.Value, 51)}, "M_BAD_JSON", 400},
			"edus":   {map[string]any{"pdus": []int{}, "edus": make([]struct{}, 101)}, "M_BAD_JSON", 400},
			"types":  {map[string]any{"pdus": "none"}, "M_BAD_JSON", 400},
			"nulls":  {jsontext.Value(`{"pdus":[null,1,"x",{},{"room_id":7}],"edus":[{},{"edu_type":"m.typing"},{"edu_type":"m.typing","content":[]}]}`), "", 200},
		} {
			_, err := p.b.ask(p.a, "PUT", v1+"/send/"+name, nil, c.body)
			if c.at == 200 {
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
			refusedWith(t, err, c.at, c.code)
		}
		e := p.b.forged(t, r, func(d *event.Draft) { d.AuthEvents = d.AuthEvents[1:] })
		tx := envelope{Origin: p.b.me.Name, PDUs: []jsontext.Value{e.JSON()},
			EDUs: []EDU{{Type: "m.direct_to_device", Content: jsontext.Value(`{"message_id":"once"}`)}}}
		first, err := p.b.ask(p.a, "PUT", v1+"/send/twice", nil, tx)
		if err != nil {
			t.Fatal(err)
		}
		tx.EDUs = append(tx.EDUs, tx.EDUs[0]) // even with other content, the id stands for the first one
		second, err := p.b.ask(p.a, "PUT", v1+"/send/twice", nil, tx)
		if err != nil || string(first) != string(second) || canonicaljson.GetString(first, "pdus", string(e.ID()), "error") != "" {
			t.Errorf("%s, then %s, %v", first, second, err)
		}
		if p.a.count(e.ID()) != 1 {
			t.Error("the event is missing")
		}
		p.a.mu.Lock()
		defer p.a.mu.Unlock()
		n := 0
		for _, u := range p.a.edus {
			if u.origin == p.b.me.Name && strings.Contains(u.content, "once") {
				n++
			}
		}
		if n != 1 {
			t.Errorf("the unit was delivered %d times", n)
		}
	})
}

// TestRequestSignatures: what the wire allows an attacker to try.
func TestRequestSignatures(t *testing.T) {
	t.Parallel()
	p := overTLS(t, databasetest.SQLite(t), databasetest.SQLite(t), Config{})
	ctx := t.Context()
	sign := func(edit func(*credentials), c *call, method, uri string) string {
		key, err := p.a.fed.Keyring.Signing(ctx, p.a.me.ID)
		if err != nil {
			t.Fatal(err)
		}
		cr := credentials{origin: nameA, destination: nameB, key: key.ID}
		if edit != nil {
			edit(&cr)
		}
		object, err := signedRequest(method, uri, cr.origin, cr.destination, c.body)
		if err != nil {
			t.Fatal(err)
		}
		cr.signature = signing.Encode(ed25519.Sign(key.Private, object))
		return cr.String()
	}
	send := func(host, method, uri, body string, authorization ...string) int {
		req := httptest.NewRequest(method, uri, strings.NewReader(body))
		req.Host = host
		for _, a := range authorization {
			req.Header.Add("Authorization", a)
		}
		rec := httptest.NewRecorder()
		p.b.router.ServeHTTP(rec, req)
		return rec.Code
	}
	const uri = v1 + "/query/directory?room_alias=%23x%3Ab.example"
	get := &call{}
	for name, c := range map[string]struct {
		got, want int
	}{
		"right":              {send("b.example", "GET", uri, "", sign(nil, get, "GET", uri)), 404},
		"no header":          {send("b.example", "GET", uri, ""), 401},
		"other scheme":       {send("b.example", "GET", uri, "", "Bearer x"), 401},
		"other uri":          {send("b.example", "GET", uri+"y", "", sign(nil, get, "GET", uri)), 401},
		"other method":       {send("b.example", "PUT", v1+"/send/x", "{}", sign(nil, get, "GET", v1+"/send/x")), 401},
		"other body":         {send("b.example", "PUT", v1+"/send/x", `{"a":1}`, sign(nil, &call{body: []byte(`{"a":2}`)}, "PUT", v1+"/send/x")), 401},
		"no JSON":            {send("b.example", "PUT", v1+"/send/x", `{"a":`, sign(nil, get, "PUT", v1+"/send/x")), 401},
		"other destination":  {send("b.example", "GET", uri, "", sign(func(c *credentials) { c.destination = nameC }, get, "GET", uri)), 401},
		"unknown key":        {send("b.example", "GET", uri, "", sign(func(c *credentials) { c.key = "ed25519:other" }, get, "GET", uri)), 401},
		"somebody else":      {send("b.example", "GET", uri, "", sign(func(c *credentials) { c.origin = nameC }, get, "GET", uri)), 401},
		"itself":             {send("b.example", "GET", uri, "", sign(func(c *credentials) { c.origin = nameB }, get, "GET", uri)), 401},
		"second header":      {send("b.example", "GET", uri, "", `X-Matrix origin="a.example",key="ed25519:x",sig="eA"`, sign(nil, get, "GET", uri)), 404},
		"two origins":        {send("b.example", "GET", uri, "", `X-Matrix origin="c.example",key="ed25519:x",sig="eA"`, sign(nil, get, "GET", uri)), 401},
		"unknown host":       {send("z.example", "GET", uri, "", sign(nil, get, "GET", uri)), 404},
		"unknown host empty": {send("", "GET", uri, "", sign(nil, get, "GET", uri)), 404},
	} {
		if c.got != c.want {
			t.Errorf("%s: status %d, want %d", name, c.got, c.want)
		}
	}
}

// strict lets nobody federate.
type strict struct{ policy.Open }

func (strict) Federate(context.Context, *tenant.Tenant, id.Server) error {
	return mxerror.Forbidden.With("not on the list")
}

// TestPolicy: a server that the policy does not admit is refused in both directions, over every transport.
//
// Requirements: A_26328.
func TestPolicy(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	fa, fb := newFront(t, ca, string(nameA)), newFront(t, ca, string(nameB))
	config := Config{Resolve: map[id.Server]Override{nameA: {Address: fa.address(), Roots: ca.pool}, nameB: {Address: fb.address(), Roots: ca.pool}}}
	a := newCell(t, setting{url: databasetest.SQLite(t), config: config, front: fa, policy: strict{}}, nameA, nameC).server(nameA)
	b := newCell(t, setting{url: databasetest.SQLite(t), config: config, front: fb}, nameB).server(nameB)
	c := a.server(nameC)
	_, err := a.ask(b, "GET", v1+"/publicRooms", nil, nil)
	hasCode(t, err, mxerror.Forbidden)
	_, err = b.ask(a, "GET", v1+"/publicRooms", nil, nil)
	refusedWith(t, err, 403, "M_FORBIDDEN")
	_, err = a.ask(c, "GET", v1+"/publicRooms", nil, nil)
	hasCode(t, err, mxerror.Forbidden)
	r, err := a.rooms.Create(t.Context(), a.me, a.user("anna"), policy.CreateRoom{RoomVersion: "10"})
	if err != nil {
		t.Fatal(err)
	}
	hasCode(t, a.rooms.Invite(t.Context(), a.me, r, a.user("anna"), b.user("ben"), "", false), mxerror.Forbidden)
	hasCode(t, a.rooms.Invite(t.Context(), a.me, r, a.user("anna"), c.user("cora"), "", false), mxerror.Forbidden)
}

// TestKeyServer: a tenant's own keys, old ones included, and those that it witnesses as a notary.
func TestKeyServer(t *testing.T) {
	t.Parallel()
	p := overTLS(t, databasetest.SQLite(t), databasetest.SQLite(t), Config{})
	ctx := t.Context()
	old, err := p.a.fed.Keyring.Signing(ctx, p.a.me.ID)
	if err != nil {
		t.Fatal(err)
	}
	current, err := p.a.fed.Keyring.Rotate(ctx, p.a.me.ID)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := p.b.fed.askKeys(ctx, nameA)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := parseServerKeys(nameA, raw)
	if err != nil || keys.keys[current.ID].expired != 0 || keys.keys[old.ID].expired == 0 || len(keys.keys) != 2 {
		t.Errorf("%s: %+v, %v", raw, keys, err)
	}
	if _, err := parseServerKeys(nameB, raw); err == nil {
		t.Error("the keys of one server are taken for another's")
	}
	get := func(to *server, path string) []byte {
		req := httptest.NewRequest("GET", path, nil)
		req.Host = string(to.me.Name)
		rec := httptest.NewRecorder()
		to.router.ServeHTTP(rec, req)
		body, err := io.ReadAll(rec.Result().Body)
		if err != nil || rec.Code != 200 {
			t.Fatalf("%s: %d, %v", path, rec.Code, err)
		}
		return body
	}
	witnessed := get(p.b, "/_matrix/key/v2/query/a.example")
	var doc notaryAnswer
	if err := json.Unmarshal(witnessed, &doc); err != nil || len(doc.Keys) != 1 {
		t.Fatalf("%s: %v", witnessed, err)
	}
	mine, err := p.b.fed.Keyring.Signing(ctx, p.b.me.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := signing.VerifyJSON(doc.Keys[0], string(nameB), mine.ID, mine.Public); err != nil {
		t.Errorf("the notary's signature: %v", err)
	}
	if err := signing.VerifyJSON(doc.Keys[0], string(nameA), current.ID, current.Public); err != nil {
		t.Errorf("the server's own signature: %v", err)
	}
	// A server that has gone quiet is still answered for.
	p.a.down()
	if again := get(p.b, "/_matrix/key/v2/query/a.example?minimum_valid_until_ts=99999999999999"); !strings.Contains(string(again), string(current.ID)) {
		t.Errorf("%s", again)
	}
	if none := get(p.b, "/_matrix/key/v2/query/nobody.example:1"); string(none) != `{"server_keys":[]}` {
		t.Errorf("%s", none)
	}
}

// TestKeyValidity: from room version 5 on, a key counts only for the time for which its server vouched.
func TestKeyValidity(t *testing.T) {
	t.Parallel()
	current, past := verifyKey{validUntil: 1000}, verifyKey{expired: 500}
	for _, c := range []struct {
		k       verifyKey
		ts      int64
		enforce bool
		want    bool
	}{{current, 1000, true, true}, {current, 1001, true, false}, {current, 5000, false, true}, {past, 500, true, true}, {past, 501, true, false}, {past, 501, false, true}} {
		if got := c.k.signsAt(c.ts, c.enforce); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// TestNotary: a server whose key endpoint is silent is known through a configured key server.
func TestNotary(t *testing.T) {
	t.Parallel()
	p := overTLS(t, databasetest.SQLite(t), databasetest.SQLite(t), Config{KeyServers: []id.Server{nameB}})
	if err := p.b.fed.keys.refresh(t.Context(), nameA); err != nil {
		t.Fatal(err)
	}
	key, err := p.a.fed.Keyring.Signing(t.Context(), p.a.me.ID)
	if err != nil {
		t.Fatal(err)
	}
	p.a.down()
	c := newCell(t, setting{url: databasetest.SQLite(t), config: p.b.fed.config}, "d.example")
	public, err := c.fed.keys.find(t.Context(), keyName{nameA, key.ID}, c.fed.now().UnixMilli(), true)
	if err != nil || !public.Equal(key.Public) {
		t.Errorf("through the notary: %v", err)
	}
	if _, err := c.fed.keys.find(t.Context(), keyName{nameC, key.ID}, 0, true); err == nil {
		t.Error("a key that nobody has vouched for")
	}
}

func FuzzTransaction(f *testing.F) {
	f.Add([]byte(`{"origin":"b.example","origin_server_ts":1,"pdus":[{"room_id":"!r:b.example"}],"edus":[{"edu_type":"m.typing","content":{}}]}`))
	f.Add([]byte(`{"pdus":null,"edus":[null]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		in, err := parseTransaction("b.example", body)
		if err != nil {
			if mxerror.From(err) == nil {
				t.Fatalf("not a Matrix error: %v", err)
			}
			return
		}
		if len(in.PDUs) > maxPDUs || len(in.EDUs) > maxEDUs {
			t.Fatal("too much was accepted")
		}
		v, _ := roomversion.Get("10")
		for _, p := range in.PDUs {
			canonicaljson.GetString(p, "room_id")
			if e, err := event.Parse(v, p); err == nil {
				signatureOf(e, "b.example", "ed25519:k")
			}
		}
	})
}

func FuzzServerKeys(f *testing.F) {
	f.Add([]byte(`{"server_name":"b.example","valid_until_ts":1,"verify_keys":{"ed25519:k":{"key":"AA"}},"old_verify_keys":{},"signatures":{}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if a, err := parseServerKeys("b.example", body); err == nil && a.server != "b.example" {
			t.Fatal("keys of somebody else")
		}
	})
}

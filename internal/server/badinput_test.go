// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package server_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/konsiltest"
)

// walker sends requests to every route of a running cell with two tenants.
type walker struct {
	*testing.T
	cell *konsiltest.Cell
	// anna is at home at praxis.test and has a private room there; berta is of klinik.test.
	anna, berta *konsiltest.Session
	room, event string
}

const (
	homeOfAnna  = "praxis.test"
	homeOfBerta = "klinik.test"
	secret      = "Befund: geheim"
)

func newWalker(t *testing.T, database string) *walker {
	n := konsiltest.New(t, konsiltest.Spec{Tenants: []string{homeOfAnna, homeOfBerta}, Database: database})
	w := &walker{T: t, cell: n.Cell(0)}
	w.anna, w.berta = w.cell.SignIn(t, "@anna:"+homeOfAnna), w.cell.SignIn(t, "@berta:"+homeOfBerta)
	w.room = w.anna.CreateRoom(map[string]any{"preset": "private_chat", "name": secret, "topic": secret})
	w.event = w.anna.Send(w.room, secret)
	return w
}

// answer is what came back; errcode is empty where the body is no JSON object with one.
type answer struct {
	status  int
	errcode string
	body    string
}

// ask sends one request. host is the Host header, "" the shared client address.
func (w *walker) ask(method, path, host, token string, body []byte) answer {
	w.Helper()
	req, err := http.NewRequestWithContext(w.Context(), method, w.cell.URL+path, bytes.NewReader(body))
	if err != nil {
		w.Fatalf("%s %s: %v", method, path, err)
	}
	req.Host = host
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		w.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		w.Fatalf("%s %s: %v", method, path, err)
	}
	a := answer{status: res.StatusCode, body: string(text)}
	var e struct {
		Code  string `json:"errcode"`
		Error string `json:"error"`
	}
	if json.Unmarshal(text, &e) == nil && e.Error != "" {
		a.errcode = e.Code
	}
	if strings.HasPrefix(path, "/_matrix/oauth2/") && a.errcode == "" {
		a.errcode = e.Error // RFC 6749, section 5.2
	}
	if strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") && strings.Contains(a.body, "<h1>") {
		a.errcode = "a page for people"
	}
	if a.status >= 400 && a.errcode == "" && len(text) > 0 && !(a.status == 401 && strings.Contains(a.body, `"flows"`)) { // user-interactive authentication
		w.Errorf("%s %s: %d is no standard error: %q", method, path, a.status, text)
	}
	if a.status >= 500 && a.errcode != "M_CONNECTION_FAILED" { // the servers of odd ids do not exist
		w.Errorf("%s %s with %.200q: %d %s", method, path, body, a.status, text)
	}
	return a
}

// path fills a route's variables with what belongs to Anna.
func (w *walker) path(route httpapi.Route, other map[string]string) string {
	values := map[string]string{
		"roomId": w.room, "roomIdOrAlias": w.room, "eventId": w.event, "userId": w.anna.User, "deviceId": w.anna.Device, "roomAlias": "#geheim:" + homeOfAnna,
		"eventType": "m.room.topic", "stateKey": "", "type": "m.direct", "txnId": "t", "serverName": homeOfAnna, "mediaId": "abc", "tag": "u.x",
		"keyName": "displayname", "filterId": "1", "receiptType": "m.read", "version": "1", "sessionId": "s", "fileName": "a.txt", "scope": "global",
		"kind": "override", "ruleId": ".m.rule.master", "relType": "m.thread", "keyId": "ed25519:x",
	}
	for k, v := range other {
		values[k] = v
	}
	segments := strings.Split(route.Path, "/")
	for i, s := range segments {
		if name, ok := strings.CutPrefix(s, "{"); ok {
			value, known := values[strings.TrimSuffix(strings.TrimSuffix(name, "}"), "...")]
			if !known {
				value = "x"
			}
			segments[i] = url.PathEscape(value)
		}
	}
	return strings.TrimSuffix(strings.Join(segments, "/"), "/")
}

// forUsers says whether a route looks at access tokens.
func forUsers(r httpapi.Route) bool {
	return r.Access == httpapi.User || r.Access == httpapi.AnyUser || r.Access == httpapi.Admin
}

// ending routes end the caller's session or account.
func ending(r httpapi.Route) bool {
	return strings.Contains(r.Path, "/logout") || strings.Contains(r.Path, "/deactivate")
}

// TestTokens walks all routes with tokens that must not open them.
func TestTokens(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 1, func(t *testing.T, databases []string) {
		w := newWalker(t, databases[0])
		prefix, _, _ := strings.Cut(strings.TrimPrefix(w.anna.Token, "kt_"), "_")
		wrong := map[string]string{
			"of another tenant": w.berta.Token,
			"unknown":           "kt_" + prefix + "_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
			"cut short":         w.anna.Token[:len(w.anna.Token)-1],
			"of nobody":         "syt_Zm9v_bar_baz",
			"with odd bytes":    "kt_" + prefix + "_%00\u00fc",
		}
		walked := 0
		for _, route := range w.cell.Server.Routes() {
			path := w.path(route, nil)
			if forUsers(route) || route.Access == httpapi.OptionalUser {
				walked++
				for name, token := range wrong {
					if a := w.ask(route.Method, path, homeOfAnna, token, []byte("{}")); a.status != 401 || a.errcode != "M_UNKNOWN_TOKEN" {
						t.Errorf("%s %s with a token %s: %d %s", route.Method, route.Path, name, a.status, a.body)
					}
				}
			}
			if forUsers(route) {
				if a := w.ask(route.Method, path, homeOfAnna, "", []byte("{}")); a.status != 401 || a.errcode != "M_MISSING_TOKEN" {
					t.Errorf("%s %s without token: %d %s", route.Method, route.Path, a.status, a.body)
				}
			}
			if route.Access == httpapi.Server {
				if a := w.ask(route.Method, path, homeOfAnna, w.anna.Token, []byte("{}")); a.status != 401 || a.errcode != "M_UNAUTHORIZED" {
					t.Errorf("%s %s with a user's token: %d %s", route.Method, route.Path, a.status, a.body)
				}
			}
		}
		if walked < 100 {
			t.Errorf("only %d routes walked", walked)
		}
		// Everybody is still signed in.
		w.anna.Do("GET", "/_matrix/client/v3/account/whoami", nil)
		w.berta.Do("GET", "/_matrix/client/v3/account/whoami", nil)
	})
}

// ownCopies are routes with a foreign room or user in the path that only touch what is the caller's own, or the public.
var ownCopies = []string{
	"/room_keys/", "/user/{userId}/rooms/{roomId}/", "/keys/changes", "GET /_matrix/client/v3/profile/", "/publicRooms", "/presence/",
	"/forget", "/directory/list/room/{roomId}", "/users/{userId}/report",
}

// TestForeignRooms walks all routes that name a room, an event or a person of another tenant, with a valid token.
func TestForeignRooms(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 1, func(t *testing.T, databases []string) {
		w := newWalker(t, databases[0])
		walked := 0
		for _, route := range w.cell.Server.Routes() {
			if !forUsers(route) || ending(route) || !strings.Contains(route.Path, "{room") && !strings.Contains(route.Path, "{userId}") {
				continue
			}
			walked++
			for _, body := range []string{`{}`, `{"user_id":"@berta:klinik.test","membership":"join","reason":"x","room_id":"!x:klinik.test","typing":true,"topic":"x"}`} {
				a := w.ask(route.Method, w.path(route, nil), homeOfBerta, w.berta.Token, []byte(body))
				if strings.Contains(a.body, secret) {
					t.Errorf("%s %s shows a foreign room: %s", route.Method, route.Path, a.body)
				}
				own := slices.ContainsFunc(ownCopies, func(part string) bool { return strings.Contains(route.Method+" "+route.Path, part) })
				if a.status < 400 && !own {
					t.Errorf("%s %s of another tenant: %d %s", route.Method, route.Path, a.status, a.body)
				}
				if a.status == 401 && !strings.Contains(a.body, "flows") {
					t.Errorf("%s %s: the token is right, but: %s", route.Method, route.Path, a.body)
				}
			}
		}
		if walked < 40 {
			t.Errorf("only %d routes walked", walked)
		}
		members := w.anna.Do("GET", "/_matrix/client/v3/rooms/"+url.PathEscape(w.room)+"/joined_members", nil)
		if joined, _ := members["joined"].(map[string]any); len(joined) != 1 {
			t.Errorf("the room's members are now %v", joined)
		}
	})
}

// everyField holds the names of all fields that some route reads, so that one wrong value reaches every decoder.
var everyField = []string{
	"access_token", "actions", "algorithm", "app_display_name", "auth", "auth_data", "avatar_url", "before", "cancel", "content", "creation_content",
	"data", "device_display_name", "device_id", "device_keys", "devices", "displayname", "enabled", "event_fields", "event_format", "event_id", "fallback_keys",
	"filter", "first_message_index", "forwarded_count", "id_access_token", "id_server", "identifier", "inhibit_login", "initial_device_display_name", "initial_state",
	"invite", "invite_3pid", "is_direct", "is_verified", "kind", "lang", "limit", "locked", "logout_devices", "m.fully_read", "m.read", "m.read.private", "mac", "master_key",
	"membership", "messages", "name", "new_password", "new_version", "nonce", "one_time_keys", "order", "password", "pattern", "conditions", "power_level_content_override",
	"presence", "preset", "profile_tag", "pushkey", "reason", "refresh_token", "room", "room_alias_name", "room_id", "room_version", "rooms", "search_term", "self_signing_key",
	"session", "sessions", "since", "status_msg", "suspended", "thread_id", "timeout", "token", "topic", "type", "typing", "user", "user_id", "user_signing_key", "username",
	"version", "visibility", "displayname", "third_party_signed", "via", "room_types", "include_all_networks",
}

// wrongBodies are bodies that no route may choke on.
func wrongBodies() map[string][]byte {
	bodies := map[string][]byte{
		"an array": []byte(`[]`), "a number": []byte(`1`), "null": []byte(`null`), "a string": []byte(`"x"`),
		"deep":            []byte(`{"a":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`),
		"huge numbers":    []byte(`{"limit":1e400,"timeout":99999999999999999999999,"order":-1e400,"before":1.5}`),
		"a null byte":     []byte("{\"name\":\"a\\u0000b\",\"topic\":\"\\u0000\",\"displayname\":\"\\u0000\",\"reason\":\"\\u0000\",\"status_msg\":\"\\u0000\",\"display_name\":\"\\u0000\"}"),
		"lone surrogates": []byte(`{"name":"\ud800","topic":"\udfff","displayname":"\ud800x","reason":"\ud800"}`),
	}
	for name, value := range map[string]any{
		"numbers": 1, "negative": -1, "fractions": 1.5, "strings": "x", "empty strings": "", "booleans": true, "nulls": nil, "arrays": []any{1},
		"empty arrays": []any{}, "objects": map[string]any{"x": 1}, "nested": map[string]any{"@x:y": map[string]any{"D": []any{map[string]any{"x": nil}}}},
	} {
		object := map[string]any{}
		for _, field := range everyField {
			object[field] = value
		}
		body, err := json.Marshal(object)
		if err != nil {
			panic(err)
		}
		bodies["all "+name] = body
	}
	return bodies
}

var brokenBodies = map[string]string{
	"cut off": `{"a":`, "no JSON": `hello`, "two values": `{} {}`, "empty": ``, "not UTF-8": "{\"a\":\"\xff\xfe\"}", "trailing comma": `{"a":1,}`, "single quotes": `{'a':1}`,
}

// oddValues are path variables that no route may choke on.
var oddValues = []string{"", "x", "!", "$", "@", "#", "\x00", "\xff\xfe", "..", "a/b", "@a", "@:x", "!x", "$x", strings.Repeat("a", 300), "@" + strings.Repeat("ä", 200) + ":praxis.test",
	"🦊", "%00", "' OR 1=1 --", "-1", "99999999999999999999", "@x:praxis.test:99999", "!x:[::1", "#:"}

var oddQueries = []string{
	"limit=-1", "limit=x", "limit=99999999999999999999", "limit=0", "from=x", "from=%00", "to=x", "since=x", "since=%FF", "timeout=-5&since=x", "timeout=x", "dir=x", "dir=b&from=" + strings.Repeat("a", 2000),
	"filter=%7B", "filter=%7B%22room%22%3A1%7D", "filter=nosuch", "at=x", "membership=x&not_membership=x", "ts=x", "ts=-1", "width=x&height=x", "width=-1&height=-1",
	"width=99999999&height=99999999&method=x", "via=x&server_name=%00", "user_id=%00", "full_state=x", "set_presence=x", "version=x", "format=x", "user_id=x&ver=x", "allow_redirect=x", "timeout_ms=x", "kind=x", "username=%00",
	"server=%00", "recurse=x", "include=x", "event_id=%00&v=x",
}

// TestMalformed sends nonsense to every route: each answers with a standard error of the caller, none breaks.
func TestMalformed(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 1, func(t *testing.T, databases []string) {
		w := newWalker(t, databases[0])
		wrong := wrongBodies()
		for _, route := range w.cell.Server.Routes() {
			if ending(route) {
				continue
			}
			w.malformed(route, wrong)
		}
		if whoami := w.anna.Do("GET", "/_matrix/client/v3/account/whoami", nil); whoami["user_id"] != w.anna.User {
			t.Errorf("afterwards Anna is %v", whoami)
		}
		another := w.anna.CreateRoom(map[string]any{"preset": "private_chat"}) // the walk has led her out of the first one
		if got := w.anna.Send(another, "Es geht noch."); got == "" {
			t.Error("nothing can be sent any more")
		}
	})
}

func (w *walker) malformed(route httpapi.Route, wrong map[string][]byte) {
	host, token := homeOfAnna, ""
	if route.Access != httpapi.Public && route.Access != httpapi.Server {
		token = w.anna.Token
	}
	path := w.path(route, nil)
	if route.Method == http.MethodPost || route.Method == http.MethodPut {
		for name, body := range wrong {
			w.ask(route.Method, path, host, token, body)
			if name == "all objects" && strings.HasSuffix(route.Path, "/login") {
				w.ask(route.Method, path, "", "", body) // also where no host names the tenant
			}
		}
		for name, body := range brokenBodies {
			a := w.ask(route.Method, path, host, token, []byte(body))
			if a.status < 400 && !route.Raw && !bodiless(route) {
				w.Errorf("%s %s with a body that is %s: %d %s", route.Method, route.Path, name, a.status, a.body)
			}
		}
	}
	for _, query := range oddQueries {
		if !strings.HasSuffix(route.Path, "/sync") || !strings.Contains(query, "timeout") {
			w.ask(route.Method, path+"?"+query, host, token, []byte("{}"))
		}
	}
	segments := strings.Split(route.Path, "/")
	for _, s := range segments {
		name := strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(s, "{"), "}"), "...")
		if name == s {
			continue
		}
		for _, odd := range oddValues {
			w.ask(route.Method, w.path(route, map[string]string{name: odd}), host, token, []byte("{}"))
		}
	}
}

// bodiless routes have no body, or an optional one that they need not read.
func bodiless(r httpapi.Route) bool {
	for _, part := range []string{"/join", "/leave", "/forget", "/knock", "/get_token", "/openid/", "/receipt/", "/media/v1/create", "/tags/", "/directory/list/", "/upload", "/publicRooms", "/redact/", "/register", "/delete_devices", "/createRoom"} {
		if strings.Contains(r.Path, part) {
			return true
		}
	}
	return r.Access == httpapi.Server
}

// TestLimitsOfEvents sends what is too large, and what comes again.
func TestLimitsOfEvents(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 1, func(t *testing.T, databases []string) {
		w := newWalker(t, databases[0])
		room := "/_matrix/client/v3/rooms/" + url.PathEscape(w.room)
		send := func(kind, rest string, content map[string]any) (int, map[string]any) {
			return w.anna.Try("PUT", room+"/"+kind+"/"+rest, content)
		}
		text := func(n int) map[string]any { return map[string]any{"msgtype": "m.text", "body": strings.Repeat("x", n)} }
		for name, c := range map[string]struct {
			kind, rest string
			content    map[string]any
		}{
			"a message":            {"send", "m.room.message/big1", text(65_536)},
			"a message just over":  {"send", "m.room.message/big2", text(65_536 - 200)},
			"a message beyond all": {"send", "m.room.message/big3", text(3 << 20)},
			"a state event":        {"state", "m.room.topic", map[string]any{"topic": strings.Repeat("x", 65_536)}},
			"a type":               {"send", strings.Repeat("t", 256) + "/big4", text(1)},
			"a state key":          {"state", "x/" + strings.Repeat("k", 256), text(1)},
		} {
			if status, a := send(c.kind, c.rest, c.content); status != 413 || a["errcode"] != "M_TOO_LARGE" {
				t.Errorf("%s that is too large: %d %v", name, status, a)
			}
		}
		if status, a := send("send", "m.room.message/fits", text(64_000)); status != 200 {
			t.Errorf("a large message that is allowed: %d %v", status, a)
		}
		for name, content := range map[string]string{
			"a fraction": `{"body":"x","n":1.5}`, "a huge number": `{"n":9007199254740992}`, "an exponent": `{"n":1e3000}`, "a double key": `{"a":1,"a":2}`, "an array": `[1]`,
		} {
			if a := w.ask("PUT", room+"/send/m.room.message/num-"+url.PathEscape(name), homeOfAnna, w.anna.Token, []byte(content)); a.status != 400 || a.errcode != "M_BAD_JSON" && a.errcode != "M_NOT_JSON" {
				t.Errorf("content with %s: %d %s", name, a.status, a.body)
			}
		}

		// A replayed transaction changes nothing, whatever it holds now; on another device it is another transaction.
		first := w.anna.Do("PUT", room+"/send/m.room.message/again", text(3))["event_id"]
		if second := w.anna.Do("PUT", room+"/send/m.room.message/again", text(5))["event_id"]; second != first {
			t.Errorf("a replayed transaction made %v beside %v", second, first)
		}
		other := w.cell.Login(t, w.anna.User, w.anna.Password)
		if third := other.Do("PUT", room+"/send/m.room.message/again", text(3))["event_id"]; third == first {
			t.Error("two devices share transaction ids")
		}
		redact := room + "/redact/" + url.PathEscape(first.(string)) + "/again"
		if one, two := w.anna.Do("PUT", redact, map[string]any{})["event_id"], w.anna.Do("PUT", redact, map[string]any{})["event_id"]; one != two || one == first {
			t.Errorf("a replayed redaction made %v, then %v", one, two)
		}
		texts, _ := timeline(t, w.anna, w.room)
		if short := slices.DeleteFunc(texts, func(text string) bool { return len(text) > 100 }); !slices.Equal(short, []string{secret, "xxx"}) {
			t.Errorf("the room holds %q", short)
		}
	})
}

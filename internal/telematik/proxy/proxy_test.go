// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/konsiltest"
	"github.com/konsil-health/konsil/internal/telematik/permission"
	"github.com/konsil-health/konsil/internal/telematik/proxy"
)

// homeserver is a stand-in for what is behind a proxy: the tests below look at what reaches it.
func homeserver(t *testing.T, h http.HandlerFunc) (front *httptest.Server, settings *proxy.Settings) {
	t.Helper()
	behind := httptest.NewServer(h)
	t.Cleanup(behind.Close)
	return inFront(t, behind.URL, databasetest.Open(t, databasetest.SQLite(t)))
}

func inFront(t *testing.T, address string, db *database.DB) (*httptest.Server, *proxy.Settings) {
	t.Helper()
	to, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	settings, log := proxy.NewSettings(db), slog.New(slog.DiscardHandler)
	rules := permission.New(permission.Options{Members: members(), AccountData: settings.AccountData, Log: log})
	p := proxy.New(proxy.Options{Rules: rules, Settings: settings, Tenants: serversBehind[:1], Client: to, Federation: to, MatrixVersion: "v1.11", MaxUpload: 1 << 10, Log: log})
	t.Cleanup(p.Close)
	front := httptest.NewServer(p)
	t.Cleanup(front.Close)
	return front, settings
}

func request(t *testing.T, method, address, body string, header http.Header) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		r.Header = header
	}
	res, err := plainHTTP(t).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

// TestServers: what another server sends is looked at before it reaches the homeserver.
//
// Requirements: AF_10064-02, A_25534, A_26224, A_26244.
func TestServers(t *testing.T) {
	t.Parallel()
	var reached []string
	front, _ := homeserver(t, func(w http.ResponseWriter, r *http.Request) {
		reached = append(reached, r.RequestURI)
		io.WriteString(w, "{}")
	})
	signed := func(origin, destination string) http.Header {
		return http.Header{"Authorization": {fmt.Sprintf(`X-Matrix origin="%s",destination="%s",key="ed25519:1",sig="AAAA"`, origin, destination)}}
	}
	two := signed("klinik.test", "praxis.test")
	two["Authorization"] = append(two["Authorization"], signed("kasse.test", "praxis.test")["Authorization"]...)
	const fed = "/_matrix/federation"
	transaction := func(senders ...string) string {
		var pdus []map[string]any
		for _, s := range senders {
			pdus = append(pdus, map[string]any{"type": "m.room.message", "sender": s, "content": map[string]any{}})
		}
		text, err := json.Marshal(map[string]any{"origin": "klinik.test", "pdus": pdus})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	invitation := func(from string) string {
		return `{"event":{"type":"m.room.member","sender":"` + from + `","state_key":"@anna:praxis.test","content":{"membership":"invite"}},"room_version":"10","invite_room_state":[]}`
	}
	good := signed("klinik.test", "praxis.test")
	for _, c := range []struct {
		method, path, body string
		header             http.Header
		status             int
		code               string
	}{
		{"GET", fed + "/v1/event/$x", "", good, 200, ""},
		{"GET", fed + "/v1/event/%24x?a=%3Bb;c", "", good, 400, "M_INVALID_PARAM"},
		{"GET", fed + "/v1/event/%24x%2Fy", "", good, 200, ""},
		{"GET", fed + "/v1/event/$x", "", nil, 401, "M_UNAUTHORIZED"},
		{"GET", fed + "/v1/event/$x", "", two, 401, "M_UNAUTHORIZED"},
		{"GET", fed + "/v1/event/$x", "", signed("klinik.test", "labor.test"), 401, "M_UNAUTHORIZED"},
		{"GET", fed + "/v1/event/$x", "", signed("fremd.test", "praxis.test"), 403, "M_FORBIDDEN"},
		{"GET", "/_matrix/%66ederation/v1/event/$x", "", signed("fremd.test", "praxis.test"), 403, "M_FORBIDDEN"},
		{"GET", fed + "/v1/openid/userinfo?access_token=x", "", nil, 200, ""},
		{"GET", fed + "/v1/version", "", nil, 200, ""},
		{"GET", "/_matrix/key/v2/server", "", nil, 200, ""},
		{"PUT", fed + "/v1/3pid/onbind", "{}", good, 404, "M_UNRECOGNIZED"},
		{"PUT", fed + "/v1/send/1", transaction("@ben:klinik.test", "@max:kasse.test"), good, 200, ""},
		{"PUT", fed + "/v1/send/1", transaction("@ben:klinik.test", "@eve:fremd.test"), good, 403, "M_FORBIDDEN"},
		{"PUT", fed + "/v1/send/1", transaction("ben"), good, 400, "M_BAD_JSON"},
		{"PUT", fed + "/v1/send/1", "[", good, 400, "M_NOT_JSON"},
		{"PUT", fed + "/v2/invite/!r:klinik.test/$e", invitation("@ben:klinik.test"), good, 200, ""},
		{"PUT", fed + "/v2/invite/!r:klinik.test/$e", invitation("@eve:fremd.test"), good, 403, "M_FORBIDDEN"},
		{"PUT", fed + "/v2/invite/!r:klinik.test/$e", `{"event":{}}`, good, 400, "M_INVALID_PARAM"},
		{"PUT", fed + "/v1/invite/!r:klinik.test/$e", `{"sender":"@eve:fremd.test","state_key":"@anna:praxis.test"}`, good, 403, "M_FORBIDDEN"},
	} {
		reached = nil
		status, answer := request(t, c.method, front.URL+c.path, c.body, c.header.Clone())
		var e struct {
			Code string `json:"errcode"`
		}
		if err := json.Unmarshal([]byte(answer), &e); err != nil || status != c.status || e.Code != c.code || (len(reached) == 1) != (status == 200) || status == 200 && reached[0] != c.path {
			t.Errorf("%s %s %s: %d %s, reached %v; want %d %s", c.method, c.path, c.header["Authorization"], status, answer, reached, c.status, c.code)
		}
	}
}

// TestNoTwoReadings: what two programs could understand in two ways is refused, and bodies are bounded.
func TestNoTwoReadings(t *testing.T) {
	t.Parallel()
	front, _ := homeserver(t, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		if strings.HasSuffix(r.URL.Path, "/whoami") {
			io.WriteString(w, `{"user_id":"@anna:praxis.test"}`)
			return
		}
		if strings.Contains(r.URL.Path, "/account_data/") {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, "{}")
	})
	bearer := http.Header{"Authorization": {"Bearer x"}}
	two := http.Header{"Authorization": {"Bearer x", "Bearer y"}}
	packed := http.Header{"Authorization": {"Bearer x"}, "Content-Encoding": {"gzip"}}
	for _, c := range []struct {
		method, path, body string
		header             http.Header
		status             int
		code               string
	}{
		{"GET", v3 + "/sync?access_token=y", "", bearer, 401, "M_MISSING_TOKEN"},
		{"GET", v3 + "/sync", "", two, 401, "M_MISSING_TOKEN"},
		{"POST", v3 + "/createRoom", `{"invite":["@clara:praxis.test"],"invite":[]}`, bearer, 400, "M_BAD_JSON"},
		{"POST", v3 + "/createRoom", `{"invite":"@clara:praxis.test"}`, bearer, 400, "M_BAD_JSON"},
		{"POST", v3 + "/createRoom", `{"invite":["clara"]}`, bearer, 400, "M_INVALID_PARAM"},
		{"POST", v3 + "/createRoom", `[]`, bearer, 400, "M_BAD_JSON"},
		{"POST", v3 + "/createRoom", `{`, bearer, 400, "M_NOT_JSON"},
		{"POST", v3 + "/createRoom", `{}`, packed, 400, "M_NOT_JSON"},
		{"POST", v3 + "/createRoom", ``, bearer, 418, ""},
		{"POST", v3 + "/createRoom", `{"topic":"` + strings.Repeat("x", 1<<20) + `"}`, bearer, 413, "M_TOO_LARGE"},
		{"POST", v3 + "/createRoom", `{}`, nil, 401, "M_MISSING_TOKEN"},
		{"POST", "/_matrix/media/v3/upload", strings.Repeat("x", 1<<10), bearer, 418, ""},
		{"POST", "/_matrix/media/v3/upload", strings.Repeat("x", 1<<10+1), bearer, 413, "M_TOO_LARGE"},
		{"TRACE", v3 + "/sync", "", bearer, 405, "M_UNRECOGNIZED"},
		{"PUT", v3 + "/rooms/!r/state/m.room.member/@x:praxis.test/y", `{"membership":"invite"}`, bearer, 404, "M_UNRECOGNIZED"},
		{"PUT", v3 + "/rooms/!r/state/m.room.member/@x:praxis.test", `{"membership":1}`, bearer, 400, "M_BAD_JSON"},
	} {
		status, answer := request(t, c.method, front.URL+c.path, c.body, c.header.Clone())
		var e struct {
			Code string `json:"errcode"`
		}
		if err := json.Unmarshal([]byte(answer), &e); err != nil || status != c.status || e.Code != c.code {
			t.Errorf("%s %s %.60s: %d %s, want %d %s", c.method, c.path, c.body, status, answer, c.status, c.code)
		}
	}
}

// TestUnbuffered: the first byte of an answer arrives before the second is there, and of an upload as well.
func TestUnbuffered(t *testing.T) {
	t.Parallel()
	next, uploaded := make(chan struct{}), make(chan byte)
	front, _ := homeserver(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			var one [1]byte
			for {
				if _, err := io.ReadFull(r.Body, one[:]); err != nil {
					return
				}
				uploaded <- one[0]
			}
		}
		io.WriteString(w, "1")
		w.(http.Flusher).Flush()
		<-next
		io.WriteString(w, "2")
	})
	res, err := plainHTTP(t).Get(front.URL + "/_matrix/client/v3/events")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var one [1]byte
	if _, err := io.ReadFull(res.Body, one[:]); err != nil || one[0] != '1' {
		t.Fatalf("%q %v", one, err)
	}
	close(next)
	if _, err := io.ReadFull(res.Body, one[:]); err != nil || one[0] != '2' {
		t.Fatalf("%q %v", one, err)
	}
	in, out := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		res, err := plainHTTP(t).Post(front.URL+"/_matrix/media/v3/upload", "text/plain", in)
		if err == nil {
			res.Body.Close()
		}
		sent <- err
	}()
	for _, b := range []byte("ab") { // the second is written when the first has arrived
		if _, err := out.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
		if got := <-uploaded; got != b {
			t.Errorf("got %q", got)
		}
	}
	out.Close()
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// TestAbout: what a client is told of the server is what the rules leave.
func TestAbout(t *testing.T) {
	t.Parallel()
	s := newScene(t, true)
	_, versions := s.anna.Try("GET", "/_matrix/client/versions", nil)
	all, _ := versions["versions"].([]any)
	if len(all) == 0 || all[len(all)-1] != "v1.11" {
		t.Errorf("versions: %v", all)
	}
	features, _ := versions["unstable_features"].(map[string]any)
	if features["org.matrix.msc4306"] != false || features["org.matrix.msc4308"] != false || features["org.matrix.msc4140"] != true {
		t.Errorf("features: %v", features)
	}
	_, offers := s.anna.Try("GET", v3+"/capabilities", nil)
	for _, c := range []struct {
		want any
		path []any
	}{{"10", []any{"capabilities", "m.room_versions", "default"}}, {"stable", []any{"capabilities", "m.room_versions", "available", "9"}},
		{"unstable", []any{"capabilities", "m.room_versions", "available", "12"}}, {false, []any{"capabilities", "m.3pid_changes", "enabled"}}} {
		if got := konsiltest.At(offers, c.path...); got != c.want {
			t.Errorf("%v is %v, want %v", c.path, got, c.want)
		}
	}
	if status, answer := s.anna.Try("GET", "/_matrix/media/v3/thumbnail/fremd.test/abc?width=1&height=1", nil); status != 403 {
		t.Errorf("an older path of a stranger's media: %d %v", status, answer)
	}
	s.anna.Do("POST", v3+"/logout", map[string]any{})
	if status, answer := s.anna.Try("POST", v3+"/rooms/!r:praxis.test/invite", map[string]any{"user_id": "@clara:praxis.test"}); status != 401 || answer["errcode"] != "M_UNKNOWN_TOKEN" {
		t.Errorf("after the sign-out: %d %v", status, answer)
	}
}

// TestSettingsOfBefore: who had a configuration before the proxy came keeps it, from the first request that shows who it is; and what becomes of it
// afterwards is known at once.
//
// Requirements: A_25043, A_26021-01.
func TestSettingsOfBefore(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		content := `{"defaultSetting":"block all"}`
		behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.HasSuffix(r.URL.Path, "/whoami"):
				io.WriteString(w, `{"user_id":"@anna:praxis.test"}`)
			case strings.Contains(r.URL.Path, "/account_data/") && r.Method == http.MethodGet && content == "":
				w.WriteHeader(http.StatusNotFound)
				io.WriteString(w, `{"errcode":"M_NOT_FOUND","error":"none"}`)
			case strings.Contains(r.URL.Path, "/account_data/") && r.Method == http.MethodGet:
				io.WriteString(w, content)
			case strings.Contains(r.URL.Path, "/account_data/"):
				var b bytes.Buffer
				if _, err := b.ReadFrom(r.Body); err != nil {
					return
				}
				if content = b.String(); r.Method == http.MethodDelete {
					content = ""
				}
				io.WriteString(w, "{}")
			default:
				io.WriteString(w, "{}")
			}
		}))
		t.Cleanup(behind.Close)
		front, settings := inFront(t, behind.URL, db)
		bearer := http.Header{"Authorization": {"Bearer x"}}
		kept := func(want string) {
			t.Helper()
			got, found, err := settings.AccountData(t.Context(), tenant.ID(1), "@anna:praxis.test", permission.ConfigTypePro)
			if err != nil || found != (want != "") || string(got) != want {
				t.Errorf("kept %s %v %v, want %s", got, found, err, want)
			}
		}
		kept("")
		request(t, "GET", front.URL+v3+"/sync", "", bearer.Clone())
		kept(content)
		own := "/user/@anna:praxis.test/account_data/" + permission.ConfigTypePro
		request(t, "PUT", front.URL+v3+own, `{"defaultSetting":"allow all"}`, bearer.Clone())
		kept(`{"defaultSetting":"allow all"}`)
		request(t, "DELETE", front.URL+"/_matrix/client/unstable/org.matrix.msc3391"+own, "", bearer.Clone())
		kept("")
	})
}

// TestAway: a homeserver that is away is an error of its own, not the caller's.
func TestAway(t *testing.T) {
	t.Parallel()
	behind := httptest.NewServer(http.NotFoundHandler())
	behind.Close()
	front, _ := inFront(t, behind.URL, databasetest.Open(t, databasetest.SQLite(t)))
	bearer := http.Header{"Authorization": {"Bearer x"}}
	for _, path := range []string{"/sync", "/rooms/!r/messages"} {
		if status, answer := request(t, "GET", front.URL+v3+path, "", bearer.Clone()); status != 502 || !strings.Contains(answer, "M_CONNECTION_FAILED") {
			t.Errorf("%s: %d %s", path, status, answer)
		}
	}
}

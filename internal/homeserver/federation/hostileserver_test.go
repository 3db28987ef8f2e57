// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

const nameEvil = id.Server("evil.example")

// hostile is a cell and a scripted server that it asks, with bounds that a test can reach.
func hostile(t *testing.T, config Config) (*server, *scripted) {
	t.Helper()
	ca := newAuthority(t)
	evil := newScripted(t, ca, nameEvil)
	f := newFront(t, ca, string(nameA))
	config.Resolve = map[id.Server]Override{nameEvil: evil.override()}
	c := newCell(t, setting{url: databasetest.SQLite(t), config: config, front: f}, nameA)
	return c.server(nameA), evil
}

const hostileLimit = 256 << 10

// answers writes a fixed answer.
func answers(kind, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		io.WriteString(w, body) //nolint:errcheck // the test sees what arrives
	}
}

func gzipped(n int) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	chunk := bytes.Repeat([]byte(" "), 1<<20)
	for range n {
		z.Write(chunk) //nolint:errcheck // a buffer
	}
	z.Close() //nolint:errcheck // a buffer
	return b.String()
}

// endlessly writes a chunk until the other side has had enough.
func endlessly(status int, chunk string, pause time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		for {
			if _, err := io.WriteString(w, chunk); err != nil {
				return
			}
			if pause == 0 {
				continue
			}
			w.(interface{ Unwrap() http.ResponseWriter }).Unwrap().(http.Flusher).Flush()
			select {
			case <-time.After(pause):
			case <-r.Context().Done():
				return
			}
		}
	}
}

// mute takes a request and never answers it.
func mute(_ http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body) //nolint:errcheck // only so that the end of the connection is noticed
	<-r.Context().Done()
}

// TestHostileAnswers: whatever a server answers, the caller gets 502 with a reason, after a bounded number of bytes and without leaving anything
// running.
func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("[", 100_000)
	scripts := map[string]http.HandlerFunc{
		"redirect":         func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) },
		"html":             answers("text/html", `<html>{"room_id":"!r:evil.example","servers":[]}</html>`),
		"declared as html": answers("text/html; charset=utf-8", `{"room_id":"!r:evil.example","servers":[]}`),
		"gzip bomb": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Encoding", "gzip")
			io.WriteString(w, gzipped(64)) //nolint:errcheck // as above
		},
		"gzip without saying so": answers("application/json", gzipped(1)),
		"empty":                  answers("application/json", ""),
		"half":                   answers("application/json", `{"room_id":"!r:evil`),
		"a number":               answers("application/json", `7`),
		"a text":                 answers("application/json", `"{}"`),
		"deep":                   answers("application/json", `{"a":`+deep),
		"deep and closed":        answers("application/json", deep+strings.Repeat("]", 100_000)),
		"broken off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, `{"room_id":`) //nolint:errcheck // as above
			panic(http.ErrAbortHandler)
		},
		"endless":       endlessly(http.StatusOK, `{"a":"`+strings.Repeat("x", 32<<10)+`"},`, 0),
		"endless blank": endlessly(http.StatusOK, strings.Repeat(" ", 32<<10), 0),
		"endless error": endlessly(http.StatusInternalServerError, strings.Repeat("x", 32<<10), 0),
		"error page": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "<h1>Bad Gateway</h1>", http.StatusBadGateway)
		},
		"large header": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Large", strings.Repeat("x", 1<<20))
			io.WriteString(w, "{}") //nolint:errcheck // as above
		},
		"never":         mute,
		"drop by drop":  endlessly(http.StatusOK, " ", 20*time.Millisecond),
		"error by drop": endlessly(http.StatusBadRequest, " ", 20*time.Millisecond),
	}
	slow := []string{"never", "drop by drop", "error by drop"}
	for name, script := range scripts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := Config{RetryMin: time.Nanosecond, RetryMax: time.Nanosecond, MaxResponse: hostileLimit, MaxState: hostileLimit}
			isSlow := slices.Contains(slow, name)
			if isSlow {
				config.RequestTimeout, config.JoinTimeout = 300*time.Millisecond, 300*time.Millisecond
			}
			a, evil := hostile(t, config)
			evil.plays(script)
			evil.playsKeys(script)
			asks := questions(t, a)
			if isSlow {
				asks = map[string]func(context.Context) error{"state": asks["state"], "profile": asks["profile"], "make_join": asks["make_join"]}
			}
			leakFree(t, func() {
				for what, ask := range asks {
					before := evil.written.Load()
					err := ask(t.Context())
					if e := mxerror.From(err); e == nil || e.Status != http.StatusBadGateway || e.Code != mxerror.ConnectionFailed.Code {
						t.Errorf("%s: %v", what, err)
					}
					// The operating system buffers some megabytes on the way; what matters is that it ends.
					if n := evil.written.Load() - before; n > 32<<20 {
						t.Errorf("%s: %d bytes were taken", what, n)
					}
				}
				if err := a.fed.keys.refresh(t.Context(), nameEvil); err == nil {
					t.Error("keys were taken from that")
				}
				a.fed.http.close()
			})
			if evil.requests("elsewhere") > 0 {
				t.Error("a redirect was followed")
			}
		})
	}
}

// questions are the calls that await an answer.
func questions(t *testing.T, a *server) map[string]func(context.Context) error {
	t.Helper()
	name, err := a.rooms.Create(t.Context(), a.me, a.user("anna"), policy.CreateRoom{RoomVersion: "11"})
	if err != nil {
		t.Fatal(err)
	}
	rm, err := a.rooms.Lookup(t.Context(), a.me.ID, name)
	if err != nil {
		t.Fatal(err)
	}
	user, there := id.User("@eve:"+string(nameEvil)), id.Room("!r:"+string(nameEvil))
	ours, err := a.rooms.Event(t.Context(), a.me.ID, a.say(name, a.user("anna"), "x"))
	if err != nil {
		t.Fatal(err)
	}
	f := a.fed
	return map[string]func(context.Context) error{
		"directory": func(ctx context.Context) error {
			_, _, err := f.QueryDirectory(ctx, a.me, "#r:evil.example")
			return err
		},
		"profile": func(ctx context.Context) error { _, err := f.RemoteProfile(ctx, a.me, user, ""); return err },
		"public rooms": func(ctx context.Context) error {
			_, err := f.RemoteDirectory(ctx, a.me, nameEvil, room.PublicQuery{})
			return err
		},
		"by time": func(ctx context.Context) error {
			_, _, err := f.ByTimestamp(ctx, a.me, nameEvil, there, 1, false)
			return err
		},
		"openid": func(ctx context.Context) error { _, err := f.OpenIDSubject(ctx, a.me, nameEvil, "t"); return err },
		"make_join": func(ctx context.Context) error {
			_, err := f.MakeJoin(ctx, a.me, nameEvil, there, a.user("anna"), []string{"11"})
			return err
		},
		"send_join": func(ctx context.Context) error { _, err := f.SendJoin(ctx, a.me, nameEvil, ours.Event); return err },
		"missing": func(ctx context.Context) error {
			_, err := f.GetMissingEvents(ctx, a.me, nameEvil, rm, nil, nil, 10)
			return err
		},
		"event": func(ctx context.Context) error { _, err := f.Event(ctx, a.me, nameEvil, rm, ours.ID()); return err },
		"auth":  func(ctx context.Context) error { _, err := f.EventAuth(ctx, a.me, nameEvil, rm, ours.ID()); return err },
		"state_ids": func(ctx context.Context) error {
			_, _, err := f.StateIDs(ctx, a.me, nameEvil, rm, ours.ID())
			return err
		},
		"state":    func(ctx context.Context) error { _, _, err := f.State(ctx, a.me, nameEvil, rm, ours.ID()); return err },
		"backfill": func(ctx context.Context) error { _, err := f.Backfill(ctx, a.me, nameEvil, rm, nil, 10); return err },
		"policy":   func(ctx context.Context) error { _, err := f.PolicySign(ctx, a.me, nameEvil, ours.Event); return err },
	}
}

// TestHostileValues: answers of the right form with values that no server may give.
func TestHostileValues(t *testing.T) {
	t.Parallel()
	a, evil := hostile(t, Config{RetryMin: time.Nanosecond, RetryMax: time.Nanosecond, MaxResponse: hostileLimit})
	asks := questions(t, a)
	for _, c := range []struct{ ask, answer string }{
		{"by time", `{"event_id":"$e","origin_server_ts":1.5}`},
		{"by time", `{"event_id":"$e","origin_server_ts":1e400}`},
		{"by time", `{"event_id":"$e","origin_server_ts":99999999999999999999}`},
		{"by time", `{"event_id":"$e","origin_server_ts":"1"}`},
		{"by time", `{"event_id":7,"origin_server_ts":1}`},
		{"by time", `{}`},
		{"directory", `{}`},
		{"directory", `{"room_id":null,"servers":[]}`},
		{"directory", `{"room_id":"r","servers":[]}`},
		{"directory", `{"room_id":"!r:evil.example","servers":"evil.example"}`},
		{"profile", `[]`},
		{"public rooms", `{"chunk":{}}`},
		{"openid", `{"sub":"@anna:a.example"}`},
		{"openid", `{"sub":"\xff\xfe"}`},
		{"make_join", `{}`},
		{"make_join", `{"room_version":11,"event":{}}`},
		{"make_join", `{"room_version":"11","event":[]}`},
		{"make_join", `{"room_version":"11","event":{"type":"m.room.power_levels"}}`},
		{"send_join", `{"state":{},"auth_chain":[]}`},
		{"send_join", `{"state":[],"auth_chain":[]}`},
		{"send_join", `{}`},
		{"send_join", `{"state":[{}],"auth_chain":[]} {}`},
		{"send_join", `{"state":[{}],"auth_chain":[],"event":` + strings.Repeat("[", 100_000)},
		{"send_join", `{"state":[{}],"members_omitted":true}`},
		{"send_join", `{"state":[{}],"members_omitted":7}`},
		{"send_join", `{"state":[],"auth_chain":"x"}`},
		{"missing", `{"events":{}}`},
		{"event", `{}`},
		{"event", `{"pdus":[null,7,"x",[],{},{"type":1}]}`},
		{"event", `{"pdus":[{"type":"m.room.message","room_id":"!r:evil.example","sender":"@e:evil.example","content":{"n":1.5},"depth":9007199254740993}]}`},
		{"state_ids", `{"pdu_ids":[1,2],"auth_chain_ids":[]}`},
		{"state", `{"pdus":7}`},
		{"policy", `{}`},
		{"policy", `{"evil.example":{"ed25519:policy_server":7}}`},
		{"policy", `{"evil.example":{"ed25519:policy_server":"%%%"}}`},
	} {
		evil.plays(answers("application/json", c.answer))
		err := asks[c.ask](t.Context())
		if e := mxerror.From(err); e == nil || e.Status != http.StatusBadGateway || e.Code != mxerror.ConnectionFailed.Code {
			t.Errorf("%s answered %s: %v", c.ask, c.answer, err)
		}
	}
	for _, keys := range []string{
		`{}`, `[]`, `{"server_name":"evil.example"}`, `{"server_name":7}`, `{"server_name":"evil.example","valid_until_ts":1.5,"verify_keys":{}}`,
		`{"server_name":"evil.example","valid_until_ts":1,"verify_keys":[]}`, `{"server_name":"evil.example","valid_until_ts":1,"verify_keys":{"ed25519:s":{"key":7}}}`,
		fmt.Sprintf(`{"server_name":"evil.example","valid_until_ts":%d,"verify_keys":{"ed25519:s":{"key":"AAAA"}},"signatures":{"evil.example":{"ed25519:s":"AAAA"}}}`, time.Now().Add(time.Hour).UnixMilli()),
	} {
		a.fed.keys.asked.Invalidate(nameEvil)
		evil.playsKeys(answers("application/json", keys))
		if err := a.fed.keys.refresh(t.Context(), nameEvil); err == nil {
			t.Errorf("keys were taken from %s", keys)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package konsiltest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// Session is somebody signed in on one device.
type Session struct {
	User, Device, Token string
	// Password signs the same person in on further devices.
	Password string

	cell *Cell
	t    testing.TB
	// host replaces the Host header; empty is the cell's address, which all its tenants share.
	host string
	txn  int
}

// SignIn makes the account "@localpart:server" where it is missing and returns a session on a new device. All tests get their sessions here.
func (c *Cell) SignIn(t testing.TB, user string) *Session {
	t.Helper()
	localpart, server, _ := strings.Cut(strings.TrimPrefix(user, "@"), ":")
	s := &Session{User: user, Password: "correct horse battery staple", cell: c, t: t, host: server}
	status, answer := s.Try("POST", "/_matrix/client/v3/register?kind=user", map[string]any{
		"username": localpart, "password": s.Password, "inhibit_login": true, "auth": map[string]any{"type": "m.login.dummy"}})
	if status != 200 && answer["errcode"] != "M_USER_IN_USE" {
		t.Fatalf("register %s: %d %v", user, status, answer)
	}
	return c.Login(t, user, s.Password)
}

// Anonymous asks a tenant without an access token.
func (c *Cell) Anonymous(t testing.TB, server string) *Session {
	return &Session{cell: c, t: t, host: server}
}

// Login signs in with a password, on a new device.
func (c *Cell) Login(t testing.TB, user, password string) *Session {
	t.Helper()
	s := &Session{User: user, Password: password, cell: c, t: t}
	answer := s.Do("POST", "/_matrix/client/v3/login", map[string]any{
		"type": "m.login.password", "identifier": map[string]any{"type": "m.id.user", "user": user}, "password": password})
	s.User, s.Token, s.Device = answer["user_id"].(string), answer["access_token"].(string), answer["device_id"].(string)
	return s
}

// requestWithin only ends a test that hangs.
const requestWithin = 2 * time.Minute

// Try sends a request with a JSON body (nil: none) and returns status and answer.
func (s *Session) Try(method, path string, body any) (int, map[string]any) {
	s.t.Helper()
	var in []byte
	if body != nil {
		var err error
		if in, err = json.Marshal(body); err != nil {
			s.t.Fatal(err)
		}
	}
	status, text := s.Raw(method, path, "", in)
	answer := map[string]any{}
	if err := json.Unmarshal(text, &answer); err != nil {
		s.t.Fatalf("%s %s: %d, answer is no JSON object: %q", method, path, status, text)
	}
	return status, answer
}

// Raw is Try for bodies and answers of any kind; an empty kind says nothing about the body.
func (s *Session) Raw(method, path, kind string, body []byte) (int, []byte) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), requestWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.cell.URL+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if s.host != "" {
		req.Host = s.host
	}
	if s.Token != "" {
		req.Header.Set("Authorization", "Bearer "+s.Token)
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return res.StatusCode, text
}

// Do is Try for requests that must succeed.
func (s *Session) Do(method, path string, body any) map[string]any {
	s.t.Helper()
	status, answer := s.Try(method, path, body)
	if status != 200 {
		s.t.Fatalf("%s %s: %d %v", method, path, status, answer)
	}
	return answer
}

// CreateRoom makes a room and returns its id.
func (s *Session) CreateRoom(request map[string]any) string {
	s.t.Helper()
	return s.Do("POST", "/_matrix/client/v3/createRoom", request)["room_id"].(string)
}

// Join joins a room, through the given servers if any.
func (s *Session) Join(room string, via ...string) {
	s.t.Helper()
	q := url.Values{}
	for _, v := range via {
		q.Add("server_name", v)
		q.Add("via", v)
	}
	s.Do("POST", "/_matrix/client/v3/join/"+url.PathEscape(room)+"?"+q.Encode(), map[string]any{})
}

// Send sends a text message and returns its event id.
func (s *Session) Send(room, text string) string {
	s.t.Helper()
	s.txn++
	answer := s.Do("PUT", fmt.Sprintf("/_matrix/client/v3/rooms/%s/send/m.room.message/t%d", url.PathEscape(room), s.txn),
		map[string]any{"msgtype": "m.text", "body": text})
	return answer["event_id"].(string)
}

// Sync asks once and returns the answer; since may be empty.
func (s *Session) Sync(since string, timeout time.Duration) map[string]any {
	s.t.Helper()
	q := url.Values{"timeout": {fmt.Sprint(timeout.Milliseconds())}}
	if since != "" {
		q.Set("since", since)
	}
	return s.Do("GET", "/_matrix/client/v3/sync?"+q.Encode(), nil)
}

// Until syncs until the condition holds for an answer, and returns that answer's next_batch.
func (s *Session) Until(since, what string, holds func(sync map[string]any) bool) (next string) {
	s.t.Helper()
	deadline := time.Now().Add(requestWithin)
	for time.Now().Before(deadline) {
		answer := s.Sync(since, 10*time.Second)
		since = answer["next_batch"].(string)
		if holds(answer) {
			return since
		}
	}
	s.t.Fatalf("%s never saw: %s", s.User, what)
	return ""
}

// At walks down a JSON value by keys (string) and indexes (int); nil where there is nothing.
func At(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[p]
		case int:
			l, _ := v.([]any)
			if p >= len(l) {
				return nil
			}
			v = l[p]
		}
	}
	return v
}

// Events returns the timeline of a joined room in a sync answer.
func Events(sync map[string]any, room string) []map[string]any {
	list, _ := At(sync, "rooms", "join", room, "timeline", "events").([]any)
	out := make([]map[string]any, 0, len(list))
	for _, e := range list {
		out = append(out, e.(map[string]any))
	}
	return out
}

// HasEvent says whether a sync answer brings an event in a room's timeline.
func HasEvent(sync map[string]any, room, eventID string) bool {
	for _, e := range Events(sync, room) {
		if e["event_id"] == eventID {
			return true
		}
	}
	return false
}

// Invited says whether a sync answer brings an invitation to a room.
func Invited(sync map[string]any, room string) bool {
	return At(sync, "rooms", "invite", room) != nil
}

// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
)

type userID string

func TestLogHidesUsersAndTokens(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	log := NewLogger(LogOptions{Output: &out, Level: slog.LevelDebug, Pseudonyms: NewPseudonyms([]byte("key"))})
	const user = "@anna.schmidt:praxis.example"
	log.Info("login of "+user+" failed", "user", userID(user), "plain", user,
		"error", fmt.Errorf("join: %w", errors.New("@anna.schmidt:praxis.example is banned")),
		"request", "GET /sync?access_token=syt_abcdef&since=5", "header", "Authorization: Bearer kt_2n9c_Zm9vYmFyYmF6", "tok", "kt_2n9c_Zm9vYmFyYmF6",
		slog.Group("inner", "who", user))
	got := out.String()
	for _, secret := range []string{"anna", "schmidt", "syt_abcdef", "Zm9v"} {
		if strings.Contains(got, secret) {
			t.Errorf("log shows %q: %s", secret, got)
		}
	}
	if n := strings.Count(got, NewPseudonyms([]byte("key")).Of(user)); n != 5 {
		t.Errorf("pseudonym appears %d times, want 5: %s", n, got)
	}
	if !strings.Contains(got, "since=5") || !strings.Contains(got, ":praxis.example") {
		t.Errorf("more was hidden than necessary: %s", got)
	}
}

func TestPseudonymsDependOnTheKey(t *testing.T) {
	t.Parallel()
	a, b := NewPseudonyms(nil), NewPseudonyms(nil)
	const user = "@x:hs1"
	first := a.Of(user)
	if first != a.Of(user) || first == b.Of(user) || a.Of(user) == a.Of("@y:hs1") {
		t.Error("a pseudonym must be stable for a user under one key and differ otherwise")
	}
	if again := a.Clean(a.Of(user)); again != a.Of(user) {
		t.Errorf("a pseudonym was replaced again: %s", again)
	}
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	var h Health
	var broken error
	h.Check("database", func(context.Context) error { return broken })
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		h.Handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w.Code, w.Body.String()
	}
	if code, _ := get("/readyz"); code != 503 {
		t.Errorf("ready before SetReady: %d", code)
	}
	h.SetReady(true)
	if code, _ := get("/readyz"); code != 200 {
		t.Errorf("not ready: %d", code)
	}
	broken = errors.New("gone")
	if code, body := get("/readyz"); code != 503 || !strings.Contains(body, "database: gone") {
		t.Errorf("broken database: %d %s", code, body)
	}
	if code, _ := get("/livez"); code != 200 {
		t.Errorf("not alive: %d", code)
	}
}

func TestMetricsAreValues(t *testing.T) {
	t.Parallel()
	a, b := NewMetrics(), NewMetrics() // two in one process do not collide
	w := httptest.NewRecorder()
	a.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if !strings.Contains(w.Body.String(), "go_goroutines") {
		t.Error("runtime figures are missing")
	}
	if got, err := b.Gatherer().Gather(); err != nil || len(got) == 0 {
		t.Error(got, err)
	}
}

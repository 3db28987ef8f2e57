// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"io"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestBodiesOfUnknownCallers: what strangers send before anybody knows who they are is bounded in sum; who is one too many is asked to come again, and
// may once the others are recognised or gone.
func TestBodiesOfUnknownCallers(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(o *Options) { o.MaxUnproven = 240 })
	ask := func(address string, body io.Reader, signature string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("POST", "http://a.example/federation/1", body)
		r.ContentLength, r.RemoteAddr = -1, address+":1234"
		r.Header.Set("Authorization", "X-Matrix "+signature)
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r)
		return w
	}
	sixty := strings.Repeat("x", 60)
	for _, ending := range []string{"recognised", "a liar", "gone"} {
		r, w := io.Pipe()
		answered := make(chan *httptest.ResponseRecorder)
		go func() {
			signature := sixty
			if ending == "a liar" {
				signature = "forged"
			}
			answered <- ask("192.0.2.1", r, signature)
		}()
		for _, part := range []string{sixty[:59], sixty[59:]} { // the second is taken after the first has been counted
			if _, err := io.WriteString(w, part); err != nil {
				t.Fatal(err)
			}
		}
		if got := ask("192.0.2.1", strings.NewReader(sixty), sixty); got.Code != 429 || !strings.Contains(got.Body.String(), "M_LIMIT_EXCEEDED") || !strings.Contains(got.Body.String(), "retry_after_ms") {
			t.Errorf("%s: one too many gets %d %s", ending, got.Code, got.Body)
		}
		if got := ask("192.0.2.2", strings.NewReader(sixty), sixty); got.Code != 200 {
			t.Errorf("%s: from another address: %d %s", ending, got.Code, got.Body)
		}
		if ending == "gone" {
			w.CloseWithError(io.ErrUnexpectedEOF)
		} else {
			w.Close()
		}
		want := map[string]int{"recognised": 200, "a liar": 401, "gone": 400}[ending]
		if got := <-answered; got.Code != want {
			t.Errorf("%s: got %d %s, want %d", ending, got.Code, got.Body, want)
		}
		if got := ask("192.0.2.1", strings.NewReader(sixty), sixty); got.Code != 200 {
			t.Errorf("after somebody who is %s: %d %s", ending, got.Code, got.Body)
		}
		if g.unproven.held != 0 || len(g.unproven.by) != 0 {
			t.Errorf("%s: %d bytes of %d addresses stay counted", ending, g.unproven.held, len(g.unproven.by))
		}
	}
}

// TestShareOfUnknownCallers: all addresses together have no more than the sum, and none more than its share, however many there are.
func TestShareOfUnknownCallers(t *testing.T) {
	t.Parallel()
	u := &unproven{most: 240, by: map[string]int64{}}
	for _, step := range []struct {
		address string
		n       int64
		room    bool
	}{{"a", 60, true}, {"a", 1, false}, {"b", 60, true}, {"c", 60, true}, {"d", 59, true}, {"e", 2, false}, {"e", 1, true}, {"f", 1, false}, {"a", -60, true}, {"f", 60, true}} {
		if room := u.add(step.address, step.n); room != step.room {
			t.Errorf("%d bytes of %s: %v, want %v", step.n, step.address, room, step.room)
		}
	}
}

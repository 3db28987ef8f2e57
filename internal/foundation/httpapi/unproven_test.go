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
	g := newRig(t, func(o *Options) { o.MaxUnproven = 100 })
	ask := func(body io.Reader, signature string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("POST", "http://a.example/federation/1", body)
		r.ContentLength = -1
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
			answered <- ask(r, signature)
		}()
		for _, part := range []string{sixty[:59], sixty[59:]} { // the second is taken after the first has been counted
			if _, err := io.WriteString(w, part); err != nil {
				t.Fatal(err)
			}
		}
		if got := ask(strings.NewReader(sixty), sixty); got.Code != 429 || !strings.Contains(got.Body.String(), "M_LIMIT_EXCEEDED") || !strings.Contains(got.Body.String(), "retry_after_ms") {
			t.Errorf("%s: one too many gets %d %s", ending, got.Code, got.Body)
		}
		if got := ask(strings.NewReader("small"), "small"); got.Code != 200 {
			t.Errorf("%s: one for whom there is room gets %d %s", ending, got.Code, got.Body)
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
		if got := ask(strings.NewReader(sixty), sixty); got.Code != 200 {
			t.Errorf("after somebody who is %s: %d %s", ending, got.Code, got.Body)
		}
		if held := g.unproven.held.Load(); held != 0 {
			t.Errorf("%s: %d bytes stay counted", ending, held)
		}
	}
}

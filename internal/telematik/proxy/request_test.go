// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// FuzzRead: whatever the line of a request is, what is read of it means the same to everybody: as many segments as the line has, none of which leads up,
// and the line as it is handed on is the one that came.
func FuzzRead(f *testing.F) {
	for _, uri := range []string{"/_matrix/client/v3/sync?since=1", "/_matrix/client/v3/rooms/%21r:x/state/m.room.member/@a%3Ax", "/_matrix/%66ederation/v1/send/1", "/a/..%2f../b", "//x/y", "/a//b", "/a/%2e%2e/b",
		"/a;b/c", "/?access_token=a&access_token=b", "/a%00", `/a%5c..%5cb`, "/a/", "*", "http://x/y", "/a?%zz", "/ä"} {
		f.Add(uri, "Bearer x")
	}
	f.Fuzz(func(t *testing.T, uri, authorization string) {
		if strings.ContainsAny(uri+authorization, "\r\n") {
			return
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + uri + " HTTP/1.1\r\nHost: x\r\nAuthorization: " + authorization + "\r\n\r\n")))
		if err != nil {
			return
		}
		q, err := read(r)
		if err != nil {
			return
		}
		line, _, _ := strings.Cut(r.RequestURI, "?")
		if got, want := strings.Split(q.path, "/"), strings.Split(strings.TrimSuffix(line, "/"), "/"); len(got) != len(want) || len(got) != len(q.segments)+1 {
			t.Errorf("%q is read as %q", r.RequestURI, q.path)
		}
		for _, s := range q.segments {
			if s == "" || s == "." || s == ".." || strings.Contains("/"+strings.ReplaceAll(s, `\`, "/")+"/", "/../") {
				t.Errorf("%q has the segment %q", r.RequestURI, s)
			}
		}
		if r.URL.RequestURI() != r.RequestURI {
			t.Errorf("%q is handed on as %q", r.RequestURI, r.URL.RequestURI())
		}
	})
}

// TestTryAgainLater: whoever is sent away for a while is told for how long, in the header as in the body (client-server API, "Rate limiting").
func TestTryAgainLater(t *testing.T) {
	t.Parallel()
	full := &Outbound{slots: make(chan struct{})} // no room for anybody
	w := httptest.NewRecorder()
	full.ServeHTTP(w, httptest.NewRequest("CONNECT", "praxis.test:443", nil))
	if w.Code != 429 || w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), `"retry_after_ms":1000`) {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
}

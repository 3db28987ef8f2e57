// SPDX-License-Identifier: Apache-2.0

package konsiltest

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"

	"github.com/konsil-health/konsil/internal/homeserver/federation"
)

// Passage is a request of one server to another over TLS.
type Passage struct {
	// From is the server that signed the request, empty for one without a signature; To is the one that was asked.
	From, To string
	// Method and Path (escaped, without query) say what was asked.
	Method, Path string
	// ByKonsil says that one of our own nodes asked.
	ByKonsil bool
	// Status is the answer's; 0 for one that never came.
	Status int
}

// Fate is what becomes of a request between servers.
type Fate int

// The fates of a request.
const (
	// Pass lets it arrive.
	Pass Fate = iota
	// Drop breaks the connection off before the request is read.
	Drop
	// Lose lets the request arrive and breaks off the answer.
	Lose
	// Twice lets the request arrive two times, one after the other, as a proxy that tries again would.
	Twice
)

// wire is what lies between the servers of a network.
type wire struct {
	mu       sync.Mutex
	passages []Passage
	fate     func(Passage) Fate
}

// Passages are all requests that have passed between the network's servers over TLS, in the order of their answers. What passes between neighbours in
// process is not seen, nor what a cell in a process of its own is asked.
func (n *Network) Passages() []Passage {
	n.wire.mu.Lock()
	defer n.wire.mu.Unlock()
	return append([]Passage(nil), n.wire.passages...)
}

// Fates lets f decide what becomes of each request from now on; nil lets all pass. A request waits while f does, so f may delay it.
func (n *Network) Fates(f func(Passage) Fate) {
	n.wire.mu.Lock()
	defer n.wire.mu.Unlock()
	n.wire.fate = f
}

// between tells requests of servers from those of clients.
func between(path string) bool {
	for _, prefix := range []string{"/_matrix/federation/", "/_matrix/key/", "/_matrix/policy/", "/.well-known/matrix/server", "/.well-known/matrix/policy_server"} {
		if strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return false
}

// around stands before a cell's listeners.
func (w *wire) around(h http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if !between(r.URL.Path) {
			h.ServeHTTP(rw, r)
			return
		}
		origin, _, _ := federation.Parties(r.Header.Get("Authorization")) //nolint:errcheck // an unsigned request is from nobody
		p := Passage{From: string(origin), To: r.Host, Method: r.Method, Path: r.URL.EscapedPath(), ByKonsil: strings.HasPrefix(r.UserAgent(), "Konsil/")}
		w.mu.Lock()
		fate := w.fate
		w.mu.Unlock()
		f := Pass
		if fate != nil {
			f = fate(p)
		}
		w.carry(f, p, h, rw, r)
	})
}

// carry lets a request meet its fate.
func (w *wire) carry(f Fate, p Passage, h http.Handler, rw http.ResponseWriter, r *http.Request) {
	switch f {
	case Drop:
		w.note(p)
		panic(http.ErrAbortHandler)
	case Lose:
		h.ServeHTTP(httptest.NewRecorder(), r)
		w.note(p)
		panic(http.ErrAbortHandler)
	case Twice:
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		h.ServeHTTP(httptest.NewRecorder(), r)
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	answer := &statusWriter{ResponseWriter: rw, status: http.StatusOK}
	h.ServeHTTP(answer, r)
	p.Status = answer.status
	w.note(p)
}

func (w *wire) note(p Passage) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.passages = append(w.passages, p)
}

// statusWriter remembers an answer's status.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (s *statusWriter) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

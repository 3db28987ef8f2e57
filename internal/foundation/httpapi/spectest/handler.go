// SPDX-License-Identifier: Apache-2.0

package spectest

import (
	"bytes"
	"io"
	"mime"
	"net/http"
	"testing"
)

// Handler answers as h does and fails the test for every exchange that does not fit the specification. The test must not end before the last
// answer.
func Handler(t testing.TB, h http.Handler) http.Handler {
	t.Helper()
	return around(t, matrixSpec(t), h, (*spec).check)
}

// Document is Handler for an interface that one OpenAPI file describes, such as gematik's. The file must be there.
func Document(t testing.TB, file string, h http.Handler) http.Handler {
	t.Helper()
	s := newSpec()
	if err := s.add(file); err != nil {
		t.Fatal(err)
	}
	return around(t, s, h, (*spec).checkDocument)
}

// matrixSpec reads Matrix's files; nil where they are missing.
func matrixSpec(t testing.TB) *spec {
	t.Helper()
	s, err := read()
	if err != nil {
		if _, missing := Folder(); missing == nil {
			t.Fatal(err)
		}
		return nil
	}
	return s
}

// Requests is Handler for a peer that a test plays itself (a gateway, an application service): what it is asked must fit, its answers are its own.
func Requests(t testing.TB, h http.Handler) http.Handler {
	t.Helper()
	return around(t, matrixSpec(t), h, func(s *spec, x exchange) error {
		for _, o := range s.find(x.method, x.path) {
			if err := s.checkRequest(o, x); err != nil {
				return err
			}
		}
		return nil
	})
}

func around(t testing.TB, s *spec, h http.Handler, check func(*spec, exchange) error) http.Handler {
	t.Helper()
	if s == nil {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(s.find(r.Method, r.URL.Path)) == 0 {
			h.ServeHTTP(w, r)
			return
		}
		x := exchange{method: r.Method, path: r.URL.EscapedPath(), query: r.URL.Query()}
		body := &copied{ReadCloser: r.Body}
		r.Body = body
		answer := &recorder{ResponseWriter: w, status: http.StatusOK}
		h.ServeHTTP(answer, r)
		if r.Context().Err() != nil {
			return // nobody waited for the answer
		}
		x.status, x.contentType, x.answer = answer.status, w.Header().Get("Content-Type"), answer.body.Bytes()
		x.request, x.wholeRequest = body.text.Bytes(), body.ended
		if err := check(s, x); err != nil {
			t.Errorf("against the specification: %v", err)
		}
	})
}

// copied keeps what is read of a request.
type copied struct {
	io.ReadCloser
	text  bytes.Buffer
	ended bool
}

// Read implements io.Reader.
func (c *copied) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.text.Write(b[:n])
	c.ended = c.ended || err == io.EOF
	return n, err
}

// recorder keeps what is written of an answer that is JSON.
type recorder struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (r *recorder) Write(b []byte) (int, error) {
	if kind, _, err := mime.ParseMediaType(r.Header().Get("Content-Type")); err == nil && kind == "application/json" {
		r.body.Write(b)
	}
	return r.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// Reply is an answer that is more than a JSON value with status 200.
type Reply struct {
	// Status is the HTTP status; 0 is 200.
	Status int
	Header http.Header
	// Body is nil for none (or {} with status 200), an io.Reader (closed afterwards if it is an io.Closer) or a []byte to send as they are with the Content-Type in
	// Header, or any other value to send as JSON.
	Body any
	// Streamed sends a JSON Body while it is being encoded, so that an answer of many megabytes is never in memory as a whole. Its length is not announced.
	Streamed bool
	// Serve writes the whole answer by itself (ranges, files); Status, Header and Body are not used then.
	Serve func(w http.ResponseWriter)
}

// Response is an answer in memory, as [Router.Call] returns it.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

var (
	emptyObject = []byte("{}")
	// encodeOptions passes stored JSON through untouched: old room versions hold events with duplicate names and broken strings.
	encodeOptions = json.JoinOptions(json.Deterministic(true), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
)

// encoded is an answer ready to write: bytes, a value that is encoded on the way, a stream or a function.
type encoded struct {
	status int
	header http.Header
	body   []byte
	value  any
	stream io.Reader
	serve  func(http.ResponseWriter)
}

func encode(v any) (encoded, error) {
	out := encoded{status: http.StatusOK}
	reply, ok := v.(*Reply)
	if !ok {
		reply = &Reply{Body: v}
	}
	if reply == nil {
		reply = &Reply{}
	}
	if reply.Serve != nil {
		out.serve = reply.Serve
		return out, nil
	}
	if reply.Status != 0 {
		out.status = reply.Status
	}
	out.header = reply.Header
	switch body := reply.Body.(type) {
	case nil:
		if out.status < 300 && out.status != http.StatusNoContent {
			out.body = emptyObject
			out.setContentType()
		}
	case io.Reader:
		out.stream = body
	case []byte:
		out.body = body
	default:
		if reply.Streamed {
			out.value = body
			out.setContentType()
			return out, nil
		}
		b, err := json.Marshal(body, encodeOptions)
		if err != nil {
			return encoded{}, fmt.Errorf("encode answer: %w", err)
		}
		out.body = b
		out.setContentType()
	}
	return out, nil
}

func (e *encoded) setContentType() {
	if e.header.Get("Content-Type") != "" {
		return
	}
	if e.header == nil {
		e.header = http.Header{}
	} else {
		e.header = e.header.Clone()
	}
	e.header.Set("Content-Type", "application/json")
}

func encodeError(err *mxerror.Error) encoded {
	m := make(map[string]any, len(err.Extra)+2)
	for k, v := range err.Extra {
		m[k] = v
	}
	m["errcode"], m["error"] = err.Code, err.Message
	out := encoded{status: err.Status, header: http.Header{"Content-Type": {"application/json"}}}
	if ms, ok := err.Extra["retry_after_ms"].(int64); ok {
		out.header.Set("Retry-After", strconv.FormatInt((ms+999)/1000, 10))
	}
	body, marshalErr := json.Marshal(m, encodeOptions)
	if marshalErr != nil { // a value in Extra that is no JSON: the code still has to arrive
		body = []byte(`{"errcode":"M_UNKNOWN","error":"Internal error"}`)
	}
	out.body = body
	return out
}

// write sends the answer and returns its status and the number of body bytes. The error is that of a value which cannot be encoded.
func (e encoded) write(w http.ResponseWriter) (status int, n int64, err error) {
	if e.serve != nil {
		counter := &countingWriter{ResponseWriter: w, status: http.StatusOK}
		e.serve(counter)
		return counter.status, counter.n, nil
	}
	h := w.Header()
	for k, v := range e.header {
		h[k] = v
	}
	if e.value != nil {
		return e.writeValue(w)
	}
	if e.stream == nil {
		if e.status != http.StatusNoContent && e.status != http.StatusNotModified {
			h.Set("Content-Length", strconv.Itoa(len(e.body)))
		}
		w.WriteHeader(e.status)
		n, _ := w.Write(e.body) // a client that went away needs no answer
		return e.status, int64(n), nil
	}
	if c, ok := e.stream.(io.Closer); ok {
		defer c.Close()
	}
	w.WriteHeader(e.status)
	n, _ = io.Copy(w, e.stream)
	return e.status, n, nil
}

type countingWriter struct {
	http.ResponseWriter
	status int
	n      int64
	err    error // of the connection
}

func (c *countingWriter) WriteHeader(status int) {
	c.status = status
	c.ResponseWriter.WriteHeader(status)
}

func (c *countingWriter) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.n += int64(n)
	if err != nil {
		c.err = err
	}
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (c *countingWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

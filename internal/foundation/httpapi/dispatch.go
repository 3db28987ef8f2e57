// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Dispatch is the in-process transport (engine rule 18): origin, a tenant of this cell, asks tenant t. Route, rate limit, admission, policy,
// size limit and errors are those of a request of the network; only socket and signature are skipped, so the caller vouches for origin. method
// and path (escaped, without query) name a Server or Public route. err tells that there is no answer at all; a refusal is a status with its
// standard error as body.
func (m *Router) Dispatch(ctx context.Context, t *tenant.Tenant, origin id.Server, method, path string, query url.Values, body []byte) (status int, respBody []byte, err error) {
	res, err := m.Call(ctx, t, origin, method, path, query, body)
	if err != nil {
		return 0, nil, err
	}
	return res.Status, res.Body, nil
}

// Call is [Router.Dispatch] with the answer's headers, for answers that are not JSON (media).
func (m *Router) Call(ctx context.Context, t *tenant.Tenant, origin id.Server, method, path string, query url.Values, body []byte) (*Response, error) {
	start := time.Now()
	u, err := url.Parse(path)
	if err != nil {
		return nil, fmt.Errorf("in-process request: %w", err)
	}
	u.RawQuery = query.Encode()
	hr := (&http.Request{
		Method: method, URL: u, Host: string(t.Name), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{},
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
	}).WithContext(ctx)
	r := &Request{HTTP: hr, Tenant: t, Origin: origin, Body: body}
	w := &memoryWriter{header: http.Header{}, status: http.StatusOK}
	answer, err := m.inProcess(tenant.With(ctx, t), r)
	if ctx.Err() != nil && err != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		answer = m.encodeFailure(ctx, r, err)
	}
	status, n, err := answer.write(w)
	m.record(ctx, r, start, status, n, "in_process")
	if err != nil {
		return nil, err
	}
	return &Response{Status: status, Header: w.header, Body: w.body.Bytes()}, nil
}

func (m *Router) inProcess(ctx context.Context, r *Request) (encoded, error) {
	if err := m.route(r, r.HTTP.Method, r.HTTP.URL.EscapedPath()); err != nil {
		return encoded{}, err
	}
	if r.route.Access != Server && r.route.Access != Public {
		return encoded{}, fmt.Errorf("in-process request to %s, which is for users", r.route.Path)
	}
	if r.Tenant.State != tenant.Active && !r.route.AfterEnd {
		return encoded{status: http.StatusNotFound}, nil
	}
	limit := r.route.MaxBody
	if limit == 0 {
		limit = DefaultMaxBody
	}
	if limit > 0 && int64(len(r.Body)) > limit {
		return encoded{}, tooLarge(limit)
	}
	return m.handle(ctx, r)
}

// memoryWriter keeps an answer in memory.
type memoryWriter struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *memoryWriter) Header() http.Header         { return w.header }
func (w *memoryWriter) WriteHeader(status int)      { w.status = status }
func (w *memoryWriter) Write(b []byte) (int, error) { return w.body.Write(b) }

// SPDX-License-Identifier: Apache-2.0

package appservice

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/go-json-experiment/json"
)

const (
	prefix    = "/_matrix/app/v1"
	oldPrefix = "/_matrix/app/unstable"
	// legacyFor is how long the old paths are used once a service has shown to know no others.
	legacyFor = time.Hour
	// maxAnswer bounds what is read of an answer.
	maxAnswer = 1 << 20
)

// newClient makes the client for all services. Their addresses come from the operator's files, so they may be private.
func newClient() *http.Client {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	return &http.Client{
		Transport: &http.Transport{DialContext: dialer.DialContext, TLSHandshakeTimeout: 10 * time.Second, MaxIdleConnsPerHost: 4,
			IdleConnTimeout: 90 * time.Second},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// request is one call of a service. old is for services from before version 1.4: they expect the token in the query.
type request struct {
	method, path string
	query        url.Values
	body         []byte
	old          bool
}

// call asks a service and returns its status and what it answered.
func (s *Service) call(ctx context.Context, svc *service, q request) (status int, answer []byte, err error) {
	query := url.Values{}
	for name, values := range q.query {
		query[name] = values
	}
	if q.old {
		query.Set("access_token", svc.HSToken)
	}
	target := svc.url.String() + q.path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, q.method, target, bytes.NewReader(q.body))
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("Authorization", "Bearer "+svc.HSToken)
	if q.body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	res, err := s.client.Do(r)
	if err != nil {
		return 0, nil, withoutURL(err)
	}
	defer res.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	return res.StatusCode, answer, err
}

// withoutURL takes the address out of an error: it may hold a token, and errors are logged.
func withoutURL(err error) error {
	if u, ok := err.(*url.Error); ok { //nolint:errorlint // http.Client wraps nothing around it
		return u.Err
	}
	return err
}

// unknownPath says whether an answer stands for a path that the service does not know, rather than for something that it does not have.
func unknownPath(status int, answer []byte) bool {
	switch status {
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return true
	case http.StatusNotFound:
		var e struct {
			Code string `json:"errcode"`
		}
		return json.Unmarshal(answer, &e) != nil || e.Code == "" || e.Code == "M_UNRECOGNIZED"
	}
	return false
}

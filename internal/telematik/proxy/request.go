// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/telematik/permission"
)

// request is a request with what the proxy has found out about it.
type request struct {
	*http.Request
	// path is the path as the table of routes writes it, from segments, of which each is decoded once.
	path     string
	segments []string
	query    url.Values
	token    string
	tenant   *tenant.Tenant
	session  *httpapi.Session // nil while nobody has asked
	row      string           // of the table of routes
	after    func(*http.Response) error
	// reserve asks for memory for a body, once.
	reserve func(bytes int64) bool
	control *http.ResponseController
}

type requestKey struct{}

// carry puts a request into its own context, where the reverse proxy finds it.
func (q *request) carry() *http.Request {
	if q.after == nil {
		return q.Request
	}
	return q.Request.WithContext(context.WithValue(q.Context(), requestKey{}, q))
}

func of(ctx context.Context) *request {
	q, _ := ctx.Value(requestKey{}).(*request)
	return q
}

var methods = map[string]bool{"GET": true, "HEAD": true, "POST": true, "PUT": true, "DELETE": true, "PATCH": true, "OPTIONS": true}

// insideSegment stands for a slash or backslash that was encoded, so that what is one segment stays one.
const insideSegment = "\uFFFD"

// read takes a request's line and token apart. What two servers could read in two ways is refused, so that the homeserver sees what the rules saw.
func read(r *http.Request) (*request, error) {
	if !methods[r.Method] {
		return nil, mxerror.MethodNotAllowed
	}
	if r.URL.RequestURI() != r.RequestURI || !strings.HasPrefix(r.RequestURI, "/") {
		return nil, mxerror.InvalidParam.With("The address of the request cannot be read unambiguously.")
	}
	q := &request{Request: r}
	for raw := range strings.SplitSeq(strings.TrimSuffix(r.URL.EscapedPath()[1:], "/"), "/") {
		segment, err := url.PathUnescape(raw)
		if err != nil || !plain(segment) {
			return nil, permission.Unlisted()
		}
		q.segments = append(q.segments, segment)
	}
	q.path = "/" + strings.NewReplacer("/", insideSegment, `\`, insideSegment).Replace(strings.Join(q.segments, "\x00"))
	q.path = strings.ReplaceAll(q.path, "\x00", "/")
	var err error
	if q.query, err = url.ParseQuery(r.URL.RawQuery); err != nil {
		return nil, mxerror.InvalidParam.With("The query cannot be read.")
	}
	if !isFederation(q.path) {
		q.token, err = token(r, q.query)
	}
	return q, err
}

// plain says whether a segment means itself: not nothing, no way up, no control character.
func plain(segment string) bool {
	if segment == "" || !httpapi.IsText(segment) {
		return false
	}
	for part := range strings.FieldsFuncSeq(segment, func(r rune) bool { return r == '/' || r == '\\' }) {
		if part == "." || part == ".." {
			return false
		}
	}
	return !strings.ContainsFunc(segment, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// token finds the access token. Two of them are refused: the homeserver might believe the other one.
func token(r *http.Request, query url.Values) (string, error) {
	headers, inQuery := r.Header.Values("Authorization"), query["access_token"]
	if len(headers)+len(inQuery) == 0 {
		return "", nil
	}
	if len(headers)+len(inQuery) > 1 || len(query["user_id"]) > 1 {
		return "", mxerror.MissingToken.With("More than one access token was given.")
	}
	if len(inQuery) > 0 {
		return inQuery[0], nil
	}
	scheme, value, ok := strings.Cut(headers[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return "", nil
	}
	return strings.TrimSpace(value), nil
}

// bodyTime is how long a body that a rule looks at may take to arrive.
const bodyTime = time.Minute

// body reads a body that a rule looks at; it is handed on as it was read.
func (q *request) body(limit int64) ([]byte, error) {
	if coding := q.Header.Get("Content-Encoding"); coding != "" && coding != "identity" {
		return nil, mxerror.NotJSON.With("The body must not be compressed.")
	}
	expected := limit
	if q.ContentLength >= 0 {
		expected = min(limit, q.ContentLength)
	}
	if !q.reserve(expected) {
		return nil, mxerror.LimitExceeded.WithExtra("retry_after_ms", int64(1000))
	}
	_ = q.control.SetReadDeadline(time.Now().Add(bodyTime)) // a connection without deadlines is one of a test
	text, err := io.ReadAll(io.LimitReader(q.Body, limit+1))
	_ = q.control.SetReadDeadline(time.Time{})
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return nil, mxerror.TooLarge
	}
	if err != nil {
		return nil, errors.Join(mxerror.NotJSON.With("The body did not arrive."), err)
	}
	if int64(len(text)) > limit {
		return nil, mxerror.TooLarge
	}
	q.setBody(text)
	return text, nil
}

// decode is body for a JSON object; nothing counts as {}.
func (q *request) decode(limit int64, v any) error {
	text, err := q.body(limit)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(text)) == 0 {
		text = []byte("{}")
	}
	return httpapi.DecodeJSON(text, v)
}

func (q *request) setBody(text []byte) {
	q.Body, q.ContentLength, q.TransferEncoding = io.NopCloser(bytes.NewReader(text)), int64(len(text)), nil
	q.Header.Del("Content-Length")
}

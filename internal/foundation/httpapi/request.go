// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// Request is what a handler gets: everything about the caller is already checked.
type Request struct {
	// HTTP is the request as it came. A request that came by Dispatch has one too, without network details.
	HTTP *http.Request
	// Tenant is the server addressed; nil only on ForProvider routes of a shared client host.
	Tenant *tenant.Tenant
	// Session is set on User routes, and on OptionalUser routes with a token.
	Session *Session
	// Origin is the calling server on Server routes.
	Origin id.Server
	// Body is the whole body unless the route is Raw. Do not change it.
	Body []byte
	// Address is the caller's network address, taken from X-Forwarded-For behind a trusted proxy; invalid for in-process requests.
	Address netip.Addr
	// Secure says whether the caller speaks TLS, with us or with a trusted proxy (X-Forwarded-Proto).
	Secure bool

	route *endpoint
	vars  []string
	query url.Values
}

// Pattern returns the route's path as it stands in the table, for logs and policies.
func (r *Request) Pattern() string { return r.route.Path }

// Var returns a variable of the path, percent-decoded; empty where the route has none of that name.
func (r *Request) Var(name string) string {
	for i, n := range r.route.names {
		if n == name && i < len(r.vars) {
			return r.vars[i]
		}
	}
	return ""
}

// Room parses the path variable roomId; M_INVALID_PARAM otherwise.
func (r *Request) Room() (id.Room, error) {
	room, err := id.ParseRoom(r.Var("roomId"))
	if err != nil {
		return "", mxerror.InvalidParam.With("roomId is not a room id")
	}
	return room, nil
}

// readable refuses variables and parameters that are no text (not UTF-8, or with a null character, which PostgreSQL cannot hold) with
// M_INVALID_PARAM, so that no handler and no database has to.
func (r *Request) readable() error {
	for i, v := range r.vars {
		if !IsText(v) {
			return mxerror.InvalidParam.With("%s in the path is not readable text", r.route.names[i])
		}
	}
	if r.HTTP.URL.RawQuery == "" {
		return nil
	}
	for name, values := range r.Values() {
		for _, v := range values {
			if !IsText(name) || !IsText(v) {
				return mxerror.InvalidParam.With("the query holds what is not readable text")
			}
		}
	}
	return nil
}

// IsText says whether a string is valid UTF-8 without null characters: what every database column takes.
func IsText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// Values returns the query's parameters.
func (r *Request) Values() url.Values {
	if r.query == nil {
		r.query = r.HTTP.URL.Query()
	}
	return r.query
}

// Query returns the first value of a query parameter, or the empty string.
func (r *Request) Query(name string) string { return r.Values().Get(name) }

// QueryInt reads a non-negative number of the query: def where it is absent, at most max. Anything else is M_INVALID_PARAM.
func (r *Request) QueryInt(name string, def, max int) (int, error) {
	s := r.Query(name)
	if s == "" {
		return def, nil
	}
	n, err := strconv.Atoi(s)
	if errors.Is(err, strconv.ErrRange) && n > 0 {
		return max, nil
	}
	if err != nil || n < 0 {
		return 0, mxerror.InvalidParam.With("%s must be a non-negative number", name)
	}
	return min(n, max), nil
}

// QueryBool reads "true" or "false" of the query; def where it is absent, M_INVALID_PARAM for anything else.
func (r *Request) QueryBool(name string, def bool) (bool, error) {
	switch r.Query(name) {
	case "":
		return def, nil
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, mxerror.InvalidParam.With("%s must be true or false", name)
}

// Decode reads the body as a JSON object into v: M_NOT_JSON when it is no JSON (or empty), M_BAD_JSON when it is JSON of another shape.
func (r *Request) Decode(v any) error { return DecodeJSON(r.Body, v) }

// DecodeOptional is Decode for endpoints that clients also call without a body: nothing counts as {}.
func (r *Request) DecodeOptional(v any) error {
	if len(bytes.TrimSpace(r.Body)) == 0 {
		return nil
	}
	return r.Decode(v)
}

// DecodeJSON is [Request.Decode] for bytes that come from elsewhere.
func DecodeJSON(body []byte, v any) error {
	if bytes.Equal(bytes.TrimSpace(body), []byte("null")) {
		return mxerror.BadJSON.With("expected an object, got null")
	}
	err := json.Unmarshal(body, v)
	if err == nil {
		return nil
	}
	if errors.Is(err, jsontext.ErrDuplicateName) {
		return mxerror.BadJSON.With("the body has the same key twice")
	}
	if !jsontext.Value(body).IsValid() {
		return mxerror.NotJSON.With("the body is not JSON")
	}
	var semantic *json.SemanticError
	if errors.As(err, &semantic) && semantic.JSONPointer != "" {
		return mxerror.BadJSON.With("wrong type or value at %s", semantic.JSONPointer)
	}
	return mxerror.BadJSON.With("the body has the wrong shape")
}

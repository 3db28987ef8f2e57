// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/observe"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// errUnknownHost ends a request for a host that nobody here has: 404 without a body, so that a scan learns nothing (engine rule 19).
var errUnknownHost = errors.New("unknown host")

// slowestReader is how many bytes of an answer a caller has to take in a second.
const slowestReader = 16 << 10

// statusClientGone is logged when the caller left before the answer.
const statusClientGone = 499

// serveNetwork runs a request of the network through host, route, caller and handler, and writes the answer and the log line.
func (m *Router) serveNetwork(w http.ResponseWriter, hr *http.Request) {
	start := time.Now()
	r := &Request{HTTP: hr}
	arrivesBy(w, start.Add(m.o.BodyTime)) // also for what is refused unread: its body is still awaited before the connection's next request
	ctx := observe.WithTrace(hr.Context(), observe.NewTrace(hr.Header.Get("Traceparent")))
	answer, err := m.network(ctx, w, r)
	if errors.Is(err, errUnknownHost) {
		w.WriteHeader(http.StatusNotFound)
		m.record(ctx, r, start, http.StatusNotFound, 0, "network")
		return
	}
	if err != nil {
		answer = m.encodeFailure(ctx, r, err)
	}
	status, n, broken := m.write(w, answer)
	if ctx.Err() != nil && err != nil {
		status = statusClientGone
	}
	m.record(ctx, r, start, status, n, "network")
	if broken != nil {
		m.logFailure(ctx, r, broken)
		panic(http.ErrAbortHandler) // nobody shall take the piece for the whole
	}
}

// write sends an answer. One in memory has to be taken in time, one that is encoded on the way piece by piece; streams end with their source. The
// connection is given on without a deadline: other handlers may serve its next request.
func (m *Router) write(w http.ResponseWriter, answer encoded) (status int, n int64, err error) {
	departs := http.NewResponseController(w)
	by := func(bytes int) time.Time {
		return time.Now().Add(m.o.BodyTime + time.Duration(bytes/slowestReader)*time.Second)
	}
	switch {
	case answer.value != nil:
		w = &patient{ResponseWriter: w, departs: departs, time: by}
	case answer.body != nil:
		_ = departs.SetWriteDeadline(by(len(answer.body)))
	default:
		return answer.write(w)
	}
	defer func() { _ = departs.SetWriteDeadline(time.Time{}) }()
	return answer.write(w)
}

// network is the order of checks for a request of the network: host, route, size, tenant, caller, then what serves all transports.
func (m *Router) network(ctx context.Context, w http.ResponseWriter, r *Request) (encoded, error) {
	t, shared, err := m.byHost(ctx, r.HTTP.Host)
	if errors.Is(err, tenant.ErrUnknown) {
		return encoded{}, errUnknownHost
	}
	if err != nil {
		return encoded{}, fmt.Errorf("tenant of host: %w", err)
	}
	if err := m.route(r, r.HTTP.Method, r.HTTP.URL.EscapedPath()); err != nil {
		return encoded{}, err
	}
	if err := r.readable(); err != nil {
		return encoded{}, err
	}
	r.Tenant, r.Address, r.Secure = t, m.address(r.HTTP), m.secure(r.HTTP)
	if r.Session == nil && (r.route.Access == Public || r.route.Access == OptionalUser) && token(r.HTTP) == "" {
		if err := m.allow(r, rateKey(r.Address)); err != nil { // before the body: this caller has no name to count by
			return encoded{}, err
		}
	}
	bodyRead, proven := false, func() {}
	if shared && !r.route.Raw && token(r.HTTP) == "" || r.route.Access == Server {
		proven = m.unproven.watch(r)
		defer proven()
		if err := readBody(w, r); err != nil {
			return encoded{}, err
		}
		bodyRead = true
	}
	if ctx, err = m.recognise(ctx, r, shared); err != nil {
		return encoded{}, err
	}
	proven()
	if !bodyRead {
		if err := readBody(w, r); err != nil {
			return encoded{}, err
		}
	}
	return m.handle(ctx, r)
}

// recognise finds the tenant where the host does not say it, and the caller.
func (m *Router) recognise(ctx context.Context, r *Request, shared bool) (context.Context, error) {
	if shared {
		var err error
		if r.Tenant, err = m.onSharedHost(ctx, r); err != nil {
			return ctx, err
		}
	}
	if r.Tenant != nil {
		if r.Tenant.State != tenant.Active && !r.route.AfterEnd {
			return ctx, errUnknownHost
		}
		ctx = tenant.With(ctx, r.Tenant)
	}
	return ctx, m.authenticate(ctx, r)
}

// route finds the row of the table.
func (m *Router) route(r *Request, method, escapedPath string) error {
	e, vars, otherMethod := m.root.find(method, escapedPath)
	switch {
	case e != nil:
		r.route, r.vars = e, vars
		return nil
	case otherMethod:
		return mxerror.MethodNotAllowed
	}
	return mxerror.Unrecognized
}

// arrivesBy sets until when the rest of a request has to be there; zero is no bound. Not every writer has deadlines: those of tests need none.
func arrivesBy(w http.ResponseWriter, at time.Time) {
	_ = http.NewResponseController(w).SetReadDeadline(at)
}

func readBody(w http.ResponseWriter, r *Request) error {
	if r.HTTP.ContentLength == 0 && !r.route.Raw {
		return nil // and a waiting sync holds no buffer for nothing
	}
	limit := r.route.MaxBody
	if limit == 0 {
		limit = DefaultMaxBody
	}
	if limit > 0 {
		if r.HTTP.ContentLength > limit {
			return tooLarge(limit)
		}
		r.HTTP.Body = http.MaxBytesReader(w, r.HTTP.Body, limit)
	}
	if r.route.Raw {
		arrivesBy(w, time.Time{})
		return nil
	}
	body, err := io.ReadAll(r.HTTP.Body)
	if err == nil {
		arrivesBy(w, time.Time{})
	}
	var over *http.MaxBytesError
	if errors.As(err, &over) {
		return tooLarge(limit)
	}
	if errors.Is(err, errCrowded) {
		return crowded()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return mxerror.New(http.StatusRequestTimeout, mxerror.Unknown.Code, "the body took too long to arrive")
	}
	if err != nil {
		return mxerror.NotJSON.With("the body broke off")
	}
	r.Body = body
	return nil
}

func tooLarge(limit int64) error {
	return mxerror.TooLarge.With("the body is larger than %d bytes", limit)
}

// authenticate finds the caller that the route asks for and counts the request in the caller's bucket.
func (m *Router) authenticate(ctx context.Context, r *Request) error {
	switch r.route.Access {
	case Public:
		return nil
	case Server:
		if m.servers == nil || r.Tenant == nil {
			return mxerror.Unrecognized
		}
		origin, err := m.servers.AuthenticateServer(ctx, r.Tenant, r.HTTP, r.Body)
		if err != nil {
			return err
		}
		r.Origin = origin
		return nil
	}
	tok := token(r.HTTP)
	if tok == "" {
		if r.route.Access == OptionalUser {
			return nil
		}
		return mxerror.MissingToken
	}
	if m.users == nil || r.Tenant == nil {
		return mxerror.UnknownToken
	}
	s, err := m.users.Authenticate(ctx, r.Tenant, tok)
	if err != nil {
		return err
	}
	if s.AppService != "" {
		if s, err = m.masquerade(ctx, r, s); err != nil {
			return err
		}
	}
	r.Session = s
	if s.Guest && r.route.Access == User {
		return mxerror.GuestAccessForbidden
	}
	if r.route.Access == Admin && !s.Admin {
		return mxerror.Forbidden.With("only administrators may do this")
	}
	if s.Unlimited {
		return nil
	}
	return m.allow(r, string(s.User))
}

// masquerade lets an application service act for a user of its namespace, named in the query.
func (m *Router) masquerade(ctx context.Context, r *Request, s *Session) (*Session, error) {
	name := r.Query("user_id")
	device := r.Query("device_id")
	if device == "" {
		device = r.Query("org.matrix.msc3202.device_id")
	}
	if name == "" && device == "" {
		return s, nil
	}
	as, ok := m.users.(Masquerader)
	if !ok {
		return nil, mxerror.Forbidden
	}
	user := s.User
	if name != "" {
		var err error
		if user, err = id.ParseUser(name); err != nil {
			return nil, mxerror.InvalidParam.With("user_id is not a user id")
		}
	}
	return as.Masquerade(ctx, r.Tenant, s, user, id.Device(device))
}

// allow takes from the bucket of the route's class.
func (m *Router) allow(r *Request, key string) error {
	name := ""
	if r.Tenant != nil {
		name = string(r.Tenant.Name)
	}
	return LimitError(m.o.Limiter.Allow(r.route.Rate, name, key))
}

// LimitError turns the limiter's answer into 429 M_LIMIT_EXCEEDED with the time to wait, or nil.
func LimitError(ok bool, retryAfter time.Duration) error {
	if ok {
		return nil
	}
	return mxerror.LimitExceeded.With("Too many requests").WithExtra("retry_after_ms", max(1, retryAfter.Milliseconds()))
}

// handle is what every transport goes through once the caller is known: the peer's admission, the policy, the handler. A panic becomes an error.
func (m *Router) handle(ctx context.Context, r *Request) (out encoded, err error) {
	if r.Origin != "" {
		if err := m.allow(r, string(r.Origin)); err != nil {
			return encoded{}, err
		}
		if m.o.Admit != nil && r.route.Access == Server {
			if err := m.o.Admit(ctx, r.Tenant, r.Origin); err != nil {
				return encoded{}, err
			}
		}
	}
	if m.o.Policy != nil && r.Tenant != nil {
		if err := m.o.Policy(ctx, r.Tenant, r.route.Method, r.route.Path, r.Session); err != nil {
			return encoded{}, err
		}
	}
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			out, err = encoded{}, fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	v, err := r.route.Handle(ctx, r)
	if err != nil {
		return encoded{}, err
	}
	return encode(v)
}

// encodeFailure turns an error into its answer; what no mxerror explains is logged with the route and told to nobody.
func (m *Router) encodeFailure(ctx context.Context, r *Request, err error) encoded {
	if known := mxerror.From(err); known != nil {
		if known.Status >= 500 {
			m.logFailure(ctx, r, err)
		}
		return encodeError(known)
	}
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		return encodeError(mxerror.TooLarge.With("the body is larger than %d bytes", over.Limit))
	case ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)):
		e := encodeError(mxerror.Unknown.With("the server is stopping or the request was given up"))
		e.status = http.StatusServiceUnavailable
		return e
	}
	if database.IsNotText(err) {
		return encodeError(mxerror.InvalidParam.With("a text holds a null character"))
	}
	m.logFailure(ctx, r, err)
	return encodeError(mxerror.Unknown.With("Internal error"))
}

func (m *Router) logFailure(ctx context.Context, r *Request, err error) {
	m.o.Log.LogAttrs(ctx, slog.LevelError, "request failed", append(r.attributes(), slog.Any("error", err))...)
}

// attributes names a request in the log: its route and tenant, never its path, query or body.
func (r *Request) attributes() []slog.Attr {
	a := make([]slog.Attr, 0, 9)
	a = append(a, slog.String("method", r.HTTP.Method))
	if r.route != nil {
		a = append(a, slog.String("route", r.route.Path))
	}
	if r.Tenant != nil {
		a = append(a, slog.String("tenant", string(r.Tenant.Name)))
	}
	if r.Session != nil {
		a = append(a, slog.String("user", string(r.Session.User)))
	}
	if r.Origin != "" {
		a = append(a, slog.String("origin", string(r.Origin)))
	}
	return a
}

// record writes the access log and the metrics.
func (m *Router) record(ctx context.Context, r *Request, start time.Time, status int, n int64, transport string) {
	took := time.Since(start)
	m.metrics.observe(r, status, took, transport)
	if m.o.QuietAccess || transport != "network" {
		return
	}
	if !m.o.Log.Enabled(ctx, slog.LevelInfo) {
		return
	}
	m.o.Log.LogAttrs(ctx, slog.LevelInfo, "request", append(r.attributes(), slog.Int("status", status),
		slog.Int64("bytes", n), slog.Float64("ms", float64(took.Microseconds())/1000))...)
}

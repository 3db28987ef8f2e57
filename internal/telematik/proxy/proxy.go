// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/cache"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/telematik/permission"
)

// Options are what a proxy stands on.
type Options struct {
	// Rules decide. Their account data are those of Settings.
	Rules    *permission.Rules
	Settings *Settings
	// Tenants are the servers that the homeserver behind is.
	Tenants []*tenant.Tenant
	// Client and Federation are the addresses of the homeserver's two APIs.
	Client, Federation *url.URL
	// TrustedProxies are the networks whose X-Forwarded-For is handed on.
	TrustedProxies []netip.Prefix
	// MatrixVersion is the last version of the client-server API that clients are told of; empty: what the homeserver says.
	MatrixVersion string
	// MaxUpload bounds a file in bytes.
	MaxUpload int64
	// Information answers I_TiMessengerInformation, which no homeserver has; nil: nobody does.
	Information http.Handler
	// Met is told of servers that have sent something, before it is handed on; nil for nobody. The outbound proxy remembers where they are.
	Met func(ctx context.Context, server id.Server)
	// Refused is told of each refusal: "client", "federation" or "outbound". Nil for nobody.
	Refused func(direction string)
	Log     *slog.Logger
	// Now is the clock; nil is the system's.
	Now func() time.Time
}

// Limits of what is read, in bytes. Bodies that no rule looks at are handed on as they come, bounded all the same.
const (
	maxRead        = 1 << 20  // of a client, and of the homeserver's answers to the proxy's own questions
	maxTransaction = 16 << 20 // of another server
	maxOther       = 16 << 20
	// maxHeld bounds all bodies that are held at once: who a server is has not been proved when its body is read.
	maxHeld = 512 << 20
)

// How long the homeserver may take to accept a connection, and to answer the proxy's own questions.
const (
	connectTime = 5 * time.Second
	askTime     = 10 * time.Second
)

// sessionTime is how long an answer of whoami holds: who had a token keeps being known, whether the token is still good says the homeserver.
const (
	sessionTime = 5 * time.Minute
	maxSessions = 20_000
)

// Proxy is the reverse proxy. It is safe for concurrent use.
type Proxy struct {
	o          Options
	tenants    map[id.Server]*tenant.Tenant
	strict     *tenant.Tenant // whose rules hold where nobody knows whose they are
	client     *httputil.ReverseProxy
	federation *httputil.ReverseProxy
	asks       *http.Client
	transport  *http.Transport
	sessions   cache.Cache[[32]byte, httpapi.Session]
	held       atomic.Int64 // bytes of bodies
}

// New returns a proxy; Close ends it.
func New(o Options) *Proxy {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Refused == nil {
		o.Refused = func(string) {}
	}
	p := &Proxy{o: o, tenants: map[id.Server]*tenant.Tenant{}, strict: o.Tenants[0],
		sessions: cache.New(cache.Options[[32]byte, httpapi.Session]{Entries: maxSessions, Written: sessionTime})}
	for _, t := range o.Tenants {
		p.tenants[t.Name] = t
		if t.Insurance {
			p.strict = t
		}
	}
	dialer := net.Dialer{Timeout: connectTime, KeepAlive: 30 * time.Second}
	p.transport = &http.Transport{DialContext: dialer.DialContext, MaxIdleConns: 1024, MaxIdleConnsPerHost: 256, IdleConnTimeout: 90 * time.Second, DisableCompression: true}
	p.asks = &http.Client{Transport: p.transport, Timeout: askTime, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	p.client, p.federation = p.reverse(o.Client), p.reverse(o.Federation)
	return p
}

// Close drops idle connections and what is remembered.
func (p *Proxy) Close() {
	p.transport.CloseIdleConnections()
	p.sessions.Close()
}

// reverse hands requests on to an address, each byte as it comes, in both directions.
func (p *Proxy) reverse(to *url.URL) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport:     p.transport,
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(p.o.Log.Handler(), slog.LevelDebug),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = to.Scheme, to.Host
			r.Out.URL.RawQuery = r.In.URL.RawQuery // as it is signed
			r.Out.Host = r.In.Host
			if p.trusts(r.In.RemoteAddr) {
				r.Out.Header["X-Forwarded-For"] = r.In.Header["X-Forwarded-For"]
			}
			proto := r.In.Header.Get("X-Forwarded-Proto")
			r.SetXForwarded()
			if proto != "" && p.trusts(r.In.RemoteAddr) {
				r.Out.Header.Set("X-Forwarded-Proto", proto)
			}
		},
		ModifyResponse: func(res *http.Response) error {
			if q := of(res.Request.Context()); q != nil && q.after != nil {
				return q.after(res)
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			var large *http.MaxBytesError
			if errors.As(err, &large) {
				writeError(w, mxerror.TooLarge)
				return
			}
			if r.Context().Err() == nil {
				p.o.Log.Warn("the homeserver did not answer", "error", err)
			}
			writeError(w, mxerror.ConnectionFailed.With("The homeserver does not answer."))
		},
	}
}

// trusts says whether an address is one of a proxy in front of this one.
func (p *Proxy) trusts(remote string) bool {
	at, err := netip.ParseAddrPort(remote)
	return err == nil && slices.ContainsFunc(p.o.TrustedProxies, func(n netip.Prefix) bool { return n.Contains(at.Addr().Unmap()) })
}

// ServeHTTP looks at a request and hands it on, or refuses it.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q, err := read(r)
	if err != nil {
		p.refuse(w, "client", "", err)
		return
	}
	q.control = http.NewResponseController(w)
	var held int64
	q.reserve = func(bytes int64) bool {
		if held > 0 { // the body has been read before
			return true
		}
		held = bytes
		return p.held.Add(bytes) <= maxHeld
	}
	defer func() { p.held.Add(-held) }()
	if isFederation(q.path) {
		if err := p.inspectServer(w, q); err != nil {
			p.refuse(w, "federation", q.row, err)
			return
		}
		p.federation.ServeHTTP(w, q.carry())
		return
	}
	answer, err := p.inspectClient(w, q)
	switch {
	case err != nil:
		p.refuse(w, "client", q.row, err)
	case answer != nil:
		writeJSON(w, http.StatusOK, answer)
	case strings.HasPrefix(q.path, "/tim-information") && p.o.Information != nil:
		p.o.Information.ServeHTTP(w, q.Request)
	default:
		p.client.ServeHTTP(w, q.carry())
	}
}

// refuse answers an error. What is none of Matrix is a failure of the proxy itself.
func (p *Proxy) refuse(w http.ResponseWriter, direction, row string, err error) {
	var theirs *foreign
	if errors.As(err, &theirs) {
		writeRaw(w, theirs.status, theirs.body)
		return
	}
	e := mxerror.From(err)
	if e == nil {
		p.o.Log.Error("a request failed in the proxy", "direction", direction, "row", row, "error", err)
		e = mxerror.Unknown
	} else {
		p.o.Refused(direction)
		p.o.Log.Debug("refused", "direction", direction, "row", row, "status", e.Status, "code", e.Code)
	}
	writeError(w, e)
}

// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/cache"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/federation"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/telematik/permission"
)

// Finder finds servers. [federation.Lookup] does.
type Finder interface {
	// CertificateName is the host that a server's certificate is for: its own, or that which it delegates to.
	CertificateName(ctx context.Context, server id.Server) (string, error)
	// Delegation is what a host's /.well-known/matrix/server says, empty where it says nothing.
	Delegation(ctx context.Context, host string) id.Server
}

// OutboundOptions are what the forward proxy stands on.
type OutboundOptions struct {
	Rules *permission.Rules
	// Tenants are the servers that the homeserver behind is.
	Tenants []*tenant.Tenant
	Finder  Finder
	// Certificate makes the certificate by which the proxy stands for a host towards the homeserver.
	Certificate func(host string) (*tls.Certificate, error)
	// Dial connects to what the homeserver names; it refuses private addresses where the configuration does. DialAny connects to what is configured.
	Dial, DialAny func(ctx context.Context, network, address string) (net.Conn, error)
	// Resolve says where hosts are that no name service knows.
	Resolve map[id.Server]federation.Override
	// Roots verify others' certificates; nil are the system's.
	Roots *x509.CertPool
	// PushGateways are addresses that may be called; SSOHosts are hosts, with a port where it is not 443, that may be asked anything.
	PushGateways, SSOHosts []string
	// Refused is told of each refusal; nil for nobody.
	Refused func(direction string)
	Log     *slog.Logger
}

// Limits of the forward proxy.
const (
	maxTunnels    = 4096
	handshakeTime = 10 * time.Second
	answerTime    = 5 * time.Minute // until an answer begins
	idleTunnel    = 2 * time.Minute
	maxIssued     = 1000
	issuedTime    = 12 * time.Hour
	// maxPlaces bounds where servers are known to be; a place is forgotten when nobody has asked for it longer than any server keeps a delegation.
	maxPlaces = 20_000
	placeTime = 72 * time.Hour
	metTime   = time.Hour
)

// Outbound is the forward proxy: it answers CONNECT, ends TLS with a certificate of the local authority, and lets through what [Outbound.allow] allows. It
// is safe for concurrent use.
type Outbound struct {
	o      OutboundOptions
	inner  *http.Server
	queue  *queue
	issued cache.Cache[string, *tls.Certificate]
	places cache.Cache[string, id.Server] // host of a certificate → the server that is there
	known  cache.Cache[id.Server, struct{}]
	slots  chan struct{}
	push   []*url.URL
	ended  chan struct{}
}

// NewOutbound returns a forward proxy; Close ends it.
func NewOutbound(o OutboundOptions) (*Outbound, error) {
	if o.Refused == nil {
		o.Refused = func(string) {}
	}
	p := &Outbound{o: o, queue: newQueue(), slots: make(chan struct{}, maxTunnels), ended: make(chan struct{}),
		issued: cache.New(cache.Options[string, *tls.Certificate]{Entries: maxIssued, Written: issuedTime}),
		places: cache.New(cache.Options[string, id.Server]{Entries: maxPlaces, Read: placeTime}),
		known:  cache.New(cache.Options[id.Server, struct{}]{Entries: maxPlaces, Written: metTime})}
	for _, gateway := range o.PushGateways {
		u, err := url.Parse(gateway)
		if err != nil {
			return nil, err
		}
		p.push = append(p.push, u)
	}
	p.inner = &http.Server{Handler: http.HandlerFunc(p.request), ReadHeaderTimeout: 30 * time.Second, IdleTimeout: idleTunnel, MaxHeaderBytes: 64 << 10,
		ErrorLog:    slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, tunnelKey{}, c) }}
	go func() {
		defer close(p.ended)
		_ = p.inner.Serve(p.queue) // it ends by Close
	}()
	return p, nil
}

// Close ends all tunnels.
func (p *Outbound) Close() error {
	err := p.inner.Close()
	<-p.ended
	p.issued.Close()
	p.places.Close()
	p.known.Close()
	return err
}

// ServeHTTP answers CONNECT. Everything else that is sent to a proxy is unencrypted and refused.
func (p *Outbound) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		p.refuse(w, errClosed)
		return
	}
	host, port, err := net.SplitHostPort(r.Host)
	if err != nil || host == "" || port == "" {
		p.refuse(w, errClosed)
		return
	}
	select {
	case p.slots <- struct{}{}:
	default:
		writeError(w, mxerror.LimitExceeded.WithExtra("retry_after_ms", int64(1000)))
		return
	}
	raw, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		<-p.slots
		writeError(w, mxerror.Unknown)
		return
	}
	t, err := p.open(raw, buffered.Reader, host, port)
	if err == nil && p.queue.put(t) {
		return
	}
	if err != nil {
		p.o.Log.Debug("a tunnel was not opened", "host", host, "error", err)
	}
	raw.Close()
	<-p.slots
}

// open says yes and becomes the host.
func (p *Outbound) open(raw net.Conn, read *bufio.Reader, host, port string) (*tunnel, error) {
	if err := raw.SetDeadline(time.Now().Add(handshakeTime)); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(raw, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return nil, err
	}
	t := &tunnel{p: p, name: host, host: host, port: port}
	t.Conn = tls.Server(early{raw, read}, &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if hello.ServerName != "" {
				t.name = hello.ServerName
			}
			return p.certificate(t.name)
		}})
	if err := t.Conn.(*tls.Conn).Handshake(); err != nil {
		return nil, err
	}
	t.transport = &http.Transport{DialTLSContext: t.dial, MaxIdleConns: 2, IdleConnTimeout: idleTunnel, ResponseHeaderTimeout: answerTime, DisableCompression: true,
		MaxResponseHeaderBytes: 64 << 10}
	return t, raw.SetDeadline(time.Time{})
}

func (p *Outbound) certificate(host string) (*tls.Certificate, error) {
	if c, ok := p.issued.Get(host); ok {
		return c, nil
	}
	c, err := p.o.Certificate(host)
	if err == nil {
		p.issued.Set(host, c)
	}
	return c, err
}

// request looks at a request inside a tunnel and hands it on, or refuses it.
func (p *Outbound) request(w http.ResponseWriter, r *http.Request) {
	t := r.Context().Value(tunnelKey{}).(*tunnel)
	answer, err := p.allow(t, r)
	switch {
	case err != nil:
		p.refuse(w, err)
		return
	case answer != nil:
		writeJSON(w, http.StatusOK, answer)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxOther)
	(&httputil.ReverseProxy{
		Transport:     t.transport,
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(p.o.Log.Handler(), slog.LevelDebug),
		Rewrite: func(out *httputil.ProxyRequest) {
			out.Out.URL.Scheme, out.Out.URL.Host = "https", net.JoinHostPort(t.host, t.port)
			out.Out.URL.RawQuery = out.In.URL.RawQuery
			out.Out.Host = out.In.Host
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			var large *http.MaxBytesError
			if errors.As(err, &large) {
				writeError(w, mxerror.TooLarge)
				return
			}
			p.o.Log.Debug("a host did not answer", "host", t.name, "error", err)
			writeError(w, mxerror.ConnectionFailed.With("%s does not answer.", t.name))
		},
	}).ServeHTTP(w, r)
}

func (p *Outbound) refuse(w http.ResponseWriter, err error) {
	e := mxerror.From(err)
	if e == nil {
		p.o.Log.Error("a request failed in the proxy", "direction", "outbound", "error", err)
		writeError(w, mxerror.Unknown)
		return
	}
	p.o.Refused("outbound")
	writeError(w, e)
}

type tunnelKey struct{}

// tunnel is the homeserver's connection to a host, which the proxy stands for. name is the host of the certificate; host and port are where the
// homeserver wants to connect to: another host, where a service record says so.
type tunnel struct {
	net.Conn
	p                *Outbound
	name, host, port string
	transport        *http.Transport
	once             sync.Once
}

// Close closes both sides.
func (t *tunnel) Close() error {
	err := t.Conn.Close()
	t.once.Do(func() {
		t.transport.CloseIdleConnections()
		<-t.p.slots
	})
	return err
}

// dial connects to the host and verifies that it is who the homeserver means.
func (t *tunnel) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	o := &t.p.o
	address, roots, dial := net.JoinHostPort(t.host, t.port), o.Roots, o.Dial
	if at, ok := o.Resolve[id.Server(t.name)]; ok {
		address, dial = at.Address, o.DialAny
		if at.Roots != nil {
			roots = at.Roots
		}
	} else if t.configured() {
		dial = o.DialAny
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	raw, err := dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, &tls.Config{ServerName: t.name, RootCAs: roots, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}

// early reads first what came together with CONNECT.
type early struct {
	net.Conn
	r *bufio.Reader
}

func (e early) Read(b []byte) (int, error) { return e.r.Read(b) }

// queue is the listener of connections that come by CONNECT.
type queue struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newQueue() *queue { return &queue{conns: make(chan net.Conn), done: make(chan struct{})} }

func (q *queue) put(c net.Conn) bool {
	select {
	case q.conns <- c:
		return true
	case <-q.done:
		return false
	}
}

// Accept waits for the next connection.
func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (q *queue) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

// Addr is nobody's.
func (q *queue) Addr() net.Addr { return &net.TCPAddr{} }

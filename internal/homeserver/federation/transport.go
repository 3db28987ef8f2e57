// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// call is one request to another server.
type call struct {
	method string
	path   string // escaped
	query  url.Values
	body   []byte // JSON; nil for none
	// unsigned leaves out the Authorization header, for keys.
	unsigned bool
	// timeout and limit bound the answer; 0 is the configuration's for ordinary requests.
	timeout time.Duration
	limit   int64
}

// uri is the request target that is signed and sent.
func (c *call) uri() string {
	if len(c.query) == 0 {
		return c.path
	}
	return c.path + "?" + c.query.Encode()
}

// answer is what a server replied. The caller closes the body, which never gives more than the call's limit.
type answer struct {
	status int
	header http.Header
	body   io.ReadCloser
}

// transport carries a call from a tenant to another server. An error means that there is no answer: an *Unreachable, or the context's.
type transport interface {
	round(ctx context.Context, from *tenant.Tenant, to id.Server, c *call) (*answer, error)
}

// Unreachable says that a server gave no answer at all. Clients see 502.
type Unreachable struct {
	Server id.Server
	Err    error
}

// Error names the server and the cause.
func (u *Unreachable) Error() string { return fmt.Sprintf("%s cannot be reached: %v", u.Server, u.Err) }

// Unwrap gives the cause, and what a client is told.
func (u *Unreachable) Unwrap() []error {
	return []error{u.Err, room.ErrUnreachable, mxerror.ConnectionFailed.With("%s cannot be reached", u.Server)}
}

// pathOf builds an escaped request path from a prefix and segments.
func pathOf(prefix string, segments ...string) string {
	var b strings.Builder
	b.WriteString(prefix)
	for _, s := range segments {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(s))
	}
	return b.String()
}

// overHTTP is the transport between machines. It speaks HTTP/1.1: requests to one server are few at a time, and Go's HTTP/2 client retries what
// a stopping server refuses for up to half a minute, which is the sender's business here.
type overHTTP struct {
	resolver *resolver
	client   *http.Client
	sign     func(ctx context.Context, from *tenant.Tenant, to id.Server, c *call) (string, error)
	agent    string
}

func newHTTP(c *Config, r *resolver, sign func(context.Context, *tenant.Tenant, id.Server, *call) (string, error)) *overHTTP {
	h := &overHTTP{resolver: r, sign: sign, agent: "Konsil/" + c.Version}
	h.client = &http.Client{
		Transport: &http.Transport{
			DialTLSContext:         h.dial,
			MaxIdleConns:           512,
			MaxIdleConnsPerHost:    4,
			MaxConnsPerHost:        c.HostConnections,
			IdleConnTimeout:        90 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
			DisableCompression:     true, // a small answer could unfold to a large one
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return h
}

// close drops idle connections.
func (h *overHTTP) close() { h.client.CloseIdleConnections() }

// noPort stands for a server name without port in the address by which connections are pooled: names with and without one are different
// servers.
const noPort = 0

// dial connects to the server that a pool address stands for.
func (h *overHTTP) dial(ctx context.Context, _, address string) (net.Conn, error) {
	server, err := serverOf(address)
	if err != nil {
		return nil, err
	}
	t, err := h.resolver.resolve(ctx, server)
	if err != nil {
		return nil, err
	}
	conn, err := h.resolver.connect(ctx, t)
	if err != nil {
		h.resolver.forget(server)
	}
	return conn, err
}

// poolHost is the URL host under which connections to a server are pooled.
func poolHost(server id.Server) string {
	return net.JoinHostPort(bareHost(server), strconv.Itoa(max(server.Port(), noPort)))
}

// serverOf is the reverse of poolHost.
func serverOf(address string) (id.Server, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port == strconv.Itoa(noPort) {
		return id.ParseServer(host)
	}
	return id.ParseServer(host + ":" + port)
}

func (h *overHTTP) round(ctx context.Context, from *tenant.Tenant, to id.Server, c *call) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	reply, err := h.send(ctx, from, to, c)
	if err != nil {
		cancel()
		return nil, err
	}
	reply.body = &boundedBody{body: reply.body, left: c.limit, done: cancel}
	return reply, nil
}

func (h *overHTTP) send(ctx context.Context, from *tenant.Tenant, to id.Server, c *call) (*answer, error) {
	t, err := h.resolver.resolve(ctx, to)
	if err != nil {
		return nil, unreachable(ctx, to, err)
	}
	var body io.Reader
	if c.body != nil {
		body = bytes.NewReader(c.body)
	}
	req, err := http.NewRequestWithContext(ctx, c.method, "https://"+poolHost(to)+c.uri(), body)
	if err != nil {
		return nil, err
	}
	req.Host = t.host
	req.Header.Set("User-Agent", h.agent)
	if c.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if !c.unsigned {
		authorization, err := h.sign(ctx, from, to, c)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", authorization)
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return nil, unreachable(ctx, to, err)
	}
	return &answer{status: resp.StatusCode, header: resp.Header, body: resp.Body}, nil
}

// unreachable wraps a failure to get an answer, unless the caller itself gave up. Certificate errors are named, for the operator's sake.
func unreachable(ctx context.Context, to id.Server, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	var certificate *tls.CertificateVerificationError
	if errors.As(err, &certificate) {
		err = fmt.Errorf("its certificate is not accepted: %w", certificate.Err)
	}
	return &Unreachable{to, err}
}

// boundedBody gives at most left bytes and then an error, and frees the request's context when closed.
type boundedBody struct {
	body io.ReadCloser
	left int64
	done context.CancelFunc
}

var errAnswerTooLarge = errors.New("the answer is larger than allowed")

// Read reads within the bound.
func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errAnswerTooLarge
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.body.Read(p)
	b.left -= int64(n)
	if b.left < 0 {
		return n - 1, errAnswerTooLarge
	}
	return n, err
}

// Close ends the request.
func (b *boundedBody) Close() error {
	err := b.body.Close()
	b.done()
	return err
}

// inProcess is the transport between tenants of one cell (engine rule 18): the router's table with its checks, without sockets and signatures.
type inProcess struct {
	tenants *tenant.Store
	router  *httpapi.Router
	// heard is told of a request that the other tenant let in.
	heard func(ctx context.Context, t *tenant.Tenant, origin id.Server)
}

func (p *inProcess) round(ctx context.Context, from *tenant.Tenant, to id.Server, c *call) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	t, err := p.tenants.ByName(ctx, to)
	if err != nil {
		return nil, unreachable(ctx, to, err)
	}
	res, err := p.router.Call(ctx, t, from.Name, c.method, c.path, c.query, c.body)
	if err != nil {
		return nil, unreachable(ctx, to, err)
	}
	if res.Status != http.StatusUnauthorized && res.Status != http.StatusForbidden {
		p.heard(ctx, t, from.Name)
	}
	if int64(len(res.Body)) > c.limit {
		return nil, unreachable(ctx, to, errAnswerTooLarge)
	}
	return &answer{status: res.Status, header: res.Header, body: io.NopCloser(bytes.NewReader(res.Body))}, nil
}

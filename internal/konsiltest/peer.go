// SPDX-License-Identifier: Apache-2.0

package konsiltest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/foundation/httpapi/spectest"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/signing"
	"github.com/konsil-health/konsil/internal/server/authority"
)

// Peer is a server of a test's own making behind a real TLS listener: it publishes its key, answers what it was told to and asks what a test lets it.
// Whatever our nodes ask it must fit the specification.
type Peer struct {
	Name string

	t       testing.TB
	key     ed25519.PrivateKey
	ca      *authority.Authority
	caFile  string
	front   *httptest.Server
	clients map[string]*http.Client // by the server that is asked

	mu      sync.Mutex
	answers map[string]http.HandlerFunc // by method and a part of the path
	asked   []Passage
}

// peerKey is the id of a peer's only key.
const peerKey = "ed25519:peer"

// NewPeer starts a server of that name. [Peer.Known] must be among what configures the cells that shall find it.
func NewPeer(t testing.TB, name string) *Peer {
	t.Helper()
	p := &Peer{Name: name, t: t, clients: map[string]*http.Client{}, answers: map[string]http.HandlerFunc{}}
	var err error
	if _, p.key, err = ed25519.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	if p.ca, err = authority.New(); err != nil {
		t.Fatal(err)
	}
	p.caFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(p.caFile, p.ca.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	certificate, key, err := p.ca.Issue(name)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	p.front = httptest.NewUnstartedServer(spectest.Requests(t, http.HandlerFunc(p.serve)))
	p.front.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	p.front.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	p.front.StartTLS()
	t.Cleanup(p.front.Close)
	return p
}

// Known tells a cell where the peer is; it goes into [Spec.Configure].
func (p *Peer) Known(c *config.Config) {
	c.Federation.Resolve[p.Name] = config.Resolve{Address: p.front.Listener.Addr().String(), CA: p.caFile}
}

// On sets what a method on paths with that part in them is answered; anything else but the keys is unknown. A nil answer forgets it.
func (p *Peer) On(method, part string, h http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers[method+" "+part] = h
}

// Asked counts the requests with that method and part of the path.
func (p *Peer) Asked(method, part string) (n int) {
	for _, a := range p.Passages() {
		if a.Method == method && strings.Contains(a.Path, part) {
			n++
		}
	}
	return n
}

// Passages are the requests that the peer has answered.
func (p *Peer) Passages() []Passage {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Passage(nil), p.asked...)
}

func (p *Peer) serve(w http.ResponseWriter, r *http.Request) {
	h := p.answer(r)
	answer := &statusWriter{ResponseWriter: w, status: http.StatusOK}
	h(answer, r)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, Passage{To: p.Name, Method: r.Method, Path: r.URL.EscapedPath(), ByKonsil: strings.HasPrefix(r.UserAgent(), "Konsil/"), Status: answer.status})
}

// answer finds what a request is answered with.
func (p *Peer) answer(r *http.Request) http.HandlerFunc {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, h := range p.answers {
		method, part, _ := strings.Cut(key, " ")
		if h != nil && method == r.Method && strings.Contains(r.URL.EscapedPath(), part) {
			return h
		}
	}
	if r.URL.Path == "/_matrix/key/v2/server" {
		return func(w http.ResponseWriter, _ *http.Request) { w.Write(p.Keys()) } //nolint:errcheck // the test sees the missing answer
	}
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `{"errcode":"M_UNRECOGNIZED","error":"The script has no answer to that."}`) //nolint:errcheck // as above
	}
}

// JSON answers with a value.
func JSON(v any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(v) //nolint:errcheck // the test sees the missing answer
	}
}

// Keys is what the peer publishes about its key.
func (p *Peer) Keys() []byte {
	return p.Sign(map[string]any{"server_name": p.Name, "valid_until_ts": time.Now().Add(time.Hour).UnixMilli(), "old_verify_keys": map[string]any{},
		"verify_keys": map[string]any{peerKey: map[string]any{"key": p.PublicKey()}}})
}

// PublicKey is the peer's verifying key in base64.
func (p *Peer) PublicKey() string { return signing.Encode(p.key.Public().(ed25519.PublicKey)) }

// Sign signs a JSON object as the peer.
func (p *Peer) Sign(object any) []byte {
	p.t.Helper()
	raw, err := json.Marshal(object)
	if err == nil {
		raw, err = signing.SignJSON(raw, p.Name, peerKey, p.key)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return raw
}

// Build makes an event of one of the peer's users, signed.
func (p *Peer) Build(d event.Draft) *event.Event {
	p.t.Helper()
	e, err := d.Build(id.Server(p.Name), peerKey, p.key)
	if err != nil {
		p.t.Fatal(err)
	}
	return e
}

// Ask sends a signed request to a tenant of a cell and returns status and answer. body is any JSON value, nil for none.
func (p *Peer) Ask(n *Network, c *Cell, to, method, uri string, body any) (int, []byte) {
	p.t.Helper()
	signed := map[string]any{"method": method, "uri": uri, "origin": p.Name, "destination": to}
	var raw []byte
	if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			p.t.Fatal(err)
		}
		signed["content"] = json.RawMessage(raw)
	}
	var with struct {
		Signatures map[string]map[string]string `json:"signatures"`
	}
	if err := json.Unmarshal(p.Sign(signed), &with); err != nil {
		p.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(p.t.Context(), method, "https://"+c.FederationAddress()+uri, bytes.NewReader(raw))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Host = to
	req.Header.Set("User-Agent", "a scripted peer")
	req.Header.Set("Authorization", `X-Matrix origin="`+p.Name+`",destination="`+to+`",key="`+peerKey+`",sig="`+with.Signatures[p.Name][peerKey]+`"`)
	if raw != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := p.client(n, to).Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // it has been read
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return res.StatusCode, answer
}

func (p *Peer) client(n *Network, to string) *http.Client {
	if p.clients[to] == nil {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: n.Roots(), ServerName: to}}
		p.t.Cleanup(transport.CloseIdleConnections)
		p.clients[to] = &http.Client{Transport: transport}
	}
	return p.clients[to]
}

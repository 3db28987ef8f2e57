// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/signing"
)

// scripted is a server of the test's own making behind a real TLS listener: it publishes its key and otherwise does what the script says.
type scripted struct {
	t       testing.TB
	name    id.Server
	keyID   id.KeyID
	private ed25519.PrivateKey
	front   *httptest.Server
	roots   *x509.CertPool
	written atomic.Int64 // bytes of bodies that the listener has taken
	client  *http.Client

	mu     sync.Mutex
	script http.HandlerFunc // nil: 404
	keys   http.HandlerFunc // nil: its own key
	asked  []string         // method and path of each request
}

func newScripted(t testing.TB, ca *authority, name id.Server) *scripted {
	t.Helper()
	s := &scripted{t: t, name: name, keyID: "ed25519:s", roots: ca.pool}
	var err error
	if _, s.private, err = ed25519.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	s.front = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.front.TLS = &tls.Config{Certificates: []tls.Certificate{ca.issue(t, string(name))}}
	s.front.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.front.StartTLS()
	t.Cleanup(func() {
		s.front.CloseClientConnections()
		s.front.Close()
	})
	s.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.pool}}}
	t.Cleanup(s.client.CloseIdleConnections)
	return s
}

// override is how others find it.
func (s *scripted) override() Override {
	return Override{Address: s.front.Listener.Addr().String(), Roots: s.roots}
}

// plays sets what it answers from now on.
func (s *scripted) plays(h http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = h
}

// playsKeys sets what its key endpoint answers.
func (s *scripted) playsKeys(h http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = h
}

// requests counts those whose path contains a text.
func (s *scripted) requests(part string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.asked {
		if strings.Contains(a, part) {
			n++
		}
	}
	return n
}

// counted counts what is written to it.
type counted struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c counted) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

func (c counted) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (s *scripted) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked = append(s.asked, r.Method+" "+r.URL.EscapedPath())
	script, keys := s.script, s.keys
	s.mu.Unlock()
	w = counted{w, &s.written}
	w.Header().Set("Content-Type", "application/json")
	if strings.HasPrefix(r.URL.Path, "/_matrix/key/v2/server") {
		if keys != nil {
			keys(w, r)
			return
		}
		w.Write(s.ownKeys(time.Now().Add(time.Hour))) //nolint:errcheck // the test sees the missing answer
		return
	}
	if script == nil {
		http.NotFound(w, r)
		return
	}
	script(w, r)
}

// ownKeys is its signed answer about its key.
func (s *scripted) ownKeys(until time.Time) []byte {
	raw := fmt.Sprintf(`{"server_name":%q,"valid_until_ts":%d,"verify_keys":{%q:{"key":%q}},"old_verify_keys":{}}`,
		s.name, until.UnixMilli(), s.keyID, signing.Encode(s.private.Public().(ed25519.PublicKey)))
	signed, err := signing.SignJSON([]byte(raw), string(s.name), s.keyID, s.private)
	if err != nil {
		s.t.Error(err)
	}
	return signed
}

// request makes a signed request to a server of the test, whose body need not be JSON.
func (s *scripted) request(to *server, method, uri string, body []byte) *http.Request {
	s.t.Helper()
	signedBody := body
	if !jsontext.Value(body).IsValid() {
		signedBody = nil
	}
	object, err := signedRequest(method, uri, s.name, to.me.Name, signedBody)
	if err != nil {
		s.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(s.t.Context(), method, "https://"+to.front.address()+uri, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Host = string(to.me.Name)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", credentials{s.name, to.me.Name, s.keyID, signing.Encode(ed25519.Sign(s.private, object))}.String())
	return req
}

// sends does a signed request and returns status, errcode and body.
func (s *scripted) sends(to *server, method, uri string, body []byte) (int, string, []byte) {
	s.t.Helper()
	return s.does(to, s.request(to, method, uri, body))
}

// hungUp stands for the status when the connection was closed while we were sending: an answer that comes before the end of a large body can be lost.
const hungUp = 0

func (s *scripted) does(to *server, req *http.Request) (int, string, []byte) {
	s.t.Helper()
	client := s.client.Transport.(*http.Transport)
	client.TLSClientConfig.ServerName = string(to.me.Name)
	resp, err := s.client.Do(req)
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return hungUp, "", nil
	}
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	var doc struct {
		Code string `json:"errcode"`
	}
	if err := json.Unmarshal(raw, &doc, decodeOptions); err != nil {
		s.t.Errorf("no JSON: %.200s", raw)
	}
	return resp.StatusCode, doc.Code, raw
}

// transaction sends PDUs as they are and returns the answer to them.
func (s *scripted) transaction(to *server, txn string, pdus ...[]byte) []byte {
	s.t.Helper()
	body := fmt.Appendf(nil, `{"origin":%q,"origin_server_ts":1,"pdus":[%s],"edus":[]}`, s.name, bytes.Join(pdus, []byte(",")))
	status, code, raw := s.sends(to, http.MethodPut, v1+"/send/"+txn, body)
	if status != http.StatusOK {
		s.t.Fatalf("transaction %s: %d %s", txn, status, code)
	}
	return raw
}

// build makes an event of one of its users, signed.
func (s *scripted) build(d event.Draft) *event.Event {
	s.t.Helper()
	e, err := d.Build(s.name, s.keyID, s.private)
	if err != nil {
		s.t.Fatal(err)
	}
	return e
}

// leakFree runs f and then waits until no goroutine that it started is left.
func leakFree(t *testing.T, f func()) {
	t.Helper()
	label := t.Name()
	pprof.Do(context.Background(), pprof.Labels("leak", label), func(context.Context) { f() })
	deadline := time.Now().Add(20 * time.Second)
	for {
		var b strings.Builder
		if err := pprof.Lookup("goroutine").WriteTo(&b, 1); err != nil {
			t.Fatal(err)
		}
		left := 0
		var where string
		for _, part := range strings.Split(b.String(), "\n\n") {
			if strings.Contains(part, fmt.Sprintf(`"leak":%q`, label)) {
				left++
				where = part
			}
		}
		if left == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d kinds of goroutines are left, one of them:\n%s", left, where)
		}
		time.Sleep(10 * time.Millisecond) // a condition that nobody announces
	}
}

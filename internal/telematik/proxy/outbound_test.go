// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/konsil-health/konsil/internal/homeserver/federation"
	"github.com/konsil-health/konsil/internal/konsiltest"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/server/authority"
	"github.com/konsil-health/konsil/internal/telematik/permission"
	"github.com/konsil-health/konsil/internal/telematik/proxy"
)

// finder knows delegations by heart.
type finder map[id.Server]string

func (f finder) CertificateName(_ context.Context, server id.Server) (string, error) {
	if to, ok := f[server]; ok {
		return to, nil
	}
	return string(server), nil
}

func (f finder) Delegation(_ context.Context, host string) id.Server {
	if to, ok := f[id.Server(host)]; ok {
		return id.Server(to + ":443")
	}
	return ""
}

// world is what a homeserver behind a forward proxy can reach: one machine that has all names, and answers with the one it was asked as.
type world struct {
	*testing.T
	out     *proxy.Outbound
	client  *http.Client // the homeserver's
	reached atomic.Int64
}

// newWorld starts a forward proxy for praxis.test. address, if any, is a machine that klinik.test is on.
func newWorld(t *testing.T, list *list, klinik *federation.Override) *world {
	t.Helper()
	w := &world{T: t}
	outside, local := newCA(t), newCA(t)
	machine := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.reached.Add(1)
		if _, err := io.Copy(rw, io.MultiReader(strings.NewReader(r.Host+" "+r.RequestURI+" "), r.Body)); err != nil {
			return
		}
	}))
	names := []string{"klinik.test", "kasse.test", "fremd.test", "matrix.klinik.test", "push.test", "idp.test"}
	machine.TLS = &tls.Config{Certificates: []tls.Certificate{*issue(t, outside, names...)}}
	machine.StartTLS()
	t.Cleanup(machine.Close)
	resolve := map[id.Server]federation.Override{}
	for _, name := range names {
		resolve[id.Server(name)] = federation.Override{Address: machine.Listener.Addr().String()}
	}
	if klinik != nil {
		resolve["klinik.test"] = *klinik
	}
	log := slog.New(slog.DiscardHandler)
	rules := permission.New(permission.Options{Members: list, Log: log})
	dial := (&net.Dialer{}).DialContext
	var err error
	w.out, err = proxy.NewOutbound(proxy.OutboundOptions{Rules: rules, Tenants: serversBehind[:1], Finder: finder{"klinik.test": "matrix.klinik.test"}, Dial: dial, DialAny: dial, Resolve: resolve,
		Roots: outside.Pool(), PushGateways: []string{"https://push.test/_matrix/push/v1/notify"}, SSOHosts: []string{"idp.test:8443"}, Log: log,
		Certificate: func(host string) (*tls.Certificate, error) { return issue(t, local, host), nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.out.Close(); err != nil {
			t.Error(err)
		}
	})
	front := httptest.NewServer(w.out)
	t.Cleanup(front.Close)
	at, err := url.Parse(front.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{Proxy: http.ProxyURL(at), TLSClientConfig: &tls.Config{RootCAs: local.Pool()}}
	t.Cleanup(transport.CloseIdleConnections)
	w.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return w
}

func newCA(t *testing.T) *authority.Authority {
	t.Helper()
	ca, err := authority.New()
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issue(t *testing.T, ca *authority.Authority, hosts ...string) *tls.Certificate {
	t.Helper()
	chain, key, err := ca.Issue(hosts...)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		t.Fatal(err)
	}
	return &pair
}

// ask sends a request as the homeserver does.
func (w *world) ask(method, address, host, from, to, body string) (int, string) {
	w.Helper()
	r, err := http.NewRequestWithContext(w.Context(), method, address, strings.NewReader(body))
	if err != nil {
		w.Fatal(err)
	}
	if host != "" {
		r.Host = host
	}
	if from != "" {
		r.Header.Set("Authorization", fmt.Sprintf(`X-Matrix origin="%s",destination="%s",key="ed25519:1",sig="AAAA"`, from, to))
	}
	res, err := w.client.Do(r)
	if err != nil {
		w.Fatalf("%s %s: %v", method, address, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		w.Fatal(err)
	}
	return res.StatusCode, string(text)
}

// TestOutbound: members of the list, push gateways and identity providers are reached; everything else is 404, and nothing of it leaves.
//
// Requirements: AF_10064-02, A_25534.
func TestOutbound(t *testing.T) {
	t.Parallel()
	list := members()
	w := newWorld(t, list, nil)
	const event, push = "/_matrix/federation/v1/event/%24x", "/_matrix/push/v1/notify"
	for _, c := range []struct {
		name, method, address, host, from, to string
		stale                                 bool
		ok                                    bool
	}{
		{"member", "GET", "https://kasse.test:8448" + event, "", "praxis.test", "kasse.test", false, true},
		{"member by a port of its own", "PUT", "https://kasse.test:1234/_matrix/federation/v1/send/1?x=%20", "", "praxis.test", "kasse.test", false, true},
		{"unlisted", "GET", "https://fremd.test:8448" + event, "", "praxis.test", "fremd.test", false, false},
		{"unlisted host under a member's name", "GET", "https://fremd.test:8448" + event, "", "praxis.test", "kasse.test", false, false},
		{"unlisted host under a member's Host", "GET", "https://fremd.test:8448" + event, "kasse.test", "praxis.test", "kasse.test", false, false},
		{"from somebody else", "GET", "https://kasse.test:8448" + event, "", "labor.test", "kasse.test", false, false},
		{"old list", "GET", "https://kasse.test:8448" + event, "", "praxis.test", "kasse.test", true, false},
		{"keys of a member", "GET", "https://kasse.test:8448/_matrix/key/v2/server", "", "", "", false, true},
		{"keys of an unlisted server", "GET", "https://fremd.test:8448/_matrix/key/v2/server", "", "", "", false, false},
		{"keys of a delegate that nobody has met", "GET", "https://matrix.klinik.test/_matrix/key/v2/server", "", "", "", false, false},
		{"delegate of a member", "GET", "https://matrix.klinik.test" + event, "", "praxis.test", "klinik.test", false, true},
		{"keys of that delegate", "GET", "https://matrix.klinik.test/_matrix/key/v2/server", "", "", "", false, true},
		{"keys of that delegate, old list", "GET", "https://matrix.klinik.test/_matrix/key/v2/server", "", "", "", true, false},
		{"another member's delegate", "GET", "https://matrix.klinik.test" + event, "", "praxis.test", "kasse.test", false, false},
		{"older media of a member", "GET", "https://kasse.test:8448/_matrix/media/v3/download/kasse.test/abc", "", "", "", false, true},
		{"older media of somebody else", "GET", "https://kasse.test:8448/_matrix/media/v3/download/fremd.test/abc", "", "", "", false, false},
		{"push", "POST", "https://push.test" + push, "", "", "", false, true},
		{"push while the list is old", "POST", "https://push.test" + push, "", "", "", true, true},
		{"another path there", "POST", "https://push.test/_matrix/push/v1/other", "", "", "", false, false},
		{"another method there", "GET", "https://push.test" + push, "", "", "", false, false},
		{"another port there", "POST", "https://push.test:8443" + push, "", "", "", false, false},
		{"push of somebody else", "POST", "https://fremd.test" + push, "", "", "", false, false},
		{"identity provider", "GET", "https://idp.test:8443/.well-known/openid-configuration?x=1", "", "", "", false, true},
		{"its other port", "GET", "https://idp.test/.well-known/openid-configuration", "", "", "", false, false},
		{"clients' paths of a member", "GET", "https://kasse.test:8448/_matrix/client/v3/sync", "", "", "", false, false},
		{"a way up", "GET", "https://kasse.test:8448/_matrix/key/%2e%2e/%2e%2e/x", "", "", "", false, false},
		{"the internet", "GET", "https://fremd.test/", "", "", "", false, false},
		{"unencrypted", "GET", "http://kasse.test/_matrix/key/v2/server", "", "", "", false, false},
	} {
		list.stale.Store(c.stale)
		before := w.reached.Load()
		status, text := w.ask(c.method, c.address, c.host, c.from, c.to, "body")
		_, uri, _ := strings.Cut(strings.TrimPrefix(c.address, "https://"), "/")
		switch {
		case c.ok && (status != 200 || !strings.HasSuffix(text, " /"+uri+" body") || w.reached.Load() != before+1):
			t.Errorf("%s: %d %s", c.name, status, text)
		case !c.ok && (status != 404 || !strings.Contains(text, "M_NOT_FOUND") || w.reached.Load() != before):
			t.Errorf("%s: %d %s", c.name, status, text)
		}
	}
}

// TestWellKnown: the proxy answers itself where a member is, and remembers it for requests that name nobody.
func TestWellKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, members(), nil)
	const keys = "https://matrix.klinik.test/_matrix/key/v2/server"
	if status, _ := w.ask("GET", keys, "", "", "", ""); status != 404 {
		t.Errorf("before: %d", status)
	}
	for host, want := range map[string]int{"klinik.test": 200, "kasse.test": 404, "fremd.test": 404, "klinik.test:8448": 404} {
		status, text := w.ask("GET", "https://"+host+"/.well-known/matrix/server", "", "", "", "")
		if status != want || status == 200 && text != `{"m.server":"matrix.klinik.test:443"}` {
			t.Errorf("%s: %d %s", host, status, text)
		}
	}
	if status, _ := w.ask("GET", keys, "", "", "", ""); status != 200 {
		t.Errorf("afterwards: %d", status)
	}
	if w.reached.Load() != 1 {
		t.Errorf("%d requests left", w.reached.Load())
	}
}

// TestMet: a member that sends something is known from then on.
func TestMet(t *testing.T) {
	t.Parallel()
	w := newWorld(t, members(), nil)
	w.out.Met(t.Context(), "klinik.test")
	if status, _ := w.ask("GET", "https://matrix.klinik.test/_matrix/key/v2/server", "", "", "", ""); status != 200 {
		t.Errorf("%d", status)
	}
}

// TestOutboundReachesKonsil: a homeserver of another cell is asked through the proxy, over real TLS on both sides.
func TestOutboundReachesKonsil(t *testing.T) {
	t.Parallel()
	n := konsiltest.New(t, konsiltest.Spec{Tenants: []string{"klinik.test"}})
	w := newWorld(t, members(), &federation.Override{Address: n.Cell(0).FederationAddress(), Roots: n.Roots()})
	status, text := w.ask("GET", "https://klinik.test:8448/_matrix/key/v2/server", "", "", "", "")
	var keys struct {
		Name string `json:"server_name"`
	}
	if err := json.Unmarshal([]byte(text), &keys); err != nil || status != 200 || keys.Name != "klinik.test" {
		t.Errorf("%d %s %v", status, text, err)
	}
}

// TestUpstreamCertificate: a host that cannot prove its name gets nothing.
func TestUpstreamCertificate(t *testing.T) {
	t.Parallel()
	wrong := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(wrong.Close)
	w := newWorld(t, members(), &federation.Override{Address: wrong.Listener.Addr().String()})
	if status, text := w.ask("GET", "https://klinik.test:8448/_matrix/key/v2/server", "", "", "", ""); status != 502 || !strings.Contains(text, "M_CONNECTION_FAILED") {
		t.Errorf("%d %s", status, text)
	}
}

// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/matrix/id"
)

// web answers well-known requests from memory.
type web map[string]func() (*http.Response, error)

func (w web) RoundTrip(r *http.Request) (*http.Response, error) {
	if answer, ok := w[r.URL.String()]; ok {
		return answer()
	}
	return nil, errors.New("connection refused")
}

func page(status int, body string, header ...string) func() (*http.Response, error) {
	return func() (*http.Response, error) {
		rec := &http.Response{StatusCode: status, Header: http.Header{}, Body: nopBody{strings.NewReader(body)}}
		for i := 0; i < len(header); i += 2 {
			rec.Header.Set(header[i], header[i+1])
		}
		return rec, nil
	}
}

type nopBody struct{ *strings.Reader }

func (nopBody) Close() error { return nil }

// zone answers service records from memory, counting the questions.
type zone struct {
	records map[string][]*net.SRV
	err     error
	asked   int
}

func (z *zone) LookupSRV(_ context.Context, service, _, name string) (string, []*net.SRV, error) {
	if service == "matrix-fed" { // both are asked at once; count once
		z.asked++
	}
	if r := z.records[service+"."+name]; r != nil {
		return name, r, nil
	}
	if z.err != nil {
		return "", nil, z.err
	}
	return "", nil, &net.DNSError{Err: "no such host", IsNotFound: true}
}

func testResolver(w web, z *zone) *resolver {
	c := Config{Resolve: map[id.Server]Override{"pinned.example": {Address: "127.0.0.1:9"}}}.withDefaults()
	r := newResolver(&c, time.Now)
	r.wellKnown.Transport = w
	r.dns = z
	return r
}

func TestDiscovery(t *testing.T) {
	t.Parallel()
	wk := func(host string) string { return "https://" + host + "/.well-known/matrix/server" }
	w := web{
		wk("plain.example"):               page(200, `{"m.server":"hs.plain.example"}`),
		wk("port.example"):                page(200, `{"m.server":"hs.port.example:443","more":1}`),
		wk("literal.example"):             page(200, `{"m.server":"192.0.2.7"}`),
		wk("six.example"):                 page(200, `{"m.server":"[2001:db8::7]:99"}`),
		wk("srv.example"):                 page(200, `{"m.server":"hs.srv.example"}`),
		wk("broken.example"):              page(200, `{"m.server":`),
		wk("wrong.example"):               page(200, `{"m.server":"not a name"}`),
		wk("gone.example"):                page(404, `{"m.server":"hs.gone.example"}`),
		wk("huge.example"):                page(200, `{"m.server":"hs.huge.example","x":"`+strings.Repeat("x", wellKnownMaxBytes)+`"}`),
		wk("hop.example"):                 page(302, "", "Location", "https://elsewhere.example/there"),
		"https://elsewhere.example/there": page(200, `{"m.server":"hs.hop.example:1"}`),
		wk("loop.example"):                page(302, "", "Location", wk("loop.example")),
		wk("http.example"):                page(302, "", "Location", "http://http.example/"),
	}
	z := &zone{records: map[string][]*net.SRV{
		"matrix-fed.hs.srv.example": {{Target: "one.srv.example.", Port: 1}, {Target: "two.srv.example.", Port: 2}},
		"matrix.hs.srv.example":     {{Target: "old.srv.example.", Port: 3}},
		"matrix.gone.example":       {{Target: "old.gone.example.", Port: 4}},
		"matrix-fed.off.example":    {{Target: "."}},
	}}
	for server, want := range map[id.Server]target{
		"192.0.2.1":        {host: "192.0.2.1", name: "192.0.2.1", addrs: []string{"192.0.2.1:8448"}},
		"192.0.2.1:99":     {host: "192.0.2.1:99", name: "192.0.2.1", addrs: []string{"192.0.2.1:99"}},
		"[2001:db8::1]":    {host: "[2001:db8::1]", name: "2001:db8::1", addrs: []string{"[2001:db8::1]:8448"}},
		"[2001:db8::1]:99": {host: "[2001:db8::1]:99", name: "2001:db8::1", addrs: []string{"[2001:db8::1]:99"}},
		"a.example:99":     {host: "a.example:99", name: "a.example", addrs: []string{"a.example:99"}},
		"hs1":              {host: "hs1", name: "hs1", addrs: []string{"hs1:8448"}},
		"plain.example":    {host: "hs.plain.example", name: "hs.plain.example", addrs: []string{"hs.plain.example:8448"}},
		"port.example":     {host: "hs.port.example:443", name: "hs.port.example", addrs: []string{"hs.port.example:443"}},
		"literal.example":  {host: "192.0.2.7", name: "192.0.2.7", addrs: []string{"192.0.2.7:8448"}},
		"six.example":      {host: "[2001:db8::7]:99", name: "2001:db8::7", addrs: []string{"[2001:db8::7]:99"}},
		"srv.example":      {host: "hs.srv.example", name: "hs.srv.example", addrs: []string{"one.srv.example:1", "two.srv.example:2"}},
		"broken.example":   {host: "broken.example", name: "broken.example", addrs: []string{"broken.example:8448"}},
		"wrong.example":    {host: "wrong.example", name: "wrong.example", addrs: []string{"wrong.example:8448"}},
		"gone.example":     {host: "gone.example", name: "gone.example", addrs: []string{"old.gone.example:4"}},
		"huge.example":     {host: "huge.example", name: "huge.example", addrs: []string{"huge.example:8448"}},
		"hop.example":      {host: "hs.hop.example:1", name: "hs.hop.example", addrs: []string{"hs.hop.example:1"}},
		"loop.example":     {host: "loop.example", name: "loop.example", addrs: []string{"loop.example:8448"}},
		"http.example":     {host: "http.example", name: "http.example", addrs: []string{"http.example:8448"}},
		"pinned.example":   {host: "pinned.example", name: "pinned.example", addrs: []string{"127.0.0.1:9"}, trusted: true},
	} {
		got, err := testResolver(w, z).resolve(t.Context(), server)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", server, got, err, want)
		}
	}
	if _, err := testResolver(w, z).resolve(t.Context(), "off.example"); !errors.Is(err, errNoService) {
		t.Errorf("a service that is declared absent: %v", err)
	}
}

// TestDiscoveryIsCached: one delegation is fetched once while it holds, errors too; without a name server service records are left alone.
func TestDiscoveryIsCached(t *testing.T) {
	t.Parallel()
	fetched := 0
	w := web{"https://a.example/.well-known/matrix/server": func() (*http.Response, error) {
		fetched++
		return page(200, `{"m.server":"hs.a.example:1"}`, "Cache-Control", "public, max-age=600")()
	}}
	z := &zone{err: &net.DNSError{Err: "timeout", IsTimeout: true}}
	r := testResolver(w, z)
	now := time.Unix(1_800_000_000, 0)
	r.now = func() time.Time { return now }
	for range 3 {
		if _, err := r.resolve(t.Context(), "a.example"); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(599 * time.Second)
	if _, err := r.resolve(t.Context(), "a.example"); err != nil || fetched != 1 {
		t.Fatalf("fetched %d times, %v", fetched, err)
	}
	now = now.Add(resolveTTL)
	if _, err := r.resolve(t.Context(), "a.example"); err != nil || fetched != 2 {
		t.Fatalf("fetched %d times after the delegation has run out, %v", fetched, err)
	}
	for _, server := range []id.Server{"b.example", "c.example", "d.example"} {
		if got, err := r.resolve(t.Context(), server); err != nil || len(got.addrs) != 1 {
			t.Fatalf("%s: %+v, %v", server, got, err)
		}
	}
	if z.asked != 1 {
		t.Errorf("a silent name server was asked %d times", z.asked)
	}
}

func TestCacheTime(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	for value, want := range map[string]time.Duration{
		"":                        wellKnownDefault,
		"max-age=7200":            2 * time.Hour,
		"no-store":                wellKnownLeast,
		"private, Max-Age=\"60\"": time.Minute,
		"max-age=99999999999":     wellKnownMost,
		"max-age=-1":              wellKnownDefault,
		"max-age=soon":            wellKnownDefault,
	} {
		h := http.Header{}
		h.Set("Cache-Control", value)
		if got := cacheTime(h, now); got != want {
			t.Errorf("%q: %v", value, got)
		}
	}
	h := http.Header{}
	h.Set("Expires", now.Add(3*time.Hour).UTC().Format(http.TimeFormat))
	if got := cacheTime(h, now); got != 3*time.Hour {
		t.Errorf("Expires: %v", got)
	}
}

func FuzzWellKnown(f *testing.F) {
	f.Add([]byte(`{"m.server":"hs.example:443"}`))
	f.Add([]byte(`{"m.server":"[::1]"}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		server, err := parseWellKnown(body)
		if err != nil {
			return
		}
		if _, err := url.Parse("https://" + poolHost(server) + "/"); err != nil {
			t.Fatalf("%q: %v", server, err)
		}
		if _, err := serverOf(poolHost(server)); err != nil {
			t.Fatalf("%q: %v", server, err)
		}
	})
}

func TestPublicAddress(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"8.8.8.8": true, "2a00:1450::1": true, "::ffff:8.8.8.8": true, "64:ff9b::808:808": true,
		"127.0.0.1": false, "10.1.2.3": false, "172.20.0.1": false, "192.168.1.1": false, "169.254.169.254": false, "100.64.0.1": false,
		"0.0.0.0": false, "224.0.0.1": false, "255.255.255.255": false, "::1": false, "::": false, "fe80::1": false, "fd00::1": false,
		"::ffff:127.0.0.1": false, "64:ff9b::a00:1": false, "2002:7f00:1::": false, "ff02::1": false, "2001:db8::1": false,
	} {
		if got := publicAddress(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
}

// TestPrivateAddressesAreRefused: nothing listens on the network's inside for other people's names.
func TestPrivateAddressesAreRefused(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, c := range []struct {
		config Config
		want   bool
	}{
		{Config{}, false},
		{Config{AllowPrivate: true}, true},
		{Config{AllowPrefixes: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, true},
		{Config{AllowPrefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, false},
	} {
		c.config = c.config.withDefaults()
		conn, err := newResolver(&c.config, time.Now).dial(t.Context(), "tcp", l.Addr().String())
		if c.want != (err == nil) || !c.want && !errors.Is(err, errPrivateAddress) {
			t.Errorf("%+v: %v", c.config, err)
		}
		if conn != nil {
			conn.Close()
		}
	}
}

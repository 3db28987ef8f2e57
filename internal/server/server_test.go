// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/server/authority"
)

// configure makes a configuration in a folder of the test's own.
func configure(t *testing.T, text string) *config.Config {
	t.Helper()
	c, err := config.Load(config.Source{Environ: []string{}, Text: fmt.Appendf(nil, "data: %q\npolicy: open\n%s", t.TempDir(), text)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// run starts a node and returns it with a function that stops it and reports how it ended.
func run(t *testing.T, c *config.Config) (*Server, func() error) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	s, err := New(ctx, c, Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		stop()
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	return s, func() error {
		stop()
		return <-ended
	}
}

func get(t *testing.T, client *http.Client, url string) (int, string) {
	t.Helper()
	res, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func TestStartAndStop(t *testing.T) {
	t.Parallel()
	ca, err := authority.New()
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.IssueFiles(t.TempDir(), "hs1", "hs1", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	c := configure(t, fmt.Sprintf(`tenants: [hs1]
listeners:
  client: ["127.0.0.1:0"]
  federation: [{address: "127.0.0.1:0", certificate: %q, key: %q}]
  operator: "127.0.0.1:0"
`, cert, key))
	s, stop := run(t, c)
	client, federation, operator := s.ClientAddress(), s.FederationAddress(), s.address("operator")
	if status, body := get(t, http.DefaultClient, "http://"+client+"/_matrix/client/versions"); status != 200 || !strings.Contains(body, "v1.") {
		t.Errorf("versions: %d %s", status, body)
	}
	secure := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool()}, ForceAttemptHTTP2: true}}
	defer secure.CloseIdleConnections()
	if status, body := get(t, secure, "https://"+federation+"/_matrix/key/v2/server"); status != 200 || !strings.Contains(body, `"server_name":"hs1"`) {
		t.Errorf("keys: %d %s", status, body)
	}
	if status, body := get(t, http.DefaultClient, "http://"+operator+"/readyz"); status != 200 {
		t.Errorf("readyz: %d %s", status, body)
	}
	if status, body := get(t, http.DefaultClient, "http://"+operator+"/metrics"); status != 200 || !strings.Contains(body, "konsil_http_requests_total") {
		t.Errorf("metrics: %d", status)
	}
	if err := stop(); err != nil {
		t.Errorf("stop: %v", err)
	}

	// The same folder again: the same keys.
	again, stopAgain := run(t, c)
	defer stopAgain()
	_, before := get(t, http.DefaultClient, "http://"+again.ClientAddress()+"/_matrix/key/v2/server")
	if !strings.Contains(before, "ed25519:") {
		t.Error(before)
	}
}

func TestStopSendsLongPollsHome(t *testing.T) {
	t.Parallel()
	c := configure(t, "tenants: [hs1]\nlisteners: {client: ['127.0.0.1:0']}\nregistration: {mode: open}")
	s, stop := run(t, c)
	base := "http://" + s.ClientAddress() + "/_matrix/client/v3"
	res, err := http.Post(base+"/register", "application/json", strings.NewReader(`{"username":"x","password":"correct horse battery","auth":{"type":"m.login.dummy"}}`))
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(res.Body)
	res.Body.Close()
	_, token, _ := strings.Cut(string(b), `"access_token":"`)
	token, _, _ = strings.Cut(token, `"`)
	_, first := get(t, http.DefaultClient, base+"/sync?access_token="+token)
	_, since, _ := strings.Cut(first, `"next_batch":"`)
	since, _, _ = strings.Cut(since, `"`)
	if since == "" {
		t.Fatalf("no sync: %s", first)
	}
	answered := make(chan int, 1)
	go func() {
		res, err := http.Get(base + "/sync?timeout=600000&since=" + since + "&access_token=" + token)
		if err != nil {
			answered <- 0
			return
		}
		res.Body.Close()
		answered <- res.StatusCode
	}()
	// The poll may reach the server before or after the stop begins: it ends either way.
	if err := stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	select {
	case status := <-answered:
		if status != 200 && status != 0 { // 0: it came when nobody listened any more
			t.Errorf("the long poll was answered with %d", status)
		}
	case <-time.After(time.Minute):
		t.Error("the long poll outlived the server")
	}
}

func TestBusyPortIsAnErrorAtOnce(t *testing.T) {
	t.Parallel()
	c := configure(t, "tenants: [hs1]\nlisteners: {client: ['127.0.0.1:0']}")
	s, stop := run(t, c)
	defer stop()
	busy := configure(t, fmt.Sprintf("tenants: [hs1]\nlisteners: {client: [%q]}", s.ClientAddress()))
	if _, err := New(t.Context(), busy, Options{Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "client listener") {
		t.Errorf("busy port: %v", err)
	}
}

func TestMasterKey(t *testing.T) {
	t.Parallel()
	c := configure(t, "tenants: [hs1]")
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	first, err := masterKey(c)
	if err != nil || len(first) != 32 {
		t.Fatal(len(first), err)
	}
	if again, err := masterKey(c); err != nil || string(again) != string(first) {
		t.Error("another key at the second start", err)
	}
	if info, err := os.Stat(c.MasterKey.File); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
	if err := os.WriteFile(c.MasterKey.File, []byte("c2hvcnQ=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := masterKey(c); err == nil {
		t.Error("a short key was taken")
	}
	c.Environment, c.MasterKey.File = config.Production, filepath.Join(c.Data, "missing")
	if _, err := masterKey(c); err == nil {
		t.Error("production drew its own master key")
	}
	c.MasterKey = config.MasterKey{Value: base64.StdEncoding.EncodeToString(first)}
	if got, err := masterKey(c); err != nil || string(got) != string(first) {
		t.Error(err)
	}
}

func TestProductionRefusesDemoRoots(t *testing.T) {
	t.Parallel()
	ca, err := authority.New()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, ca.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	c := configure(t, "tenants: [hs1]")
	for _, set := range []func(){
		func() { c.CA = []string{file} },
		func() { c.CA = nil; c.Telematik.CardRoots = []string{file} },
		func() {
			c.Telematik.CardRoots = nil
			c.Federation.Resolve = map[string]config.Resolve{"x": {Address: "127.0.0.1:1", CA: file}}
		},
	} {
		set()
		c.Environment = config.Production
		if _, err := New(t.Context(), c, Options{Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "production refuses") {
			t.Errorf("production took a demonstration root: %v", err)
		}
		c.Environment = config.Demo
		if err := refuseDemoRoots(c); err != nil {
			t.Errorf("the demonstration refused its own root: %v", err)
		}
	}
}

func TestCertificateIsReadAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, err := authority.New()
	if err != nil {
		t.Fatal(err)
	}
	issue := func(changed time.Time) {
		t.Helper()
		cert, _, err := ca.IssueFiles(dir, "x", "hs1")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(cert, changed, changed); err != nil {
			t.Fatal(err)
		}
	}
	issue(time.Unix(1000, 0))
	c := &certificate{certFile: filepath.Join(dir, "x.crt"), keyFile: filepath.Join(dir, "x.key")}
	first, err := c.get(nil)
	if err != nil {
		t.Fatal(err)
	}
	issue(time.Unix(2000, 0))
	if soon, _ := c.get(nil); soon != first {
		t.Error("the files were read at every handshake")
	}
	c.looked = time.Time{}
	second, err := c.get(nil)
	if err != nil || second == first {
		t.Error("a renewed certificate was not taken up", err)
	}
	c.looked = time.Time{}
	if err := os.WriteFile(c.certFile, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if third, err := c.get(nil); err != nil || third != second {
		t.Error("a broken file ended the service", err)
	}
}

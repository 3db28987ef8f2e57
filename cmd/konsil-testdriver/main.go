// SPDX-License-Identifier: Apache-2.0

//go:build goolm

// Command konsil-testdriver serves gematik's test driver interface in front of headless clients, so that gematik's test suite can be run against a
// provider. It is a tool for tests, never part of a product: see package testdriver.
//
//	konsil-testdriver --config drivers.json
//
// The file lists the interfaces, each with its listener:
//
//	[{"listen": "127.0.0.1:8090", "certificate": "server.pem", "key": "server.key", "clients": "gematik-ca.pem",
//	  "homeserver": "praxis.example", "url": "https://matrix.praxis.example", "directory": "https://fhir-directory-ref.vzd.ti-dienste.de",
//	  "registration": "https://provider.example/registration", "kind": {"isPro": true, "isVersionThree": true, "canSendMessages": true},
//	  "accounts": [{"user": "@anna.weber:praxis.example", "password": "…"}]}]
//
// With clients only holders of a certificate of that authority may call. What needs a professional's card answers 501.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/testdriver"
)

// served is one interface of the configuration file.
type served struct {
	Listen       string                  `json:"listen"`
	Certificate  string                  `json:"certificate,omitempty"`
	Key          string                  `json:"key,omitempty"`
	Clients      string                  `json:"clients,omitempty"`
	Homeserver   string                  `json:"homeserver"`
	URL          string                  `json:"url"`
	Directory    string                  `json:"directory,omitempty"`
	Registration string                  `json:"registration,omitempty"`
	Kind         testdriver.Capabilities `json:"kind"`
	Accounts     []testdriver.Account    `json:"accounts"`
}

func main() {
	file := flag.String("config", "drivers.json", "the file that lists the interfaces")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *file); err != nil {
		fmt.Fprintln(os.Stderr, "konsil-testdriver:", err)
		os.Exit(1)
	}
}

// run serves all interfaces until the context ends or one of them fails.
func run(ctx context.Context, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var all []served
	if err := json.Unmarshal(text, &all, json.RejectUnknownMembers(true)); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan error, len(all))
	for _, s := range all {
		go func() {
			err := s.serve(ctx)
			if err != nil {
				cancel(err)
			}
			ended <- err
		}()
	}
	var errs []error
	for range all {
		errs = append(errs, <-ended)
	}
	return errors.Join(errs...)
}

// serve serves one interface until the context ends.
func (s served) serve(ctx context.Context) error {
	driver := testdriver.New(testdriver.Options{Capabilities: s.Kind, Homeserver: s.Homeserver, URL: s.URL, Directory: s.Directory, Registration: s.Registration,
		Accounts: s.Accounts, Software: "Konsil", SoftwareVersion: "0.1"})
	defer driver.Close()
	listener, err := net.Listen("tcp", s.Listen)
	if err != nil {
		return err
	}
	if s.Certificate != "" {
		if listener, err = s.secure(listener); err != nil {
			return err
		}
	}
	srv := &http.Server{Handler: driver.Handler(), ReadHeaderTimeout: 10 * time.Second}
	stopped := context.AfterFunc(ctx, func() { _ = srv.Close() }) // Serve tells
	defer stopped()
	if err := srv.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("%s: %w", s.Listen, err)
	}
	return nil
}

// secure wraps a listener in TLS, with certificates of clients where an authority for them is named.
func (s served) secure(l net.Listener) (net.Listener, error) {
	pair, err := tls.LoadX509KeyPair(s.Certificate, s.Key)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if s.Clients != "" {
		authority, err := os.ReadFile(s.Clients)
		if err != nil {
			return nil, err
		}
		c.ClientCAs, c.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		if !c.ClientCAs.AppendCertsFromPEM(authority) {
			return nil, fmt.Errorf("%s holds no certificate", s.Clients)
		}
	}
	return tls.NewListener(l, c), nil
}

// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/konsil-health/konsil/internal/admin/console"
	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/homeserver/oauth"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/server"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/directory"
	"github.com/konsil-health/konsil/internal/telematik/fedlist"
)

// Central are the central services of the demonstration: what the state runs, once for all providers, as a node of its own.
type Central struct {
	// URL is their base address on loopback.
	URL       string
	PKI       *card.PKI
	Directory *directory.Service
	List      *fedlist.Publisher

	folder string
	stop   context.CancelFunc
	ended  chan error
}

// providerToken is the secret by which the list knows a provider of the demonstration.
func providerToken(name string) string { return "demonstration-" + fold(name) }

// listURL is where the federation list is published.
func (c *Central) listURL() string {
	return c.URL + "/tim-provider-services" + config.FederationListPath
}

// startCentral boots the node of the central services in a folder.
func (n *Network) startCentral(ctx context.Context, folder, databaseURL string) (*Central, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &Central{URL: "http://" + listener.Addr().String(), folder: folder, ended: make(chan error, 1)}
	parsed, err := n.centralConfig(c, listener.Addr().String(), databaseURL)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	s, err := server.New(ctx, parsed, server.Options{Log: n.log("central"), Central: []net.Listener{listener}})
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	c.PKI, c.Directory, c.List = s.TestPKI(), s.Directory(), s.FederationList()
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.stop = stop
	go func() { c.ended <- s.Run(running) }()
	return c, nil
}

// centralConfig writes the configuration as an operator would, and reads it.
func (n *Network) centralConfig(c *Central, address, databaseURL string) (*config.Config, error) {
	ca := filepath.Join(c.folder, "authority.pem")
	if err := os.WriteFile(ca, n.authority.PEM(), 0o600); err != nil {
		return nil, err
	}
	if databaseURL == "" {
		databaseURL = "sqlite:" + filepath.Join(c.folder, "central.db")
	}
	text := fmt.Appendf(nil, `environment: demo
roles: [directory, federation_list]
data: %q
database: {url: %q}
listeners: {central: [%q]}
logging: {access: false}
telematik: {cards: %q, ocsp: "%s/ocsp"}
central:
  url: %q
  providers:
`, c.folder, databaseURL, address, c.cards(), c.URL, c.URL)
	for _, p := range Providers {
		text = fmt.Appendf(text, "    - {name: %q, token: %q}\n", p, providerToken(p))
	}
	text = append(text, "  parties:\n"...)
	for _, p := range Providers {
		text = fmt.Appendf(text, "    - {client_id: %q, redirect_uris: [%q, %q]}\n", partyID(p), n.URL+oauth.CardCallbackPath, n.URL+console.CardPath)
	}
	text = append(text, "federation:\n  resolve:\n"...)
	for _, o := range append(Cast[:len(Cast):len(Cast)], Newcomer) {
		text = fmt.Appendf(text, "    %q: {address: %q, ca: %q}\n", o.Server, n.Providers[o.Provider].federation, ca)
	}
	if err := os.WriteFile(filepath.Join(c.folder, "konsil.yaml"), text, 0o600); err != nil {
		return nil, err
	}
	parsed, err := config.Load(config.Source{Text: text, Environ: []string{}})
	if err == nil && n.o.Configure != nil {
		n.o.Configure(parsed)
	}
	return parsed, err
}

// cards is the folder of the test PKI.
func (c *Central) cards() string { return filepath.Join(c.folder, "cards") }

// listRoots are the files that the list's signer is checked against.
func (c *Central) listRoots() []string {
	return []string{filepath.Join(c.cards(), "root-ca.pem"), filepath.Join(c.cards(), "komp-ca.pem")}
}

func (c *Central) close() error {
	c.stop()
	return <-c.ended
}

// address returns where a server of the network is reached by other servers.
func (n *Network) address(name id.Server) (string, bool) {
	for _, o := range append(Cast[:len(Cast):len(Cast)], Newcomer) {
		if o.Server == name {
			return n.Providers[o.Provider].federation, true
		}
	}
	return "", false
}

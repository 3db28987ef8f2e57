// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/directory"
	"github.com/konsil-health/konsil/internal/telematik/fedlist"
)

// Central are the central services of the demonstration: what the state runs, once for all providers.
type Central struct {
	// URL is their base address on loopback.
	URL       string
	PKI       *card.PKI
	Directory *directory.Service
	List      *fedlist.Publisher

	db     *database.DB
	server *http.Server
	mux    *http.ServeMux
	roots  string // PEM file with the roots that sign the federation list
}

// listPath is where the federation list is served (I_VZD_TIM_Provider_Services).
const providerServices = "/tim-provider-services"

// startCentral opens the central services' folder and serves them on a free port. userInfo asks a homeserver whose OpenID token it is.
func startCentral(ctx context.Context, folder, databaseURL string, log *slog.Logger, userInfo func(context.Context, id.Server, string) (id.User, error)) (*Central, error) {
	c := &Central{roots: filepath.Join(folder, "list-roots.pem")}
	var err error
	if c.PKI, err = card.Open(card.Options{Folder: filepath.Join(folder, "cards")}); err != nil {
		return nil, err
	}
	if err := c.writeRoots(); err != nil {
		return nil, err
	}
	if databaseURL == "" {
		databaseURL = "sqlite:" + filepath.Join(folder, "central.db")
	}
	if c.db, err = database.Open(ctx, database.Options{URL: databaseURL}); err != nil {
		return nil, err
	}
	store := directory.NewStore(c.db, nil)
	signer, err := c.PKI.Component("federation-list", certificate.RoleDirectory)
	if err != nil {
		return nil, errors.Join(err, c.db.Close())
	}
	c.List = fedlist.NewPublisher(fedlist.PublisherOptions{DB: c.db, Signer: signer, Certificate: signer.Certificate(), Active: store.Active})
	key, err := card.TokenKey(filepath.Join(folder, "directory-token.key"))
	if err != nil {
		return nil, errors.Join(err, c.db.Close())
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, c.db.Close())
	}
	c.URL = "http://" + listener.Addr().String()
	c.Directory = directory.New(directory.Options{Store: store, Base: c.URL, TokenKey: key, UserInfo: userInfo, Member: c.member, Trust: c.PKI.Trust(), Revoked: c.PKI.Revoked, Log: log})
	c.mux = http.NewServeMux()
	c.mux.Handle(providerServices+"/", c.List.Handler(providerServices, providerOf))
	c.mux.Handle("/", c.Directory.Routes())
	c.server = &http.Server{Handler: c.mux, ReadHeaderTimeout: 10 * time.Second}
	go c.server.Serve(listener) //nolint:errcheck // it ends with Close
	return c, nil
}

// providerOf accepts the two providers, whose token in the demonstration is their name.
func providerOf(token string) (string, bool) {
	for _, p := range Providers {
		if token == p {
			return p, true
		}
	}
	return "", false
}

// member asks the list itself, of which the directory is a neighbour.
func (c *Central) member(ctx context.Context, server id.Server) (listed, insurance bool, err error) {
	domains, err := c.List.Domains(ctx, "")
	if err != nil {
		return false, false, err
	}
	for _, d := range domains {
		if d.Domain == server {
			return true, d.IsInsurance, nil
		}
	}
	return false, false, nil
}

// writeRoots writes what the federation list's signer is checked against, for the providers' configuration.
func (c *Central) writeRoots() error {
	var text []byte
	for _, cert := range append(c.PKI.Roots(), c.PKI.Authorities()...) {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.DER()})...)
	}
	return os.WriteFile(c.roots, text, 0o600)
}

func (c *Central) close() error {
	return errors.Join(c.server.Close(), c.db.Close())
}

// userInfo asks a homeserver at its federation address whose OpenID token it is (server-server API, openid/userinfo).
func userInfo(addresses func(id.Server) (string, bool), roots *tls.Config) func(context.Context, id.Server, string) (id.User, error) {
	return func(ctx context.Context, server id.Server, token string) (id.User, error) {
		address, ok := addresses(server)
		if !ok {
			return "", fmt.Errorf("%s has no address in this network", server)
		}
		own := roots.Clone()
		own.ServerName = server.Host()
		client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: own, DisableKeepAlives: true}}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/_matrix/federation/v1/openid/userinfo?access_token="+url.QueryEscape(token), nil)
		if err != nil {
			return "", err
		}
		req.Host = string(server)
		resp, err := client.Do(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		if err != nil {
			return "", err
		}
		if resp.StatusCode != http.StatusOK {
			return "", mxerror.UnknownToken.With("The OpenID token is unknown to %s.", server)
		}
		var answer struct {
			Sub id.User `json:"sub"`
		}
		return answer.Sub, json.Unmarshal(body, &answer)
	}
}

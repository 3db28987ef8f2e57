// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/konsil-health/konsil/internal/admin/console"
	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	certs "github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/contact"
	"github.com/konsil-health/konsil/internal/telematik/fedlist"
	"github.com/konsil-health/konsil/internal/telematik/permission"
)

// rules returns what the configuration's policy is: an ordinary homeserver, or the rules of the TI-Messenger over the federation list.
func (n *node) rules(ctx context.Context, c *config.Config, log *slog.Logger, data permission.AccountData, prove func(context.Context, *tenant.Tenant, string) (id.User, error)) (policy.Policy, error) {
	if c.Policy == config.PolicyOpen {
		return policy.Open{RoomVersion: c.Rooms.DefaultVersion}, nil
	}
	if c.Telematik.FederationList == "" {
		return nil, errors.New("telematik.federation_list: under policy ti the address of the federation list is needed")
	}
	if err := n.follow(ctx, c, log); err != nil {
		return nil, err
	}
	o := permission.Options{Members: n.members, AccountData: data, Log: log, ByClients: c.Telematik.PermissionCheck == config.PermissionClient,
		Blocks: func(ctx context.Context, t tenant.ID) (blocks, set bool, err error) {
			return console.BlocksByDefault(ctx, n.db, t)
		}}
	if c.Telematik.ContactManagement {
		n.contacts = contact.New(contact.Options{DB: n.db, Prove: prove})
		o.Contacts = n.contacts.Allows
	}
	return permission.New(o), nil
}

// insured says whether a server serves insured people: one of ours, or by the federation list.
func (n *node) insured(ctx context.Context, server id.Server) (bool, error) {
	t, err := n.tenants.ByName(ctx, server)
	if err == nil {
		return t.Insurance, nil
	}
	if !errors.Is(err, tenant.ErrUnknown) {
		return false, err
	}
	_, insurance, err := n.members.Member(ctx, server)
	return insurance, err
}

// follow keeps a copy of the federation list from the node's start to its end.
func (n *node) follow(ctx context.Context, c *config.Config, log *slog.Logger) error {
	trust, err := anchors(c, "telematik.list_roots", c.Telematik.ListRoots)
	if err != nil {
		return err
	}
	pool, err := roots(c.CA)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	n.learnRoots(ctx, c, client, trust, log)
	var revoked func(*certs.Certificate) error
	if c.Telematik.OCSP != "" || c.Environment == config.Production {
		revoked = n.revocation(c, client, trust, log)
	}
	n.members, err = fedlist.NewConsumer(ctx, fedlist.ConsumerOptions{DB: n.db, URL: c.Telematik.FederationList, Trust: trust, Revoked: revoked, Token: providerToken(c, client), Incident: n.listIncidents(),
		Client: client, Log: log})
	if err != nil {
		return fmt.Errorf("federation list: %w", err)
	}
	n.background(ctx, n.members.Run)
	return nil
}

// background runs a function from the node's start to its end.
func (n *node) background(ctx context.Context, run func(context.Context)) {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	started := false
	n.starts = append(n.starts, func() {
		started = true
		go func() {
			defer close(ended)
			run(running)
		}()
	})
	n.ends(func() error {
		stop()
		if started {
			<-ended
		}
		return nil
	})
}

// listIncidents counts what goes wrong with the federation list.
func (n *node) listIncidents() func(kind string) {
	counter := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "konsil_federation_list_incidents_total", Help: "Events around the federation list that need an operator, by kind."}, []string{"kind"})
	n.metrics.Registerer().MustRegister(counter)
	return func(kind string) { counter.WithLabelValues(kind).Inc() }
}

// providerToken is how this node proves which provider it is: a token of the configuration, or client credentials.
func providerToken(c *config.Config, client *http.Client) fedlist.Token {
	login := c.Telematik.ProviderLogin
	if login.TokenURL == "" {
		return fedlist.StaticToken(c.Telematik.ProviderToken)
	}
	return (&fedlist.Credentials{TokenURL: login.TokenURL, AuthenticateURL: login.AuthenticateURL, ClientID: login.ClientID, ClientSecret: login.ClientSecret, Client: client}).Token
}

// anchors reads the certificates that others' certificates are checked against, from the files of a key; test roots are refused in production.
func anchors(c *config.Config, key string, files []string) (*certs.Trust, error) {
	var anchors, between []*certs.Certificate
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		found, err := certs.ParsePEM(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", key, file, err)
		}
		if err := card.CheckEnvironment(c.Environment == config.Production, found...); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", key, file, err)
		}
		for _, cert := range found {
			if cert.X509.Subject.String() == cert.X509.Issuer.String() {
				anchors = append(anchors, cert)
			} else {
				between = append(between, cert)
			}
		}
	}
	return certs.NewTrust(anchors, between), nil
}

// Accounts gives an embedding program, such as the demo, the node's accounts.
func (s *Server) Accounts() *account.Service { return s.node.accounts }

// Tenants gives an embedding program the node's tenants.
func (s *Server) Tenants() *tenant.Store { return s.node.tenants }

// Commits tells an embedding program how much the node has written since its start.
func (s *Server) Commits() stream.Stats { return s.node.committer.Stats() }

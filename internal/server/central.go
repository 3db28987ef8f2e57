// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/keyring"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	certs "github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/homeserver/federation"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/directory"
	"github.com/konsil-health/konsil/internal/telematik/fedlist"
	"github.com/konsil-health/konsil/internal/telematik/idp"
)

// The paths of the central services below central.url, those of the real network's VZD.
const (
	listPath = "/tim-provider-services"
	idpPath  = "/idp" // of the test identity provider only
)

// central is what the roles directory and federation_list run: what a state or an association runs once for all providers.
type central struct {
	handler   http.Handler
	directory *directory.Service // nil without the role
	list      *fedlist.Publisher // nil without the role
	pki       *card.PKI          // the test PKI; nil in production
}

// wireCentral wires the central services. They share the node's database, so that the list can ask whether an organisation is active; both keep
// their data in tables that belong to no tenant.
func (n *node) wireCentral(ctx context.Context, c *config.Config, ring *keyring.Ring, log *slog.Logger) (err error) {
	n.central = &central{}
	if n.router == nil { // no homeserver: it tells addresses apart, and has no route
		proxies, err := trustedProxies(c)
		if err != nil {
			return err
		}
		n.router = httpapi.NewRouter(httpapi.Options{TrustedProxies: proxies, Log: log})
		n.stopping = func() {}
	}
	if c.Environment != config.Production {
		if n.central.pki, err = card.Open(card.Options{Folder: c.Telematik.Cards, OCSP: c.Central.URL + ocspPath}); err != nil {
			return err
		}
	}
	store := directory.NewStore(n.db, nil)
	mux := http.NewServeMux()
	if n.central.pki != nil {
		servePKI(mux, n.central.pki)
	}
	if c.HasRole(config.RoleFedList) {
		signers, err := n.central.signers(c)
		if err != nil {
			return err
		}
		n.central.list = fedlist.NewPublisher(fedlist.PublisherOptions{DB: n.db, Signers: signers, Active: store.Active, WhereIs: store.WhereIs})
		mux.Handle(listPath+"/", n.central.list.Handler(listPath, n.central.providers(c)))
	}
	if c.HasRole(config.RoleDirectory) {
		if err := n.directory(ctx, c, ring, log, store, mux); err != nil {
			return fmt.Errorf("directory: %w", err)
		}
	}
	n.central.handler = mux
	return nil
}

// directory wires the role directory.
func (n *node) directory(ctx context.Context, c *config.Config, ring *keyring.Ring, log *slog.Logger, store *directory.Store, mux *http.ServeMux) error {
	if err := store.Prepare(ctx); err != nil {
		return err
	}
	for _, file := range c.Central.Entries {
		if err := importEntries(ctx, store, file, log); err != nil {
			return err
		}
	}
	o := directory.Options{Address: func(r *http.Request) string { return n.router.Address(r).String() },
		Clients: func(provider bool, id, secret string) bool {
			if provider {
				name, ok := clientOf(c.Central.Providers, secret)
				return ok && name == id
			}
			name, ok := clientOf(c.Central.Services, secret)
			return ok && name == id
		},
		Store: store, Base: c.Central.URL, TokenKey: tokenKey(ring), StateKey: ring.Derive("directory sign-in state", 32), Log: log}
	if c.RateLimits {
		o.Limiter = limit.New(limit.Options{})
	}
	var err error
	if o.Member, err = n.memberOf(ctx, c, log); err != nil {
		return err
	}
	lookup, err := federationConfig(c)
	if err != nil {
		return err
	}
	servers := federation.NewLookup(lookup)
	n.ends(func() error { servers.Close(); return nil })
	o.UserInfo = func(ctx context.Context, server id.Server, token string) (id.User, error) {
		user, err := servers.OpenIDUser(ctx, server, token)
		if e := mxerror.From(err); e != nil && e.Code != mxerror.UnknownToken.Code {
			err = errors.New(e.Error()) // the server, not the token, is to blame
		}
		return user, err
	}
	if err := n.central.owners(ctx, c, ring, n, &o, mux); err != nil {
		return err
	}
	n.central.directory = directory.New(o)
	mux.Handle("/", n.central.directory.Routes())
	return nil
}

// owners decides by which certificates owners prove themselves: those below telematik.card_roots, or those of the test PKI, which brings an identity
// provider of its own. Test certificates are refused in production, wherever they come from.
func (s *central) owners(ctx context.Context, c *config.Config, ring *keyring.Ring, n *node, o *directory.Options, mux *http.ServeMux) (err error) {
	pool, err := roots(c.CA)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	if s.pki == nil {
		if o.Trust, err = anchors(c, "telematik.card_roots", c.Telematik.CardRoots); err != nil {
			return err
		}
		n.learnRoots(ctx, c, client, o.Trust, o.Log)
		o.Revoked = n.revocation(c, client, o.Trust, o.Log)
		return nil
	}
	o.Trust = s.pki.Trust()
	o.Revoked = n.cardRevocation(c, client, s.pki, o.Trust, o.Log)
	signer, err := s.pki.Component("idp", certs.RoleIDP)
	if err != nil {
		return err
	}
	key, err := s.pki.ComponentKey("idp", certs.RoleIDP)
	if err != nil {
		return err
	}
	const clientID = "vzd"
	parties := map[string][]string{clientID: directory.RedirectURIs(c.Central.URL)}
	for _, p := range c.Central.Parties {
		parties[p.ClientID] = p.RedirectURIs
	}
	issuer := idp.New(idp.Options{URL: c.Central.URL + idpPath, Signer: signer, Key: key, Trust: o.Trust, Revoked: o.Revoked, Used: idp.UsedIn(n.db),
		Clients: parties, Seal: ring.Derive("central identity provider codes", 32)})
	mux.Handle(idpPath+"/", issuer.Routes(idpPath))
	o.IDP = &directory.IDP{ClientID: clientID, AuthURL: c.Central.URL + idpPath + "/auth", Redeem: func(ctx context.Context, redirectURI, code, verifier string) (certs.Identity, error) {
		proof, err := issuer.Redeem(ctx, clientID, redirectURI, code, verifier)
		if err != nil {
			return certs.Identity{}, err
		}
		return proof.Identity, nil
	}}
	return nil
}

// memberOf says who is on the federation list: the list itself where it is published by this node, otherwise a copy of it.
func (n *node) memberOf(ctx context.Context, c *config.Config, log *slog.Logger) (func(context.Context, id.Server) (bool, bool, error), error) {
	if n.central.list != nil {
		return n.central.list.Member, nil
	}
	if n.members == nil {
		if err := n.follow(ctx, c, log); err != nil {
			return nil, err
		}
	}
	return n.members.Member, nil
}

// signers are what the federation list is signed with.
func (s *central) signers(c *config.Config) ([]card.Signer, error) {
	var all []card.Signer
	for i, files := range c.Central.Signers {
		signer, err := card.LoadSigner(files.Certificate, files.Key)
		if err == nil {
			err = card.CheckEnvironment(c.Environment == config.Production, signer.Certificate())
		}
		if err != nil {
			return nil, fmt.Errorf("central.signers[%d]: %w", i, err)
		}
		all = append(all, signer)
	}
	if len(all) > 0 {
		return all, nil
	}
	if s.pki == nil {
		return nil, errors.New("central.signers: production signs the federation list with a certificate of its own")
	}
	brainpool, err := s.pki.Component("federation-list", certs.RoleDirectory)
	if err != nil {
		return nil, err
	}
	nist, err := s.pki.ComponentES256("federation-list", certs.RoleDirectory)
	return []card.Signer{brainpool, nist}, err
}

// providers finds the provider of a configured token, or of a provider-accesstoken that this node's directory has made of client credentials.
func (s *central) providers(c *config.Config) fedlist.Providers {
	return func(token string) (name string, ok bool) {
		if name, ok = clientOf(c.Central.Providers, token); ok || s.directory == nil {
			return name, ok
		}
		return s.directory.Provider(token)
	}
}

// clientOf finds whose secret a text is; all are compared, so that time tells nothing.
func clientOf(clients []config.CentralProvider, secret string) (name string, ok bool) {
	for _, p := range clients {
		if subtle.ConstantTimeCompare([]byte(p.Token), []byte(secret)) == 1 {
			name, ok = p.Name, true
		}
	}
	return name, ok
}

// tokenKey is the key of the directory's access tokens, the same on all nodes that share the master key.
func tokenKey(ring *keyring.Ring) *ecdsa.PrivateKey {
	for i := 0; ; i++ { // one in four thousand million keys lies outside the curve's order
		if key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), ring.Derive("directory access tokens "+strconv.Itoa(i), 32)); err == nil {
			return key
		}
	}
}

// importEntries puts a file's resources into the directory.
func importEntries(ctx context.Context, store *directory.Store, file string, log *slog.Logger) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("central.entries: %w", err)
	}
	defer f.Close()
	stored, err := store.Import(ctx, f)
	if err != nil {
		return fmt.Errorf("central.entries: %s: %w", file, err)
	}
	log.Info("directory entries imported", "file", filepath.Base(file), "resources", stored)
	return nil
}

// Directory gives an embedding program the directory; nil without the role.
func (s *Server) Directory() *directory.Service { return s.node.central.directory }

// FederationList gives an embedding program the publisher of the federation list; nil without the role.
func (s *Server) FederationList() *fedlist.Publisher { return s.node.central.list }

// TestPKI gives an embedding program the test PKI of the central services; nil in production.
func (s *Server) TestPKI() *card.PKI { return s.node.central.pki }

// CentralAddress is ClientAddress for the first listener of the central services.
func (s *Server) CentralAddress() string { return s.address("central") }

// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/config"
	certs "github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/homeserver/oauth"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/directory"
	"github.com/konsil-health/konsil/internal/telematik/idp"
)

// cardSignIn makes the homeserver a relying party of the cards' identity provider; nil where the configuration names none.
func (n *node) cardSignIn(ctx context.Context, c *config.Config, log *slog.Logger) (*oauth.CardConfig, error) {
	if c.Telematik.IDP.Issuer == "" {
		return nil, nil
	}
	party, err := n.cardParty(ctx, c, oauth.CardCallbackPath, log)
	if err != nil {
		return nil, err
	}
	out := &oauth.CardConfig{Cards: cards{party}, Agent: strings.TrimRight(c.Telematik.IDP.Agent, "/")}
	if c.Telematik.Directory != "" {
		out.Directory = cardDirectory{&directory.OwnerClient{URL: strings.TrimRight(c.Telematik.Directory, "/"), HTTP: party.Client}}
	}
	return out, nil
}

// cardParty is a relying party of the configured identity provider, to which browsers come back at a path of this node's public address.
func (n *node) cardParty(ctx context.Context, c *config.Config, path string, log *slog.Logger) (*idp.Party, error) {
	pool, err := roots(c.CA)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	issuer := strings.TrimRight(c.Telematik.IDP.Issuer, "/")
	party := &idp.Party{Discovery: issuer + "/.well-known/openid-configuration", Issuer: issuer, ClientID: c.Telematik.IDP.ClientID,
		RedirectURI: strings.TrimRight(c.PublicURL, "/") + path, Client: client}
	party.Trust, party.Revoked, err = n.providerTrust(ctx, c, client, log)
	return party, err
}

// providerTrust is what the identity provider's own certificate is checked against: the configured roots, otherwise the test PKI.
func (n *node) providerTrust(ctx context.Context, c *config.Config, client *http.Client, log *slog.Logger) (*certs.Trust, func(*certs.Certificate) error, error) {
	if len(c.Telematik.CardRoots) == 0 {
		pki, err := card.Open(card.Options{Folder: c.Telematik.Cards, Production: c.Environment == config.Production})
		if err != nil {
			return nil, nil, err
		}
		trust := pki.Trust()
		return trust, n.cardRevocation(c, client, pki, trust, log), nil
	}
	trust, err := anchors(c, "telematik.card_roots", c.Telematik.CardRoots)
	if err != nil {
		return nil, nil, err
	}
	n.learnRoots(ctx, c, client, trust, log)
	if c.Telematik.OCSP == "" && c.Environment != config.Production {
		return trust, nil, nil
	}
	return trust, n.revocation(c, client, trust, log), nil
}

// cards gives the sign-in pages an identity provider.
type cards struct{ party *idp.Party }

var _ oauth.Cards = cards{}

// Begin implements oauth.Cards.
func (k cards) Begin(ctx context.Context, state, nonce, verifier string) (string, error) {
	return k.party.Begin(ctx, state, nonce, verifier)
}

// Redeem implements oauth.Cards.
func (k cards) Redeem(ctx context.Context, answer url.Values, verifier, nonce string) (*oauth.CardHolder, error) {
	if refused := answer.Get("error"); refused != "" {
		code, _ := strconv.Atoi(answer.Get("gematik_code")) // one that is no number says nothing
		return nil, &idp.Error{OAuth: refused, Code: code, Text: answer.Get("gematik_error_text")}
	}
	who, err := k.party.Redeem(ctx, answer.Get("code"), verifier, nonce)
	if err != nil {
		return nil, err
	}
	if who.ACR != idp.ACR {
		return nil, fmt.Errorf("%w: it vouches for acr %.50q only", idp.ErrProvider, who.ACR)
	}
	return &oauth.CardHolder{Number: who.Number, Profession: who.Profession, Institution: certs.IsInstitution(who.Profession), Person: certs.IsProfession(who.Profession),
		Organization: who.Organization, GivenName: who.GivenName, FamilyName: who.FamilyName}, nil
}

// Message implements oauth.Cards.
func (cards) Message(err error, language string) string { return idp.Message(err, language) }

// cardDirectory lets the holders of cards into the directory.
type cardDirectory struct{ owners *directory.OwnerClient }

var _ oauth.CardDirectory = cardDirectory{}

// Begin implements oauth.CardDirectory.
func (d cardDirectory) Begin(ctx context.Context) (request, challenge string, err error) {
	return d.owners.Begin(ctx)
}

// Apply implements oauth.CardDirectory.
func (d cardDirectory) Apply(ctx context.Context, request, number string, user id.User, name string, visible bool) (done bool, err error) {
	token, err := d.owners.Token(ctx, request)
	if errors.Is(err, directory.ErrPending) {
		return false, nil
	}
	if err == nil {
		err = d.owners.SetMessenger(ctx, token, number, directory.Messenger{User: user, Name: name}, visible)
	}
	if errors.Is(err, directory.ErrOtherOwner) {
		err = oauth.ErrOtherCard
	}
	return err == nil, err
}

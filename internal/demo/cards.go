// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/konsil-health/konsil/internal/browser"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/telematik/agent"
	"github.com/konsil-health/konsil/internal/telematik/idp"
)

// startAgent serves the card service with everybody's card inserted, as `konsil card agent` does on a user's own machine.
func (n *Network) startAgent() {
	issuer := n.Central.URL + "/idp"
	a := agent.New(agent.Options{
		Provider: &idp.Party{Discovery: issuer + "/.well-known/openid-configuration", Issuer: issuer, Trust: n.Central.PKI.Trust()},
		Cards: func() ([]agent.Card, error) {
			all, err := n.Central.PKI.Cards()
			cards := make([]agent.Card, len(all))
			for i, k := range all {
				cards[i] = k
			}
			return cards, err
		},
		Log: n.log("card service"),
	})
	n.agent = &http.Server{Handler: a, ReadHeaderTimeout: 10 * time.Second}
	go n.agent.Serve(n.agentListener) //nolint:errcheck // it ends with Close
}

// partyID is how the identity provider knows a provider's messenger.
func partyID(provider string) string { return "messenger-" + fold(provider) }

// appSecret is the key of the authenticator app of somebody without a card. It is no secret: the page shows the codes, so that nobody needs an app.
func appSecret(login string) string {
	sum := sha256.Sum256([]byte("konsil demonstration " + login))
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:20])
}

// appCode is what that app shows now.
func appCode(login string) string {
	code, err := account.TOTPCode(appSecret(login), time.Now())
	if err != nil {
		panic(err) // only for a secret in another form than ours
	}
	return code
}

// application is where the browser of a client waits for its login token; nothing listens there.
const application = "http://127.0.0.1:9/"

// SignIn is what somebody of the cast with a card does at a client that does not know OAuth 2.0: single sign-on in the browser, where the card service asks
// for the PIN. It returns the token with which the client signs in (m.login.token).
func (n *Network) SignIn(ctx context.Context, p Person, o Organisation) (loginToken string, err error) {
	b := browser.New("de")
	b.Stop = application
	defer b.Close()
	page, err := b.Open(ctx, n.URL+"/_matrix/client/v3/login/sso/redirect?redirectUrl="+url.QueryEscape(application))
	if err != nil {
		return "", err
	}
	if page, err = page.Press(ctx, "card", "username", "@"+p.Login()+":"+string(o.Server)); err != nil {
		return "", err
	}
	if page, err = page.Follow(ctx, n.Agent); err != nil {
		return "", err
	}
	if page, err = page.Press(ctx, "", "card", page.Choice(p.Given+" "+p.Family), "pin", PIN); err != nil {
		return "", err
	}
	if page, err = page.Press(ctx, "approve"); err != nil {
		return "", err
	}
	loginToken = page.URL.Query().Get("loginToken")
	if loginToken == "" {
		err = errors.Join(err, fmt.Errorf("sign-in of %s ends at %s: %s", p.Login(), page.URL, page.Text))
	}
	return loginToken, err
}

// Publish makes the address of somebody of the cast visible in the directory, or takes it out, as they do on the page of their account: the card signs in,
// and the card confirms it to the directory (AF_10058).
func (n *Network) Publish(ctx context.Context, p Person, o Organisation, visible bool) error {
	b := browser.New("de")
	defer b.Close()
	page, err := b.Open(ctx, n.URL+"/_matrix/account")
	if err != nil {
		return err
	}
	if page, err = page.Press(ctx, "card", "username", "@"+p.Login()+":"+string(o.Server)); err != nil {
		return err
	}
	if page, err = page.Follow(ctx, n.Agent); err != nil {
		return err
	}
	if page, err = page.Press(ctx, "", "card", page.Choice(p.Given+" "+p.Family), "pin", PIN); err != nil {
		return err
	}
	if page, err = page.Follow(ctx, "Im Verzeichnis"); err != nil {
		return err
	}
	wish := "withdraw"
	if visible {
		wish = "publish"
	}
	waiting, err := page.Press(ctx, wish)
	if err != nil {
		return err
	}
	if page, err = waiting.Follow(ctx, n.Agent); err != nil {
		return err
	}
	if page, err = page.Press(ctx, "", "card", page.Choice(p.Given+" "+p.Family), "pin", PIN); err != nil {
		return err
	}
	if page.Status != http.StatusOK {
		return fmt.Errorf("the card service: %s", page.Text)
	}
	if page, err = b.Open(ctx, waiting.URL.String()); err == nil && page.Status != http.StatusOK {
		err = fmt.Errorf("the directory: %s", page.Text)
	}
	return err
}

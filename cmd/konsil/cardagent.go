// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/konsil-health/konsil/internal/telematik/agent"
	"github.com/konsil-health/konsil/internal/telematik/card"
	"github.com/konsil-health/konsil/internal/telematik/idp"
)

type cardAgentCommand struct {
	pkiFlags
	IDP  string `name:"idp" required:"" placeholder:"URL" help:"The identity provider that the agent signs for, for example http://127.0.0.1:8010/idp. It signs for no other."`
	Port int    `default:"8770" help:"Port on 127.0.0.1."`
}

// Run serves the agent's page on loopback until the context ends.
func (c *cardAgentCommand) Run(ctx context.Context) error {
	pki, err := c.open()
	if err != nil {
		return err
	}
	issuer := strings.TrimRight(c.IDP, "/")
	a := agent.New(agent.Options{
		Provider: &idp.Party{Discovery: issuer + "/.well-known/openid-configuration", Issuer: issuer, Trust: pki.Trust()},
		Cards:    func() ([]agent.Card, error) { return insertedCards(pki) },
	})
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", c.Port))
	if err != nil {
		return err
	}
	server := &http.Server{Handler: a, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // it ends Serve below
	defer stop()
	fmt.Printf("card service on http://%s (only this machine reaches it); Ctrl+C ends it\n", listener.Addr())
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// insertedCards are all software cards of a test PKI; they are read anew, because another process may have tried a PIN.
func insertedCards(pki *card.PKI) ([]agent.Card, error) {
	all, err := pki.Cards()
	if err != nil {
		return nil, err
	}
	cards := make([]agent.Card, len(all))
	for i, k := range all {
		cards[i] = k
	}
	return cards, nil
}

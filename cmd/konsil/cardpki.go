// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/konsil-health/konsil/internal/telematik/card"
)

type cardSandboxCommand struct {
	pkiFlags
	PIN string `name:"pin" default:"123456" help:"6 to 8 digits, for all of them."`
}

// Run issues one card for each profession OID.
func (c *cardSandboxCommand) Run() error {
	pki, err := c.open()
	if err != nil {
		return err
	}
	issued, err := pki.Sandbox(c.PIN)
	if err != nil {
		return err
	}
	fmt.Println("issued", len(issued), "cards (demonstration only, not for real patients); konsil card list shows them")
	return nil
}

type cardRevokeCommand struct {
	pkiFlags
	Number string `arg:"" help:"The card's Telematik-ID, or insured number (KVNR) of an egk."`
}

// Run revokes the card.
func (c *cardRevokeCommand) Run() error {
	pki, err := c.open()
	if err != nil {
		return err
	}
	k, err := pki.Card(c.Number)
	if err != nil {
		return err
	}
	if err := pki.Revoke(k.Certificate()); err != nil {
		return err
	}
	fmt.Printf("revoked; nobody can sign in with it any more when the last OCSP answer ends, at the latest in %s\n", card.OCSPLife)
	return nil
}

type cardRotateCommand struct{ pkiFlags }

// Run makes the new root.
func (c *cardRotateCommand) Run() error {
	pki, err := c.open()
	if err != nil {
		return err
	}
	if err := pki.Rotate(); err != nil {
		return err
	}
	roots := pki.Roots()
	fmt.Println("new root:", roots[len(roots)-1].X509.Subject.CommonName)
	fmt.Println("components sign with certificates below it after their next start")
	return nil
}

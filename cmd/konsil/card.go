// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/telematik/card"
)

// cardCommand is konsil card: demonstration cards of a test PKI, and what stands in any card's certificate.
type cardCommand struct {
	Agent   cardAgentCommand   `cmd:"" help:"Run the card service on this machine: sign in in the browser with a card."`
	Issue   cardIssueCommand   `cmd:"" help:"Issue a demonstration card."`
	List    cardListCommand    `cmd:"" help:"List the cards of a test PKI."`
	Show    cardShowCommand    `cmd:"" help:"Show what a card or certificate file says, and whether it holds."`
	Sandbox cardSandboxCommand `cmd:"" help:"Issue demonstration cards for every profession and kind of institution."`
	Revoke  cardRevokeCommand  `cmd:"" help:"Revoke a demonstration card, as its issuer does when it was lost."`
	Rotate  cardRotateCommand  `cmd:"" help:"Give the test PKI a new root, joined to the old one by cross certificates."`
}

// pkiFlags say where the test PKI lies.
type pkiFlags struct {
	PKI string `name:"pki" required:"" type:"path" placeholder:"DIR" help:"Folder of the test PKI. It is made when it is not there."`
}

func (f pkiFlags) open() (*card.PKI, error) { return card.Open(card.Options{Folder: f.PKI}) }

// institutionKinds are the institutions that most people want to try; others go by their OID.
var institutionKinds = map[string]string{
	"practice": certificate.Practice, "hospital": certificate.Hospital, "pharmacy": certificate.Pharmacy,
	"care": certificate.Care, "insurer": certificate.Insurer,
}

type cardIssueCommand struct {
	pkiFlags
	Kind    string `arg:"" enum:"smcb,hba,egk" help:"smcb (an institution), hba (a health professional) or egk (an insured person)."`
	Name    string `required:"" help:"The institution's name, or given name and family name."`
	Number  string `required:"" placeholder:"ID" help:"Telematik-ID, or insured number (KVNR) of an egk."`
	Role    string `placeholder:"OID" help:"Profession OID; for smcb also practice (the default), hospital, pharmacy, care or insurer. An hba is a physician's by default."`
	Insurer string `default:"Beispielkasse" help:"For egk: the insurer's name."`
	IK      string `name:"ik" default:"109500969" help:"For egk: the insurer's number."`
	PIN     string `name:"pin" default:"123456" help:"6 to 8 digits."`
}

// Run issues the card and shows it.
func (c *cardIssueCommand) Run() error {
	pki, err := c.open()
	if err != nil {
		return err
	}
	given, family := "", c.Name
	if i := strings.LastIndexByte(c.Name, ' '); i > 0 {
		given, family = c.Name[:i], c.Name[i+1:]
	}
	var issued *card.Card
	switch c.Kind {
	case "smcb":
		role := cmp.Or(c.Role, "practice")
		if oid, ok := institutionKinds[role]; ok {
			role = oid
		}
		if !certificate.IsInstitution(role) {
			return fmt.Errorf("--role %s: no institution may carry an SMC-B with it", c.Role)
		}
		issued, err = pki.IssueSMCB(card.Institution{Name: c.Name, TelematikID: c.Number, ProfessionOID: role, PIN: c.PIN})
	case "hba":
		role := cmp.Or(c.Role, certificate.Physician)
		if !certificate.IsProfession(role) {
			return fmt.Errorf("--role %s: no person may carry an eHBA with it", c.Role)
		}
		issued, err = pki.IssueHBA(card.Person{GivenName: given, FamilyName: family, TelematikID: c.Number, ProfessionOID: role, PIN: c.PIN})
	case "egk":
		issued, err = pki.IssueEGK(card.Insured{GivenName: given, FamilyName: family, KVNR: c.Number, Insurer: c.Insurer, IK: c.IK, PIN: c.PIN})
	}
	if err != nil {
		return err
	}
	fmt.Println("issued", issued.Path(), "(demonstration only, not for real patients)")
	return show(os.Stdout, issued.Certificate(), pki.Trust())
}

type cardListCommand struct{ pkiFlags }

// Run prints one line per card.
func (c *cardListCommand) Run() error {
	pki, err := c.open()
	if err != nil {
		return err
	}
	cards, err := pki.Cards()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NUMBER\tHOLDER\tPROFESSION\tPINS LEFT")
	for _, k := range cards {
		who, err := k.Identity()
		if err != nil {
			return fmt.Errorf("%s: %w", k.Path(), err)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\n", who.Number, holder(who), certificate.ProfessionName(who.ProfessionOID), k.RetriesLeft())
	}
	return w.Flush()
}

type cardShowCommand struct {
	PKI  string `name:"pki" type:"path" placeholder:"DIR" help:"Test PKI to check the card against."`
	File string `arg:"" type:"existingfile" help:"A card's file, or a certificate in PEM or DER."`
}

// Run shows every certificate of the file.
func (c *cardShowCommand) Run() error {
	var trust *certificate.Trust
	if c.PKI != "" {
		pki, err := card.Open(card.Options{Folder: c.PKI})
		if err != nil {
			return err
		}
		trust = pki.Trust()
	}
	if k, err := card.Load(c.File); err == nil {
		return show(os.Stdout, k.Certificate(), trust)
	}
	text, err := os.ReadFile(c.File)
	if err != nil {
		return err
	}
	all, err := certificate.ParsePEM(text)
	if err != nil {
		one, derErr := certificate.Parse(text)
		if derErr != nil {
			return err
		}
		all = []*certificate.Certificate{one}
	}
	for _, one := range all {
		if err := show(os.Stdout, one, trust); err != nil {
			return err
		}
	}
	return nil
}

func holder(who certificate.Identity) string {
	if who.FamilyName != "" {
		return who.GivenName + " " + who.FamilyName
	}
	return who.Organization
}

// show prints a certificate in words. Without trust the chain is not checked.
func show(out io.Writer, c *certificate.Certificate, trust *certificate.Trust) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "subject\t%s\n", c.X509.Subject)
	fmt.Fprintf(w, "issuer\t%s\n", c.X509.Issuer)
	fmt.Fprintf(w, "type\t%s\n", c.Type())
	fmt.Fprintf(w, "valid\t%s to %s\n", c.X509.NotBefore.Format(time.DateOnly), c.X509.NotAfter.Format(time.DateOnly))
	if who, err := c.Identity(); err == nil {
		fmt.Fprintf(w, "holder\t%s\n", holder(who))
		fmt.Fprintf(w, "number\t%s\n", who.Number)
		fmt.Fprintf(w, "profession\t%s (%s)\n", certificate.ProfessionName(who.ProfessionOID), who.ProfessionOID)
	}
	switch {
	case trust == nil:
		fmt.Fprintf(w, "check\tnot checked: no PKI given\n")
	default:
		if err := trust.Check(c, certificate.Expect{At: time.Now()}); err != nil {
			fmt.Fprintf(w, "check\t%v\n", err)
		} else {
			fmt.Fprintf(w, "check\tholds\n")
		}
	}
	return w.Flush()
}

// SPDX-License-Identifier: Apache-2.0

package card_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/health/brainpool"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/telematik/card"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func open(t testing.TB, folder string) *card.PKI {
	t.Helper()
	p, err := card.Open(card.Options{Folder: folder, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func practice(id string) card.Institution {
	return card.Institution{Name: "Praxis Sonnenallee", TelematikID: id, ProfessionOID: certificate.Practice, PIN: "123456"}
}

func TestCards(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	p := open(t, folder)
	smcb, err := p.IssueSMCB(practice("1-2.58/40"))
	if err != nil {
		t.Fatal(err)
	}
	hba, err := p.IssueHBA(card.Person{GivenName: "Anna", FamilyName: "Sommer", TelematikID: "1-1.58.1", ProfessionOID: certificate.Physician, PIN: "222222"})
	if err != nil {
		t.Fatal(err)
	}
	egk, err := p.IssueEGK(card.Insured{GivenName: "Ida", FamilyName: "Muster", KVNR: "X110411675", Insurer: "Testkasse", IK: "109500969", PIN: "333333"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		c    *card.Card
		kind certificate.Type
		id   string
		pin  string
	}{{smcb, certificate.InstitutionAUT, "1-2.58/40", "123456"}, {hba, certificate.ProfessionalAUT, "1-1.58.1", "222222"}, {egk, certificate.CardHolderAUT, "X110411675", "333333"}} {
		if err := p.Trust().Check(c.c.Certificate(), certificate.Expect{Types: []certificate.Type{c.kind}, At: now, Revoked: p.Revoked}); err != nil {
			t.Errorf("%s: %v", c.kind, err)
		}
		if who, err := c.c.Identity(); err != nil || who.Number != c.id {
			t.Errorf("%s: %+v %v", c.kind, who, err)
		}
		again, err := open(t, folder).Card(c.id) // another process
		if err != nil {
			t.Fatal(err)
		}
		signer, err := again.Unlock(c.pin)
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256([]byte("x"))
		signature, err := signer.SignDigest(digest[:])
		if err != nil || !brainpool.VerifyRaw(c.c.Certificate().PublicKey(), digest[:], signature) || !bytes.Equal(signer.Certificate().DER(), c.c.Certificate().DER()) {
			t.Errorf("%s: signature: %v", c.kind, err)
		}
	}
	if all, err := p.Cards(); err != nil || len(all) != 3 {
		t.Errorf("%d cards, %v", len(all), err)
	}
	if _, err := p.Card("1-nobody"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if err := p.Revoke(hba.Certificate()); err != nil {
		t.Fatal(err)
	}
	err = p.Trust().Check(hba.Certificate(), certificate.Expect{At: now, Revoked: open(t, folder).Revoked})
	if failed, ok := errors.AsType[*certificate.CheckError](err); !ok || failed.Check != certificate.RevocationCheck {
		t.Errorf("revoked card: %v", err)
	}
	info, err := os.Stat(smcb.Path())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("card file: %v %v", info.Mode(), err)
	}
}

func TestPIN(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir())
	c, err := p.IssueSMCB(practice("1-2"))
	if err != nil {
		t.Fatal(err)
	}
	wrong := func(left int) {
		t.Helper()
		_, err := c.Unlock("000000")
		if refused, ok := errors.AsType[*card.PINError](err); !ok || refused.Left != left {
			t.Fatalf("%v, want %d left", err, left)
		}
	}
	wrong(2)
	wrong(1)
	if _, err := c.Unlock("123456"); err != nil || c.RetriesLeft() != 3 {
		t.Fatalf("%v, %d left", err, c.RetriesLeft())
	}
	wrong(2)
	if c, err = card.Load(c.Path()); err != nil || c.RetriesLeft() != 2 { // the counter survives the process
		t.Fatalf("%v, %d left", err, c.RetriesLeft())
	}
	wrong(1)
	if _, err := c.Unlock(""); !errors.Is(err, card.ErrBlocked) {
		t.Error(err)
	}
	if _, err := c.Unlock("123456"); !errors.Is(err, card.ErrBlocked) {
		t.Errorf("a blocked card opens: %v", err)
	}
}

func TestComponents(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	signer, err := open(t, folder).Component("VZD-FHIR-FList-Signer", certificate.RoleDirectory)
	if err != nil {
		t.Fatal(err)
	}
	p := open(t, folder)
	again, err := p.Component("VZD-FHIR-FList-Signer", certificate.RoleDirectory)
	if err != nil || !bytes.Equal(signer.Certificate().DER(), again.Certificate().DER()) {
		t.Errorf("another certificate after opening anew: %v", err)
	}
	if err := p.Trust().Check(again.Certificate(), certificate.Expect{Types: []certificate.Type{certificate.ServiceSIG}, Professions: []string{certificate.RoleDirectory}, At: now}); err != nil {
		t.Error(err)
	}
	a, err := p.ComponentKey("idp", certificate.RoleIDP)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := open(t, folder).ComponentKey("idp", certificate.RoleIDP); err != nil || !a.PublicKey().Equal(b.PublicKey()) {
		t.Errorf("another key: %v", err)
	}
	key, err := card.TokenKey(filepath.Join(folder, "tokens.key"))
	if err != nil {
		t.Fatal(err)
	}
	if same, err := card.TokenKey(filepath.Join(folder, "tokens.key")); err != nil || !key.Equal(same) {
		t.Errorf("another token key: %v", err)
	}
}

func TestProductionRefuses(t *testing.T) {
	t.Parallel()
	if _, err := card.Open(card.Options{Folder: t.TempDir(), Production: true}); !errors.Is(err, card.ErrProduction) {
		t.Error(err)
	}
	p := open(t, t.TempDir())
	c, err := p.IssueSMCB(practice("1-2"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range append(append(p.Roots(), p.Authorities()...), c.Certificate()) {
		if err := card.CheckEnvironment(true, c); !errors.Is(err, card.ErrProduction) {
			t.Errorf("%s: %v", c.X509.Subject, err)
		}
		if err := card.CheckEnvironment(false, c); err != nil {
			t.Error(err)
		}
	}
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	p := open(t, folder)
	for name, i := range map[string]card.Institution{
		"no PIN": {Name: "x", TelematikID: "1", ProfessionOID: certificate.Practice}, "short PIN": {Name: "x", TelematikID: "1", ProfessionOID: certificate.Practice, PIN: "1234"},
		"no Telematik-ID": {Name: "x", ProfessionOID: certificate.Practice, PIN: "123456"}, "no profession": {Name: "x", TelematikID: "1", PIN: "123456"},
		"odd Telematik-ID": {Name: "x", TelematikID: "1_ö", ProfessionOID: certificate.Practice, PIN: "123456"},
	} {
		if _, err := p.IssueSMCB(i); err == nil {
			t.Errorf("%s: issued", name)
		}
	}
	for name, text := range map[string]string{"empty": "", "no card": "{}", "no certificate": `{"format":"konsil-software-card-1"}`} {
		path := filepath.Join(folder, "bad.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := card.Load(path); err == nil {
			t.Errorf("%s: loaded", name)
		}
	}
	if err := os.WriteFile(filepath.Join(folder, "smcb-ca.key"), []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := card.Open(card.Options{Folder: folder}); err == nil {
		t.Error("a damaged key is read")
	}
}

// TestOpenSSL lets an independent program check a card's chain.
func TestOpenSSL(t *testing.T) {
	t.Parallel()
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("skipped: no openssl to compare with")
	}
	folder := t.TempDir()
	p, err := card.Open(card.Options{Folder: folder})
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.IssueSMCB(practice("1-2"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, "card.pem")
	if err := os.WriteFile(path, c.Certificate().PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(openssl, "verify", "-x509_strict", "-CAfile", filepath.Join(folder, "root-ca.pem"), "-untrusted", filepath.Join(folder, "smcb-ca.pem"), path).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = exec.Command(openssl, "ec", "-in", filepath.Join(folder, "root-ca.key"), "-noout", "-check").CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

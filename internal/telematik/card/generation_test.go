// SPDX-License-Identifier: Apache-2.0

package card_test

import (
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/telematik/card"
)

// TestRotate replaces the root twice: who trusts the first learns the others by roots.json, and who has the newest still accepts old cards.
func TestRotate(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	p := open(t, folder)
	first := certificate.NewTrust(p.Roots(), nil)
	old, err := p.IssueSMCB(practice("1-2"))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := p.Component("federation-list", certificate.RoleDirectory)
	if err != nil {
		t.Fatal(err)
	}
	encryption, err := p.ComponentKey("idp", certificate.RoleIDP)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := p.Rotate(); err != nil {
			t.Fatal(err)
		}
	}
	again := open(t, folder) // another process
	fresh, err := again.IssueSMCB(practice("1-3"))
	if err != nil {
		t.Fatal(err)
	}
	renewed, err := again.Component("federation-list", certificate.RoleDirectory)
	if err != nil || renewed.Certificate().PublicKey().Equal(signer.Certificate().PublicKey()) || !strings.Contains(renewed.Certificate().X509.Issuer.CommonName, "KOMP-CA3") {
		t.Errorf("the list's signer was not renewed: %v %v", renewed.Certificate().X509.Issuer, err)
	}
	if kept, err := again.ComponentKey("idp", certificate.RoleIDP); err != nil || !kept.PublicKey().Equal(encryption.PublicKey()) {
		t.Errorf("the key that others encrypt for was replaced: %v", err)
	}
	text, err := p.RootsList()
	if err != nil {
		t.Fatal(err)
	}
	newest := certificate.NewTrust(again.Roots()[2:], nil)
	for name, trust := range map[string]*certificate.Trust{"from the first root": first, "from the newest": newest} {
		learned, err := trust.Learn(text, now)
		if err != nil || len(learned) != 2 {
			t.Fatalf("%s: %d learned, %v", name, len(learned), err)
		}
		for _, c := range []*certificate.Certificate{old.Certificate(), fresh.Certificate(), renewed.Certificate()} {
			if err := trust.Check(c, certificate.Expect{At: now, Between: again.Authorities()}); err != nil {
				t.Errorf("%s: %s: %v", name, c.X509.Subject, err)
			}
		}
	}
}

// TestResponderAgainstOpenSSL asks the responder with a program that is not ours.
func TestResponderAgainstOpenSSL(t *testing.T) {
	t.Parallel()
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("skipped: no openssl")
	}
	folder := t.TempDir()
	p, err := card.Open(card.Options{Folder: folder}) // openssl has a clock of its own
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(p)
	defer server.Close()
	var files []string
	for _, number := range []string{"1-2.1", "1-2.2"} {
		c, err := p.IssueSMCB(practice(number))
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "card.pem")
		if err := os.WriteFile(file, c.Certificate().PEM(), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
		if number == "1-2.2" {
			if err := p.Revoke(c.Certificate()); err != nil {
				t.Fatal(err)
			}
		}
	}
	ask := func(arguments ...string) string {
		t.Helper()
		out, err := exec.Command(openssl, append([]string{"ocsp", "-url", server.URL, "-CAfile", filepath.Join(folder, "root-ca.pem"),
			"-verify_other", filepath.Join(folder, "smcb-ca.pem"), "-issuer", filepath.Join(folder, "smcb-ca.pem")}, arguments...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("openssl: %v\n%s", err, out)
		}
		return string(out)
	}
	for name, c := range map[string]struct {
		arguments []string
		want      string
	}{
		"a card that holds":   {[]string{"-cert", files[0]}, files[0] + ": good"},
		"a revoked card":      {[]string{"-cert", files[1]}, files[1] + ": revoked"},
		"with SHA-256":        {[]string{"-sha256", "-cert", files[0]}, files[0] + ": good"},
		"a number never seen": {[]string{"-serial", "77"}, "77: unknown"},
	} {
		if out := ask(c.arguments...); !strings.Contains(out, "Response verify OK") || !strings.Contains(out, c.want) {
			t.Errorf("%s: %s", name, out)
		}
	}
}

// TestSandbox has a card for each profession OID that a card can carry, and each proves who it is.
func TestSandbox(t *testing.T) {
	t.Parallel()
	p := open(t, t.TempDir())
	all, err := p.Sandbox("123456")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{certificate.InsuredPerson: true}
	for _, oid := range append(certificate.Institutions(), certificate.Professions()...) {
		want[oid] = true
	}
	for n, c := range all {
		who, err := c.Identity()
		if err != nil {
			t.Error(err)
		}
		if err := p.Trust().Check(c.Certificate(), certificate.Expect{At: now}); n%10 == 0 && err != nil { // all of a kind have the same chain
			t.Errorf("%s: %v", who.ProfessionOID, err)
		}
		delete(want, who.ProfessionOID)
	}
	if len(want) > 0 || len(all) < 70 {
		t.Errorf("%d cards; missing %v", len(all), want)
	}
}

// TestRevokeTwice keeps the time of the first revocation.
func TestRevokeTwice(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	clock := now
	p, err := card.Open(card.Options{Folder: folder, Now: func() time.Time { return clock }})
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.IssueSMCB(practice("1-2"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Revoke(c.Certificate()); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(filepath.Join(folder, "revoked"))
	if err != nil {
		t.Fatal(err)
	}
	clock = now.Add(time.Hour)
	if err := p.Revoke(c.Certificate()); err != nil {
		t.Fatal(err)
	}
	if second, err := os.ReadFile(filepath.Join(folder, "revoked")); err != nil || string(second) != string(first) {
		t.Errorf("%q, then %q (%v)", first, second, err)
	}
}

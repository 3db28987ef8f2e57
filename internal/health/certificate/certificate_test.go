// SPDX-License-Identifier: Apache-2.0

package certificate_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/health/brainpool"
	"github.com/konsil-health/konsil/internal/health/certificate"
)

var (
	begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	now   = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	end   = time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC)
)

type pki struct {
	root, ca       *certificate.Certificate
	rootKey, caKey *brainpool.PrivateKey
	serial         int64
}

func newKey(t testing.TB) *brainpool.PrivateKey {
	t.Helper()
	k, err := brainpool.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newPKI(t testing.TB) *pki {
	t.Helper()
	p := &pki{rootKey: newKey(t), caKey: newKey(t), serial: 100}
	var err error
	name := pkix.Name{Country: []string{"DE"}, Organization: []string{"Konsil TEST-ONLY"}, CommonName: "Konsil.RCA1 TEST-ONLY"}
	p.root, err = certificate.Issue(certificate.Template{Serial: big.NewInt(1), Subject: name, NotBefore: begin, NotAfter: end.AddDate(25, 0, 0), Key: p.rootKey.PublicKey(), CA: true}, nil, p.rootKey)
	if err != nil {
		t.Fatal(err)
	}
	name.CommonName = "Konsil.SMCB-CA1 TEST-ONLY"
	p.ca, err = certificate.Issue(certificate.Template{Serial: big.NewInt(2), Subject: name, NotBefore: begin, NotAfter: end, Key: p.caKey.PublicKey(), CA: true}, p.root, p.rootKey)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *pki) trust() *certificate.Trust {
	return certificate.NewTrust([]*certificate.Certificate{p.root}, []*certificate.Certificate{p.ca})
}

func (p *pki) issue(t testing.TB, change func(*certificate.Template)) *certificate.Certificate {
	t.Helper()
	p.serial++
	template := certificate.Template{
		Serial: big.NewInt(p.serial), Subject: pkix.Name{Country: []string{"DE"}, CommonName: "Praxis Sonnenallee"}, NotBefore: begin, NotAfter: end, Key: newKey(t).PublicKey(),
		Type: certificate.InstitutionAUT, Admission: certificate.Admission{Items: []string{"Betriebsstätte Arzt"}, Professions: []string{certificate.Practice}, RegistrationNumber: "1-2.58.00000040"},
	}
	if change != nil {
		change(&template)
	}
	c, err := certificate.Issue(template, p.ca, p.caKey)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestIssueAndCheck(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	c := p.issue(t, nil)
	if c.Type() != certificate.InstitutionAUT || c.Admission.RegistrationNumber != "1-2.58.00000040" || c.Admission.Professions[0] != certificate.Practice || c.Admission.Items[0] != "Betriebsstätte Arzt" {
		t.Errorf("%s %+v", c.Type(), c.Admission)
	}
	who, err := c.Identity()
	if err != nil || who.Organization != "Praxis Sonnenallee" || who.Number != "1-2.58.00000040" || who.ProfessionOID != certificate.Practice {
		t.Errorf("%+v %v", who, err)
	}
	again, err := certificate.ParsePEM(c.PEM())
	if err != nil || !bytes.Equal(again[0].DER(), c.DER()) {
		t.Error(err)
	}
	stranger := newPKI(t)
	refused := errors.New("revoked on paper")
	for name, c := range map[string]struct {
		c     *certificate.Certificate
		e     certificate.Expect
		check certificate.Check
	}{
		"good":              {c, certificate.Expect{Types: []certificate.Type{certificate.InstitutionAUT}, Professions: []string{certificate.Hospital, certificate.Practice}, At: now}, ""},
		"too early":         {c, certificate.Expect{At: begin.Add(-time.Second)}, certificate.ValidityCheck},
		"expired":           {c, certificate.Expect{At: end.Add(time.Second)}, certificate.ValidityCheck},
		"another type":      {c, certificate.Expect{Types: []certificate.Type{certificate.ProfessionalAUT}, At: now}, certificate.TypeCheck},
		"another role":      {c, certificate.Expect{Professions: []string{certificate.Insurer}, At: now}, certificate.AdmissionCheck},
		"no admission":      {p.issue(t, func(t *certificate.Template) { t.Admission = certificate.Admission{} }), certificate.Expect{At: now}, certificate.AdmissionCheck},
		"another root":      {stranger.issue(t, nil), certificate.Expect{At: now}, certificate.ChainCheck},
		"a CA":              {p.ca, certificate.Expect{At: now}, certificate.TypeCheck},
		"revoked":           {c, certificate.Expect{At: now, Revoked: func(*certificate.Certificate) error { return refused }}, certificate.RevocationCheck},
		"forged by itself":  {forge(t, c), certificate.Expect{At: now}, certificate.ChainCheck},
		"root itself":       {p.root, certificate.Expect{At: now}, certificate.TypeCheck},
		"wants a directory": {c, certificate.Expect{Types: []certificate.Type{certificate.ServiceSIG}, Professions: []string{certificate.RoleDirectory}, At: now}, certificate.TypeCheck},
	} {
		err := p.trust().Check(c.c, c.e)
		if c.check == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if failed, ok := errors.AsType[*certificate.CheckError](err); !ok || failed.Check != c.check {
			t.Errorf("%s: %v, want a failed check of %s", name, err, c.check)
		}
	}
}

// forge changes a letter of the subject and leaves the signature.
func forge(t *testing.T, c *certificate.Certificate) *certificate.Certificate {
	t.Helper()
	der := bytes.Replace(c.DER(), []byte("Praxis Sonnenallee"), []byte("Praxis Tonnenallee"), 1)
	forged, err := certificate.Parse(der)
	if err != nil {
		t.Fatal(err)
	}
	return forged
}

func TestIdentities(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	doctor := p.issue(t, func(t *certificate.Template) {
		t.Type, t.Subject = certificate.ProfessionalAUT, certificate.PersonName("Anna", "Sömmer")
		t.Admission = certificate.Admission{Items: []string{"Ärztin/Arzt"}, Professions: []string{certificate.Physician}, RegistrationNumber: "1-1.58.00000040"}
	})
	if who, err := doctor.Identity(); err != nil || who.GivenName != "Anna" || who.FamilyName != "Sömmer" || who.Number != "1-1.58.00000040" || who.Organization != "" {
		t.Errorf("%+v %v", who, err)
	}
	insured := p.issue(t, func(t *certificate.Template) {
		t.Type, t.Subject = certificate.CardHolderAUT, certificate.PersonName("Ida", "Muster", "X110411675", "109500969")
		t.Subject.Organization = []string{"Testkasse"}
		t.Admission = certificate.Admission{Items: []string{"Versicherte/-r"}, Professions: []string{certificate.InsuredPerson}}
	})
	if who, err := insured.Identity(); err != nil || who.Number != "X110411675" || who.IK != "109500969" || who.Organization != "Testkasse" || who.ProfessionOID != certificate.InsuredPerson {
		t.Errorf("%+v %v", who, err)
	}
	for name, change := range map[string]func(*certificate.Template){
		"a component's":   func(t *certificate.Template) { t.Type = certificate.ServiceSIG },
		"no number":       func(t *certificate.Template) { t.Admission.RegistrationNumber = "" },
		"a name too long": func(t *certificate.Template) { t.Subject.CommonName = strings.Repeat("x", 65) },
	} {
		if who, err := p.issue(t, change).Identity(); err == nil {
			t.Errorf("%s: %+v", name, who)
		}
	}
}

func TestBadTemplates(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	good := certificate.Template{Serial: big.NewInt(9), NotBefore: begin, NotAfter: end, Key: newKey(t).PublicKey(), Type: certificate.InstitutionAUT}
	for name, change := range map[string]func(*certificate.Template){
		"no serial":     func(t *certificate.Template) { t.Serial = nil },
		"no key":        func(t *certificate.Template) { t.Key = nil },
		"no time":       func(t *certificate.Template) { t.NotAfter = begin },
		"no type":       func(t *certificate.Template) { t.Type = "" },
		"no OID":        func(t *certificate.Template) { t.Admission.Professions = []string{"doctor"} },
		"odd Telematik": func(t *certificate.Template) { t.Admission.RegistrationNumber = "1_ä" },
	} {
		bad := good
		change(&bad)
		if _, err := certificate.Issue(bad, p.ca, p.caKey); err == nil {
			t.Errorf("%s: issued", name)
		}
	}
}

// TestPublishedCertificates reads gematik's test certificates.
func TestPublishedCertificates(t *testing.T) {
	t.Parallel()
	dir := os.Getenv("KONSIL_REFERENCE")
	if dir == "" {
		dir = "../../../../shared/reference"
	}
	dir = filepath.Join(dir, "gematik")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("skipped: no test certificates in the reference data (KONSIL_REFERENCE)")
	}
	read := func(name string) *certificate.Certificate {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, ".der") {
			c, err := certificate.Parse(text)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			return c
		}
		all, err := certificate.ParsePEM(text)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return all[0]
	}
	for name, want := range map[string]struct {
		kind           certificate.Type
		profession, id string
	}{
		"idp/test-certs/hba_aut.pem":                                         {certificate.ProfessionalAUT, certificate.Physician, "1-HBA-Testkarte-883110000129085"},
		"idp/test-certs/Betriebsstatte_Arzt_max_E256.pem":                    {certificate.InstitutionAUT, certificate.Practice, "1-SMC-B-Testkarte-883110000129077"},
		"idp/test-certs/idp_sig.pem":                                         {certificate.ServiceSIG, certificate.RoleIDP, ""},
		"federation-list/federation-list-signer-ru.der":                      {certificate.ServiceSIG, certificate.RoleDirectory, ""},
		"idp/test-certs/valid/80276883110000161754-C_CH_AUT_E256.pem":        {certificate.CardHolderAUT, certificate.InsuredPerson, ""},
		"idp/test-certs/valid/80276001011699901340-C_SMCB_AUT_E256_X509.pem": {certificate.InstitutionAUT, "", ""},
		"idp/test-certs/valid/80276001011699802001-2-C_HP_AUT_E256.pem":      {certificate.ProfessionalAUT, "", ""},
		"idp/test-certs/invalid/smcb-idp-expired-ecc.pem":                    {certificate.InstitutionAUT, "", ""},
		"idp/test-certs/invalid/smcb-idp-selfsigned.pem":                     {"", "", ""},
		"idp/test-certs/invalid/hba-idp-unknown-issuer-2-ecc.pem":            {"", "", ""},
	} {
		c := read(name)
		if want.kind != "" && c.Type() != want.kind {
			t.Errorf("%s: type %q", name, c.Type())
		}
		if want.profession != "" && (len(c.Admission.Professions) == 0 || c.Admission.Professions[0] != want.profession) {
			t.Errorf("%s: %+v", name, c.Admission)
		}
		if want.id != "" && c.Admission.RegistrationNumber != want.id {
			t.Errorf("%s: %+v", name, c.Admission)
		}
		if strings.Contains(name, "/valid/") {
			if who, err := c.Identity(); err != nil || who.Number == "" {
				t.Errorf("%s: %+v %v", name, who, err)
			}
		}
	}
	// Without their authorities' certificates the valid ones pass every check up to the chain.
	for _, name := range []string{"80276001011699802001-2-C_HP_AUT_E256", "80276001011699901340-C_SMCB_AUT_E256_X509", "80276883110000129068-2-C_SMCB_HCI_AUT_E256",
		"80276883110000129083-2-C_HP_AUT_E256", "80276883110000161754-C_CH_AUT_E256"} {
		c := read("idp/test-certs/valid/" + name + ".pem")
		err := certificate.NewTrust(nil, nil).Check(c, certificate.Expect{At: now})
		if failed, ok := errors.AsType[*certificate.CheckError](err); !ok || failed.Check != certificate.ChainCheck || len(c.X509.OCSPServer) != 1 {
			t.Errorf("%s: %v; responder %q", name, err, c.X509.OCSPServer)
		}
	}
	trust := certificate.NewTrust([]*certificate.Certificate{read("idp/GEM.KOMP-CA51-TEST-ONLY.pem")}, nil)
	idp := certificate.Expect{Types: []certificate.Type{certificate.ServiceSIG}, Professions: []string{certificate.RoleIDP}, At: now}
	if err := trust.Check(read("idp/test-certs/idp_sig.pem"), idp); err != nil {
		t.Error(err)
	}
	for name, check := range map[string]certificate.Check{
		"federation-list/federation-list-signer-ru.der":           certificate.ChainCheck,
		"idp/test-certs/invalid/smcb-idp-expired-ecc.pem":         certificate.ValidityCheck,
		"idp/test-certs/invalid/smcb-idp-selfsigned.pem":          certificate.ChainCheck,
		"idp/test-certs/invalid/hba-idp-unknown-issuer-2-ecc.pem": certificate.ChainCheck,
		"idp/test-certs/invalid/smcb-idp-revoked-2-ecc.pem":       certificate.ChainCheck, // revoked at its issuer, whom we do not know
	} {
		err := trust.Check(read(name), certificate.Expect{At: now})
		if failed, ok := errors.AsType[*certificate.CheckError](err); !ok || failed.Check != check {
			t.Errorf("%s: %v, want a failed check of %s", name, err, check)
		}
	}
}

func TestBadCertificates(t *testing.T) {
	t.Parallel()
	der := newPKI(t).issue(t, nil).DER()
	for n := range len(der) {
		if _, err := certificate.Parse(der[:n]); !errors.Is(err, certificate.ErrFormat) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	if _, err := certificate.Parse(append(bytes.Clone(der), 0)); !errors.Is(err, certificate.ErrFormat) {
		t.Errorf("trailing byte: %v", err)
	}
	if _, err := certificate.Parse(make([]byte, 1<<20)); !errors.Is(err, certificate.ErrFormat) {
		t.Errorf("a megabyte: %v", err)
	}
	if _, err := certificate.ParsePEM([]byte("nothing")); !errors.Is(err, certificate.ErrFormat) {
		t.Errorf("no PEM: %v", err)
	}
	if certificate.IsInstitution(certificate.Physician) || !certificate.IsInstitution(certificate.Care) || certificate.ProfessionName("1.2") != "1.2" || certificate.ProfessionName(certificate.RoleTIM) == "" {
		t.Error("tables of professions")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(newPKI(f).issue(f, nil).DER())
	f.Fuzz(func(t *testing.T, der []byte) {
		c, err := certificate.Parse(der)
		if err != nil {
			if !errors.Is(err, certificate.ErrFormat) {
				t.Error(err)
			}
			return
		}
		c.Type()
		_, _ = c.Identity()
	})
}

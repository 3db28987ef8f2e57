// SPDX-License-Identifier: Apache-2.0

package ocsp_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	stdocsp "golang.org/x/crypto/ocsp"

	"github.com/konsil-health/konsil/internal/health/brainpool"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/ocsp"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

type authority struct {
	certificate *certificate.Certificate
	key         *brainpool.PrivateKey
	serial      int64
}

func key(t testing.TB) *brainpool.PrivateKey {
	t.Helper()
	k, err := brainpool.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	a := &authority{key: key(t), serial: 1}
	a.certificate = a.issue(t, a.key, certificate.Template{Subject: pkix.Name{CommonName: name}, CA: true})
	return a
}

func (a *authority) issue(t testing.TB, k *brainpool.PrivateKey, template certificate.Template) *certificate.Certificate {
	t.Helper()
	a.serial++
	template.Serial, template.Key = big.NewInt(a.serial), k.PublicKey()
	template.NotBefore, template.NotAfter = now.AddDate(-1, 0, 0), now.AddDate(1, 0, 0)
	c, err := certificate.Issue(template, a.certificate, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (a *authority) card(t testing.TB) *certificate.Certificate {
	t.Helper()
	return a.issue(t, key(t), certificate.Template{Subject: pkix.Name{CommonName: "Praxis"}, Type: certificate.InstitutionAUT,
		Admission: certificate.Admission{Professions: []string{certificate.Practice}, RegistrationNumber: "1-2.1"}, OCSP: "http://ocsp.example/"})
}

func (a *authority) responder() ocsp.Responder {
	return ocsp.Responder{Certificate: a.certificate, Key: a.key}
}

func TestRequest(t *testing.T) {
	t.Parallel()
	a, other := newAuthority(t, "CA"), newAuthority(t, "Other")
	c := a.card(t)
	if len(c.X509.OCSPServer) != 1 || c.X509.OCSPServer[0] != "http://ocsp.example/" {
		t.Errorf("responder %q", c.X509.OCSPServer)
	}
	der, err := ocsp.Request{IDs: []ocsp.ID{ocsp.Of(c, a.certificate)}, Nonce: []byte("once")}.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ocsp.ParseRequest(der)
	if err != nil || len(got.IDs) != 1 || string(got.Nonce) != "once" || got.IDs[0].Serial.Cmp(c.X509.SerialNumber) != 0 || !got.IDs[0].IssuedBy(a.certificate) || got.IDs[0].IssuedBy(other.certificate) {
		t.Errorf("%+v %v", got, err)
	}
	// golang.org/x/crypto/ocsp knows requests of any curve.
	std, err := stdocsp.ParseRequest(der)
	if err != nil || std.SerialNumber.Cmp(c.X509.SerialNumber) != 0 {
		t.Errorf("another library: %+v %v", std, err)
	}
	theirs, err := std.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ocsp.ParseRequest(theirs); err != nil || !got.IDs[0].IssuedBy(a.certificate) {
		t.Errorf("another library's request: %+v %v", got, err)
	}
	for n := range len(der) {
		if _, err := ocsp.ParseRequest(der[:n]); !errors.Is(err, ocsp.ErrFormat) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	a, stranger, elsewhere := newAuthority(t, "CA"), newAuthority(t, "CA"), newAuthority(t, "Responders")
	c, other := a.card(t), a.card(t)
	good := ocsp.Single{ID: ocsp.Of(c, a.certificate), ThisUpdate: now, NextUpdate: now.Add(time.Hour), Subject: c}
	delegate := func(by *authority, responder bool) ocsp.Responder {
		k := key(t)
		template := certificate.Template{Subject: pkix.Name{CommonName: "Responder"}, Responder: responder, Type: certificate.ServiceSIG,
			Admission: certificate.Admission{Professions: []string{certificate.RoleTIM}}}
		return ocsp.Responder{Certificate: by.issue(t, k, template), Key: k, Delegated: true}
	}
	with := func(change func(*ocsp.Single)) ocsp.Single { s := good; change(&s); return s }
	for name, test := range map[string]struct {
		single ocsp.Single
		by     ocsp.Responder
		nonce  string
		at     time.Time
		status ocsp.Status
		want   error
		text   string
	}{
		"good":                               {single: good},
		"its nonce":                          {single: good, nonce: "once"},
		"the nonce of another":               {single: good, nonce: "twice", want: ocsp.ErrAnswer, text: "another request"},
		"revoked":                            {single: with(func(s *ocsp.Single) { s.Status, s.RevokedAt = ocsp.Revoked, now.Add(-time.Hour) }), status: ocsp.Revoked},
		"unknown":                            {single: with(func(s *ocsp.Single) { s.Status, s.Subject = ocsp.Unknown, nil }), status: ocsp.Unknown},
		"no next update":                     {single: with(func(s *ocsp.Single) { s.NextUpdate = time.Time{} })},
		"a clock a little ahead":             {single: good, at: now.Add(-30 * time.Second)},
		"from the future":                    {single: good, at: now.Add(-time.Minute), want: ocsp.ErrAnswer, text: "future"},
		"this update in the future":          {single: with(func(s *ocsp.Single) { s.ThisUpdate = now.Add(time.Minute) }), want: ocsp.ErrAnswer, text: "future"},
		"out of date":                        {single: good, at: now.Add(time.Hour + time.Minute), want: ocsp.ErrAnswer, text: "out of date"},
		"another certificate":                {single: with(func(s *ocsp.Single) { s.ID = ocsp.Of(other, a.certificate) }), want: ocsp.ErrAnswer, text: "another certificate"},
		"the hash of another":                {single: with(func(s *ocsp.Single) { s.Subject = other }), want: ocsp.ErrAnswer, text: "CertHash"},
		"no hash":                            {single: with(func(s *ocsp.Single) { s.Subject = nil }), want: ocsp.ErrAnswer, text: "CertHash is missing"},
		"no hash of a revoked one":           {single: with(func(s *ocsp.Single) { s.Status, s.RevokedAt, s.Subject = ocsp.Revoked, now, nil }), want: ocsp.ErrAnswer, text: "CertHash"},
		"by a stranger of the same name":     {single: good, by: stranger.responder(), want: ocsp.ErrAnswer, text: "nobody"},
		"by an appointed responder":          {single: good, by: delegate(a, true)},
		"by another certificate of the CA":   {single: good, by: delegate(a, false), want: ocsp.ErrAnswer, text: "no OCSP responder"},
		"by a responder of a stranger":       {single: good, by: delegate(stranger, true), want: ocsp.ErrAnswer, text: "its responder"},
		"by a trusted authority's responder": {single: good, by: delegate(elsewhere, true)},
	} {
		by, at := test.by, test.at
		if by.Key == nil {
			by = a.responder()
		}
		if at.IsZero() {
			at = now
		}
		der, err := ocsp.Build([]ocsp.Single{test.single}, []byte(test.nonce), by, now)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ocsp.Check(der, ocsp.Question{Certificate: c, Issuer: a.certificate, Nonce: []byte("once"), At: at,
			Trust: certificate.NewTrust([]*certificate.Certificate{a.certificate, elsewhere.certificate}, nil)})
		if !errors.Is(err, test.want) || err != nil && !strings.Contains(err.Error(), test.text) || err == nil && got.Status != test.status {
			t.Errorf("%s: %+v %v, want %v", name, got, err, test.want)
		}
	}
}

func TestBrokenAnswers(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "CA")
	c := a.card(t)
	q := ocsp.Question{Certificate: c, Issuer: a.certificate, At: now}
	der, err := ocsp.Build([]ocsp.Single{{ID: ocsp.Of(c, a.certificate), ThisUpdate: now, Subject: c}}, nil, a.responder(), now)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(der) {
		if _, err := ocsp.Check(der[:n], q); err == nil {
			t.Fatalf("cut at %d: taken", n)
		}
		broken := bytes.Clone(der)
		broken[n] ^= 0x55
		if s, err := ocsp.Check(broken, q); err == nil {
			t.Fatalf("byte %d changed: %+v", n, s)
		}
	}
	for _, f := range []ocsp.Failure{ocsp.Malformed, ocsp.InternalError, ocsp.TryLater, ocsp.Unauthorized} {
		if _, err := ocsp.Check(f.Bytes(), q); !errors.Is(err, f) {
			t.Errorf("%d: %v", f, err)
		}
	}
}

func FuzzCheck(f *testing.F) {
	a := newAuthority(f, "CA")
	c := a.card(f)
	der, err := ocsp.Build([]ocsp.Single{{ID: ocsp.Of(c, a.certificate), ThisUpdate: now, Subject: c}}, []byte("once"), a.responder(), now)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := ocsp.Check(b, ocsp.Question{Certificate: c, Issuer: a.certificate, Nonce: []byte("once"), At: now}); err == nil && s.Status != ocsp.Good {
			t.Errorf("forged: %+v", s)
		}
	})
}

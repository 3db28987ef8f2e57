// SPDX-License-Identifier: Apache-2.0

package fedlist

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/jose"
)

// realList is the signed list of the reference environment.
func realList(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("KONSIL_REFERENCE")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "..", "shared", "reference")
	}
	raw, err := os.ReadFile(filepath.Join(dir, "gematik", "federation-list", "federation-list-ru-sample.jws"))
	if err != nil {
		t.Skipf("the real federation list is not here (set KONSIL_REFERENCE): %v", err)
	}
	return strings.TrimSpace(string(raw))
}

// TestRealList reads the list of the reference environment: 277 domains, 18 of insurers, signed by its own certificate. The chain above the signer is
// not among the reference files; TestVerifyRefuses covers it with a PKI of its own.
func TestRealList(t *testing.T) {
	t.Parallel()
	signed, err := jose.ParseLimited(realList(t), maxList)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := certificate.Parse(signed.Header.X5c[0])
	if err != nil {
		t.Fatal(err)
	}
	if signer.Type() != certificate.ServiceSIG || signer.Admission.Professions[0] != certificate.RoleDirectory {
		t.Errorf("signer: %s, %v", signer.Type(), signer.Admission)
	}
	if err := signed.Verify(signer.PublicKey()); err != nil {
		t.Fatal(err)
	}
	l, err := parse(signed.Payload)
	if err != nil {
		t.Fatal(err)
	}
	insurers := 0
	for _, d := range l.Domains {
		if d.IsInsurance {
			insurers++
		}
	}
	if l.Version != 1650 || len(l.Domains) != 277 || insurers != 18 {
		t.Errorf("version %d, %d domains, %d insurers", l.Version, len(l.Domains), insurers)
	}
}

// TestRealListRefused: a flipped bit of the real list, a foreign signer, a certificate out of its time.
func TestRealListRefused(t *testing.T) {
	t.Parallel()
	token := realList(t)
	signed, err := jose.ParseLimited(token, maxList)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := certificate.Parse(signed.Header.X5c[0])
	if err != nil {
		t.Fatal(err)
	}
	// The sample's own certificate stands for its chain, which is not published beside it: what follows tests the signature.
	at := signer.X509.NotBefore.AddDate(0, 1, 0)
	head, rest, _ := strings.Cut(token, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	flip := func(s string, i int) string {
		b := []byte(s)
		if b[i] == 'A' {
			b[i] = 'B'
		} else {
			b[i] = 'A'
		}
		return string(b)
	}
	for name, broken := range map[string]string{
		"payload": head + "." + flip(payload, len(payload)/2) + "." + signature, "signature": head + "." + payload + "." + flip(signature, 10), "cut off": token[:len(token)-4],
	} {
		s, err := jose.ParseLimited(broken, maxList)
		if err == nil {
			err = s.Verify(signer.PublicKey())
		}
		if err == nil {
			t.Errorf("%s: a changed list was believed", name)
		}
	}
	if _, err := Verify(token, certificate.NewTrust(nil, nil), at, nil); err == nil {
		t.Error("a list of an unknown signer was believed")
	}
}

// TestOlderVersionIsRefused: a publisher, or somebody between, that goes back to an old list.
func TestOlderVersionIsRefused(t *testing.T) {
	t.Parallel()
	c := &Consumer{o: ConsumerOptions{}}
	c.keep(&List{Version: 7}, time.Now())
	if err := c.newer(&List{Version: 6}); err == nil {
		t.Error("version 6 replaced version 7")
	}
	if err := c.newer(&List{Version: 8}); err != nil {
		t.Error(err)
	}
}

func TestValidIK(t *testing.T) {
	t.Parallel()
	for ik, want := range map[string]bool{"109500969": true, "109500968": false, "209500969": false, "10950096": false, "10950096x": false, "": false} {
		if ValidIK(ik) != want {
			t.Errorf("ValidIK(%q) = %v", ik, !want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"version":1,"domainList":[{"domain":"a","telematikID":"b","isInsurance":true,"iks":["1"]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := parse(b); err == nil {
			for _, d := range l.Domains {
				if d.Domain == "" {
					t.Error("an entry without a domain")
				}
			}
		}
	})
}

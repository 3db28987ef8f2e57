// SPDX-License-Identifier: Apache-2.0

package fedlist

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/jose"
)

// TestRealList reads the list of the reference environment: 277 domains, 18 of insurers, signed by its own certificate. The chain above the signer is
// not among the reference files; TestVerifyRefuses covers it with a PKI of its own.
func TestRealList(t *testing.T) {
	t.Parallel()
	dir := os.Getenv("KONSIL_REFERENCE")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "..", "shared", "reference")
	}
	raw, err := os.ReadFile(filepath.Join(dir, "gematik", "federation-list", "federation-list-ru-sample.jws"))
	if err != nil {
		t.Skipf("the real federation list is not here (set KONSIL_REFERENCE): %v", err)
	}
	signed, err := jose.ParseLimited(strings.TrimSpace(string(raw)), maxList)
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

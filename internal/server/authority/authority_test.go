// SPDX-License-Identifier: Apache-2.0

package authority

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
)

func TestIssuedCertificatesVerify(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Open(dir) // the same authority, read back
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile, err := again.IssueFiles(dir, "server", "praxis.localhost", "hs1", "127.0.0.1", "::1")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"praxis.localhost", "hs1", "127.0.0.1", "::1"} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: first.Pool(), DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: first.Pool(), DNSName: "evil"}); err == nil {
		t.Error("valid for a name it was not issued for")
	}
	other, err := New()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: other.Pool(), DNSName: "hs1"}); err == nil {
		t.Error("valid under another authority")
	}
}

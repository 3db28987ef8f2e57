// SPDX-License-Identifier: Apache-2.0

package certificate

import (
	"bytes"
	stdx509 "crypto/x509"
	"slices"
	"sync/atomic"
	"time"
)

// Trust is the set of roots and intermediate certificates of one environment. It is safe for concurrent use; it grows by [Trust.Learn] alone.
type Trust struct{ now atomic.Pointer[anchors] }

// anchors is a set that is not changed any more.
type anchors struct {
	roots, between        []*Certificate
	rootPool, betweenPool *stdx509.CertPool
}

// NewTrust takes the trust anchors and the certification authorities below them.
func NewTrust(roots, intermediates []*Certificate) *Trust {
	t := &Trust{}
	t.now.Store(newAnchors(roots, intermediates))
	return t
}

func newAnchors(roots, between []*Certificate) *anchors {
	return &anchors{roots: roots, between: between, rootPool: pool(roots), betweenPool: pool(between)}
}

func pool(all []*Certificate) *stdx509.CertPool {
	p := stdx509.NewCertPool()
	for _, c := range all {
		p.AddCert(c.X509)
	}
	return p
}

// Roots are the trust anchors of this moment, the learned ones behind the given ones.
func (t *Trust) Roots() []*Certificate { return slices.Clone(t.now.Load().roots) }

// chain leads a certificate to a root.
func (t *Trust) chain(c *Certificate, e Expect) error {
	known := t.now.Load()
	between := known.betweenPool
	if len(e.Between) > 0 {
		between = between.Clone()
		for _, c := range e.Between {
			between.AddCert(c.X509)
		}
	}
	_, err := c.X509.Verify(stdx509.VerifyOptions{
		Roots: known.rootPool, Intermediates: between, CurrentTime: e.At, KeyUsages: []stdx509.ExtKeyUsage{stdx509.ExtKeyUsageAny},
	})
	return err
}

// Issuer finds the authority that signed a certificate, among the trusted ones and those that came with it; nil where it is unknown.
func (t *Trust) Issuer(c *Certificate, between ...*Certificate) *Certificate {
	known := t.now.Load()
	for _, set := range [][]*Certificate{known.between, known.roots, between} {
		for _, issuer := range set {
			if signedBy(c, issuer) {
				return issuer
			}
		}
	}
	return nil
}

// Authority says whether a certificate was given out below the trusted roots, whatever it is for (responders of OCSP).
func (t *Trust) Authority(c *Certificate, at time.Time) error {
	if failed := c.checkValidity(at); failed != nil {
		return failed
	}
	if err := t.chain(c, Expect{At: at}); err != nil {
		return &CheckError{Check: ChainCheck, Err: err}
	}
	return nil
}

// signedBy says whether an authority's key made a certificate's signature.
func signedBy(c, issuer *Certificate) bool {
	return bytes.Equal(c.X509.RawIssuer, issuer.X509.RawSubject) && c.X509.CheckSignatureFrom(issuer.X509) == nil
}

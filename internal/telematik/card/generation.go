// SPDX-License-Identifier: Apache-2.0

package card

import (
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/health/brainpool"
	"github.com/konsil-health/konsil/internal/health/certificate"
)

// authorityNames are the authorities below each root: file name → common name.
var authorityNames = map[string]string{authorityHBA: "HBA-CA", authoritySMCB: "SMCB-CA", authorityEGK: "EGK-CA", authorityComponent: "KOMP-CA"}

// open reads all generations of authorities; the first is made when it is not there.
func (p *PKI) open() error {
	if err := p.generation(1); err != nil {
		return err
	}
	for n := 2; ; n++ {
		if _, err := os.Stat(p.file("root-ca", n) + ".key"); errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err := p.generation(n); err != nil {
			return err
		}
	}
}

// file is the path of an authority's files without their ending; the first generation has no number.
func (p *PKI) file(name string, n int) string {
	if n > 1 {
		name += strconv.Itoa(n)
	}
	return filepath.Join(p.folder, name)
}

// generation reads or makes a root and the authorities below it.
func (p *PKI) generation(n int) error {
	root, err := p.authority(p.file("root-ca", n), fmt.Sprintf("KONSIL.RCA%d TEST-ONLY", n), rootYears, nil)
	if err != nil {
		return err
	}
	p.roots = append(p.roots, root)
	for name, common := range authorityNames {
		a, err := p.authority(p.file(name, n), fmt.Sprintf("KONSIL.%s%d TEST-ONLY", common, n), authorityYears, root)
		if err != nil {
			return err
		}
		p.authorities[name] = append(p.authorities[name], a)
	}
	return nil
}

// under is the authority that issues what is new.
func (p *PKI) under(name string) *authority {
	all := p.authorities[name]
	return all[len(all)-1]
}

// Rotate makes a new root with authorities of its own, which issue everything from now on, and the two cross certificates that join it to the
// root before it. Components get new certificates and keys at the next start. Whoever trusts the old root learns the new one by [PKI.RootsList].
func (p *PKI) Rotate() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.roots) + 1
	if err := p.generation(n); err != nil {
		return err
	}
	if _, _, err := p.crosses(n); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(p.folder, "components", "*"))
	if err != nil {
		return fmt.Errorf("card: %w", err)
	}
	for _, f := range files {
		if strings.Contains(filepath.Base(f), "-enc.") {
			continue // a key that others encrypt for stays
		}
		if err := os.Remove(f); err != nil {
			return fmt.Errorf("card: %w", err)
		}
	}
	return nil
}

// crosses returns the cross certificates between root n-1 and root n: the older one vouches for the newer, and the other way round.
func (p *PKI) crosses(n int) (forward, back *certificate.Certificate, err error) {
	old, fresh := p.roots[n-2], p.roots[n-1]
	if forward, err = p.cross(p.file("cross-next", n), fresh, old); err != nil {
		return nil, nil, err
	}
	back, err = p.cross(p.file("cross-prev", n), old, fresh)
	return forward, back, err
}

// cross reads or makes a certificate for a root's name and key, signed by another root.
func (p *PKI) cross(path string, of, by *authority) (*certificate.Certificate, error) {
	text, err := os.ReadFile(path + ".pem")
	if err == nil {
		all, err := certificate.ParsePEM(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return all[0], nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("card: %w", err)
	}
	subject := pkix.Name{Country: []string{"DE"}, Organization: []string{organisation}, CommonName: of.certificate.X509.Subject.CommonName}
	c, err := p.issueFor(certificate.Template{Subject: subject, CA: true}, of.certificate.PublicKey(), nil, authorityYears, by)
	if err != nil {
		return nil, err
	}
	return c, writeFile(path+".pem", c.PEM())
}

// RootsList is the PKI's roots.json, read anew so that a rotation by another process shows.
func (p *PKI) RootsList() ([]byte, error) {
	now, err := Open(Options{Folder: p.folder, OCSP: p.ocsp, Now: p.now})
	if err != nil {
		return nil, err
	}
	list := make([]certificate.Root, len(now.roots))
	for i, root := range now.roots {
		name := fmt.Sprintf("RCA%d", i+1)
		list[i] = certificate.Root{Name: name, CN: root.certificate.X509.Subject.CommonName, Cert: root.certificate.DER(), SKI: fmt.Sprintf("%x", root.certificate.X509.SubjectKeyId)}
		if i == 0 {
			continue
		}
		forward, back, err := now.crosses(i + 1)
		if err != nil {
			return nil, err
		}
		list[i-1].Next, list[i].Prev = forward.DER(), back.DER()
	}
	return json.Marshal(list, jsontext.WithIndent("  "))
}

// Roots are the trust anchors.
func (p *PKI) Roots() []*certificate.Certificate {
	p.mu.Lock()
	defer p.mu.Unlock()
	return certificates(p.roots)
}

// Authorities are the certificates between roots and cards.
func (p *PKI) Authorities() []*certificate.Certificate {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []*certificate.Certificate
	for _, name := range []string{authorityHBA, authoritySMCB, authorityEGK, authorityComponent} {
		all = append(all, certificates(p.authorities[name])...)
	}
	return all
}

func certificates(of []*authority) []*certificate.Certificate {
	all := make([]*certificate.Certificate, len(of))
	for i, a := range of {
		all[i] = a.certificate
	}
	return all
}

// authority reads an authority's two files or makes them.
func (p *PKI) authority(path, common string, years int, above *authority) (*authority, error) {
	return p.pair(path, func(key *brainpool.PrivateKey) (*certificate.Certificate, error) {
		t := certificate.Template{Subject: pkix.Name{Country: []string{"DE"}, Organization: []string{organisation}, CommonName: common}, CA: true}
		return p.issue(t, key, years, above)
	})
}

// issuers are all authorities that give certificates out, the newest first.
func (p *PKI) issuers() []*authority {
	var all []*authority
	for name := range authorityNames {
		all = append(all, p.authorities[name]...)
	}
	all = append(all, p.roots...)
	slices.Reverse(all)
	return all
}

// SPDX-License-Identifier: Apache-2.0

package card

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/konsil-health/konsil/internal/health/brainpool"
	"github.com/konsil-health/konsil/internal/health/certificate"
)

// Options says where a test PKI lives.
type Options struct {
	Folder     string
	Production bool             // refuses everything
	OCSP       string           // address of the responder, written into new certificates; empty: none
	Now        func() time.Time // nil: time.Now
}

// PKI is a test PKI in a folder: a root (and those that followed it, see [PKI.Rotate]), an authority for each kind of card and one for components.
// It is safe for concurrent use.
type PKI struct {
	folder string
	ocsp   string
	now    func() time.Time

	mu          sync.Mutex
	roots       []*authority            // the oldest first
	authorities map[string][]*authority // by name, the oldest first
}

type authority struct {
	certificate *certificate.Certificate
	key         *brainpool.PrivateKey
}

// The authorities below the root.
const (
	authorityHBA       = "hba-ca"
	authoritySMCB      = "smcb-ca"
	authorityEGK       = "egk-ca"
	authorityComponent = "komp-ca"
)

const (
	rootYears, authorityYears, cardYears = 20, 8, 5

	organisation = "Konsil Demo TEST-ONLY NOT-VALID"
)

// Open opens the test PKI of a folder and makes what is missing.
func Open(o Options) (*PKI, error) {
	if o.Production {
		return nil, ErrProduction
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	p := &PKI{folder: o.Folder, ocsp: o.OCSP, now: o.Now, authorities: map[string][]*authority{}}
	if err := p.open(); err != nil {
		return nil, err
	}
	return p, nil
}

// pair reads certificate and key of a path, or makes both.
func (p *PKI) pair(path string, issue func(*brainpool.PrivateKey) (*certificate.Certificate, error)) (*authority, error) {
	text, err := os.ReadFile(path + ".key")
	if errors.Is(err, os.ErrNotExist) {
		key, err := brainpool.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		c, err := issue(key)
		if err != nil {
			return nil, err
		}
		encoded, err := encodeKey(key)
		if err != nil {
			return nil, err
		}
		if err := writeFile(path+".pem", c.PEM()); err != nil { // first: a key without its certificate would be found above
			return nil, err
		}
		return &authority{c, key}, writeFile(path+".key", encoded)
	}
	if err != nil {
		return nil, fmt.Errorf("card: %w", err)
	}
	key, err := decodeKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if text, err = os.ReadFile(path + ".pem"); err != nil {
		return nil, fmt.Errorf("card: %w", err)
	}
	all, err := certificate.ParsePEM(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if !all[0].PublicKey().Equal(key.PublicKey()) {
		return nil, fmt.Errorf("card: %s: key and certificate do not belong together", path)
	}
	return &authority{all[0], key}, nil
}

// issue fills in serial number, period and key and signs. above is nil for the root.
func (p *PKI) issue(t certificate.Template, key *brainpool.PrivateKey, years int, above *authority) (*certificate.Certificate, error) {
	return p.issueFor(t, key.PublicKey(), key, years, above)
}

// issueFor is issue for a public key; own is the private one, which only the root signs with.
func (p *PKI) issueFor(t certificate.Template, public *ecdsa.PublicKey, own *brainpool.PrivateKey, years int, above *authority) (*certificate.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 64))
	if err != nil {
		return nil, fmt.Errorf("card: serial number: %w", err)
	}
	t.Serial, t.Key = serial.Add(serial, big.NewInt(1)), public
	if t.NotBefore.IsZero() {
		t.NotBefore = p.now().UTC().AddDate(0, 0, -1).Truncate(time.Second)
	}
	if t.NotAfter.IsZero() {
		t.NotAfter = t.NotBefore.AddDate(years, 0, 0)
	}
	if !t.CA {
		t.OCSP = p.ocsp
	}
	if above == nil {
		return certificate.Issue(t, nil, own)
	}
	c, err := certificate.Issue(t, above.certificate, above.key)
	if err != nil {
		return nil, err
	}
	return c, p.keep(c)
}

// Trust is what a relying party of this PKI trusts.
func (p *PKI) Trust() *certificate.Trust {
	return certificate.NewTrust(p.Roots(), p.Authorities())
}

// Period overrides the life of a certificate; zero values mean from yesterday for five years.
type Period struct{ From, Until time.Time }

// Person is a health professional who gets an eHBA.
type Person struct {
	GivenName, FamilyName string
	TelematikID           string
	ProfessionOID         string
	PIN                   string
	Period                Period
}

// Institution is an organisation that gets an SMC-B.
type Institution struct {
	Name          string
	TelematikID   string
	ProfessionOID string
	PIN           string
	Period        Period
}

// Insured is an insured person who gets an eGK.
type Insured struct {
	GivenName, FamilyName string
	KVNR                  string
	Insurer, IK           string
	PIN                   string
	Period                Period
}

// IssueHBA makes an eHBA with the person's authentication certificate (C.HP.AUT).
func (p *PKI) IssueHBA(h Person) (*Card, error) {
	subject := certificate.PersonName(h.GivenName, h.FamilyName)
	subject.CommonName += " TEST-ONLY"
	return p.card(authorityHBA, h.TelematikID, h.PIN, certificate.Template{
		Subject: subject, Type: certificate.ProfessionalAUT, Admission: admission(h.ProfessionOID, h.TelematikID), NotBefore: h.Period.From, NotAfter: h.Period.Until,
	})
}

// IssueSMCB makes an SMC-B with the institution's authentication certificate (C.HCI.AUT).
func (p *PKI) IssueSMCB(i Institution) (*Card, error) {
	return p.card(authoritySMCB, i.TelematikID, i.PIN, certificate.Template{
		Subject: pkix.Name{Country: []string{"DE"}, Organization: []string{organisation}, CommonName: i.Name},
		Type:    certificate.InstitutionAUT, Admission: admission(i.ProfessionOID, i.TelematikID), NotBefore: i.Period.From, NotAfter: i.Period.Until,
	})
}

// IssueEGK makes an eGK with the insured person's authentication certificate (C.CH.AUT).
func (p *PKI) IssueEGK(i Insured) (*Card, error) {
	subject := certificate.PersonName(i.GivenName, i.FamilyName, i.KVNR, i.IK)
	subject.Organization = []string{i.Insurer}
	subject.CommonName += " TEST-ONLY"
	return p.card(authorityEGK, i.KVNR, i.PIN, certificate.Template{
		Subject: subject, Type: certificate.CardHolderAUT, Admission: admission(certificate.InsuredPerson, ""), NotBefore: i.Period.From, NotAfter: i.Period.Until,
	})
}

func admission(profession, number string) certificate.Admission {
	return certificate.Admission{Items: []string{certificate.ProfessionName(profession)}, Professions: []string{profession}, RegistrationNumber: number}
}

// card issues one and writes its file; a card with the same number is replaced, as a lost one is.
func (p *PKI) card(by, number, pin string, t certificate.Template) (*Card, error) {
	if number == "" {
		return nil, errors.New("card: no number")
	}
	key, err := brainpool.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	c, err := p.issue(t, key, cardYears, p.under(by))
	p.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if _, err := c.Identity(); err != nil {
		return nil, err
	}
	return create(p.cardPath(number), c, key, pin, rand.Reader)
}

func (p *PKI) cardPath(number string) string {
	return filepath.Join(p.folder, "cards", url.PathEscape(number)+".json")
}

// Card returns the card with a Telematik-ID or KVNR; os.ErrNotExist is wrapped where there is none.
func (p *PKI) Card(number string) (*Card, error) { return Load(p.cardPath(number)) }

// Cards lists all cards by file name.
func (p *PKI) Cards() ([]*Card, error) {
	files, err := filepath.Glob(filepath.Join(p.folder, "cards", "*.json"))
	if err != nil {
		return nil, fmt.Errorf("card: %w", err)
	}
	slices.Sort(files)
	all := make([]*Card, 0, len(files))
	for _, f := range files {
		c, err := Load(f)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

// Component returns the signer of a component (C.FD.SIG) with a role such as certificate.RoleDirectory; the first call makes it.
func (p *PKI) Component(name, role string) (Signer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, err := p.component(name, role)
	if err != nil {
		return nil, err
	}
	return newSigner(a.key, a.certificate), nil
}

// ComponentES256 is [PKI.Component] with a key of the curve P-256.
func (p *PKI) ComponentES256(name, role string) (Signer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	path := filepath.Join(p.folder, "components", url.PathEscape(name)+"-es256")
	if _, err := os.Stat(path + ".key"); errors.Is(err, os.ErrNotExist) {
		if err := p.issueES256(path, name, role); err != nil {
			return nil, err
		}
	}
	return LoadSigner(path+".pem", path+".key")
}

func (p *PKI) issueES256(path, name, role string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("card: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return fmt.Errorf("card: %w", err)
	}
	c, err := p.issueFor(componentTemplate(name, role), &key.PublicKey, nil, cardYears, p.under(authorityComponent))
	if err != nil {
		return err
	}
	if err := writeFile(path+".pem", c.PEM()); err != nil { // first, as in pair
		return err
	}
	return writeFile(path+".key", pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}))
}

// ComponentKey returns the key that a component decrypts with, in a pair of its own beside the signer's.
func (p *PKI) ComponentKey(name, role string) (*brainpool.PrivateKey, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, err := p.component(name+"-enc", role)
	if err != nil {
		return nil, err
	}
	return a.key, nil
}

func (p *PKI) component(name, role string) (*authority, error) {
	return p.pair(filepath.Join(p.folder, "components", url.PathEscape(name)), func(key *brainpool.PrivateKey) (*certificate.Certificate, error) {
		return p.issue(componentTemplate(name, role), key, cardYears, p.under(authorityComponent))
	})
}

func componentTemplate(name, role string) certificate.Template {
	return certificate.Template{
		Subject: pkix.Name{Country: []string{"DE"}, Organization: []string{organisation}, CommonName: name},
		Type:    certificate.ServiceSIG, Admission: admission(role, ""),
	}
}

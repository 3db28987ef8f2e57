// SPDX-License-Identifier: Apache-2.0

package card

import (
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/ocsp"
)

// OCSPLife is how long an answer of the test PKI's responder counts, and so how long a revoked card may still sign in.
const OCSPLife = 5 * time.Minute

// Revoke blocks a certificate for good.
func (p *PKI) Revoke(c *certificate.Certificate) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	revoked, err := p.revoked()
	if err != nil {
		return err
	}
	serial := c.X509.SerialNumber.Text(16)
	if _, again := revoked[serial]; again {
		return nil
	}
	revoked[serial] = p.now().UTC().Truncate(time.Second)
	var lines []string
	for serial, at := range revoked {
		lines = append(lines, serial+" "+strconv.FormatInt(at.Unix(), 10)+"\n")
	}
	slices.Sort(lines)
	return writeFile(p.revokedPath(), []byte(strings.Join(lines, "")))
}

// Revoked answers an error for a revoked certificate, at once; everybody else asks the responder.
func (p *PKI) Revoked(c *certificate.Certificate) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	revoked, err := p.revoked()
	if err != nil {
		return err
	}
	if _, ok := revoked[c.X509.SerialNumber.Text(16)]; ok {
		return fmt.Errorf("certificate %s of %s is revoked", c.X509.SerialNumber.Text(16), c.X509.Subject.CommonName)
	}
	return nil
}

func (p *PKI) revokedPath() string { return filepath.Join(p.folder, "revoked") }

// revoked reads which serial numbers are revoked since when.
func (p *PKI) revoked() (map[string]time.Time, error) {
	text, err := os.ReadFile(p.revokedPath())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("card: %w", err)
	}
	all := map[string]time.Time{}
	for line := range strings.Lines(string(text)) {
		serial, at, _ := strings.Cut(strings.TrimSpace(line), " ")
		seconds, err := strconv.ParseInt(at, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("card: %s: %w", p.revokedPath(), err)
		}
		all[serial] = time.Unix(seconds, 0)
	}
	return all, nil
}

// ServeHTTP is the PKI's OCSP responder (RFC 6960 by POST). Each authority signs for its own certificates; of a number that it never gave out it
// says that it does not know it.
func (p *PKI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, ocsp.MaxMessage))
	answer := ocsp.Malformed.Bytes()
	if err == nil {
		answer = p.answer(body)
	}
	w.Header().Set("Content-Type", "application/ocsp-response")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(answer) // the caller is gone if this fails
}

// answer answers an encoded request.
func (p *PKI) answer(request []byte) []byte {
	asked, err := ocsp.ParseRequest(request)
	if err != nil || len(asked.IDs) == 0 || len(asked.Nonce) > 128 {
		return ocsp.Malformed.Bytes()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	by := p.issuerOf(asked.IDs)
	if by == nil {
		return ocsp.Unauthorized.Bytes()
	}
	revoked, err := p.revoked()
	if err != nil {
		return ocsp.InternalError.Bytes()
	}
	now := p.now().UTC().Truncate(time.Second)
	var answers []ocsp.Single
	for _, id := range asked.IDs {
		s := ocsp.Single{ID: id, ThisUpdate: now, NextUpdate: now.Add(OCSPLife)}
		if s.Subject, err = p.issued(id.Serial); err != nil {
			return ocsp.InternalError.Bytes()
		}
		at, blocked := revoked[id.Serial.Text(16)]
		switch {
		case s.Subject == nil:
			s.Status = ocsp.Unknown
		case blocked:
			s.Status, s.RevokedAt = ocsp.Revoked, at
		}
		answers = append(answers, s)
	}
	answer, err := ocsp.Build(answers, asked.Nonce, ocsp.Responder{Certificate: by.certificate, Key: by.key}, now)
	if err != nil {
		return ocsp.InternalError.Bytes()
	}
	return answer
}

// issuerOf finds the authority that gave out all the certificates asked about; nil where there is none.
func (p *PKI) issuerOf(ids []ocsp.ID) *authority {
	for _, a := range p.issuers() {
		if !slices.ContainsFunc(ids, func(id ocsp.ID) bool { return !id.IssuedBy(a.certificate) }) {
			return a
		}
	}
	return nil
}

// keep writes a certificate where the responder finds it by its number, also after a card was replaced.
func (p *PKI) keep(c *certificate.Certificate) error {
	return writeFile(p.issuedPath(c.X509.SerialNumber), c.PEM())
}

func (p *PKI) issuedPath(serial *big.Int) string {
	return filepath.Join(p.folder, "issued", serial.Text(16)+".pem")
}

// issued finds a certificate by its number; nil where none was given out under it.
func (p *PKI) issued(serial *big.Int) (*certificate.Certificate, error) {
	text, err := os.ReadFile(p.issuedPath(serial))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("card: %w", err)
	}
	all, err := certificate.ParsePEM(text)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

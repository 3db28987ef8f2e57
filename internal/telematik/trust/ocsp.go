// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/ocsp"
)

const (
	// MaxAge is how long an answer counts at most, even where the responder names a later next update or none.
	MaxAge = time.Hour

	askTime    = 10 * time.Second
	maxAnswers = 10_000
)

// The kinds of incidents.
const (
	IncidentRevoked     = "revoked"     // somebody used a revoked certificate
	IncidentUnreachable = "unreachable" // the responder could not be asked, and what needed its answer was refused
	IncidentAnswer      = "answer"      // the responder's answer proved nothing
)

var (
	// ErrRevoked is answered for a certificate that its issuer has revoked.
	ErrRevoked = errors.New("it was revoked")
	// ErrUnknown is answered for a certificate that its issuer's responder does not know.
	ErrUnknown = errors.New("its issuer does not know it")
	// ErrUnreachable is answered where nobody could be asked. Whoever asks refuses then: what cannot be checked does not count.
	ErrUnreachable = errors.New("its issuer could not be asked whether it was revoked")
)

// OCSPOptions are what a client stands on.
type OCSPOptions struct {
	// Trust finds a certificate's issuer and judges responders.
	Trust *certificate.Trust
	// Responder is the address asked about every certificate; empty: the one that the certificate names.
	Responder string
	Client    *http.Client // nil: the standard client
	// Incident is told of each event that an operator must look into, by its kind; nil: the log alone tells.
	Incident func(kind string)
	Log      *slog.Logger     // nil: silent
	Now      func() time.Time // nil: time.Now
}

// OCSP asks whether certificates were revoked. It is safe for concurrent use.
type OCSP struct {
	o OCSPOptions

	mu    sync.Mutex
	known map[[sha256.Size]byte]remembered
}

// remembered is an answer and until when it counts.
type remembered struct {
	status ocsp.Status
	until  time.Time
}

// NewOCSP returns a client that knows nothing yet.
func NewOCSP(o OCSPOptions) *OCSP {
	if o.Client == nil {
		o.Client = http.DefaultClient
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &OCSP{o: o, known: map[[sha256.Size]byte]remembered{}}
}

// Revoked answers nil for a certificate that holds. It asks the responder unless an answer is there that still counts; an answer that does not
// count any more never helps, also when the responder is silent. It fits certificate.Expect.
func (o *OCSP) Revoked(c *certificate.Certificate) error {
	id := sha256.Sum256(c.DER())
	now := o.o.Now()
	o.mu.Lock()
	found, ok := o.known[id]
	o.mu.Unlock()
	if !ok || !now.Before(found.until) {
		single, err := o.ask(c)
		if err != nil {
			return err
		}
		found = remembered{status: single.Status, until: lifetime(single, now)}
		o.remember(id, found, now)
	}
	switch found.status {
	case ocsp.Good:
		return nil
	case ocsp.Revoked:
		o.incident(IncidentRevoked, "a revoked certificate was used", c, nil)
		return ErrRevoked
	}
	return ErrUnknown
}

// lifetime is until when an answer counts.
func lifetime(s ocsp.Single, now time.Time) time.Time {
	until := s.ThisUpdate.Add(MaxAge)
	if !s.NextUpdate.IsZero() && s.NextUpdate.Before(until) {
		until = s.NextUpdate
	}
	if latest := now.Add(MaxAge); until.After(latest) { // the responder's clock is ahead
		until = latest
	}
	return until
}

func (o *OCSP) remember(id [sha256.Size]byte, r remembered, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.known) >= maxAnswers {
		for other, old := range o.known {
			if !now.Before(old.until) {
				delete(o.known, other)
			}
		}
	}
	if len(o.known) < maxAnswers {
		o.known[id] = r
	}
}

// ask puts the question to the responder.
func (o *OCSP) ask(c *certificate.Certificate) (ocsp.Single, error) {
	issuer := o.o.Trust.Issuer(c)
	if issuer == nil {
		return ocsp.Single{}, fmt.Errorf("%w: its issuer is unknown", ErrUnreachable)
	}
	address := o.o.Responder
	if address == "" && len(c.X509.OCSPServer) > 0 {
		address = c.X509.OCSPServer[0]
	}
	if address == "" {
		return ocsp.Single{}, fmt.Errorf("%w: no address of a responder", ErrUnreachable)
	}
	nonce := make([]byte, 16)
	rand.Read(nonce)
	answer, err := o.post(address, ocsp.Request{IDs: []ocsp.ID{ocsp.Of(c, issuer)}, Nonce: nonce})
	if err != nil {
		o.incident(IncidentUnreachable, "the OCSP responder cannot be reached; the certificate was refused", c, err)
		return ocsp.Single{}, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	single, err := ocsp.Check(answer, ocsp.Question{Certificate: c, Issuer: issuer, Nonce: nonce, At: o.o.Now(), Trust: o.o.Trust})
	if err == nil && single.NextUpdate.IsZero() && !o.o.Now().Before(lifetime(single, o.o.Now())) {
		err = fmt.Errorf("%w: it is older than %s", ocsp.ErrAnswer, MaxAge)
	}
	if err != nil {
		o.incident(IncidentAnswer, "the OCSP responder's answer proves nothing; the certificate was refused", c, err)
		return ocsp.Single{}, err
	}
	return single, nil
}

func (o *OCSP) post(address string, q ocsp.Request) ([]byte, error) {
	body, err := q.Bytes()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/ocsp-request")
	r.Header.Set("Accept", "application/ocsp-response")
	resp, err := o.o.Client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %s", resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, ocsp.MaxMessage+1))
}

// incident tells the operator, with the certificate's number but not its holder's name.
func (o *OCSP) incident(kind, text string, c *certificate.Certificate, err error) {
	o.o.Log.Error("incident: "+text, "kind", kind, "serial", c.X509.SerialNumber.Text(16), "issuer", c.X509.Issuer.CommonName, "error", err)
	if o.o.Incident != nil {
		o.o.Incident(kind)
	}
}

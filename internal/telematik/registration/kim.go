// SPDX-License-Identifier: Apache-2.0

package registration

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/health/fhir"
)

// linkLife is how long a link that was sent by KIM proves an organisation, once; maxLinks is how many of one organisation count at a time, so that nobody
// fills its mailbox.
const (
	linkLife = 24 * time.Hour
	maxLinks = 5
)

// ErrLink is answered for a link that was used, has expired or was never sent.
var ErrLink = errors.New("this link does not count, or not any more")

// Contact is how the directory reaches an organisation by KIM.
type Contact struct {
	Organisation Organisation
	Address      string
}

// OffersKIM says whether organisations may prove themselves by KIM here.
func (s *Service) OffersKIM() bool { return s.o.Contact != nil && s.o.SendMail != nil }

// SendLink sends a single-use link to the KIM address that the directory holds for an active organisation. What it answers does not tell whether
// there is one: only an unreachable mail server or directory is an error.
func (s *Service) SendLink(ctx context.Context, telematikID string, message func(link string) (subject, text string)) error {
	if !s.OffersKIM() {
		return fmt.Errorf("%w: KIM is not set up", ErrUnavailable)
	}
	contact, found, err := s.o.Contact(ctx, telematikID)
	if err != nil {
		return fmt.Errorf("%w: directory: %w", ErrUnavailable, err)
	}
	if !found || !certificate.IsInstitution(contact.Organisation.Profession) {
		return nil
	}
	if err := s.active(ctx, telematikID); errors.Is(err, ErrInactive) {
		return nil
	} else if err != nil {
		return err
	}
	secret, now := strings.ToLower(rand.Text()), s.o.Now().UnixMilli()
	var waiting int
	err = s.o.DB.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM registration_link WHERE expires < $1", now); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, "SELECT COUNT(*) FROM registration_link WHERE telematik_id = $1", telematikID).Scan(&waiting)
		if err != nil || waiting >= maxLinks {
			return err
		}
		_, err = tx.Exec(ctx, "INSERT INTO registration_link (hash, telematik_id, profession, name, expires) VALUES ($1, $2, $3, $4, $5)",
			linkHash(secret), telematikID, contact.Organisation.Profession, contact.Organisation.Name, now+linkLife.Milliseconds())
		return err
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if waiting >= maxLinks {
		s.o.Log.Warn("registration: no further link by KIM, enough are on their way", "telematik_id", telematikID)
		return nil
	}
	subject, text := message(secret)
	if err := s.o.SendMail(ctx, contact.Address, subject, text); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}

func linkHash(secret string) []byte {
	sum := sha256.Sum256([]byte("kim link " + secret))
	return sum[:]
}

// Link says whom a link would prove, without using it: mail scanners open links too. Error: [ErrLink].
func (s *Service) Link(ctx context.Context, secret string) (Organisation, error) {
	var who Organisation
	err := s.o.DB.QueryRow(ctx, "SELECT telematik_id, profession, name FROM registration_link WHERE hash = $1 AND expires > $2", linkHash(secret), s.o.Now().UnixMilli()).
		Scan(&who.TelematikID, &who.Profession, &who.Name)
	if errors.Is(err, sql.ErrNoRows) {
		return who, ErrLink
	}
	who.Proved = s.o.Now().UnixMilli()
	return who, err
}

// TakeLink is Link for a person, once.
func (s *Service) TakeLink(ctx context.Context, secret string) (Organisation, error) {
	who, err := s.Link(ctx, secret)
	if err != nil {
		return who, err
	}
	n, err := s.o.DB.Exec(ctx, "DELETE FROM registration_link WHERE hash = $1", linkHash(secret))
	if err == nil && n == 0 {
		err = ErrLink
	}
	return who, err
}

// contactIn finds an organisation's KIM address in the configured directory, as the provider itself.
func (s *Service) contactIn(client *http.Client) func(ctx context.Context, telematikID string) (Contact, bool, error) {
	return func(ctx context.Context, telematikID string) (Contact, bool, error) {
		vouched, err := s.OwnerToken(&tenant.Tenant{TelematikID: s.o.ClientID}, "", s.o.Directory)
		if err != nil {
			return Contact{}, false, err
		}
		o := &Owner{Directory: s.o.Directory, Vouched: vouched, Client: client}
		raw, err := o.send(ctx, http.MethodGet, "/search/"+fhir.HealthcareService+"?"+url.Values{"organization.active": {"true"},
			"organization.identifier": {fhir.SystemTelematikID + "|" + telematikID}, "_include": {"HealthcareService:endpoint", "HealthcareService:organization"}}.Encode(), nil)
		if err != nil {
			return Contact{}, false, err
		}
		all, err := resources(raw)
		if err != nil {
			return Contact{}, false, err
		}
		return contact(all, telematikID)
	}
}

// contact reads an organisation and its KIM address out of what a search found.
func contact(all []*fhir.Resource, telematikID string) (c Contact, found bool, err error) {
	for _, r := range all {
		switch r.Type() {
		case fhir.Organization:
			if r.Identifier(fhir.SystemTelematikID) != telematikID {
				continue
			}
			c.Organisation.TelematikID, c.Organisation.Name = telematikID, strings.Join(r.Strings("name"), " ")
			for _, coding := range r.Codings("type") {
				if certificate.IsInstitution(coding.Code) {
					c.Organisation.Profession = coding.Code
				}
			}
		case fhir.Endpoint:
			if kinds := r.Codings("connectionType"); len(kinds) > 0 && kinds[0].Code == "kim" && c.Address == "" {
				c.Address = strings.TrimPrefix(strings.Join(r.Strings("address"), ""), "mailto:")
			}
		}
	}
	return c, c.Organisation.Profession != "" && c.Address != "", nil
}

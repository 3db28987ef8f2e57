// SPDX-License-Identifier: Apache-2.0

package registration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/health/certificate"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/telematik/fedlist"
)

// Order is what an organisation wants.
type Order struct {
	ServerName id.Server `json:"domain"`
	// DisplayName is the organisation's name for people; empty takes the card's.
	DisplayName string `json:"displayName,omitempty"`
	// Insurance orders a service for insured people, with the insurer's numbers.
	Insurance bool     `json:"isInsurance"`
	IK        []string `json:"ik,omitempty"`
	// Admin is the login name of an administrator to be made; empty: none.
	Admin string `json:"admin,omitempty"`
}

// Result is what an organisation got.
type Result struct {
	ServerName  id.Server `json:"domain"`
	DisplayName string    `json:"displayName"`
	TelematikID string    `json:"telematikID"`
	Profession  string    `json:"professionOID"`
	Insurance   bool      `json:"isInsurance"`
	// Again: the organisation had this messenger already.
	Again bool `json:"again"`
	// Admin is the administrator, if there is one. The password is there once: with the order that made it, and with a repeated one as long as
	// nobody has signed in with it.
	Admin *Admin `json:"admin,omitempty"`
	// Tenant is what stands behind it, within the provider.
	Tenant *tenant.Tenant `json:"-"`
}

// Organisation is who orders, as proved by the card or by KIM, now or at an earlier time.
type Organisation struct {
	TelematikID, Profession, Name string
	Proved                        int64 // ms since the epoch
}

const (
	maxIK          = 16
	maxDisplayName = 255
	// maxServerName leaves room for localparts in user ids of 255 bytes.
	maxServerName = 190
)

var (
	hostForm  = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	loginForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
)

// check looks at what is ordered before anybody else is asked.
func (s *Service) check(ctx context.Context, who Organisation, order Order) error {
	if err := s.orderable(ctx, order.ServerName); err != nil {
		return err
	}
	if err := s.mayHave(ctx, who, order.ServerName); err != nil {
		return err
	}
	if order.Insurance && who.Profession != certificate.Insurer {
		return ErrInsurance
	}
	if order.Insurance != (len(order.IK) > 0) || len(order.IK) > maxIK || slices.ContainsFunc(order.IK, func(ik string) bool { return !fedlist.ValidIK(ik) }) {
		return ErrIK
	}
	if len(order.DisplayName) > maxDisplayName || !utf8.ValidString(order.DisplayName) || strings.ContainsFunc(order.DisplayName, unicode.IsControl) {
		return fmt.Errorf("%w: displayName", ErrOrder)
	}
	if order.Admin != "" && (s.o.MakeAdmin == nil || !loginForm.MatchString(order.Admin)) {
		return fmt.Errorf("%w: admin", ErrOrder)
	}
	return nil
}

// orderable refuses with [ErrDomain] what is no host name, and names that the provider keeps.
func (s *Service) orderable(ctx context.Context, domain id.Server) error {
	name := string(domain)
	if _, err := netip.ParseAddr(name); err == nil || len(name) > maxServerName || !hostForm.MatchString(name) {
		return fmt.Errorf("%w: not a host name in lower case", ErrDomain)
	}
	if s.o.Domain == nil {
		return nil
	}
	if err := s.o.Domain(ctx, domain); err != nil {
		return fmt.Errorf("%w: %w", ErrDomain, err)
	}
	return nil
}

// active asks the directory.
func (s *Service) active(ctx context.Context, telematikID string) error {
	if s.o.Active == nil {
		return nil
	}
	active, err := s.o.Active(ctx, telematikID)
	if err != nil {
		return fmt.Errorf("%w: directory: %w", ErrUnavailable, err)
	}
	if !active {
		return ErrInactive
	}
	return nil
}

// carryOut checks the order, puts the domain on the list and creates the tenant, in this order: a server name is never given twice (engine rule
// 25), so a tenant must not be made for a name that the list then refuses. What a crash leaves between two steps, the repeated order finishes.
func (s *Service) carryOut(ctx context.Context, who Organisation, order Order) (*Result, error) {
	if err := s.check(ctx, who, order); err != nil {
		return nil, err
	}
	if err := s.active(ctx, who.TelematikID); err != nil {
		return nil, err
	}
	reserved, err := s.reserveName(ctx, who, order.ServerName)
	if err != nil {
		return nil, err
	}
	t, again, err := s.provision(ctx, who, order)
	if err != nil {
		s.releaseName(ctx, reserved, order.ServerName)
		return nil, err
	}
	if err := errors.Join(s.record(ctx, t.ID, who), s.renewed(ctx, t.ID)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	result := &Result{ServerName: t.Name, DisplayName: t.DisplayName, TelematikID: who.TelematikID, Profession: who.Profession, Insurance: t.Insurance, Again: again, Tenant: t}
	if result.Admin, err = s.admin(ctx, t, order.Admin); err != nil {
		return nil, err
	}
	if s.o.Created != nil {
		if err := s.o.Created(ctx, t); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	return result, nil
}

// Existing is the order that ends in a messenger which an organisation has, as it stands: by that a new administrator takes it over (AF_10060). An
// insurer's keeps the numbers that are on the federation list; ik are those to enlist it with when it is not there any more. Error: [ErrUnavailable].
func (s *Service) Existing(ctx context.Context, who Organisation, domain id.Server, ik []string) (Order, error) {
	order := Order{ServerName: domain}
	t, err := s.o.Tenants.ByName(ctx, domain)
	if errors.Is(err, tenant.ErrUnknown) || err == nil && (t.TelematikID != who.TelematikID || !t.Insurance) {
		return order, nil
	}
	if err != nil {
		return order, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	own, found, err := s.o.List.Own(ctx, domain)
	if err != nil {
		return order, fmt.Errorf("%w: federation list: %w", ErrUnavailable, err)
	}
	if order.Insurance, order.IK = true, ik; found {
		order.IK = own.IK
	}
	return order, nil
}

// fits says whether a tenant is what the organisation orders.
func fits(t *tenant.Tenant, who Organisation, order Order) bool {
	return t.TelematikID == who.TelematikID && t.Insurance == order.Insurance && t.State == tenant.Active
}

// provision makes the entry on the list and the tenant, or finds them.
func (s *Service) provision(ctx context.Context, who Organisation, order Order) (t *tenant.Tenant, again bool, err error) {
	t, err = s.o.Tenants.ByName(ctx, order.ServerName)
	switch {
	case err == nil && !fits(t, who, order):
		return nil, false, ErrTaken
	case err != nil && !errors.Is(err, tenant.ErrUnknown):
		return nil, false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	added, err := s.enlist(ctx, fedlist.Domain{Domain: order.ServerName, TelematikID: who.TelematikID, IsInsurance: order.Insurance, IK: order.IK})
	if err != nil || t != nil {
		return t, t != nil, err
	}
	spec := tenant.Spec{Name: order.ServerName, DisplayName: order.DisplayName, TelematikID: who.TelematikID, Insurance: order.Insurance}
	if spec.DisplayName == "" {
		spec.DisplayName = who.Name
	}
	if s.o.Hosts != nil {
		spec.ClientHosts, spec.FederationHosts = s.o.Hosts(order.ServerName)
	}
	t, err = s.o.Tenants.Create(ctx, spec)
	if err == nil {
		return t, false, nil
	}
	return s.failed(ctx, who, order, added, err)
}

// failed finds out what a failed creation means. The entry that was added before it is taken back unless somebody may stand behind it: the same
// order, sent twice, may have won at this or another node.
func (s *Service) failed(ctx context.Context, who Organisation, order Order, added bool, cause error) (*tenant.Tenant, bool, error) {
	taken := errors.Is(cause, tenant.ErrExists)
	if taken {
		t, err := s.o.Tenants.ByName(ctx, order.ServerName)
		if err == nil && fits(t, who, order) {
			return t, true, nil
		}
		if err != nil { // not seen yet, or a host is taken: a repeated order will know
			s.o.Log.Error("registration: a tenant could not be made, its domain stays on the federation list", "domain", string(order.ServerName), "error", cause)
			return nil, false, fmt.Errorf("%w: %w", ErrUnavailable, cause)
		}
	}
	if added {
		if err := s.o.List.Remove(context.WithoutCancel(ctx), order.ServerName); err != nil {
			s.o.Log.Error("registration: a domain without tenant stays on the federation list", "domain", string(order.ServerName), "error", err)
		}
	}
	if taken {
		return nil, false, ErrTaken
	}
	return nil, false, fmt.Errorf("%w: %w", ErrUnavailable, cause)
}

// enlist adds a domain, or finds that it is there for the same organisation already.
func (s *Service) enlist(ctx context.Context, d fedlist.Domain) (added bool, err error) {
	err = s.o.List.Add(ctx, d)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, ErrInactive):
		return false, err
	case !errors.Is(err, ErrTaken):
		return false, fmt.Errorf("%w: federation list: %w", ErrUnavailable, err)
	}
	own, found, err := s.o.List.Own(ctx, d.Domain)
	if err != nil {
		return false, fmt.Errorf("%w: federation list: %w", ErrUnavailable, err)
	}
	if !found || own.TelematikID != d.TelematikID || own.IsInsurance != d.IsInsurance {
		return false, ErrTaken
	}
	return false, nil
}

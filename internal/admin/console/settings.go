// SPDX-License-Identifier: Apache-2.0

package console

import (
	"context"
	"database/sql"
	"errors"
	"net/http"
	netmail "net/mail"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// The settings of an organisation.
const (
	settingInvites = "invites" // whether people without a setting of their own may be invited by everybody
	settingSupport = "support" // contacts for /.well-known/matrix/support
)

// Contact is one line of /.well-known/matrix/support (A_26265).
type Contact struct {
	Role  string `json:"role"` // m.role.admin, m.role.security
	Email string `json:"email_address,omitempty"`
	User  string `json:"matrix_id,omitempty"`
}

// contactRoles are those of the specification.
var contactRoles = []string{"m.role.admin", "m.role.security"}

func (s *Service) setting(ctx context.Context, t tenant.ID, name string, into any) error {
	var raw string
	err := s.db.QueryRow(ctx, "SELECT value FROM organisation_setting WHERE tenant = $1 AND name = $2", int64(t), name).Scan(&raw)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(raw), into)
}

func (s *Service) set(ctx context.Context, t tenant.ID, name string, value any) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return err
	}
	_, err = s.db.Exec(ctx, "INSERT INTO organisation_setting (tenant, name, value) VALUES ($1, $2, $3) ON CONFLICT (tenant, name) DO UPDATE SET value = EXCLUDED.value",
		int64(t), name, string(raw))
	return err
}

// BlocksByDefault says whether an organisation's people without a setting of their own are invited by nobody; set is false where the organisation has
// not decided.
func (s *Service) BlocksByDefault(ctx context.Context, t tenant.ID) (blocks, set bool, err error) {
	mode := ""
	err = s.setting(ctx, t, settingInvites, &mode)
	return mode == "block all", mode != "", err
}

// Support lists an organisation's contacts.
func (s *Service) Support(ctx context.Context, t tenant.ID) (list []Contact, err error) {
	err = s.setting(ctx, t, settingSupport, &list)
	return list, err
}

type settingsData struct {
	Blocks   bool
	Contacts []Contact
	SCIM     []scimCredential
	Secret   string // of a credential, shown this once
	URL      string
}

func (s *Service) showSettings(v *view) error { return s.settings(v, "") }

func (s *Service) settings(v *view, secret string) error {
	ctx, t := v.r.Context(), v.session.tenant.ID
	d := settingsData{Secret: secret, URL: s.o.URL + SCIMPrefix}
	var err error
	if d.Blocks, _, err = s.BlocksByDefault(ctx, t); err != nil {
		return err
	}
	if d.Contacts, err = s.Support(ctx, t); err != nil {
		return err
	}
	if d.SCIM, err = s.scimCredentials(ctx, t); err != nil {
		return err
	}
	return v.show("settings", v.session.cookie, d)
}

func (s *Service) doSettings(v *view) error {
	ctx, t := v.r.Context(), v.session.tenant.ID
	target := ""
	var err error
	switch v.form("do") {
	case "invites":
		if target = v.form("invites"); target != "allow all" && target != "block all" {
			return errStale
		}
		err = s.set(ctx, t, settingInvites, target)
	case "contact":
		c := Contact{Role: v.form("role"), Email: v.form("email"), User: v.form("matrix_id")}
		if !c.valid() {
			v.again(http.StatusBadRequest, "bad_contact")
			return s.settings(v, "")
		}
		target = c.Email + c.User
		err = s.change(ctx, t, func(list []Contact) []Contact { return append(list, c) })
	case "contact_off":
		target = v.form("email") + v.form("matrix_id")
		err = s.change(ctx, t, func(list []Contact) []Contact {
			return slices.DeleteFunc(list, func(c Contact) bool { return c.Role == v.form("role") && c.Email+c.User == target })
		})
	case "scim":
		secret, err := s.issueSCIM(ctx, t, v.session.user, v.form("name"))
		if err != nil {
			return err
		}
		if err := v.noted("setting_scim", v.form("name"), ""); err != nil {
			return err
		}
		return s.settings(v, secret)
	case "scim_off":
		target = v.form("credential")
		err = s.revokeSCIM(ctx, t, target)
	default:
		return errStale
	}
	if err != nil {
		return err
	}
	if err := v.noted("setting_"+v.form("do"), target, ""); err != nil {
		return err
	}
	return v.redirect(Prefix + "/settings")
}

func (s *Service) change(ctx context.Context, t tenant.ID, change func([]Contact) []Contact) error {
	list, err := s.Support(ctx, t)
	if err != nil {
		return err
	}
	return s.set(ctx, t, settingSupport, change(list))
}

func (c Contact) valid() bool {
	if !slices.Contains(contactRoles, c.Role) || c.Email == "" && c.User == "" {
		return false
	}
	if c.Email != "" {
		if a, err := netmail.ParseAddress(c.Email); err != nil || a.Address != c.Email {
			return false
		}
	}
	return c.User == "" || strings.HasPrefix(c.User, "@") && id.User(c.User).Server() != ""
}

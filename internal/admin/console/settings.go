// SPDX-License-Identifier: Apache-2.0

package console

import (
	"context"
	"database/sql"
	"errors"
	"net/http"
	"slices"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// settingInvites is whether people without a setting of their own may be invited by everybody.
const settingInvites = "invites"

// contactRoles are those that the page offers.
var contactRoles = []string{"m.role.admin", "m.role.security"}

// The two defaults (dossier §2.3).
const (
	allowAll = "allow all"
	blockAll = "block all"
)

// BlocksByDefault says whether an organisation's people without a setting of their own are invited by nobody; set is false where the organisation has
// not decided. Every node of a cell asks it, with or without a console.
func BlocksByDefault(ctx context.Context, db *database.DB, t tenant.ID) (blocks, set bool, err error) {
	var mode string
	err = db.QueryRow(ctx, "SELECT value FROM organisation_setting WHERE tenant = $1 AND name = $2", int64(t), settingInvites).Scan(&mode)
	if errors.Is(err, sql.ErrNoRows) {
		return false, false, nil
	}
	return mode == blockAll, err == nil, err
}

func (s *Service) setInvites(ctx context.Context, t tenant.ID, mode string) error {
	_, err := s.db.Exec(ctx, "INSERT INTO organisation_setting (tenant, name, value) VALUES ($1, $2, $3) ON CONFLICT (tenant, name) DO UPDATE SET value = EXCLUDED.value",
		int64(t), settingInvites, mode)
	return err
}

type settingsData struct {
	Blocks   bool
	Contacts []account.Contact
	SCIM     []scimCredential
	Secret   string // of a credential, shown this once
	URL      string
}

func (s *Service) showSettings(v *view) error { return s.settings(v, "") }

func (s *Service) settings(v *view, secret string) error {
	ctx, t := v.r.Context(), v.session.tenant.ID
	d := settingsData{Secret: secret, URL: s.o.URL + SCIMPrefix}
	var err error
	if d.Blocks, _, err = BlocksByDefault(ctx, s.db, t); err != nil {
		return err
	}
	support, err := s.o.Accounts.Support(ctx, t)
	if err != nil {
		return err
	}
	d.Contacts = support.Contacts
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
		if target = v.form("invites"); target != allowAll && target != blockAll {
			return errStale
		}
		err = s.setInvites(ctx, t, target)
	case "contact":
		c := account.Contact{Role: v.form("role"), Email: v.form("email"), Matrix: id.User(v.form("matrix_id"))}
		if !slices.Contains(contactRoles, c.Role) {
			return errStale
		}
		target = c.Email + string(c.Matrix)
		err = s.change(ctx, t, func(list []account.Contact) []account.Contact { return append(list, c) })
		if mxerror.From(err) != nil {
			v.again(http.StatusBadRequest, "bad_contact")
			return s.settings(v, "")
		}
	case "contact_off":
		target = v.form("email") + v.form("matrix_id")
		err = s.change(ctx, t, func(list []account.Contact) []account.Contact {
			return slices.DeleteFunc(list, func(c account.Contact) bool { return c.Role == v.form("role") && c.Email+string(c.Matrix) == target })
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

// change replaces the contacts of /.well-known/matrix/support (A_26265) and leaves the rest of the document.
func (s *Service) change(ctx context.Context, t tenant.ID, change func([]account.Contact) []account.Contact) error {
	d, err := s.o.Accounts.Support(ctx, t)
	if err != nil {
		return err
	}
	d.Contacts = change(d.Contacts)
	return s.o.Accounts.SetSupport(ctx, t, d)
}

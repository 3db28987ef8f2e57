// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"database/sql"
	"errors"
	"net/mail"
	"net/url"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// maxContacts bounds the list of those who may be turned to.
const maxContacts = 20

// Contact is somebody who may be turned to; one of Matrix and Email is there.
type Contact struct {
	Matrix id.User `json:"matrix_id,omitempty"`
	Email  string  `json:"email_address,omitempty"`
	Role   string  `json:"role"`
}

// Support is the document of /.well-known/matrix/support (client-server API, "Getting support"; A_26265).
type Support struct {
	Contacts []Contact `json:"contacts,omitempty"`
	Page     string    `json:"support_page,omitempty"`
}

// check refuses what readers could do nothing with.
func (d *Support) check() error {
	if len(d.Contacts) == 0 && d.Page == "" {
		return mxerror.BadJSON.With("contacts or support_page must be there")
	}
	if len(d.Contacts) > maxContacts {
		return mxerror.BadJSON.With("there are at most %d contacts", maxContacts)
	}
	if u, err := url.Parse(d.Page); d.Page != "" && (err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "") {
		return mxerror.InvalidParam.With("support_page is no web address")
	}
	for _, c := range d.Contacts {
		if c.Email == "" && c.Matrix == "" {
			return mxerror.BadJSON.With("a contact has matrix_id or email_address")
		}
		if c.Role == "" || len(c.Role) > maxFieldName || strings.HasPrefix(c.Role, "m.") && c.Role != "m.role.admin" && c.Role != "m.role.security" && c.Role != "m.role.moderator" && c.Role != "m.role.dpo" {
			return mxerror.InvalidParam.With("%q is no role such as m.role.admin", c.Role)
		}
		if c.Matrix != "" {
			if _, err := id.ParseUser(string(c.Matrix)); err != nil {
				return mxerror.InvalidParam.With("%q is no user id", c.Matrix)
			}
		}
		if a, err := mail.ParseAddress(c.Email); c.Email != "" && (err != nil || a.Address != c.Email) {
			return mxerror.InvalidParam.With("%q is no e-mail address", c.Email)
		}
	}
	return nil
}

// wellKnownSupport answers what the administrators have said. A client host that many servers share has nobody to name.
func (s *Service) wellKnownSupport(ctx context.Context, r *httpapi.Request) (any, error) {
	missing := mxerror.NotFound.With("no support contact is known")
	if r.Tenant == nil {
		return nil, missing
	}
	var document string
	err := s.db.QueryRow(ctx, "SELECT document FROM support WHERE tenant = $1", int64(r.Tenant.ID)).Scan(&document)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, missing
	}
	return jsontext.Value(document), err
}

// putSupport lets an administrator replace the document.
func (s *Service) putSupport(ctx context.Context, r *httpapi.Request) (any, error) {
	var d Support
	if err := r.Decode(&d); err != nil {
		return nil, err
	}
	if err := d.check(); err != nil { // an empty document is for DELETE
		return nil, err
	}
	return d, s.SetSupport(ctx, r.Tenant.ID, d)
}

// Support is what a tenant's administrators have said; the zero value for nothing.
func (s *Service) Support(ctx context.Context, t tenant.ID) (d Support, err error) {
	var document string
	err = s.db.QueryRow(ctx, "SELECT document FROM support WHERE tenant = $1", int64(t)).Scan(&document)
	if errors.Is(err, sql.ErrNoRows) {
		return d, nil
	}
	if err == nil {
		err = json.Unmarshal([]byte(document), &d)
	}
	return d, err
}

// SetSupport replaces the document; an empty one takes it away. Errors: M_BAD_JSON, M_INVALID_PARAM for what readers could do nothing with.
func (s *Service) SetSupport(ctx context.Context, t tenant.ID, d Support) error {
	if len(d.Contacts) == 0 && d.Page == "" {
		_, err := s.db.Exec(ctx, "DELETE FROM support WHERE tenant = $1", int64(t))
		return err
	}
	if err := d.check(); err != nil {
		return err
	}
	document, err := json.Marshal(d)
	if err != nil {
		return mxerror.BadJSON.With("the document is not valid text")
	}
	_, err = s.db.Exec(ctx, "INSERT INTO support (tenant, document) VALUES ($1, $2) ON CONFLICT (tenant) DO UPDATE SET document = excluded.document", int64(t), string(document))
	return err
}

// deleteSupport takes the document away.
func (s *Service) deleteSupport(ctx context.Context, r *httpapi.Request) (any, error) {
	_, err := s.db.Exec(ctx, "DELETE FROM support WHERE tenant = $1", int64(r.Tenant.ID))
	return nil, err
}

// SPDX-License-Identifier: Apache-2.0

package console

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"net/http"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// scimToken marks the credentials of user administrations.
const scimToken = 's'

// scimCredential is one without its secret.
type scimCredential struct {
	ID, Name string
	Created  int64
}

func (s *Service) scimCredentials(ctx context.Context, t tenant.ID) ([]scimCredential, error) {
	rows, err := s.db.Query(ctx, "SELECT id, name, created FROM scim_credential WHERE tenant = $1 AND revoked = 0 ORDER BY created DESC, id", int64(t))
	return database.All(rows, err, func(rows *sql.Rows) (c scimCredential, err error) {
		err = rows.Scan(&c.ID, &c.Name, &c.Created)
		return c, err
	})
}

// issueSCIM makes a credential; its secret is shown this once.
func (s *Service) issueSCIM(ctx context.Context, t tenant.ID, issuer id.User, name string) (secret string, err error) {
	secret = httpapi.NewToken(scimToken, t)
	_, err = s.db.Exec(ctx, "INSERT INTO scim_credential (tenant, id, name, hash, issuer, created, revoked) VALUES ($1, $2, $3, $4, $5, $6, 0)",
		int64(t), rand.Text(), name, hash(secret), string(issuer), s.now())
	return secret, err
}

func (s *Service) revokeSCIM(ctx context.Context, t tenant.ID, credential string) error {
	_, err := s.db.Exec(ctx, "UPDATE scim_credential SET revoked = $3 WHERE tenant = $1 AND id = $2", int64(t), credential, s.now())
	return err
}

// scimTenant finds whose user administration asks.
func (s *Service) scimTenant(r *http.Request) (t *tenant.Tenant, by id.User, err error) {
	refused := refuseSCIM(http.StatusUnauthorized, "", "the credential does not count")
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	key, known := httpapi.TokenTenant(token)
	if !ok || !known || !strings.HasPrefix(token, "k"+string(scimToken)+"_") {
		return nil, "", refused
	}
	err = s.db.QueryRow(r.Context(), "SELECT issuer FROM scim_credential WHERE tenant = $1 AND hash = $2 AND revoked = 0", int64(key), hash(token)).Scan(&by)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, "", refused
	}
	if err != nil {
		return nil, "", err
	}
	t, err = s.o.Tenants.ByID(r.Context(), key)
	if errors.Is(err, tenant.ErrUnknown) || err == nil && t.State != tenant.Active {
		return nil, "", refused
	}
	return t, by, err
}

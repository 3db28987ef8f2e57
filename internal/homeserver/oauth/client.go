// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
)

// registration is a client as it was registered (RFC 7591; client-server API, "Client metadata").
type registration struct {
	ClientURI       string            `json:"client_uri"`
	Name            string            `json:"client_name,omitempty"`
	Logo            string            `json:"logo_uri,omitempty"`
	Terms           string            `json:"tos_uri,omitempty"`
	Policy          string            `json:"policy_uri,omitempty"`
	Redirects       []string          `json:"redirect_uris,omitempty"`
	ResponseTypes   []string          `json:"response_types"`
	GrantTypes      []string          `json:"grant_types"`
	AuthMethod      string            `json:"token_endpoint_auth_method"`
	ApplicationType string            `json:"application_type"`
	Localized       map[string]string `json:",embed"` // client_name#de and its like
}

// The kinds of applications.
const (
	webApplication    = "web"
	nativeApplication = "native"
)

func (g *registration) may(grant string) bool { return slices.Contains(g.GrantTypes, grant) }

// localized is a text for people in their language, where the client gave one.
func (g *registration) localized(field, plain, language string) string {
	if text := g.Localized[field+"#"+language]; text != "" {
		return text
	}
	return plain
}

// host is the domain by which people know a client.
func (g *registration) host() string {
	if u, err := url.Parse(g.ClientURI); err == nil {
		return u.Hostname()
	}
	return ""
}

// clientLife is how long a client that nobody signs in with is kept. Clients register afresh for each sign-in, so it need not be long.
const clientLife = 7 * 24 * time.Hour

// expireAtOnce bounds how many old clients one registration looks at.
const expireAtOnce = 20

// putClient keeps a registration and returns its id, which follows from the metadata: the same client on a thousand phones is one row.
func (s *Service) putClient(ctx context.Context, t tenant.ID, g *registration) (clientID string, issued int64, err error) {
	text, err := json.Marshal(g, json.Deterministic(true))
	if err != nil {
		return "", 0, err
	}
	sum := sha256.Sum256(text)
	clientID = base64.RawURLEncoding.EncodeToString(sum[:20])
	err = s.db.Write(ctx, func(tx *database.Tx) error {
		return tx.QueryRow(ctx, `INSERT INTO oauth_client (tenant, client_id, metadata, created, used) VALUES ($1, $2, $3, $4, $4)
			ON CONFLICT (tenant, client_id) DO UPDATE SET used = excluded.used RETURNING created`, int64(t), clientID, string(text), s.now()).Scan(&issued)
	})
	return clientID, issued, err
}

// client finds a registered client. Unknown ones are the failure invalid_client.
func (s *Service) client(ctx context.Context, t tenant.ID, clientID string) (*registration, error) {
	if clientID == "" {
		return nil, fail("invalid_client", "client_id is missing")
	}
	var text string
	err := s.db.QueryRow(ctx, "SELECT metadata FROM oauth_client WHERE tenant = $1 AND client_id = $2", int64(t), clientID).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fail("invalid_client", "this client is not registered here; registrations that nobody uses expire")
	}
	if err != nil {
		return nil, err
	}
	var g registration
	if err := json.Unmarshal([]byte(text), &g); err != nil {
		return nil, fmt.Errorf("registered client: %w", err)
	}
	return &g, nil
}

// adoptClient keeps a client for a tenant whose user signs in with it, wherever it was registered.
func (s *Service) adoptClient(ctx context.Context, tx *database.Tx, from, to tenant.ID, clientID string) error {
	now := s.now()
	if from == to {
		_, err := tx.Exec(ctx, "UPDATE oauth_client SET used = $3 WHERE tenant = $1 AND client_id = $2", int64(to), clientID, now)
		return err
	}
	_, err := tx.Exec(ctx, `INSERT INTO oauth_client (tenant, client_id, metadata, created, used)
		SELECT CAST($2 AS BIGINT), client_id, metadata, created, CAST($4 AS BIGINT) FROM oauth_client WHERE tenant = $1 AND client_id = $3
		ON CONFLICT (tenant, client_id) DO UPDATE SET used = excluded.used`, int64(from), int64(to), clientID, now)
	return err
}

// expireClients drops some clients that have not been used for long and that nobody has a session with.
func (s *Service) expireClients(ctx context.Context, t tenant.ID) error {
	before := s.now() - clientLife.Milliseconds()
	rows, err := s.db.Query(ctx, "SELECT client_id FROM oauth_client WHERE tenant = $1 AND used < $2 ORDER BY used LIMIT $3", int64(t), before, expireAtOnce)
	old, err := database.All(rows, err, func(rows *sql.Rows) (clientID string, err error) {
		err = rows.Scan(&clientID)
		return clientID, err
	})
	if err != nil {
		return err
	}
	for _, clientID := range old {
		inUse := false
		if t != cell { // a client that somebody signed in with has been kept for their tenant
			if inUse, err = s.o.Accounts.ClientInUse(ctx, t, clientID); err != nil {
				return err
			}
		}
		statement, args := "DELETE FROM oauth_client WHERE tenant = $1 AND client_id = $2 AND used < $3", []any{int64(t), clientID, before}
		if inUse { // looked at again only when it could have expired once more
			statement, args = "UPDATE oauth_client SET used = $3 WHERE tenant = $1 AND client_id = $2", []any{int64(t), clientID, s.now()}
		}
		if _, err := s.db.Exec(ctx, statement, args...); err != nil {
			return err
		}
	}
	return nil
}

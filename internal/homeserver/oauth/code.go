// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"encoding/base64"
	"errors"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// The kinds of secrets of this slice, in the form of all tokens ([httpapi.NewToken]).
const (
	codeToken    = 'c'
	deviceToken  = 'd'
	browserToken = 'b'
)

// codeLife is how long a code may be exchanged (RFC 6749, section 4.1.2: at most ten minutes); codeMemory is how long its second use is noticed.
const (
	codeLife   = 2 * time.Minute
	codeMemory = time.Hour
)

// putCode makes an authorisation code for what a user agreed to, and keeps the client for the user's tenant.
func (s *Service) putCode(ctx context.Context, from, t tenant.ID, user id.User, a *authorization) (string, error) {
	code := httpapi.NewToken(codeToken, t)
	now := s.now()
	return code, s.db.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM oauth_code WHERE tenant = $1 AND expires < $2", int64(t), now-codeMemory.Milliseconds()); err != nil {
			return err
		}
		if err := s.adoptClient(ctx, tx, from, t, a.clientID); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO oauth_code (tenant, hash, client_id, user_id, device, scope, redirect_uri, challenge, expires, used, session)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, 0)`,
			int64(t), hash(code), a.clientID, string(user), string(a.device), a.scope, a.redirect, a.challenge, now+codeLife.Milliseconds())
		return err
	})
}

// storedCode is a row of oauth_code.
type storedCode struct {
	client, redirect, challenge, scope string
	user                               id.User
	device                             id.Device
	expires, used, session             int64
}

// exchangeCode gives a session for a code (RFC 6749, section 4.1.3; RFC 7636, section 4.6). A code that is shown a second time ends the session that
// it gave.
func (s *Service) exchangeCode(ctx context.Context, r *httpapi.Request, t *tenant.Tenant, clientID string, form formValues) (*account.Login, error) {
	code, verifier := form.Get("code"), form.Get("code_verifier")
	switch {
	case code == "":
		return nil, fail("invalid_request", "code is missing")
	case form.Get("redirect_uri") == "":
		return nil, fail("invalid_request", "redirect_uri is missing")
	case verifier == "":
		return nil, fail("invalid_request", "code_verifier is missing")
	}
	var c storedCode
	err := s.db.QueryRow(ctx, `SELECT client_id, redirect_uri, challenge, scope, user_id, device, expires, used, session FROM oauth_code WHERE tenant = $1 AND hash = $2`,
		int64(t.ID), hash(code)).Scan(&c.client, &c.redirect, &c.challenge, &c.scope, &c.user, &c.device, &c.expires, &c.used, &c.session)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fail("invalid_grant", "the code is not known")
	}
	if err != nil {
		return nil, err
	}
	if c.used > 0 {
		s.o.Log.Warn("an authorisation code was shown twice: its session ends", "tenant", string(t.Name), "user", string(c.user))
		if err := s.o.Accounts.EndGrant(ctx, t, c.user, c.device, c.session); err != nil {
			return nil, err
		}
		return nil, fail("invalid_grant", "the code has been used")
	}
	switch {
	case c.expires <= s.now():
		return nil, fail("invalid_grant", "the code has expired")
	case c.client != clientID:
		return nil, fail("invalid_grant", "the code was given to another client")
	case c.redirect != form.Get("redirect_uri"):
		return nil, fail("invalid_grant", "redirect_uri is not the one of the authorisation request")
	case !verifierFits(verifier, c.challenge):
		return nil, fail("invalid_grant", "code_verifier does not fit the code_challenge")
	}
	n, err := s.db.Exec(ctx, "UPDATE oauth_code SET used = $3 WHERE tenant = $1 AND hash = $2 AND used = 0", int64(t.ID), hash(code), s.now())
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, fail("invalid_grant", "the code has been used")
	}
	l, err := s.startSession(ctx, r, t, c.user, c.device, clientID, c.scope)
	if err != nil {
		return nil, err
	}
	_, err = s.db.Exec(ctx, "UPDATE oauth_code SET session = $3 WHERE tenant = $1 AND hash = $2", int64(t.ID), hash(code), l.Created)
	return l, err
}

// verifierFits checks a PKCE verifier against an S256 challenge.
func verifierFits(verifier, challenge string) bool {
	if len(verifier) < 43 || len(verifier) > 128 {
		return false
	}
	for i := range len(verifier) {
		if c := verifier[i]; !(c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~') {
			return false
		}
	}
	sum := sha256.Sum256([]byte(verifier))
	return subtle.ConstantTimeCompare([]byte(base64.RawURLEncoding.EncodeToString(sum[:])), []byte(challenge)) == 1
}

// challengeForm says whether a text can be an S256 challenge: 32 bytes in base64url without padding.
func challengeForm(challenge string) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(challenge)
	return err == nil && len(b) == sha256.Size
}

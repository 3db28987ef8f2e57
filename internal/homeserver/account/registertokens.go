// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"regexp"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// registrationTokens is where administrators keep tokens, as Synapse has it.
const registrationTokens = "/_synapse/admin/v1/registration_tokens"

// tokenForm is the grammar of registration tokens (client-server API, "Token-authenticated registration").
var tokenForm = regexp.MustCompile(`^[A-Za-z0-9._~-]{1,64}$`)

// registrationToken is a token that administrators made. Pending uses do not hold a place: a use counts when the account is there.
type registrationToken struct {
	Token     string `json:"token"`
	Uses      *int64 `json:"uses_allowed"`
	Pending   int64  `json:"pending"`
	Completed int64  `json:"completed"`
	Expiry    *int64 `json:"expiry_time"` // ms
}

func (k *registrationToken) valid(now int64) bool {
	return (k.Uses == nil || k.Completed < *k.Uses) && (k.Expiry == nil || *k.Expiry > now)
}

const selectRegistrationToken = "SELECT token, uses_allowed, completed, expiry FROM registration_token WHERE tenant = $1"

func scanRegistrationToken(rows *sql.Rows) (*registrationToken, error) {
	k := &registrationToken{}
	var uses, expiry int64
	err := rows.Scan(&k.Token, &uses, &k.Completed, &expiry)
	if uses >= 0 {
		k.Uses = &uses
	}
	if expiry > 0 {
		k.Expiry = &expiry
	}
	return k, err
}

// readRegistrationToken returns nil where there is no such token.
func (s *Service) readRegistrationToken(ctx context.Context, t tenant.ID, token string) (*registrationToken, error) {
	rows, err := s.db.Query(ctx, selectRegistrationToken+" AND token = $2", int64(t), token)
	list, err := database.All(rows, err, scanRegistrationToken)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return list[0], nil
}

// useRegistrationToken counts a use (1), which needs one that is left, or takes it back (-1).
func (s *Service) useRegistrationToken(ctx context.Context, t tenant.ID, token string, n int64) error {
	rows, err := s.db.Exec(ctx, `UPDATE registration_token SET completed = completed + $3 WHERE tenant = $1 AND token = $2
		AND ($3 < 0 OR (uses_allowed < 0 OR completed < uses_allowed) AND (expiry = 0 OR expiry > $4))`, int64(t), token, n, s.now())
	if err == nil && rows == 0 && n > 0 {
		err = errRegistrationToken
	}
	return err
}

func (s *Service) listRegistrationTokens(ctx context.Context, r *httpapi.Request) (any, error) {
	rows, err := s.db.Query(ctx, selectRegistrationToken+" ORDER BY token", int64(r.Tenant.ID))
	list, err := database.All(rows, err, scanRegistrationToken)
	if err != nil {
		return nil, err
	}
	wanted := list
	if r.Query("valid") != "" {
		valid, err := r.QueryBool("valid", true)
		if err != nil {
			return nil, err
		}
		wanted = nil
		for _, k := range list {
			if k.valid(s.now()) == valid {
				wanted = append(wanted, k)
			}
		}
	}
	if wanted == nil {
		wanted = []*registrationToken{}
	}
	return map[string]any{"registration_tokens": wanted}, nil
}

func (s *Service) getRegistrationToken(ctx context.Context, r *httpapi.Request) (any, error) {
	k, err := s.readRegistrationToken(ctx, r.Tenant.ID, r.Var("token"))
	if err == nil && k == nil {
		err = mxerror.NotFound.With("No such registration token: %.64s", r.Var("token"))
	}
	return k, err
}

// tokenLimits are the parts of a token that administrators choose; null takes a bound away.
type tokenLimits struct {
	Token  *string        `json:"token"`
	Length *int           `json:"length"`
	Uses   jsontext.Value `json:"uses_allowed"`
	Expiry jsontext.Value `json:"expiry_time"`
}

// apply changes a token by what is given.
func (q *tokenLimits) apply(k *registrationToken, now int64) error {
	for _, c := range []struct {
		raw   jsontext.Value
		into  **int64
		least int64
		what  string
	}{{q.Uses, &k.Uses, 0, "uses_allowed must be a non-negative integer or null"}, {q.Expiry, &k.Expiry, now, "expiry_time must not be in the past"}} {
		if c.raw == nil {
			continue
		}
		*c.into = nil
		if c.raw.Kind() == 'n' {
			continue
		}
		var n int64
		if err := json.Unmarshal(c.raw, &n); err != nil || n < c.least {
			return mxerror.InvalidParam.With("%s", c.what)
		}
		*c.into = &n
	}
	return nil
}

// defaultTokenLength is how long drawn tokens are; tokenAlphabet are 64 characters, so that each byte's six lower bits choose one.
const (
	defaultTokenLength = 16
	tokenAlphabet      = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_~"
)

func drawToken(length int) string {
	b := make([]byte, length)
	rand.Read(b)
	for i := range b {
		b[i] = tokenAlphabet[b[i]&63]
	}
	return string(b)
}

func (s *Service) newRegistrationToken(ctx context.Context, r *httpapi.Request) (any, error) {
	var q tokenLimits
	if err := r.DecodeOptional(&q); err != nil {
		return nil, err
	}
	k := &registrationToken{}
	switch {
	case q.Token != nil:
		k.Token = *q.Token
	case q.Length == nil:
		k.Token = drawToken(defaultTokenLength)
	case *q.Length < 1 || *q.Length > 64:
		return nil, mxerror.InvalidParam.With("length must be between 1 and 64")
	default:
		k.Token = drawToken(*q.Length)
	}
	if !tokenForm.MatchString(k.Token) {
		return nil, mxerror.InvalidParam.With("a token has 1 to 64 of A-Z, a-z, 0-9 and ._~-")
	}
	if err := q.apply(k, s.now()); err != nil {
		return nil, err
	}
	uses, expiry := k.columns()
	n, err := s.db.Exec(ctx, "INSERT INTO registration_token (tenant, token, uses_allowed, completed, expiry) VALUES ($1, $2, $3, 0, $4) ON CONFLICT (tenant, token) DO NOTHING",
		int64(r.Tenant.ID), k.Token, uses, expiry)
	if err == nil && n == 0 {
		err = mxerror.InvalidParam.With("Token already exists: %s", k.Token)
	}
	return k, err
}

// columns are the bounds as they are stored.
func (k *registrationToken) columns() (uses, expiry int64) {
	uses = -1
	if k.Uses != nil {
		uses = *k.Uses
	}
	if k.Expiry != nil {
		expiry = *k.Expiry
	}
	return uses, expiry
}

func (s *Service) putRegistrationToken(ctx context.Context, r *httpapi.Request) (any, error) {
	var q tokenLimits
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	found, err := s.getRegistrationToken(ctx, r)
	if err != nil {
		return nil, err
	}
	k, ok := found.(*registrationToken)
	if !ok {
		return nil, errors.New("a registration token of another type")
	}
	if err := q.apply(k, s.now()); err != nil {
		return nil, err
	}
	uses, expiry := k.columns()
	_, err = s.db.Exec(ctx, "UPDATE registration_token SET uses_allowed = $3, expiry = $4 WHERE tenant = $1 AND token = $2", int64(r.Tenant.ID), k.Token, uses, expiry)
	return k, err
}

func (s *Service) deleteRegistrationToken(ctx context.Context, r *httpapi.Request) (any, error) {
	n, err := s.db.Exec(ctx, "DELETE FROM registration_token WHERE tenant = $1 AND token = $2", int64(r.Tenant.ID), r.Var("token"))
	if err == nil && n == 0 {
		err = mxerror.NotFound.With("No such registration token: %.64s", r.Var("token"))
	}
	return nil, err
}

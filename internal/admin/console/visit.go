// SPDX-License-Identifier: Apache-2.0

package console

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/telematik/registration"
)

const (
	visitCookie  = "konsil-register"
	visitLife    = time.Hour
	visitPurpose = "console visit"
)

// visit is a browser in which an organisation registers.
type visit struct {
	cookie                 string
	state, nonce, verifier string
	who                    registration.Organisation
	terms                  int64 // when they were accepted, ms since the epoch; 0: not yet
	login                  string
	secret, password       string // of the first administrator
	confirmed              bool   // the administrator's app has the secret
}

// kept is what is sealed of a visit.
type kept struct {
	Secret   string `json:"secret"`
	Password string `json:"password"`
}

func (s *Service) newVisit(ctx context.Context, who registration.Organisation) (*visit, error) {
	k := &visit{cookie: rand.Text() + rand.Text(), state: rand.Text(), nonce: rand.Text(), verifier: rand.Text() + rand.Text(), who: who, secret: account.NewTOTPSecret()}
	sealed, err := s.sealVisit(k)
	if err != nil {
		return nil, err
	}
	now := s.now()
	return k, s.db.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM console_visit WHERE expires < $1", now); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO console_visit (hash, state, nonce, verifier, telematik_id, profession, name, proved, terms, login, sealed, confirmed, expires)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, '', $9, 0, $10)`, hash(k.cookie), k.state, k.nonce, k.verifier, who.TelematikID, who.Profession, who.Name, who.Proved,
			sealed, now+visitLife.Milliseconds())
		return err
	})
}

func (s *Service) sealVisit(k *visit) ([]byte, error) {
	plain, err := json.Marshal(kept{k.secret, k.password})
	return s.o.Keyring.Seal(visitPurpose, plain), err
}

// visit finds what a browser's cookie stands for; nil for nothing.
func (s *Service) visit(ctx context.Context, cookie string) (*visit, error) {
	if cookie == "" {
		return nil, nil
	}
	k := &visit{cookie: cookie}
	var sealed []byte
	var confirmed int64
	err := s.db.QueryRow(ctx, `SELECT state, nonce, verifier, telematik_id, profession, name, proved, terms, login, sealed, confirmed FROM console_visit WHERE hash = $1 AND expires > $2`,
		hash(cookie), s.now()).Scan(&k.state, &k.nonce, &k.verifier, &k.who.TelematikID, &k.who.Profession, &k.who.Name, &k.who.Proved, &k.terms, &k.login, &sealed, &confirmed)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	plain, err := s.o.Keyring.Unseal(visitPurpose, sealed)
	if err != nil {
		return nil, err
	}
	var secrets kept
	err = json.Unmarshal(plain, &secrets)
	k.secret, k.password, k.confirmed = secrets.Secret, secrets.Password, confirmed > 0
	return k, err
}

func (s *Service) acceptTerms(ctx context.Context, k *visit) error {
	_, err := s.db.Exec(ctx, "UPDATE console_visit SET terms = $2 WHERE hash = $1", hash(k.cookie), s.now())
	return err
}

func (s *Service) setAdmin(ctx context.Context, k *visit, login, password string) error {
	k.login, k.password = login, password
	sealed, err := s.sealVisit(k)
	if err != nil {
		return err
	}
	_, err = s.db.Exec(ctx, "UPDATE console_visit SET login = $2, sealed = $3, confirmed = $4 WHERE hash = $1", hash(k.cookie), login, sealed, s.now())
	return err
}

func (s *Service) forgetVisit(ctx context.Context, cookie string) error {
	_, err := s.db.Exec(ctx, "DELETE FROM console_visit WHERE hash = $1", hash(cookie))
	return err
}

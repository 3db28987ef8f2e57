// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"database/sql"
	"errors"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// Threepid is an address that belongs to an account.
type Threepid struct {
	Medium    string `json:"medium"`
	Address   string `json:"address"`
	Validated int64  `json:"validated_at"` // ms since the epoch
	Added     int64  `json:"added_at"`     // ms since the epoch
}

// Threepids lists the addresses of an account, oldest first.
func (s *Service) Threepids(ctx context.Context, t tenant.ID, user id.User) ([]Threepid, error) {
	rows, err := s.db.Query(ctx, "SELECT medium, address, validated, added FROM threepid WHERE tenant = $1 AND user_id = $2 ORDER BY added, address", int64(t), string(user))
	return database.All(rows, err, func(rows *sql.Rows) (p Threepid, err error) {
		return p, rows.Scan(&p.Medium, &p.Address, &p.Validated, &p.Added)
	})
}

// ownerOf finds the account of a folded e-mail address, or M_NOT_FOUND.
func (s *Service) ownerOf(ctx context.Context, t tenant.ID, address string) (id.User, error) {
	var user id.User
	err := s.db.QueryRow(ctx, "SELECT user_id FROM threepid WHERE tenant = $1 AND medium = $2 AND address = $3", int64(t), mediumEmail, address).Scan(&user)
	if errors.Is(err, sql.ErrNoRows) {
		return "", mxerror.NotFound.With("no account has this address")
	}
	return user, err
}

// byAddress is the login name behind an e-mail address. Whoever asks learns no more from an unknown one than from a wrong password.
func (s *Service) byAddress(ctx context.Context, t tenant.ID, address string) (string, error) {
	folded, err := foldAddress(address)
	if err != nil {
		return address, nil //nolint:nilerr // nobody's name, as the check of the password will say
	}
	user, err := s.ownerOf(ctx, t, folded)
	if errors.Is(err, mxerror.NotFound) {
		return address, nil
	}
	return string(user), err
}

// bind makes an address belong to an account. M_THREEPID_IN_USE when it belongs to another one.
func (s *Service) bind(ctx context.Context, t tenant.ID, user id.User, address string, validated int64) error {
	return s.db.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO threepid (tenant, medium, address, user_id, validated, added) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (tenant, medium, address) DO NOTHING`, int64(t), mediumEmail, address, string(user), validated, s.now()); err != nil {
			return err
		}
		var owner id.User
		err := tx.QueryRow(ctx, "SELECT user_id FROM threepid WHERE tenant = $1 AND medium = $2 AND address = $3", int64(t), mediumEmail, address).Scan(&owner)
		if err == nil && owner != user {
			err = mxerror.ThreepidInUse.With("this e-mail address belongs to another account")
		}
		return err
	})
}

type threepidsReply struct {
	Threepids []Threepid `json:"threepids"`
}

func (s *Service) getThreepids(ctx context.Context, r *httpapi.Request) (any, error) {
	list, err := s.Threepids(ctx, r.Tenant.ID, r.Session.User)
	return threepidsReply{list}, err
}

// addThreepid adds an address that has been validated.
func (s *Service) addThreepid(ctx context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		threepidCreds
		Auth jsontext.Value `json:"auth"`
	}
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if q.SID == "" || q.Secret == "" {
		return nil, mxerror.MissingParam.With("sid or client_secret is missing")
	}
	if challenge, err := s.Confirm(ctx, r, "account/3pid/add", q.Auth); challenge != nil || err != nil {
		return challenge, err
	}
	return nil, s.addValidated(ctx, r, &q.threepidCreds)
}

func (s *Service) addValidated(ctx context.Context, r *httpapi.Request, creds *threepidCreds) error {
	address, when, err := s.validated(ctx, r.Tenant.ID, purposeAdd, creds)
	if errors.Is(err, mxerror.ThreepidAuthFailed) {
		return mxerror.New(400, mxerror.ThreepidAuthFailed.Code, "the e-mail address has not been validated: open the link in the mail first")
	}
	if err != nil {
		return err
	}
	if err := s.bind(ctx, r.Tenant.ID, r.Session.User, address, when); err != nil {
		return err
	}
	return s.dropSession(ctx, r.Tenant.ID, purposeAdd, address)
}

// postThreepid is the deprecated way of adding an address, made for identity servers. Proofs of this server count; no other one is asked.
func (s *Service) postThreepid(ctx context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		Creds *threepidCreds `json:"three_pid_creds"`
		Old   *threepidCreds `json:"threePidCreds"`
	}
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if q.Creds == nil {
		q.Creds = q.Old
	}
	if q.Creds == nil {
		return nil, mxerror.MissingParam.With("three_pid_creds is missing")
	}
	if q.Creds.SID == "" || q.Creds.Secret == "" {
		return nil, mxerror.MissingParam.With("sid or client_secret is missing")
	}
	if err := s.addValidated(ctx, r, q.Creds); err != nil {
		if errors.Is(err, mxerror.ThreepidAuthFailed) {
			return nil, mxerror.New(403, mxerror.ThreepidAuthFailed.Code, "this server asks no identity server, and has not validated the address itself")
		}
		return nil, err
	}
	return nil, nil
}

// bindThreepid would publish an address at an identity server, which Konsil never does.
func (s *Service) bindThreepid(_ context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		threepidCreds
		Server string `json:"id_server"`
		Token  string `json:"id_access_token"`
	}
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if q.SID == "" || q.Secret == "" || q.Server == "" || q.Token == "" {
		return nil, mxerror.MissingParam.With("client_secret, sid, id_server and id_access_token are needed")
	}
	return nil, mxerror.ServerNotTrusted.With("this server publishes no addresses at identity servers")
}

type unbindReply struct {
	Result string `json:"id_server_unbind_result"`
}

// deleteThreepid takes an address from the account; unbindThreepid only takes it from an identity server, where it never was.
func (s *Service) deleteThreepid(ctx context.Context, r *httpapi.Request) (any, error) {
	medium, address, err := readThreepid(r)
	if err != nil {
		return nil, err
	}
	_, err = s.db.Exec(ctx, "DELETE FROM threepid WHERE tenant = $1 AND user_id = $2 AND medium = $3 AND address = $4",
		int64(r.Tenant.ID), string(r.Session.User), medium, address)
	return unbindReply{"no-support"}, err
}

func (s *Service) unbindThreepid(_ context.Context, r *httpapi.Request) (any, error) {
	_, _, err := readThreepid(r)
	return unbindReply{"no-support"}, err
}

func readThreepid(r *httpapi.Request) (medium, address string, err error) {
	var q struct {
		Medium  string `json:"medium"`
		Address string `json:"address"`
	}
	if err := r.Decode(&q); err != nil {
		return "", "", err
	}
	switch {
	case q.Medium == "" || q.Address == "":
		return "", "", mxerror.MissingParam.With("medium or address is missing")
	case q.Medium != mediumEmail && q.Medium != "msisdn":
		return "", "", mxerror.InvalidParam.With("medium must be email or msisdn")
	case q.Medium == "msisdn":
		return q.Medium, q.Address, nil
	}
	address, err = foldAddress(q.Address)
	return q.Medium, address, err
}

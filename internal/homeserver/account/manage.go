// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"errors"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

type whoamiReply struct {
	User   id.User   `json:"user_id"`
	Device id.Device `json:"device_id,omitempty"`
	Guest  bool      `json:"is_guest"`
}

func (s *Service) whoami(_ context.Context, r *httpapi.Request) (any, error) {
	return whoamiReply{r.Session.User, r.Session.Device, r.Session.Guest}, nil
}

func (s *Service) changePassword(ctx context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		Auth     jsontext.Value `json:"auth"`
		Password *string        `json:"new_password"`
		Logout   *bool          `json:"logout_devices"`
	}
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if q.Password != nil {
		if err := s.hasher.check(*q.Password); err != nil {
			return nil, err
		}
	}
	user, challenge, err := s.confirmAnybody(ctx, r, "account/password", q.Auth, s.o.SendMail != nil)
	if challenge != nil || err != nil {
		return challenge, err
	}
	if q.Password == nil {
		return nil, mxerror.MissingParam.With("new_password is missing")
	}
	if q.Logout != nil && !*q.Logout {
		return nil, s.SetPassword(ctx, r.Tenant, user, *q.Password)
	}
	keep := id.Device("")
	if r.Session != nil {
		keep = r.Session.Device
	}
	return nil, s.ChangePassword(ctx, r.Tenant, user, *q.Password, keep)
}

// ChangePassword is [Service.SetPassword] for a password that a person has chosen: it is checked (M_WEAK_PASSWORD), and all devices but the given one
// are signed out.
func (s *Service) ChangePassword(ctx context.Context, t *tenant.Tenant, user id.User, password string, keep id.Device) error {
	if err := s.hasher.check(password); err != nil {
		return err
	}
	if err := s.SetPassword(ctx, t, user, password); err != nil {
		return err
	}
	return s.removeDevicesExcept(ctx, t, user, keep)
}

// confirmAnybody is [Service.Confirm] for what a user may also do without a token, who is then known by the proof alone: the password with a user
// name, or (mail) an e-mail address of the account.
func (s *Service) confirmAnybody(ctx context.Context, r *httpapi.Request, purpose string, auth jsontext.Value, mail bool) (id.User, *httpapi.Reply, error) {
	if r.Session != nil && r.Session.Guest {
		return "", nil, mxerror.GuestAccessForbidden
	}
	if r.Session != nil && r.Session.AppService != "" {
		return r.Session.User, nil, nil
	}
	if r.Session != nil && r.Session.OAuthClient != "" {
		challenge, err := s.confirmOnPage(ctx, r, purpose, auth)
		return r.Session.User, challenge, err
	}
	run := &uia{tenant: r.Tenant, purpose: purpose, flows: [][]string{{loginPassword}}, checks: map[string]stageCheck{}}
	if mail {
		run.flows = append(run.flows, []string{stageEmail})
		run.checks[stageEmail] = s.ownEmailStage(r)
	}
	if r.Session != nil {
		run.purpose = string(r.Session.User) + " " + purpose
		run.checks[loginPassword] = s.passwordStage(r)
	} else {
		run.checks[loginPassword] = func(ctx context.Context, a *authData) (string, error) {
			if a.Password == nil {
				return "", mxerror.MissingParam.With("password is missing")
			}
			name, err := s.namedBy(ctx, r.Tenant, a.Identifier, a.User, a.Medium, a.Address)
			if err != nil {
				return "", err
			}
			account, err := s.CheckPassword(ctx, r.Tenant, name, *a.Password)
			if err != nil {
				return "", err
			}
			return string(account.User), nil
		}
	}
	challenge, done, err := s.authenticate(ctx, run, auth)
	if challenge != nil || err != nil {
		return "", challenge, err
	}
	for _, proven := range done.completed {
		return id.User(proven), nil, nil
	}
	return "", nil, mxerror.Forbidden
}

// ownEmailStage wants an e-mail address of an account, the caller's where there is one, and proves that account.
func (s *Service) ownEmailStage(r *httpapi.Request) stageCheck {
	stage := s.emailStage(r.Tenant, purposePassword)
	return func(ctx context.Context, a *authData) (string, error) {
		address, err := stage(ctx, a)
		if err != nil {
			return "", err
		}
		user, err := s.ownerOf(ctx, r.Tenant.ID, address)
		if errors.Is(err, mxerror.NotFound) || err == nil && r.Session != nil && user != r.Session.User {
			return "", mxerror.ThreepidAuthFailed.With("the e-mail address is not one of this account")
		}
		if err != nil {
			return "", err
		}
		return string(user), s.dropSession(ctx, r.Tenant.ID, purposePassword, address)
	}
}

// SetPassword replaces a password. The empty one ends sign-in by password.
func (s *Service) SetPassword(ctx context.Context, t *tenant.Tenant, user id.User, password string) error {
	hash := ""
	if password != "" {
		var err error
		if hash, err = s.hasher.hash(ctx, password); err != nil {
			return err
		}
	}
	n, err := s.db.Exec(ctx, "UPDATE account SET password = $3 WHERE tenant = $1 AND user_id = $2", int64(t.ID), string(user), hash)
	if err == nil && n == 0 {
		err = mxerror.NotFound.With("no such user")
	}
	if err == nil && s.o.SignedOut != nil {
		err = s.o.SignedOut(ctx, t, user)
	}
	return err
}

type deactivateReply struct {
	Unbind string `json:"id_server_unbind_result"`
}

func (s *Service) deactivate(ctx context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		Auth  jsontext.Value `json:"auth"`
		Erase bool           `json:"erase"`
	}
	if err := r.DecodeOptional(&q); err != nil {
		return nil, err
	}
	user, challenge, err := s.confirmAnybody(ctx, r, "account/deactivate", q.Auth, false)
	if challenge != nil || err != nil {
		return challenge, err
	}
	if err := s.Deactivate(ctx, r.Tenant, user); err != nil {
		return nil, err
	}
	if q.Erase {
		if err := s.Erase(ctx, r.Tenant, user); err != nil {
			return nil, err
		}
	}
	return deactivateReply{"no-support"}, nil
}

// Deactivate ends an account for ever: nobody can sign in, all sessions end, password, profile and account data go, the rooms are left. The
// id is never given again.
func (s *Service) Deactivate(ctx context.Context, t *tenant.Tenant, user id.User) error {
	n, err := s.db.Exec(ctx, "UPDATE account SET deactivated = TRUE, password = '' WHERE tenant = $1 AND user_id = $2", int64(t.ID), string(user))
	if err != nil {
		return err
	}
	if n == 0 {
		return mxerror.NotFound.With("no such user")
	}
	s.sessions.forget(t.ID, user)
	if err := s.removeDevicesExcept(ctx, t, user, ""); err != nil {
		return err
	}
	if s.o.LeaveAll != nil {
		if err := s.o.LeaveAll(ctx, t, user); err != nil {
			return err
		}
	}
	return s.db.Write(ctx, func(tx *database.Tx) error {
		for _, table := range []string{"profile", "account_data", "filter", "threepid", "second_factor", "bot_credential", "card_link", "card_code", "thread_subscription"} {
			if _, err := tx.Exec(ctx, "DELETE FROM "+table+" WHERE tenant = $1 AND user_id = $2", int64(t.ID), string(user)); err != nil {
				return err
			}
		}
		return nil
	})
}

// Erase keeps what a deactivated user has sent from those who were not there when it was sent.
func (s *Service) Erase(ctx context.Context, t *tenant.Tenant, user id.User) error {
	if s.o.Erase == nil {
		return nil
	}
	return s.o.Erase(ctx, t, user)
}

type whoisReply struct {
	User    id.User                   `json:"user_id"`
	Devices map[id.Device]whoisDevice `json:"devices"`
}

type whoisDevice struct {
	Sessions []whoisSession `json:"sessions"`
}

type whoisSession struct {
	Connections []whoisConnection `json:"connections"`
}

type whoisConnection struct {
	IP       string `json:"ip,omitempty"`
	LastSeen int64  `json:"last_seen,omitzero"`
}

func (s *Service) whois(ctx context.Context, r *httpapi.Request) (any, error) {
	user := id.User(r.Var("userId"))
	if user != r.Session.User && !r.Session.Admin {
		return nil, mxerror.Forbidden.With("only administrators may ask about somebody else")
	}
	if _, err := s.Account(ctx, r.Tenant.ID, user); err != nil {
		return nil, err
	}
	devices, err := s.Devices(ctx, r.Tenant.ID, user)
	if err != nil {
		return nil, err
	}
	reply := whoisReply{User: user, Devices: map[id.Device]whoisDevice{}}
	for _, d := range devices {
		reply.Devices[d.ID] = whoisDevice{[]whoisSession{{[]whoisConnection{{d.LastSeenIP, d.LastSeen}}}}}
	}
	return reply, nil
}

// flag is an account moderation switch (since v1.18): locked or suspended.
func (s *Service) getFlag(flag string) httpapi.Handler {
	return func(ctx context.Context, r *httpapi.Request) (any, error) {
		a, err := s.Account(ctx, r.Tenant.ID, id.User(r.Var("userId")))
		if err != nil {
			return nil, err
		}
		return map[string]bool{flag: map[string]bool{"locked": a.Locked, "suspended": a.Suspended}[flag]}, nil
	}
}

func (s *Service) putFlag(flag string) httpapi.Handler {
	return func(ctx context.Context, r *httpapi.Request) (any, error) {
		var q map[string]jsontext.Value
		if err := r.Decode(&q); err != nil {
			return nil, err
		}
		value := q[flag]
		if value.Kind() != 't' && value.Kind() != 'f' {
			return nil, mxerror.BadJSON.With("%s must be true or false", flag)
		}
		user := id.User(r.Var("userId"))
		a, err := s.Account(ctx, r.Tenant.ID, user)
		if err != nil {
			return nil, err
		}
		if a.Admin {
			return nil, mxerror.Forbidden.With("administrators cannot be locked or suspended")
		}
		on := value.Kind() == 't'
		return map[string]bool{flag: on}, s.setFlag(ctx, r.Tenant.ID, user, flag, on)
	}
}

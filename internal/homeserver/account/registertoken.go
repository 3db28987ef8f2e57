// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"crypto/subtle"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// registerFlows are the ways in which somebody may register; each can be combined with an e-mail address that then belongs to the account.
func (s *Service) registerFlows() [][]string {
	first := loginDummy
	if s.o.Config.Registration == RegistrationToken {
		first = stageToken
	}
	flows := [][]string{{first}}
	switch {
	case s.o.SendMail == nil:
	case first == loginDummy:
		flows = append(flows, []string{stageEmail})
	default:
		flows = append(flows, []string{first, stageEmail})
	}
	return flows
}

func (s *Service) registerChecks(r *httpapi.Request) map[string]stageCheck {
	return map[string]stageCheck{
		loginDummy: func(context.Context, *authData) (string, error) { return "", nil },
		stageToken: func(ctx context.Context, a *authData) (string, error) {
			return a.Token, s.checkRegistrationToken(ctx, r.Tenant.ID, a.Token)
		},
		stageEmail: s.emailStage(r.Tenant, purposeRegister),
	}
}

// checkRegistrationToken: the token must be one of those configured, or made by an administrator (client-server API, "Token-authenticated registration").
func (s *Service) checkRegistrationToken(ctx context.Context, t tenant.ID, token string) error {
	if token == "" {
		return mxerror.MissingParam.With("token is missing")
	}
	valid, err := s.registrationToken(ctx, t, token)
	if err == nil && !valid {
		err = errRegistrationToken
	}
	return err
}

var errRegistrationToken = mxerror.Unauthorized.With("this registration token is not valid")

// registrationToken says whether a token may be used now.
func (s *Service) registrationToken(ctx context.Context, t tenant.ID, token string) (bool, error) {
	if s.configuredToken(token) {
		return true, nil
	}
	made, err := s.readRegistrationToken(ctx, t, token)
	return err == nil && made != nil && made.valid(s.now()), err
}

// configuredToken says whether a token is one of the configuration, in a time that does not depend on how much of it is right.
func (s *Service) configuredToken(token string) bool {
	found := 0
	for _, t := range s.o.Config.RegistrationTokens {
		found |= subtle.ConstantTimeCompare([]byte(t), []byte(token))
	}
	return found == 1
}

type validityReply struct {
	Valid bool `json:"valid"`
}

func (s *Service) tokenValidity(ctx context.Context, r *httpapi.Request) (any, error) {
	if s.o.Config.Registration == RegistrationClosed {
		return nil, mxerror.Forbidden.With("registration is closed on this server")
	}
	token := r.Query("token")
	if token == "" {
		return nil, mxerror.MissingParam.With("token is missing")
	}
	valid, err := s.registrationToken(ctx, r.Tenant.ID, token)
	return validityReply{valid}, err
}

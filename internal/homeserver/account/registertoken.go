// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"crypto/subtle"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
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
		stageToken: func(_ context.Context, a *authData) (string, error) {
			return a.Token, s.checkRegistrationToken(a.Token)
		},
		stageEmail: s.emailStage(r.Tenant, purposeRegister),
	}
}

// checkRegistrationToken: the token must be one of those configured (client-server API, "Token-authenticated registration").
func (s *Service) checkRegistrationToken(token string) error {
	if token == "" {
		return mxerror.MissingParam.With("token is missing")
	}
	if !s.registrationToken(token) {
		return mxerror.Unauthorized.With("this registration token is not valid")
	}
	return nil
}

// registrationToken says whether a token is valid, in a time that does not depend on how much of it is right.
func (s *Service) registrationToken(token string) bool {
	found := 0
	for _, t := range s.o.Config.RegistrationTokens {
		found |= subtle.ConstantTimeCompare([]byte(t), []byte(token))
	}
	return found == 1
}

type validityReply struct {
	Valid bool `json:"valid"`
}

func (s *Service) tokenValidity(_ context.Context, r *httpapi.Request) (any, error) {
	if s.o.Config.Registration == RegistrationClosed {
		return nil, mxerror.Forbidden.With("registration is closed on this server")
	}
	token := r.Query("token")
	if token == "" {
		return nil, mxerror.MissingParam.With("token is missing")
	}
	return validityReply{s.registrationToken(token)}, nil
}

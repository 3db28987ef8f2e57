// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// botCredential is a bot's credential without its secret.
type botCredential struct {
	ID      string  `json:"id"`
	Name    string  `json:"name"`
	Issuer  id.User `json:"issued_by"`
	Created int64   `json:"created_ts"`
	Revoked int64   `json:"revoked_ts,omitzero"`
}

// issueBotCredential makes a credential; this answer is the only one that shows its secret.
func (s *Service) issueBotCredential(ctx context.Context, r *httpapi.Request) (any, error) {
	a, err := s.known(ctx, r)
	if err != nil {
		return nil, err
	}
	var q struct {
		Name string `json:"name"`
	}
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	credential, secret, err := s.o.Accounts.IssueBotCredential(ctx, r.Tenant, a.User, r.Session.User, q.Name)
	if err != nil {
		return nil, err
	}
	return map[string]string{"id": credential, "secret": secret}, nil
}

func (s *Service) listBotCredentials(ctx context.Context, r *httpapi.Request) (any, error) {
	a, err := s.known(ctx, r)
	if err != nil {
		return nil, err
	}
	all, err := s.o.Accounts.BotCredentials(ctx, r.Tenant.ID, a.User)
	if err != nil {
		return nil, err
	}
	list := make([]botCredential, len(all))
	for i, b := range all {
		list[i] = botCredential{ID: b.ID, Name: b.Name, Issuer: b.Issuer, Created: b.Created, Revoked: b.Revoked}
	}
	return map[string]any{"bot_credentials": list}, nil
}

// revokeBotCredential ends a credential and the sessions of its account.
func (s *Service) revokeBotCredential(ctx context.Context, r *httpapi.Request) (any, error) {
	a, err := s.known(ctx, r)
	if err != nil {
		return nil, err
	}
	return struct{}{}, s.o.Accounts.RevokeBotCredential(ctx, r.Tenant, a.User, r.Var("credential"))
}

// removeSecondFactor lets somebody who lost their telephone enrol anew; their sessions end.
func (s *Service) removeSecondFactor(ctx context.Context, r *httpapi.Request) (any, error) {
	a, err := s.known(ctx, r)
	if err != nil {
		return nil, err
	}
	return struct{}{}, s.o.Accounts.RemoveSecondFactor(ctx, r.Tenant, a.User)
}

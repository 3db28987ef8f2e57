// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// cardBody is somebody's health card.
type cardBody struct {
	TelematikID string `json:"telematik_id"`
	Profession  string `json:"profession_oid,omitempty"`
	Created     int64  `json:"created_ts,omitzero"`
	FirstUsed   int64  `json:"first_used_ts,omitzero"`
	Published   int64  `json:"published_ts,omitzero"`
}

func (s *Service) getCard(ctx context.Context, r *httpapi.Request) (any, error) {
	a, err := s.known(ctx, r)
	if err != nil {
		return nil, err
	}
	c, err := s.o.Accounts.CardOf(ctx, r.Tenant.ID, a.User)
	if err != nil {
		return nil, err
	}
	if c == nil {
		return nil, mxerror.NotFound.With("the account has no card")
	}
	return cardBody{TelematikID: c.Number, Profession: c.Profession, Created: c.Created, FirstUsed: c.Used, Published: c.Published}, nil
}

// putCard registers the Telematik-ID of somebody's card, which then signs in at once.
func (s *Service) putCard(ctx context.Context, r *httpapi.Request) (any, error) {
	a, err := s.known(ctx, r)
	if err != nil {
		return nil, err
	}
	var q cardBody
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	return struct{}{}, s.o.Accounts.RegisterCard(ctx, r.Tenant, a.User, q.TelematikID)
}

// deleteCard takes the card from the account; its sessions end.
func (s *Service) deleteCard(ctx context.Context, r *httpapi.Request) (any, error) {
	a, err := s.known(ctx, r)
	if err != nil {
		return nil, err
	}
	return struct{}{}, s.o.Accounts.UnlinkCard(ctx, r.Tenant, a.User)
}

// issueCardCode makes a code with which somebody joins their card with the account; this answer is the only one that shows it.
func (s *Service) issueCardCode(ctx context.Context, r *httpapi.Request) (any, error) {
	a, err := s.known(ctx, r)
	if err != nil {
		return nil, err
	}
	code, expires, err := s.o.Accounts.IssueCardCode(ctx, r.Tenant, a.User)
	if err != nil {
		return nil, err
	}
	return map[string]any{"code": code, "expires_ts": expires}, nil
}

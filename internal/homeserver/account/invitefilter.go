// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// The account data by which users say from whom they take invites (client-server API, "Invite permission"; MSC4155 for lists).
const (
	typeInvites      = "m.invite_permission_config"
	typeInviteFilter = "org.matrix.msc4155.invite_permission_config"
)

// inviteFilter is the content of MSC4155's account data. The first list that names the inviter decides; what is to be ignored is refused as well.
type inviteFilter struct {
	Enabled        *bool    `json:"enabled"`
	AllowedUsers   []string `json:"allowed_users"`
	IgnoredUsers   []string `json:"ignored_users"`
	BlockedUsers   []string `json:"blocked_users"`
	AllowedServers []string `json:"allowed_servers"`
	IgnoredServers []string `json:"ignored_servers"`
	BlockedServers []string `json:"blocked_servers"`
}

// MayInvite answers M_INVITE_BLOCKED when a local user takes no invites from somebody.
func (s *Service) MayInvite(ctx context.Context, t tenant.ID, inviter, invitee id.User) error {
	blocked := mxerror.InviteBlocked.With("%s takes no such invites.", invitee)
	content, ok, err := s.AccountDatum(ctx, t, invitee, "", typeInvites)
	if err != nil {
		return err
	}
	var config struct {
		Default string `json:"default_action"`
	}
	if ok && lenient(content, &config) && config.Default == "block" {
		return blocked
	}
	if content, ok, err = s.AccountDatum(ctx, t, invitee, "", typeInviteFilter); err != nil || !ok {
		return err
	}
	var f inviteFilter
	if lenient(content, &f) && f.blocks(inviter) {
		return blocked
	}
	return nil
}

// lenient reads what a client stored; what has another shape says nothing.
func lenient(content jsontext.Value, v any) bool { return json.Unmarshal(content, v) == nil }

func (f *inviteFilter) blocks(inviter id.User) bool {
	if f.Enabled != nil && !*f.Enabled {
		return false
	}
	user, server := string(inviter), string(inviter.Server())
	switch {
	case anyGlob(f.AllowedUsers, user):
		return false
	case anyGlob(f.IgnoredUsers, user), anyGlob(f.BlockedUsers, user):
		return true
	case anyGlob(f.AllowedServers, server):
		return false
	}
	return anyGlob(f.IgnoredServers, server) || anyGlob(f.BlockedServers, server)
}

func anyGlob(globs []string, text string) bool {
	for _, g := range globs {
		if glob(g, text) {
			return true
		}
	}
	return false
}

// glob matches a pattern in which * stands for any text and ? for one byte.
func glob(pattern, text string) bool {
	star, mark, p, i := -1, 0, 0, 0
	for i < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == text[i]):
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

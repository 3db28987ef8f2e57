// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// maxDirectory bounds the answer of one search.
const maxDirectory = 50

type directoryEntry struct {
	User        id.User `json:"user_id"`
	DisplayName string  `json:"display_name,omitempty"`
	AvatarURL   string  `json:"avatar_url,omitempty"`
}

type directoryReply struct {
	Results []directoryEntry `json:"results"`
	Limited bool             `json:"limited"`
}

// searchUsers finds the tenant's own people by name or id, and people of other servers with whom the caller shares a room by their id. Nobody
// finds another tenant's people: for that there is the directory of the network.
func (s *Service) searchUsers(ctx context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		Term  *string `json:"search_term"`
		Limit *int    `json:"limit"`
	}
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if q.Term == nil {
		return nil, mxerror.MissingParam.With("search_term is missing")
	}
	limit := 10
	if q.Limit != nil {
		limit = min(max(*q.Limit, 1), maxDirectory)
	}
	term := strings.ToLower(strings.TrimSpace(*q.Term))
	if term == "" || !s.o.Policy.UserDirectory(r.Tenant) {
		return directoryReply{}, nil
	}
	found, err := s.searchLocal(ctx, r.Tenant.ID, term, limit+1)
	if err != nil {
		return nil, err
	}
	if s.o.Acquainted != nil && len(found) <= limit {
		known, err := s.o.Acquainted(ctx, r.Tenant, r.Session.User)
		if err != nil {
			return nil, err
		}
		var others []directoryEntry
		for user := range known {
			if user.Server() != r.Tenant.Name && strings.Contains(strings.ToLower(string(user)), term) {
				others = append(others, directoryEntry{User: user})
			}
		}
		slices.SortFunc(others, func(a, b directoryEntry) int { return strings.Compare(string(a.User), string(b.User)) })
		found = append(found, others...)
	}
	reply := directoryReply{Results: found, Limited: len(found) > limit}
	if reply.Limited {
		reply.Results = found[:limit]
	}
	return reply, nil
}

// plain reads a stored JSON text.
func plain(value string) string {
	var text string
	if value == "" || json.Unmarshal(jsontext.Value(value), &text) != nil {
		return ""
	}
	return text
}

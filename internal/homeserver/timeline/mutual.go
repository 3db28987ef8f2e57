// SPDX-License-Identifier: Apache-2.0

package timeline

import (
	"context"
	"encoding/base64"
	"slices"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// maxMutual is how many rooms a page of mutual rooms holds.
const maxMutual = 100

type mutualReply struct {
	Joined []id.Room `json:"joined"`
	Count  int       `json:"count"`
	Next   string    `json:"next_batch,omitempty"`
}

// mutualRooms lists the rooms that the caller shares with somebody, ordered by their ids; a token is the last id of a page.
func (s *Service) mutualRooms(ctx context.Context, r *httpapi.Request) (any, error) {
	other, err := id.ParseUser(r.Query("user_id"))
	if err != nil {
		return nil, mxerror.InvalidParam.With("user_id is missing or not a user id")
	}
	if other == r.Session.User {
		return nil, mxerror.InvalidParam.With("user_id must be somebody else")
	}
	from, err := base64.RawURLEncoding.DecodeString(r.Query("from"))
	if err == nil && len(from) > 0 {
		_, err = id.ParseRoom(string(from))
	}
	if err != nil {
		return nil, mxerror.InvalidParam.With("from is no token of this endpoint")
	}
	reply := mutualReply{Joined: []id.Room{}}
	all, err := s.rooms.MutualRooms(ctx, r.Tenant.ID, r.Session.User, other)
	if err != nil {
		return nil, err
	}
	reply.Count = len(all)
	slices.Sort(all)
	at, found := slices.BinarySearch(all, id.Room(from))
	if found {
		at++
	}
	reply.Joined = append(reply.Joined, all[at:min(at+maxMutual, len(all))]...)
	if at+maxMutual < len(all) {
		reply.Next = base64.RawURLEncoding.EncodeToString([]byte(all[at+maxMutual-1]))
	}
	return reply, nil
}

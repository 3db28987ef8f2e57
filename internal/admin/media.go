// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/homeserver/media"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

type mediaEntry struct {
	ID            string   `json:"media_id"`
	Type          string   `json:"media_type"`
	Length        int64    `json:"media_length"`
	Name          *string  `json:"upload_name"`
	Created       int64    `json:"created_ts"`
	Accessed      *int64   `json:"last_access_ts"`
	QuarantinedBy *id.User `json:"quarantined_by"`
	Safe          bool     `json:"safe_from_quarantine"`
}

type mediaReply struct {
	Media []mediaEntry `json:"media"`
	Next  *int         `json:"next_token,omitzero"`
	Total int64        `json:"total"`
}

type deletedReply struct {
	Deleted []string `json:"deleted_media"`
	Total   int      `json:"total"`
}

// mediaPage reads which of a user's media are meant: the newest first where nothing is said.
func (s *Service) mediaPage(ctx context.Context, r *httpapi.Request) (list []media.Stored, total int64, from int, err error) {
	a, err := s.known(ctx, r)
	if err != nil {
		return nil, 0, 0, err
	}
	if from, err = r.QueryInt("from", 0, 1<<30); err != nil {
		return nil, 0, 0, err
	}
	limit, err := r.QueryInt("limit", 100, 1000)
	if err != nil {
		return nil, 0, 0, err
	}
	back, err := backwards(r)
	if err != nil {
		return nil, 0, 0, err
	}
	if r.Query("order_by") == "" && r.Query("dir") == "" {
		back = true
	}
	list, total, err = s.o.Media.OfUser(ctx, r.Tenant.ID, a.User, r.Query("order_by"), back, from, limit)
	return list, total, from, err
}

func (s *Service) listMedia(ctx context.Context, r *httpapi.Request) (any, error) {
	list, total, from, err := s.mediaPage(ctx, r)
	if err != nil {
		return nil, err
	}
	reply := mediaReply{Media: make([]mediaEntry, len(list)), Total: total}
	for i, m := range list {
		e := mediaEntry{ID: m.ID, Type: m.ContentType, Length: m.Size, Name: optional(m.FileName), Created: m.Created}
		if m.Accessed > 0 {
			e.Accessed = &m.Accessed
		}
		if m.QuarantinedBy != "" {
			e.QuarantinedBy = &m.QuarantinedBy
		}
		reply.Media[i] = e
	}
	if next := from + len(list); int64(next) < total && len(list) > 0 {
		reply.Next = &next
	}
	return reply, nil
}

func (s *Service) deleteUserMedia(ctx context.Context, r *httpapi.Request) (any, error) {
	list, _, _, err := s.mediaPage(ctx, r)
	if err != nil {
		return nil, err
	}
	reply := deletedReply{Deleted: []string{}}
	for _, m := range list {
		if err := s.o.Media.Delete(ctx, r.Tenant.ID, m.ID); err != nil {
			return nil, err
		}
		reply.Deleted = append(reply.Deleted, m.ID)
	}
	reply.Total = len(reply.Deleted)
	return reply, nil
}

func (s *Service) deleteMedia(ctx context.Context, r *httpapi.Request) (any, error) {
	if id.Server(r.Var("serverName")) != r.Tenant.Name {
		return nil, mxerror.New(400, "M_UNKNOWN", "Can only delete local media")
	}
	if err := s.o.Media.Delete(ctx, r.Tenant.ID, r.Var("mediaId")); err != nil {
		return nil, err
	}
	return deletedReply{[]string{r.Var("mediaId")}, 1}, nil
}

// quarantine makes the handler that takes media out of sight, or brings it back.
func (s *Service) quarantine(on bool) httpapi.Handler {
	return func(ctx context.Context, r *httpapi.Request) (any, error) {
		origin := id.Server(r.Var("serverName"))
		if origin == r.Tenant.Name {
			origin = ""
		}
		by := r.Session.User
		if !on {
			by = ""
		}
		return nil, s.o.Media.Quarantine(ctx, r.Tenant.ID, origin, r.Var("mediaId"), by)
	}
}

func (s *Service) quarantineUser(ctx context.Context, r *httpapi.Request) (any, error) {
	a, err := s.known(ctx, r)
	if err != nil {
		return nil, err
	}
	n, err := s.o.Media.QuarantineOfUser(ctx, r.Tenant.ID, a.User, r.Session.User)
	return map[string]int64{"num_quarantined": n}, err
}

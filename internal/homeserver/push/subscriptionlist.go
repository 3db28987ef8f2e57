// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"database/sql"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// DefaultSubscriptions is how many changes of subscriptions an answer holds unless the client asks for another number, MaxSubscriptions how many
// at most.
const (
	DefaultSubscriptions = 100
	MaxSubscriptions     = 500
)

// Subscribed is a subscription to a thread on the wire, Unsubscribed one that has ended (MSC4308). The greater bump stamp is the later change.
type (
	Subscribed struct {
		Automatic bool  `json:"automatic"`
		Bump      int64 `json:"bump_stamp"`
	}
	Unsubscribed struct {
		Bump int64 `json:"bump_stamp"`
	}
)

// Subscriptions are changes of a user's subscriptions to threads, each thread by its newest state.
type Subscriptions struct {
	Subscribed   map[id.Room]map[id.Event]Subscribed   `json:"subscribed,omitzero"`
	Unsubscribed map[id.Room]map[id.Event]Unsubscribed `json:"unsubscribed,omitzero"`
	// More goes on backwards: it is the from of the next request, empty when nothing is left.
	More string `json:"-"`
}

// Len counts the changes.
func (l *Subscriptions) Len() (n int) {
	for _, threads := range l.Subscribed {
		n += len(threads)
	}
	for _, threads := range l.Unsubscribed {
		n += len(threads)
	}
	return n
}

// Subscriptions lists the newest changes of a user's subscriptions with positions in (from, to].
func (s *Service) Subscriptions(ctx context.Context, t tenant.ID, user id.User, from, to int64, limit int) (*Subscriptions, error) {
	type row struct {
		room id.Room
		root id.Event
		subscription
	}
	rows, err := s.o.DB.Query(ctx, `SELECT r.room_id, s.root, s.subscribed, s.automatic, s.position FROM thread_subscription s
		JOIN room r ON r.tenant = s.tenant AND r.room = s.room
		WHERE s.tenant = $1 AND s.user_id = $2 AND s.position > $3 AND s.position <= $4 ORDER BY s.position DESC LIMIT $5`,
		int64(t), string(user), from, to, limit+1)
	list, err := database.All(rows, err, func(rows *sql.Rows) (r row, err error) {
		return r, rows.Scan(&r.room, &r.root, &r.subscribed, &r.automatic, &r.position)
	})
	if err != nil {
		return nil, err
	}
	out := &Subscriptions{}
	if len(list) > limit {
		list = list[:limit]
		out.More = s.o.Tokens.Mark(t, list[limit-1].position-1)
	}
	for _, r := range list {
		if r.subscribed {
			put(&out.Subscribed, r.room, r.root, Subscribed{r.automatic, r.position})
		} else {
			put(&out.Unsubscribed, r.room, r.root, Unsubscribed{r.position})
		}
	}
	return out, nil
}

func put[V any](all *map[id.Room]map[id.Event]V, room id.Room, root id.Event, v V) {
	if *all == nil {
		*all = map[id.Room]map[id.Event]V{}
	}
	if (*all)[room] == nil {
		(*all)[room] = map[id.Event]V{}
	}
	(*all)[room][root] = v
}

type subscriptionsReply struct {
	*Subscriptions `json:",inline"`
	End            string `json:"end,omitzero"`
}

// listSubscriptions pages backwards through the changes of the caller's subscriptions (MSC4308).
func (s *Service) listSubscriptions(ctx context.Context, r *httpapi.Request) (any, error) {
	if r.Query("dir") != "b" {
		return nil, mxerror.InvalidParam.With("dir must be b")
	}
	limit, err := r.QueryInt("limit", DefaultSubscriptions, MaxSubscriptions)
	if err != nil {
		return nil, err
	}
	if limit == 0 {
		return nil, mxerror.InvalidParam.With("limit must be greater than zero")
	}
	from, err := s.o.Feed.Position(ctx, r.Tenant.ID)
	if err != nil {
		return nil, err
	}
	if token := r.Query("from"); token != "" {
		if from, err = s.mark(ctx, r.Tenant, token); err != nil {
			return nil, err
		}
	}
	to := int64(0)
	if token := r.Query("to"); token != "" {
		if to, err = s.mark(ctx, r.Tenant, token); err != nil {
			return nil, err
		}
	}
	found, err := s.Subscriptions(ctx, r.Tenant.ID, r.Session.User, to, from, limit)
	if err != nil {
		return nil, err
	}
	return subscriptionsReply{found, found.More}, nil
}

// mark opens a token of this list or a pos of sliding sync.
func (s *Service) mark(ctx context.Context, t *tenant.Tenant, token string) (int64, error) {
	if position, err := s.o.Tokens.OpenMark(t.ID, token); err == nil {
		return position, nil
	}
	return s.o.Tokens.Position(ctx, t, token)
}

// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/pushrule"
)

// The errors of subscriptions to threads under their unstable names (MSC4306).
var (
	notInThread = mxerror.New(400, "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD", "the event named by automatic is not part of this thread")
	conflicting = mxerror.New(409, "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION", "the subscription was ended after that event")
)

// subscription is a row of thread_subscription; the zero one is none.
type subscription struct {
	subscribed, automatic bool
	// position is where it changed last.
	position int64
}

// thread is a thread that the caller may see.
type thread struct {
	t    tenant.ID
	user id.User
	room *room.Room
	root id.Event
}

// thread finds the thread of the path. Any event that the caller may see is the root of one: the first reply makes it visible to others.
func (s *Service) thread(ctx context.Context, r *httpapi.Request) (*thread, error) {
	rid, err := r.Room()
	if err != nil {
		return nil, err
	}
	th := &thread{t: r.Tenant.ID, user: r.Session.User, root: id.Event(r.Var("threadRootId"))}
	if th.room, err = s.o.Rooms.Lookup(ctx, th.t, rid); err != nil {
		return nil, err
	}
	m, err := s.o.Rooms.Membership(ctx, th.t, th.room.NID, th.user)
	if err != nil {
		return nil, err
	}
	if m.Forgotten { // who has forgotten a room gets no history of it any more (client-server API, POST forget)
		return nil, mxerror.NotFound.With("You have forgotten this room.")
	}
	_, err = s.seen(ctx, th, th.root)
	return th, err
}

// seen returns an event of the thread's room, M_NOT_FOUND when the user may not see it.
func (s *Service) seen(ctx context.Context, th *thread, eid id.Event) (*room.Event, error) {
	e, err := s.o.Rooms.EventOf(ctx, th.t, th.room.NID, eid)
	if err != nil {
		return nil, err
	}
	visible, err := s.o.Rooms.Visible(ctx, th.t, th.user, th.room.NID, []*room.Event{e})
	if err != nil {
		return nil, err
	}
	if len(visible) == 0 {
		return nil, mxerror.NotFound.With("This event is not known here, or you may not see it.")
	}
	return e, nil
}

type subscriptionReply struct {
	Automatic bool `json:"automatic"`
}

func (s *Service) getSubscription(ctx context.Context, r *httpapi.Request) (any, error) {
	th, err := s.thread(ctx, r)
	if err != nil {
		return nil, err
	}
	sub, err := s.subscription(ctx, th)
	if err != nil {
		return nil, err
	}
	if !sub.subscribed {
		return nil, mxerror.NotFound.With("You are not subscribed to this thread.")
	}
	return subscriptionReply{sub.automatic}, nil
}

func (s *Service) putSubscription(ctx context.Context, r *httpapi.Request) (any, error) {
	var body struct {
		Automatic *id.Event `json:"automatic"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	th, err := s.thread(ctx, r)
	if err != nil {
		return nil, err
	}
	cause := int64(0)
	if body.Automatic != nil {
		if _, err := id.ParseEvent(string(*body.Automatic)); err != nil {
			return nil, mxerror.InvalidParam.With("automatic is the id of the event that made the client subscribe")
		}
		e, err := s.seen(ctx, th, *body.Automatic)
		if errors.Is(err, mxerror.NotFound) || err == nil && threadRoot(e.Content()) != th.root {
			return nil, notInThread
		}
		if err != nil {
			return nil, err
		}
		cause = e.Position
	}
	if err := s.applyThreadRules(ctx, th); err != nil {
		return nil, err
	}
	return nil, s.changeSubscription(ctx, th, func(old subscription) (subscription, error) {
		next := subscription{subscribed: true, automatic: body.Automatic != nil}
		switch {
		case old.subscribed && (next.automatic || !old.automatic):
			return old, errUnchanged
		case next.automatic && old.position > 0 && cause <= old.position && !old.subscribed:
			return old, conflicting
		}
		return next, nil
	})
}

func (s *Service) deleteSubscription(ctx context.Context, r *httpapi.Request) (any, error) {
	th, err := s.thread(ctx, r)
	if err != nil {
		return nil, err
	}
	return nil, s.changeSubscription(ctx, th, func(old subscription) (subscription, error) {
		if !old.subscribed {
			return old, errUnchanged
		}
		return subscription{}, nil
	})
}

// subscription reads what the user has said about a thread.
func (s *Service) subscription(ctx context.Context, th *thread) (sub subscription, err error) {
	err = s.o.DB.QueryRow(ctx, "SELECT subscribed, automatic, position FROM thread_subscription WHERE tenant = $1 AND user_id = $2 AND room = $3 AND root = $4",
		int64(th.t), string(th.user), th.room.NID, string(th.root)).Scan(&sub.subscribed, &sub.automatic, &sub.position)
	if errors.Is(err, sql.ErrNoRows) {
		return sub, nil
	}
	return sub, err
}

// maxTries is how often a subscription is tried to be changed while other devices change it too.
const maxTries = 10

// changeSubscription changes what the user has said about a thread. It is announced as a change of the user's account data, so that all that
// hangs on that is looked at anew.
func (s *Service) changeSubscription(ctx context.Context, th *thread, change func(subscription) (subscription, error)) error {
	key := []any{int64(th.t), string(th.user), th.room.NID, string(th.root)}
	for range maxTries {
		old, err := s.subscription(ctx, th)
		if err != nil {
			return err
		}
		next, err := change(old)
		if errors.Is(err, errUnchanged) {
			return nil
		}
		if err != nil {
			return err
		}
		plan := &stream.Plan{Tenant: th.t, Unique: []string{"thread_subscription:" + string(th.user) + string(th.root)},
			Changes: []stream.Change{{Kind: stream.AccountData, Users: []id.User{th.user}}},
			Positioned: []stream.Statement{{SQL: `UPDATE thread_subscription SET subscribed = $5, automatic = $6, position = $7
				WHERE tenant = $1 AND user_id = $2 AND room = $3 AND root = $4`, Args: append(slices.Clone(key), next.subscribed, next.automatic, stream.At(0))}}}
		if old.position > 0 {
			plan.Guard = &stream.Statement{SQL: "UPDATE thread_subscription SET root = root WHERE tenant = $1 AND user_id = $2 AND room = $3 AND root = $4 AND position = $5",
				Args: append(slices.Clone(key), old.position)}
		} else {
			plan.Guard = &stream.Statement{SQL: `INSERT INTO thread_subscription (tenant, user_id, room, root, subscribed, automatic, position)
				VALUES ($1, $2, $3, $4, FALSE, FALSE, 0) ON CONFLICT DO NOTHING`, Args: key}
		}
		if _, err = s.o.Committer.Commit(ctx, plan); !errors.Is(err, stream.ErrStale) {
			return err
		}
	}
	return mxerror.Unknown.With("this is being changed by too many devices at once")
}

// applyThreadRules switches on the rules about threads when the user is about to subscribe for the first time. Whoever switches them off
// afterwards keeps them off.
func (s *Service) applyThreadRules(ctx context.Context, th *thread) error {
	if newest, err := s.newestSubscription(ctx, th.t, th.user); err != nil || newest > 0 {
		return err
	}
	return s.carry(ctx, th.t, th.user, "", ruleType, func(content jsontext.Value, exists bool) (jsontext.Value, error) {
		rules := readRules(content, exists, th.user)
		changed := false
		for _, rule := range []string{pushrule.UnsubscribedThread, pushrule.SubscribedThread} {
			if r := rules.Find(pushrule.PostContent, rule); !r.Enabled {
				r.Enabled, changed = true, true
			}
		}
		if !changed {
			return nil, errUnchanged
		}
		return json.Marshal(stored{rules}, json.Deterministic(true), jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true))
	})
}

// newestSubscription is where the user's subscriptions changed last, 0 when there have never been any.
func (s *Service) newestSubscription(ctx context.Context, t tenant.ID, user id.User) (position int64, err error) {
	err = s.o.DB.QueryRow(ctx, "SELECT COALESCE(MAX(position), 0) FROM thread_subscription WHERE tenant = $1 AND user_id = $2", int64(t), string(user)).Scan(&position)
	return position, err
}

// subscribed are the roots of the threads in a room that the user is subscribed to, as they are at a position or later.
func (s *Service) subscribed(ctx context.Context, k countKey, at int64) (map[id.Event]bool, error) {
	known, ok := s.recalls.threads.Get(k.tenant, k, at, func(c *stream.Change) bool { return c.Kind == stream.AccountData && slices.Contains(c.Users, k.user) })
	if ok {
		return known, nil
	}
	rows, err := s.o.DB.Query(ctx, "SELECT root FROM thread_subscription WHERE tenant = $1 AND user_id = $2 AND room = $3 AND subscribed",
		int64(k.tenant), string(k.user), k.room)
	list, err := database.All(rows, err, database.Column[id.Event])
	if err != nil {
		return nil, err
	}
	roots := make(map[id.Event]bool, len(list))
	for _, root := range list {
		roots[root] = true
	}
	s.recalls.threads.Set(k, at, roots)
	return roots, nil
}

// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/pushrule"
)

const (
	// stride is how many positions of the tenant's stream one read covers, strides how many reads one request makes.
	stride, strides = 500, 20
	// maxNotifications is the most that one request gets.
	maxNotifications = 200
)

type notification struct {
	Actions []jsontext.Value  `json:"actions"`
	Event   *room.ClientEvent `json:"event"`
	Read    bool              `json:"read"`
	Room    id.Room           `json:"room_id"`
	TS      int64             `json:"ts"`
}

type notificationsReply struct {
	Notifications []notification `json:"notifications"`
	Next          string         `json:"next_token,omitzero"`
}

// notified collects the notifications of one request.
type notified struct {
	r         *httpapi.Request
	now       int64 // the tenant's position
	rules     *pushrule.Evaluator
	rooms     map[int64]*room.Room
	judges    map[int64]*judge
	markers   map[int64]map[string]int64
	highlight bool
	out       []notification
}

func (s *Service) getNotifications(ctx context.Context, r *httpapi.Request) (any, error) {
	limit, err := r.QueryInt("limit", 20, maxNotifications)
	if err != nil {
		return nil, err
	}
	now, err := s.o.Feed.Position(ctx, r.Tenant.ID)
	if err != nil {
		return nil, err
	}
	upTo := now
	if from := r.Query("from"); from != "" {
		if upTo, err = s.o.Tokens.OpenMark(r.Tenant.ID, from); err != nil {
			return nil, err
		}
	}
	n := &notified{r: r, now: now, rooms: map[int64]*room.Room{}, judges: map[int64]*judge{}, markers: map[int64]map[string]int64{}}
	switch r.Query("only") {
	case "":
	case "highlight":
		n.highlight = true
	default:
		return nil, mxerror.InvalidParam.With("only must be highlight")
	}
	rules, err := s.Rules(ctx, r.Tenant.ID, r.Session.User)
	if err != nil {
		return nil, err
	}
	n.rules = pushrule.Compile(rules)
	joined, err := s.o.Rooms.JoinedRooms(ctx, r.Tenant.ID, r.Session.User)
	if err != nil {
		return nil, err
	}
	nids := make([]int64, len(joined))
	for i, found := range joined {
		n.rooms[found.NID], nids[i] = found, found.NID
	}
	for range strides {
		if upTo <= 0 || len(n.out) >= limit || len(nids) == 0 {
			break
		}
		events, err := s.o.Rooms.Newest(ctx, r.Tenant.ID, upTo-stride, upTo, stride)
		if err != nil {
			return nil, err
		}
		if upTo, err = s.collect(ctx, n, events, limit, upTo-stride); err != nil {
			return nil, err
		}
	}
	reply := notificationsReply{Notifications: n.out}
	if upTo > 0 && len(nids) > 0 {
		reply.Next = s.o.Tokens.Mark(r.Tenant.ID, upTo)
	}
	return reply, nil
}

// collect adds what notified the user among some events, newest first, and returns the position to go on below.
func (s *Service) collect(ctx context.Context, n *notified, events []*room.Event, limit int, bottom int64) (int64, error) {
	t, user := n.r.Tenant.ID, n.r.Session.User
	for _, e := range events {
		if len(n.out) == limit {
			return e.Position, nil
		}
		in := n.rooms[e.RoomNID]
		if in == nil || e.Sender() == user || e.RedactedBy != "" {
			continue
		}
		j := n.judges[in.NID]
		if j == nil {
			var err error
			if j, err = s.judge(ctx, t, in, user, n.rules, n.now); err != nil {
				return 0, err
			}
			if n.markers[in.NID], err = s.o.Ephemeral.Markers(ctx, t, user, in.NID); err != nil {
				return 0, err
			}
			n.judges[in.NID] = j
		}
		v := n.rules.Evaluate(pushrule.About(e.Event), j.about(e))
		if !v.Notify || n.highlight && !v.Highlight {
			continue
		}
		visible, err := s.o.Rooms.Visible(ctx, t, user, in.NID, []*room.Event{e})
		if err != nil {
			return 0, err
		}
		if len(visible) == 0 {
			continue
		}
		c, err := s.o.Rooms.Client(ctx, t, in, visible[0], n.r.Session)
		if err != nil {
			return 0, err
		}
		c.RoomID = ""
		marks := n.markers[in.NID]
		n.out = append(n.out, notification{Actions: v.Actions, Event: c, Room: in.ID, TS: e.Timestamp(),
			Read: e.Position <= max(marks[""], marks[markerKey(threadRoot(e.Content()))])})
	}
	return bottom, nil
}

// SPDX-License-Identifier: Apache-2.0

package clientsync

import (
	"context"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/homeserver/timeline"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// slide is a request of sliding sync under way.
type slide struct {
	*query
	request *slidingRequest
	// stable: the client speaks MSC4186 as it was accepted.
	stable bool
	key    connKey
	// has is what the client has been sent.
	has *generation
}

// slidingReply is the answer of simplified sliding sync.
type slidingReply struct {
	Pos        string                   `json:"pos"`
	Lists      map[string]listReply     `json:"lists"`
	Rooms      map[id.Room]*slidingRoom `json:"rooms"`
	Extensions map[string]any           `json:"extensions"`
}

type listReply struct {
	Count int `json:"count"`
}

// slidingRoom is RoomResult. What did not change is absent.
type slidingRoom struct {
	Initial          bool             `json:"initial,omitzero"`
	Membership       string           `json:"membership,omitzero"`
	Lists            []string         `json:"lists,omitempty"`
	Name             jsontext.Value   `json:"name,omitzero"`
	Avatar           jsontext.Value   `json:"avatar,omitzero"`
	Heroes           []hero           `json:"heroes,omitempty"`
	DM               *bool            `json:"is_dm,omitzero"`
	Bump             int64            `json:"bump_stamp,omitzero"`
	Required         []any            `json:"required_state,omitzero"`
	Timeline         []any            `json:"timeline,omitzero"`
	Previous         string           `json:"prev_batch,omitzero"`
	Limited          bool             `json:"limited,omitzero"`
	Live             *int             `json:"num_live,omitzero"`
	Joined           *int64           `json:"joined_count,omitzero"`
	Invited          *int64           `json:"invited_count,omitzero"`
	Notifications    *int64           `json:"notification_count,omitzero"`
	Highlights       *int64           `json:"highlight_count,omitzero"`
	Expanded         bool             `json:"expanded_timeline,omitzero"`
	UnstableExpanded bool             `json:"unstable_expanded_timeline,omitzero"`
	Stripped         []jsontext.Value `json:"stripped_state,omitzero"`
	InviteState      []jsontext.Value `json:"invite_state,omitzero"`
}

// hero is a member that names a room without a name.
type hero struct {
	User   id.User `json:"user_id"`
	Name   string  `json:"displayname,omitzero"`
	Avatar string  `json:"avatar_url,omitzero"`
}

// slide answers simplified sliding sync (MSC4186) under its stable or its unstable name.
func (s *Service) slide(stable bool) func(ctx context.Context, r *httpapi.Request) (any, error) {
	return func(ctx context.Context, r *httpapi.Request) (any, error) {
		request, err := readSliding(r, stable)
		if err != nil {
			return nil, err
		}
		q, err := s.beginSlide(ctx, r, request, stable)
		if err != nil {
			return nil, err
		}
		if err := s.o.Ephemeral.Active(ctx, q.t, q.user, request.Presence); err != nil {
			return nil, err
		}
		wait := time.Duration(min(request.Timeout, maxWait)) * time.Millisecond
		if q.initial {
			wait = 0
		}
		return s.slideOn(ctx, q, wait)
	}
}

// beginSlide finds out what the client has.
func (s *Service) beginSlide(ctx context.Context, r *httpapi.Request, request *slidingRequest, stable bool) (*slide, error) {
	q := &slide{request: request, stable: stable, has: &generation{}, query: &query{t: r.Tenant, session: r.Session, user: r.Session.User,
		device: r.Session.Device, filter: &filter{}, initial: request.Pos == "", presence: request.Presence}}
	q.key = connKey{q.t.ID, q.user, q.device, request.ConnID}
	if request.Pos != "" {
		token, err := s.o.Tokens.OpenStream(q.t.ID, request.Pos)
		if err != nil || token.Generation == 0 || token.Epoch != q.t.Epoch || token.Device != timeline.DeviceSum(q.user, q.device) ||
			token.Connection != q.key.sum() {
			return nil, mxerror.UnknownPos
		}
		if q.has, err = s.generation(ctx, q.key, token.Generation); err != nil {
			return nil, err
		}
		q.since = token
	}
	q.sent = s.members.begin(q.lazyKey(), q.initial, q.since.Position)
	return q, s.receiveToDevice(ctx, q)
}

// lazyKey is the connection under which its member events are remembered.
func (q *slide) lazyKey() deviceKey { return deviceKey{q.t.ID, q.user, q.device, "c" + q.key.conn} }

// slideOn answers at once when there is something to say, and otherwise waits for it.
func (s *Service) slideOn(ctx context.Context, q *slide, wait time.Duration) (any, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		ephemeral := s.o.Feed.Ephemeral()
		position, err := s.o.Feed.Position(ctx, q.t.ID)
		if err != nil {
			return nil, err
		}
		a, err := s.slideAnswer(ctx, q, max(position, q.since.Position), ephemeral)
		if err != nil {
			return nil, err
		}
		if len(a.Rooms) == 0 && a.quiet && wait > 0 {
			if s.o.Feed.WaitUntil(ctx, s.closing, timer.C, q.t.ID, q.user, a.to, ephemeral) == nil {
				continue
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
		return s.finishSlide(ctx, q, a)
	}
}

// finishSlide fills in what is asked for last, and stores what the client will have.
func (s *Service) finishSlide(ctx context.Context, q *slide, a *slideAnswer) (*slidingReply, error) {
	if err := s.countSlide(ctx, q, a); err != nil {
		return nil, err
	}
	if len(a.chunks) > 0 {
		if err := s.o.Timeline.Bundle(ctx, q.t.ID, q.session, a.chunks); err != nil {
			return nil, err
		}
	}
	a.token.Generation = q.has.id
	if q.has.id == 0 || !a.next.equal(q.has) {
		if err := s.keep(ctx, q.key, q.has, a.next); err != nil {
			return nil, err
		}
		a.token.Generation = a.next.id
	}
	if a.to > q.since.Position {
		var sums []uint64
		for _, r := range a.Rooms {
			sums = s.members.sums(sums, r.Required)
		}
		s.members.record(q.lazyKey(), sums, a.to)
	}
	a.Pos = s.o.Tokens.Stream(q.t.ID, a.token)
	return &a.slidingReply, nil
}

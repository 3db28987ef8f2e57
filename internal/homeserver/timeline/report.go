// SPDX-License-Identifier: Apache-2.0

package timeline

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

const (
	// maxReason is how many characters of a report's reason are kept.
	maxReason = 1000
	// maxReports is how many reports an administrator gets at once.
	maxReports = 100
)

// Report is what a user has told the administrators.
type Report struct {
	ID       int64    `json:"id,string"`
	Kind     string   `json:"kind"`
	Reporter id.User  `json:"reporter"`
	Room     id.Room  `json:"room_id,omitempty"`
	Event    id.Event `json:"event_id,omitempty"`
	User     id.User  `json:"user_id,omitempty"`
	Reason   string   `json:"reason,omitempty"`
	Score    int64    `json:"score,omitzero"`
	Created  int64    `json:"received_ts"` // ms since the epoch
}

type reportBody struct {
	Reason *string `json:"reason"`
	Score  *int64  `json:"score"`
}

func (s *Service) keepReport(ctx context.Context, r *httpapi.Request, p Report, body *reportBody) error {
	if body.Reason != nil {
		p.Reason = *body.Reason
		if utf8.RuneCountInString(p.Reason) > maxReason {
			p.Reason = string([]rune(p.Reason)[:maxReason])
		}
	}
	if body.Score != nil {
		p.Score = *body.Score
	}
	_, err := s.rooms.DB.Exec(ctx, `INSERT INTO report (tenant, report, kind, reporter, room_id, event_id, user_id, reason, score, created)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`, int64(r.Tenant.ID), database.NewID(), p.Kind, string(r.Session.User), string(p.Room), string(p.Event),
		string(p.User), p.Reason, p.Score, time.Now().UnixMilli())
	return err
}

// reportEvent takes a report of an event by somebody who is in its room and may see it; everybody else hears that there is no such event.
func (s *Service) reportEvent(ctx context.Context, r *httpapi.Request) (any, error) {
	var body reportBody
	if err := r.DecodeOptional(&body); err != nil {
		return nil, err
	}
	unknown := mxerror.NotFound.With("This event is not known here, or you are not in its room.")
	v, err := s.enter(ctx, r)
	if errors.Is(err, mxerror.Forbidden) || err == nil && !v.joined {
		return nil, unknown
	}
	if err != nil {
		return nil, err
	}
	e, err := s.seen(ctx, v.t.ID, v.user.User, v.Room, id.Event(r.Var("eventId")))
	if errors.Is(err, mxerror.NotFound) {
		return nil, unknown
	}
	if err != nil {
		return nil, err
	}
	return nil, s.keepReport(ctx, r, Report{Kind: "event", Room: v.ID, Event: e.ID(), User: e.Sender()}, &body)
}

// reportRoom takes a report of a room that the server knows; the reporter need not be in it.
func (s *Service) reportRoom(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := r.Room()
	if err != nil {
		return nil, err
	}
	body, err := neededReason(r)
	if err != nil {
		return nil, err
	}
	if _, err := s.rooms.Lookup(ctx, r.Tenant.ID, room); err != nil {
		return nil, err
	}
	return nil, s.keepReport(ctx, r, Report{Kind: "room", Room: room}, body)
}

// reportUser takes a report of a user of this server or of one who is in a room here.
func (s *Service) reportUser(ctx context.Context, r *httpapi.Request) (any, error) {
	user, err := id.ParseUser(r.Var("userId"))
	if err != nil {
		return nil, mxerror.InvalidParam.With("userId is not a user id")
	}
	body, err := neededReason(r)
	if err != nil {
		return nil, err
	}
	if user.Server() == r.Tenant.Name {
		if _, err := s.accounts.Account(ctx, r.Tenant.ID, user); err != nil {
			return nil, err
		}
	}
	return nil, s.keepReport(ctx, r, Report{Kind: "user", User: user}, body)
}

func neededReason(r *httpapi.Request) (*reportBody, error) {
	var body reportBody
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Reason == nil {
		return nil, mxerror.MissingParam.With("reason is missing")
	}
	return &body, nil
}

type reportsReply struct {
	Reports []Report `json:"reports"`
	Next    string   `json:"next_batch,omitempty"`
}

// reports lists what was reported to the administrators, newest first.
func (s *Service) reports(ctx context.Context, r *httpapi.Request) (any, error) {
	skip := 0
	if from := r.Query("from"); from != "" {
		var err error
		if skip, err = strconv.Atoi(from); err != nil || skip < 0 {
			return nil, mxerror.InvalidParam.With("from is no token of this endpoint")
		}
	}
	rows, err := s.rooms.DB.Query(ctx, `SELECT report, kind, reporter, room_id, event_id, user_id, reason, score, created FROM report WHERE tenant = $1
		ORDER BY created DESC, report DESC LIMIT $2 OFFSET $3`, int64(r.Tenant.ID), maxReports+1, skip)
	list, err := database.All(rows, err, func(rows *sql.Rows) (p Report, err error) {
		return p, rows.Scan(&p.ID, &p.Kind, &p.Reporter, &p.Room, &p.Event, &p.User, &p.Reason, &p.Score, &p.Created)
	})
	reply := reportsReply{Reports: list}
	if len(list) > maxReports {
		reply.Reports, reply.Next = list[:maxReports], strconv.Itoa(skip+maxReports)
	}
	return reply, err
}

// SPDX-License-Identifier: Apache-2.0

package clientsync

import (
	"context"

	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/push"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// pushRules is the account data that every client gets, whether the user changed the default rules or not.
const pushRules = "m.push_rules"

// pushRules adds the user's push rules: at the beginning, and when they changed. What is stored is brought up to the server's present defaults.
func (s *Service) pushRules(ctx context.Context, q *query, a *answer, data []account.AccountDatum) error {
	wanted := q.initial
	for _, d := range data {
		wanted = wanted || d.Room == "" && d.Type == pushRules && d.Position > a.from
	}
	if !wanted || !q.filter.AccountData.Type(pushRules) {
		return nil
	}
	content, err := s.o.Push.Content(ctx, q.t.ID, q.user)
	if err == nil {
		a.AccountData = a.AccountData.add(typed{pushRules, content})
	}
	return err
}

// unread fills in the counts of a room: with threads of their own where the client asked for them, else all together.
func (s *Service) unread(ctx context.Context, q *query, a *answer, p *place, j *joinedRoom) error {
	var recent *push.Recent
	if p.span != nil {
		recent = p.span.counts
	}
	found, err := a.counter.Unread(ctx, p.Room, p.Position, a.to, recent)
	if err != nil {
		return err
	}
	j.Unread = &counts{}
	for thread, n := range found {
		if thread != "" && q.filter.Room.Timeline.UnreadThreads {
			if j.UnreadThreads == nil {
				j.UnreadThreads = map[id.Event]counts{}
			}
			j.UnreadThreads[thread] = counts{Notifications: n.Notifications, Highlights: n.Highlights}
			continue
		}
		j.Unread.Notifications += n.Notifications
		j.Unread.Highlights += n.Highlights
	}
	return nil
}

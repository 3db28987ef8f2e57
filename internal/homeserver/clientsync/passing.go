// SPDX-License-Identifier: Apache-2.0

package clientsync

import (
	"context"
	"maps"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/homeserver/ephemeral"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// receipts loads the receipts of the joined rooms: what changed, and everything for a room that is new to the client.
func (s *Service) receipts(ctx context.Context, q *query, a *answer, list []place, c *changes) error {
	a.receipts = map[int64][]jsontext.Value{}
	f := &q.filter.Room.Ephemeral
	if !f.Type(ephemeral.EDUReceipt) {
		return nil
	}
	var fresh, changed []int64
	for _, p := range list {
		switch {
		case p.Membership != "join" || !f.Room(p.Room.ID):
		case p.fresh:
			fresh = append(fresh, p.NID)
		case p.span != nil && p.span.from == a.from && !c.ownReceipts: // private ones would be the user's own
			if !c.receipts[p.NID] {
				continue
			}
			found, err := s.publicReceipts(ctx, p.span)
			if err != nil {
				return err
			}
			if found != nil {
				a.receipts[p.NID] = found
			}
		case q.fullState || c.receipts[p.NID]:
			changed = append(changed, p.NID)
		}
	}
	for _, part := range []struct {
		rooms []int64
		from  int64
	}{{fresh, 0}, {changed, a.from}} {
		if len(part.rooms) == 0 {
			continue
		}
		found, err := s.o.Ephemeral.ReceiptsSince(ctx, q.t.ID, q.user, part.rooms, part.from, a.to)
		if err != nil {
			return err
		}
		maps.Copy(a.receipts, found)
	}
	return nil
}

// counter is the client's place in what takes no position: that of the token when this node made it, else the beginning (engine rule 7).
func (s *Service) counter(q *query) uint64 {
	if q.initial || q.since.Node != s.o.Tokens.Node() {
		return 0
	}
	return q.since.Ephemeral
}

// typing adds who types.
func (s *Service) typing(ctx context.Context, q *query, a *answer) error {
	f := &q.filter.Room.Ephemeral
	if !f.Type(ephemeral.EDUTyping) {
		return nil
	}
	list := s.o.Ephemeral.TypingSince(q.t.ID, q.user, s.counter(q))
	if len(list) == 0 {
		return nil
	}
	var nids []int64
	for _, r := range list {
		nids = append(nids, r.Room)
	}
	mine, err := s.o.Rooms.MembershipsIn(ctx, q.t.ID, q.user, nids)
	if err != nil {
		return err
	}
	names := map[int64]id.Room{}
	for _, u := range mine {
		// A room that the user joins beyond this answer's bound is not in it yet.
		if u.Membership == "join" && u.Position <= a.to && q.filter.room(u.Room.ID) && f.Room(u.Room.ID) {
			names[u.Room.NID] = u.Room.ID
		}
	}
	for _, r := range list {
		rid, ok := names[r.Room]
		if !ok {
			continue
		}
		if r.Users == nil {
			r.Users = []id.User{}
		}
		content, err := json.Marshal(map[string][]id.User{"user_ids": r.Users})
		if err != nil {
			return err
		}
		j := a.section(q, rid)
		j.Ephemeral = j.Ephemeral.add(typed{ephemeral.EDUTyping, content})
	}
	return nil
}

// presence adds the presence of others.
func (s *Service) presence(ctx context.Context, q *query, a *answer) error {
	if !q.filter.Presence.Type(ephemeral.EDUPresence) {
		return nil
	}
	events, err := s.o.Ephemeral.PresenceSince(ctx, q.t.ID, q.user, s.counter(q))
	if err != nil {
		return err
	}
	for _, e := range events {
		delete(a.newcomers, e.Sender)
	}
	for _, e := range append(events, s.o.Ephemeral.PresenceOf(q.t.ID, a.newcomers)...) {
		if q.filter.Presence.Sender(e.Sender) {
			a.Presence = a.Presence.add(e)
		}
	}
	return nil
}

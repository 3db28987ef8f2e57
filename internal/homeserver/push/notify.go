// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"database/sql"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/pushrule"
)

// giveUpAfter is how long a notification is tried to be sent; what comes later is tried anew.
const giveUpAfter = 24 * time.Hour

// target is a pusher as the sender sees it.
type target struct {
	appID, pushkey string
	created        int64 // ms
	url            string
	data           map[string]jsontext.Value // without url
	position       int64
	badge          int64
	attempts       int64
	failing        int64
	retryAt        int64
}

// idOnly says whether only the event's id may be told.
func (p *target) idOnly() bool { return isText(p.data["format"], "event_id_only") }

// badgeless says whether the client wants to be told no counts (MSC4076).
func (p *target) badgeless() bool {
	return p.data["disable_badge_count"].Kind() == 't' || p.data["org.matrix.msc4076.disable_badge_count"].Kind() == 't'
}

func isText(raw jsontext.Value, want string) bool {
	var text string
	return raw.Kind() == '"' && json.Unmarshal(raw, &text) == nil && text == want
}

func (s *Service) targets(ctx context.Context, k userKey) ([]*target, error) {
	rows, err := s.o.DB.Query(ctx, `SELECT app_id, pushkey, created, data, position, badge, attempts, failing, retry_at FROM pusher
		WHERE tenant = $1 AND user_id = $2 AND kind = 'http' ORDER BY created, app_id, pushkey`, int64(k.tenant), string(k.user))
	return database.All(rows, err, func(rows *sql.Rows) (*target, error) {
		p := &target{}
		var data string
		if err := rows.Scan(&p.appID, &p.pushkey, &p.created, &data, &p.position, &p.badge, &p.attempts, &p.failing, &p.retryAt); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(data), &p.data, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)); err != nil {
			return nil, err
		}
		err := json.Unmarshal(p.data["url"], &p.url)
		delete(p.data, "url")
		return p, err
	})
}

// worth is an event worth a notification.
type worth struct {
	event    *room.Event
	room     *room.Room
	verdict  pushrule.Verdict
	position int64
}

// notifyUser tells a user's pushers what happened after a position, each at most once. A positive wait says when to try a gateway again that failed.
func (s *Service) notifyUser(ctx context.Context, k userKey, from int64) (wait time.Duration, err error) {
	select {
	case s.send.slots <- struct{}{}:
		defer func() { <-s.send.slots }()
	case <-ctx.Done():
		return 0, nil
	}
	list, err := s.targets(ctx, k)
	if err != nil || len(list) == 0 {
		return 0, err
	}
	end, err := s.o.Feed.Position(ctx, k.tenant)
	if err != nil {
		return 0, err
	}
	now := s.o.Now().UnixMilli()
	low := from
	for _, p := range list {
		if p.failing > 0 && now-p.failing > giveUpAfter.Milliseconds() {
			p.failing, p.attempts, p.retryAt, p.position = 0, 0, 0, max(p.position, min(from, end))
			if err := s.savePusher(ctx, k, p); err != nil {
				return 0, err
			}
		}
		if p.failing > 0 && p.retryAt <= now {
			low = min(low, p.position)
		}
	}
	news, counts, err := s.worthTelling(ctx, k, low, end)
	if err != nil {
		return 0, err
	}
	badge := int64(-1)
	for _, p := range list {
		start := max(p.position, from)
		if p.failing > 0 {
			start = p.position
		}
		if p.retryAt > now {
			wait = shorter(wait, time.Duration(p.retryAt-now)*time.Millisecond)
			continue
		}
		mine := slices.DeleteFunc(slices.Clone(news), func(w worth) bool { return w.position <= start })
		if len(mine) == 0 && !(counts && !p.badgeless()) && p.failing == 0 {
			continue
		}
		if badge < 0 {
			if badge, err = s.badge(ctx, k, end); err != nil {
				return 0, err
			}
		}
		again, err := s.tell(ctx, k, p, mine, badge, end)
		if err != nil {
			return 0, err
		}
		wait = shorter(wait, again)
	}
	return wait, nil
}

// shorter is the sooner of two waits, of which one that is not positive stands for none.
func shorter(wait, other time.Duration) time.Duration {
	if other > 0 && (wait <= 0 || other < wait) {
		return other
	}
	return wait
}

// tell sends a pusher what it has not been told, in order, and then the count when that alone has changed.
func (s *Service) tell(ctx context.Context, k userKey, p *target, news []worth, badge, end int64) (again time.Duration, err error) {
	for _, w := range news {
		body, err := s.about(ctx, k, p, w, badge)
		if err != nil {
			return 0, err
		}
		if again, err := s.push(ctx, k, p, body); again > 0 || err != nil || p.url == "" {
			return again, err
		}
		p.badge, p.position = badge, w.position
		if err := s.savePusher(ctx, k, p); err != nil {
			return 0, err
		}
	}
	if p.badge != badge && !p.badgeless() && (p.badge > 0 || badge > 0) {
		if again, err := s.push(ctx, k, p, s.onlyCount(p, badge)); again > 0 || err != nil || p.url == "" {
			return again, err
		}
		p.badge = badge
	} else if p.failing == 0 {
		return 0, nil
	}
	p.attempts, p.failing, p.retryAt, p.position = 0, 0, 0, max(p.position, end)
	return 0, s.savePusher(ctx, k, p)
}

// push sends one notification and notes a failure, or removes a pusher that the gateway rejects: its url is empty then.
func (s *Service) push(ctx context.Context, k userKey, p *target, body []byte) (again time.Duration, err error) {
	rejected, err := s.gateway(ctx, p.url, body)
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if err != nil {
		s.o.Log.Info("a push gateway did not take a notification", "tenant", int64(k.tenant), "attempts", p.attempts+1, "error", err)
		now := s.o.Now()
		if p.failing == 0 {
			p.failing = now.UnixMilli()
		}
		p.attempts++
		again = s.pause(p.attempts)
		p.retryAt = now.Add(again).UnixMilli()
		return again, s.savePusher(ctx, k, p)
	}
	p.attempts, p.failing, p.retryAt = 0, 0, 0
	if slices.Contains(rejected, p.pushkey) {
		p.url = ""
		_, err := s.o.DB.Exec(ctx, "DELETE FROM pusher WHERE tenant = $1 AND user_id = $2 AND app_id = $3 AND pushkey = $4",
			int64(k.tenant), string(k.user), p.appID, p.pushkey)
		return 0, err
	}
	return 0, nil
}

// pause is the back-off after a number of failures in a row.
func (s *Service) pause(attempts int64) time.Duration {
	wait := s.o.RetryMin
	for range attempts - 1 {
		if wait = 2 * wait; wait >= s.o.RetryMax {
			return s.o.RetryMax
		}
	}
	return wait
}

func (s *Service) savePusher(ctx context.Context, k userKey, p *target) error {
	_, err := s.o.DB.Exec(ctx, `UPDATE pusher SET position = $5, badge = $6, attempts = $7, failing = $8, retry_at = $9
		WHERE tenant = $1 AND user_id = $2 AND app_id = $3 AND pushkey = $4`, int64(k.tenant), string(k.user), p.appID, p.pushkey,
		p.position, p.badge, p.attempts, p.failing, p.retryAt)
	return err
}

// worthTelling judges by the user's rules what happened in (from, to] in rooms that the user is in or invited to. counts says that the unread
// count may have changed without a notification: something was read, sent by the user, or a room was left.
func (s *Service) worthTelling(ctx context.Context, k userKey, from, to int64) (news []worth, counts bool, err error) {
	if from >= to {
		return nil, false, nil
	}
	read, err := s.readRooms(ctx, k, from, to)
	if err != nil {
		return nil, false, err
	}
	counts = len(read) > 0
	facts, err := s.facts(ctx, k, to)
	if err != nil {
		return nil, false, err
	}
	if !s.o.Feed.Quiet(k.tenant, from, to, moved(k.user)) {
		changed, err := s.o.Rooms.MembershipsChanged(ctx, k.tenant, k.user, from)
		if err != nil {
			return nil, false, err
		}
		counts = counts || len(changed) > 0
		if news, err = s.invitations(ctx, k, facts.rules, changed, to); err != nil {
			return nil, false, err
		}
	}
	list, err := s.memberships(ctx, k, to)
	if err != nil {
		return nil, false, err
	}
	rooms := joinedOf(list)
	events, err := s.newest(ctx, k.tenant, from, to)
	if err != nil {
		return nil, false, err
	}
	for _, e := range events {
		in := rooms[e.RoomNID]
		switch {
		case in == nil:
			continue
		case e.Sender() == k.user:
			counts = true
			continue
		case e.RedactedBy != "" || facts.ignored[e.Sender()]:
			continue
		}
		j, err := s.judge(ctx, k.tenant, in, k.user, facts.rules, to)
		if err != nil {
			return nil, false, err
		}
		v := facts.rules.Evaluate(pushrule.About(e.Event), j.about(e))
		if !v.Notify {
			continue
		}
		visible, err := s.o.Rooms.VisibleToMember(ctx, k.tenant, k.user, []*room.Event{e})
		if err != nil {
			return nil, false, err
		}
		if len(visible) > 0 {
			news = append(news, worth{e, in, v, e.Position})
		}
	}
	slices.SortFunc(news, func(a, b worth) int { return int(a.position - b.position) })
	return news, counts, nil
}

// invitations judges the user's invitations up to a position among changed memberships, those to rooms that the server is not in too.
func (s *Service) invitations(ctx context.Context, k userKey, rules *pushrule.Evaluator, changed []room.UserRoom, to int64) ([]worth, error) {
	var out []worth
	for _, m := range changed {
		if m.Membership != "invite" || m.Position > to {
			continue
		}
		e, err := s.invitation(ctx, k, m)
		if err != nil {
			return nil, err
		}
		if e == nil {
			continue
		}
		if v := rules.Evaluate(pushrule.About(e.Event), pushrule.Context{}); v.Notify {
			out = append(out, worth{e, m.Room, v, m.Position})
		}
	}
	return out, nil
}

// invitation returns the event of an invitation; one from outside is read from the stripped state that came with it.
func (s *Service) invitation(ctx context.Context, k userKey, m room.UserRoom) (*room.Event, error) {
	found, err := s.o.Rooms.Events(ctx, k.tenant, []id.Event{m.Event})
	if err != nil || found[m.Event] != nil {
		return found[m.Event], err
	}
	state, err := s.o.Rooms.InviteState(ctx, k.tenant, k.user, m.Room.NID)
	if err != nil || len(state) == 0 || m.Room.Version == nil {
		return nil, err
	}
	var member map[string]jsontext.Value
	if err := json.Unmarshal(state[len(state)-1], &member, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)); err != nil {
		return nil, err
	}
	if member["room_id"], err = json.Marshal(m.Room.ID); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(member, json.Deterministic(true), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		return nil, err
	}
	e, err := event.FromStored(m.Room.Version, m.Event, raw)
	if err != nil {
		return nil, nil //nolint:nilerr // stripped state of others need not be readable: then nobody is notified
	}
	return &room.Event{Event: e, RoomNID: m.Room.NID, Position: m.Position, Outlier: true}, nil
}

// badge counts what is unread in all of the user's rooms, and the invitations.
func (s *Service) badge(ctx context.Context, k userKey, upTo int64) (int64, error) {
	all, err := s.memberships(ctx, k, upTo)
	if err != nil {
		return 0, err
	}
	facts, err := s.facts(ctx, k, upTo)
	if err != nil {
		return 0, err
	}
	reader, nids := facts.reader, nidsOf(joinedOf(all))
	known, _ := s.badges.Get(countKey{k.tenant, k.user, 0})
	if known == nil || known.sum != reader.sum || known.upTo > upTo {
		known = &badgeCount{sum: reader.sum, rooms: map[int64]int64{}}
	}
	stale, err := s.staleRooms(ctx, k, nids, known, upTo)
	if err != nil {
		return 0, err
	}
	recent, err := s.recentOf(ctx, k, known, upTo, stale)
	if err != nil {
		return 0, err
	}
	next := &badgeCount{upTo: upTo, sum: reader.sum, rooms: map[int64]int64{}}
	total := int64(0)
	for _, m := range all {
		if m.Membership == "invite" {
			total++
		}
		if m.Membership != "join" {
			continue
		}
		n, counted := known.rooms[m.Room.NID]
		if !counted || stale[m.Room.NID] {
			n = 0
			threads, err := reader.Unread(ctx, m.Room, m.Position, upTo, recent[m.Room.NID])
			if err != nil {
				return 0, err
			}
			for _, c := range threads {
				n += c.Notifications
			}
		}
		next.rooms[m.Room.NID] = n
		total += n
	}
	s.badges.Set(countKey{k.tenant, k.user, 0}, next)
	return total, nil
}

// badgeCount is what was unread in a user's rooms at a position.
type badgeCount struct {
	upTo  int64
	sum   uint32
	rooms map[int64]int64
}

// staleRooms says in which rooms something has changed since they were counted.
func (s *Service) staleRooms(ctx context.Context, k userKey, nids []int64, known *badgeCount, upTo int64) (map[int64]bool, error) {
	if len(known.rooms) == 0 {
		return nil, nil
	}
	stale, err := s.changedRooms(ctx, k, nids, known.upTo, upTo)
	if err != nil {
		return nil, err
	}
	read, err := s.readRooms(ctx, k, known.upTo, upTo)
	for _, nid := range read {
		stale[nid] = true
	}
	return stale, err
}

// recentOf is what may count in the rooms that have changed since they were counted, as far as few events say it.
func (s *Service) recentOf(ctx context.Context, k userKey, known *badgeCount, upTo int64, stale map[int64]bool) (map[int64]*Recent, error) {
	out := map[int64]*Recent{}
	if len(known.rooms) == 0 || len(stale) == 0 {
		return out, nil
	}
	events, err := s.newest(ctx, k.tenant, known.upTo, upTo)
	if err != nil || len(events) == maxCatchUp {
		return out, err
	}
	found := byRoom(events)
	for nid := range stale {
		if out[nid], err = s.Recent(ctx, k.tenant, nid, known.upTo, upTo, found[nid]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

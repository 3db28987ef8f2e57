// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"database/sql"
	"hash/crc32"
	"maps"
	"slices"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/ephemeral"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/pushrule"
)

// maxCount is where counting stops (engine rule 31).
const maxCount = 1000

// Count is what a room or thread shows as unread.
type Count struct{ Notifications, Highlights int64 }

// Reader counts for one user; it has read the user's rules once.
type Reader struct {
	s    *Service
	t    tenant.ID
	user id.User
	// own judges by the user's own rules; nil when they count as the default ones do. sum tells versions of them apart.
	own *pushrule.Evaluator
	sum uint32
	// markers and marked are what Prepare has read: how far the user has read rooms, and which of them have highlights at all. nil before.
	markers map[int64]map[string]int64
	marked  map[int64]bool
}

// Prepare returns a reader that has read ahead, by a few queries for all of them, what counting in some rooms needs. It is for one answer.
func (r *Reader) Prepare(ctx context.Context, rooms []int64) (*Reader, error) {
	prepared := *r
	return &prepared, prepared.prepare(ctx, rooms)
}

func (r *Reader) prepare(ctx context.Context, rooms []int64) (err error) {
	if r.markers, err = r.s.o.Ephemeral.MarkersIn(ctx, r.t, r.user, rooms); err != nil {
		return err
	}
	for _, nid := range rooms {
		if r.markers[nid] == nil {
			r.markers[nid] = map[string]int64{}
		}
	}
	r.marked = map[int64]bool{}
	for rest := rooms; len(rest) > 0; {
		n := min(len(rest), database.MaxMarks)
		args := []any{int64(r.t), string(r.user)}
		for _, nid := range rest[:n] {
			args = append(args, nid)
		}
		rows, err := r.s.o.DB.Query(ctx, "SELECT DISTINCT room FROM highlight WHERE tenant = $1 AND user_id IN ('', $2) AND room IN ("+database.Marks(3, n)+")", args...)
		found, err := database.All(rows, err, database.Column[int64])
		if err != nil {
			return err
		}
		for _, nid := range found {
			r.marked[nid] = true
		}
		rest = rest[n:]
	}
	return nil
}

// read returns how far the user has read a room.
func (r *Reader) read(ctx context.Context, nid int64) (map[string]int64, error) {
	if m, ok := r.markers[nid]; ok {
		return m, nil
	}
	return r.s.o.Ephemeral.Markers(ctx, r.t, r.user, nid)
}

// For returns a reader for a user.
func (s *Service) For(ctx context.Context, t tenant.ID, user id.User) (*Reader, error) {
	r := &Reader{s: s, t: t, user: user}
	content, ok, err := s.o.Accounts.AccountDatum(ctx, t, user, "", ruleType)
	if err != nil || !ok {
		return r, err
	}
	if rules := readRules(content, ok, user); !rules.CountsAsDefault(user) {
		r.own, r.sum = pushrule.Compile(rules), crc32.ChecksumIEEE(content)
	}
	return r, nil
}

type countKey struct {
	tenant tenant.ID
	user   id.User
	room   int64
}

// counted is what was counted up to a position. It goes on being true for what comes after, until the user reads something or changes rules.
type counted struct {
	upTo    int64
	markers map[string]int64
	sum     uint32
	// ends are the positions of the user's own newest events by thread: sending is reading.
	ends    map[id.Event]int64
	threads map[id.Event]Count
}

// row is an event as it counts.
type row struct {
	room.Counted
	Count
}

// Unread counts a room's unread notifications up to a position; joined is the position of the user's own membership. The empty key is what is
// outside of threads, the others are threads that have any.
func (r *Reader) Unread(ctx context.Context, in *room.Room, joined, upTo int64) (map[id.Event]Count, error) {
	markers, err := r.read(ctx, in.NID)
	if err != nil {
		return nil, err
	}
	markers[""] = max(markers[""], joined)
	key := countKey{r.t, r.user, in.NID}
	start := counted{upTo: markers[""], markers: markers, sum: r.sum}
	c, ok := r.s.counts.Get(key)
	if !ok || c.sum != r.sum || c.upTo > upTo || !maps.Equal(c.markers, markers) {
		c = start
	}
	rows, err := r.rows(ctx, in, c.upTo, upTo)
	if err == nil && c.upTo > start.upTo && slices.ContainsFunc(rows, func(e row) bool { return e.Redaction }) {
		// Something that was counted may have been redacted.
		c = start
		rows, err = r.rows(ctx, in, c.upTo, upTo)
	}
	if err != nil {
		return nil, err
	}
	c = c.goOn(r.user, rows, upTo)
	r.s.counts.Set(key, c)
	out := maps.Clone(c.threads)
	if _, prepared := r.markers[in.NID]; r.own == nil && (!prepared || r.marked[in.NID]) {
		if err := r.highlights(ctx, in.NID, c, out); err != nil {
			return nil, err
		}
	}
	maps.DeleteFunc(out, func(_ id.Event, n Count) bool { return n == Count{} })
	return out, nil
}

// rows lists what may count with positions in (from, to], newest first.
func (r *Reader) rows(ctx context.Context, in *room.Room, from, to int64) ([]row, error) {
	if r.own != nil {
		return r.judged(ctx, in, from, to)
	}
	found, err := r.s.o.Rooms.Counted(ctx, r.t, in.NID, r.user, from, to, maxCount)
	if err != nil {
		return nil, err
	}
	rows := make([]row, len(found))
	for i, c := range found {
		rows[i] = row{Counted: c}
		if c.Class != Silent {
			rows[i].Notifications = 1
		}
	}
	return rows, nil
}

// judged lists the events themselves with the verdicts of the user's own rules.
func (r *Reader) judged(ctx context.Context, in *room.Room, from, to int64) ([]row, error) {
	events, _, err := r.s.o.Rooms.Timeline(ctx, r.t, in.NID, from, to, maxCount)
	if err != nil || len(events) == 0 {
		return nil, err
	}
	j, err := r.s.judge(ctx, r.t, in, r.user)
	if err != nil {
		return nil, err
	}
	rows := make([]row, 0, len(events))
	for _, e := range slices.Backward(events) {
		c := row{Counted: room.Counted{Position: e.Position, Thread: threadRoot(e.Content()), Sender: e.Sender(), Redaction: e.Type() == event.TypeRedaction}}
		if e.RedactedBy == "" && e.Sender() != r.user {
			v := r.own.Evaluate(pushrule.About(e.Event), j.about(e))
			if v.Notify {
				c.Notifications = 1
			}
			if v.Notify && v.Highlight {
				c.Highlights = 1
			}
		}
		rows = append(rows, c)
	}
	return rows, nil
}

// goOn counts what came after what was counted; rows are newest first.
func (c counted) goOn(user id.User, rows []row, upTo int64) counted {
	next := counted{upTo: upTo, markers: c.markers, sum: c.sum, ends: map[id.Event]int64{}, threads: map[id.Event]Count{}}
	maps.Copy(next.ends, c.ends)
	read := map[id.Event]bool{}
	for _, e := range rows {
		if read[e.Thread] || e.Position <= c.markers[markerKey(e.Thread)] {
			continue
		}
		if e.Sender == user {
			read[e.Thread] = true
			next.ends[e.Thread] = e.Position
			continue
		}
		next.threads[e.Thread] = next.threads[e.Thread].plus(e.Count)
	}
	for thread, n := range c.threads {
		if !read[thread] {
			next.threads[thread] = next.threads[thread].plus(n)
		}
	}
	return next
}

func (c Count) plus(o Count) Count {
	return Count{min(c.Notifications+o.Notifications, maxCount), min(c.Highlights+o.Highlights, maxCount)}
}

// markerKey is a thread's name among receipts.
func markerKey(thread id.Event) string {
	if thread == "" {
		return ephemeral.MainThread
	}
	return string(thread)
}

// highlights adds what mentions the user or the whole room.
func (r *Reader) highlights(ctx context.Context, roomNID int64, c counted, out map[id.Event]Count) error {
	rows, err := r.s.o.DB.Query(ctx, `SELECT position, thread, extra, event_id FROM highlight
		WHERE tenant = $1 AND room = $2 AND user_id IN ('', $3) AND position > $4 AND position <= $5 AND sender <> $3 ORDER BY position DESC LIMIT $6`,
		int64(r.t), roomNID, string(r.user), c.markers[""], c.upTo, maxCount)
	type highlight struct {
		position int64
		thread   id.Event
		extra    bool
		event    id.Event
	}
	list, err := database.All(rows, err, func(rows *sql.Rows) (h highlight, err error) {
		return h, rows.Scan(&h.position, &h.thread, &h.extra, &h.event)
	})
	if err != nil || len(list) == 0 {
		return err
	}
	ids := make([]id.Event, len(list))
	for i, h := range list {
		ids[i] = h.event
	}
	events, err := r.s.o.Rooms.Events(ctx, r.t, ids)
	if err != nil {
		return err
	}
	seen := map[id.Event]bool{}
	for _, h := range list {
		e := events[h.event]
		if seen[h.event] || e == nil || e.RedactedBy != "" || h.position <= max(c.markers[markerKey(h.thread)], c.ends[h.thread]) {
			continue
		}
		seen[h.event] = true
		n := Count{Highlights: 1}
		if h.extra {
			n.Notifications = 1
		}
		out[h.thread] = out[h.thread].plus(n)
	}
	return nil
}

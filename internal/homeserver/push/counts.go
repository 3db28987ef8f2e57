// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"maps"
	"slices"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/stream"
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
	// ahead is what Prepare has read, by room; nil before.
	ahead map[int64]prepared
}

// prepared is what was read ahead of a room: how far the user has read it, whether it has highlights at all, and what may count after a position.
type prepared struct {
	markers map[string]int64
	marked  bool
	from    int64
	rows    []room.Counted
}

// Prepare returns a reader that has read ahead, by a few queries for all of them, what counting up to a position needs in some rooms, given with
// the positions of the user's own memberships. It is for one answer.
func (r *Reader) Prepare(ctx context.Context, rooms []room.Point, upTo int64) (*Reader, error) {
	next := *r
	next.ahead = make(map[int64]prepared, len(rooms))
	nids := make([]int64, len(rooms))
	for i, p := range rooms {
		nids[i] = p.Room
	}
	markers, err := r.s.o.Ephemeral.MarkersIn(ctx, r.t, r.user, nids)
	if err != nil {
		return nil, err
	}
	marked, err := r.marked(ctx, nids)
	if err != nil {
		return nil, err
	}
	for i, p := range rooms {
		m := markers[p.Room]
		if m == nil {
			m = map[string]int64{}
		}
		m[""] = max(m[""], p.Position)
		rooms[i].Position = r.start(p.Room, m, upTo).upTo
		next.ahead[p.Room] = prepared{markers: m, marked: marked[p.Room], from: rooms[i].Position}
	}
	if r.own != nil {
		return &next, nil
	}
	counted, err := r.s.o.Rooms.CountedOf(ctx, r.t, r.user, rooms, upTo)
	for nid, rows := range counted {
		p := next.ahead[nid]
		p.rows = rows
		next.ahead[nid] = p
	}
	return &next, err
}

// marked says which of some rooms have highlights for the user.
func (r *Reader) marked(ctx context.Context, rooms []int64) (map[int64]bool, error) {
	out := map[int64]bool{}
	for rest := rooms; len(rest) > 0; {
		n := min(len(rest), database.MaxMarks)
		args := []any{int64(r.t), string(r.user)}
		for _, nid := range rest[:n] {
			args = append(args, nid)
		}
		rows, err := r.s.o.DB.Query(ctx, "SELECT DISTINCT room FROM highlight WHERE tenant = $1 AND user_id IN ('', $2) AND room IN ("+database.Marks(3, n)+")", args...)
		found, err := database.All(rows, err, database.Column[int64])
		if err != nil {
			return nil, err
		}
		for _, nid := range found {
			out[nid] = true
		}
		rest = rest[n:]
	}
	return out, nil
}

// read returns how far the user has read a room. A receipt of the user's, in whichever room, puts what is remembered in doubt.
func (r *Reader) read(ctx context.Context, nid, at int64) (map[string]int64, error) {
	if p, ok := r.ahead[nid]; ok {
		return maps.Clone(p.markers), nil
	}
	key := countKey{r.t, r.user, nid}
	m, ok := r.s.markers.Get(r.t, key, at, func(c *stream.Change) bool {
		return c.Kind == stream.Receipt && slices.Contains(c.Users, r.user)
	})
	if ok {
		return maps.Clone(m), nil
	}
	m, err := r.s.o.Ephemeral.Markers(ctx, r.t, r.user, nid)
	if err != nil {
		return nil, err
	}
	r.s.markers.Set(key, at, m)
	return maps.Clone(m), nil
}

// For returns a reader for a user, whose rules are as they are at a position or later.
func (s *Service) For(ctx context.Context, t tenant.ID, user id.User, at int64) (*Reader, error) {
	f, err := s.facts(ctx, userKey{t, user}, at)
	if err != nil {
		return nil, err
	}
	return f.reader, nil
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
	// highlights are what mentions the user or the whole room since the marker, newest first.
	highlights []highlight
}

// row is an event as it counts.
type row struct {
	room.Counted
	Count
}

// Unread counts a room's unread notifications up to a position; joined is the position of the user's own membership. The empty key is what is
// outside of threads, the others are threads that have any. recent, when given, saves reading what it holds.
func (r *Reader) Unread(ctx context.Context, in *room.Room, joined, upTo int64, recent *Recent) (map[id.Event]Count, error) {
	markers, err := r.read(ctx, in.NID, upTo)
	if err != nil {
		return nil, err
	}
	markers[""] = max(markers[""], joined)
	c, start := r.start(in.NID, markers, upTo), counted{upTo: markers[""], markers: markers, sum: r.sum}
	more, err := r.since(ctx, in, c.upTo, upTo, recent)
	if err == nil && c.upTo > start.upTo && slices.ContainsFunc(more.rows, func(e row) bool { return e.Redaction }) {
		// Something that was counted may have been redacted.
		c = start
		more, err = r.since(ctx, in, c.upTo, upTo, nil)
	}
	if err != nil {
		return nil, err
	}
	c = c.goOn(r.user, more, upTo)
	r.s.counts.Set(countKey{r.t, r.user, in.NID}, c)
	out := maps.Clone(c.threads)
	for _, h := range c.highlights {
		if h.position > max(c.markers[markerKey(h.thread)], c.ends[h.thread]) {
			out[h.thread] = out[h.thread].plus(h.count())
		}
	}
	maps.DeleteFunc(out, func(_ id.Event, n Count) bool { return n == Count{} })
	return out, nil
}

// start is what has been counted already of what is to be counted up to a position: nothing, or up to somewhere before it.
func (r *Reader) start(nid int64, markers map[string]int64, upTo int64) counted {
	c, ok := r.s.counts.Get(countKey{r.t, r.user, nid})
	if !ok || c.sum != r.sum || c.upTo > upTo || !maps.Equal(c.markers, markers) {
		c = counted{upTo: markers[""], markers: markers, sum: r.sum}
	}
	return c
}

// found is what may count in a range of a room, newest first.
type found struct {
	rows       []row
	highlights []highlight
}

// since finds what may count with positions in (from, to].
func (r *Reader) since(ctx context.Context, in *room.Room, from, to int64, recent *Recent) (f found, err error) {
	if from >= to {
		return f, nil
	}
	covered := recent != nil && recent.from <= from && recent.to >= to
	switch {
	case r.own != nil && covered:
		f.rows, err = r.judged(ctx, in, within(recent.events, from, to), to)
	case r.own != nil:
		var events []*room.Event
		if events, _, err = r.s.o.Rooms.Timeline(ctx, r.t, in.NID, from, to, maxCount); err == nil {
			f.rows, err = r.judged(ctx, in, events, to)
		}
	case covered:
		f = recent.of(r.user, from, to)
	default:
		return r.stored(ctx, in, from, to)
	}
	return f, err
}

// stored reads by the default rules what may count.
func (r *Reader) stored(ctx context.Context, in *room.Room, from, to int64) (f found, err error) {
	ahead, prepared := r.ahead[in.NID]
	list := ahead.rows
	if !prepared || from < ahead.from {
		if list, err = r.s.o.Rooms.Counted(ctx, r.t, in.NID, r.user, from, to, maxCount); err != nil {
			return f, err
		}
	}
	for _, c := range list[:min(len(list), maxCount)] {
		if c.Position > from && c.Position <= to {
			f.rows = append(f.rows, defaultRow(c))
		}
	}
	if prepared && !ahead.marked {
		return f, nil
	}
	all, err := r.s.highlights(ctx, r.t, in.NID, r.user, from, to, maxCount)
	for _, h := range all {
		if h.sender != r.user {
			f.highlights = append(f.highlights, h)
		}
	}
	return f, err
}

// defaultRow is how an event counts by its class.
func defaultRow(c room.Counted) row {
	r := row{Counted: c}
	if c.Class != Silent {
		r.Notifications = 1
	}
	return r
}

// judged lists events, given oldest first, with the verdicts of the user's own rules, newest first.
func (r *Reader) judged(ctx context.Context, in *room.Room, events []*room.Event, at int64) ([]row, error) {
	if len(events) == 0 {
		return nil, nil
	}
	j, err := r.s.judge(ctx, r.t, in, r.user, r.own, at)
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

// goOn counts what came after what was counted.
func (c counted) goOn(user id.User, more found, upTo int64) counted {
	next := counted{upTo: upTo, markers: c.markers, sum: c.sum, ends: map[id.Event]int64{}, threads: map[id.Event]Count{}, highlights: c.highlights}
	if len(more.highlights) > 0 {
		next.highlights = slices.Concat(more.highlights, c.highlights)
		next.highlights = next.highlights[:min(len(next.highlights), maxCount)]
	}
	maps.Copy(next.ends, c.ends)
	read := map[id.Event]bool{}
	for _, e := range more.rows {
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

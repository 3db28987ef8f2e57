// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"hash/crc32"
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

// read returns how far the user has read a room. A receipt of the user's, in whichever room, puts what is remembered in doubt.
func (r *Reader) read(ctx context.Context, nid, at int64) (map[string]int64, error) {
	if m, ok := r.markers[nid]; ok {
		return maps.Clone(m), nil
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
	key := countKey{r.t, r.user, in.NID}
	start := counted{upTo: markers[""], markers: markers, sum: r.sum}
	c, ok := r.s.counts.Get(key)
	if !ok || c.sum != r.sum || c.upTo > upTo || !maps.Equal(c.markers, markers) {
		c = start
	}
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
	r.s.counts.Set(key, c)
	out := maps.Clone(c.threads)
	for _, h := range c.highlights {
		if h.position > max(c.markers[markerKey(h.thread)], c.ends[h.thread]) {
			out[h.thread] = out[h.thread].plus(h.count())
		}
	}
	maps.DeleteFunc(out, func(_ id.Event, n Count) bool { return n == Count{} })
	return out, nil
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
		f.rows, err = r.judged(ctx, in, within(recent.events, from, to))
	case r.own != nil:
		var events []*room.Event
		if events, _, err = r.s.o.Rooms.Timeline(ctx, r.t, in.NID, from, to, maxCount); err == nil {
			f.rows, err = r.judged(ctx, in, events)
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
	list, err := r.s.o.Rooms.Counted(ctx, r.t, in.NID, r.user, from, to, maxCount)
	if err != nil {
		return f, err
	}
	for _, c := range list {
		f.rows = append(f.rows, defaultRow(c))
	}
	if _, prepared := r.markers[in.NID]; prepared && !r.marked[in.NID] {
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
func (r *Reader) judged(ctx context.Context, in *room.Room, events []*room.Event) ([]row, error) {
	if len(events) == 0 {
		return nil, nil
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

// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"
)

// The loads of the benches of rooms.
const (
	// joiners is how many join at the same time.
	joiners = 16
	// pageSize is how many events a page of scrolling back holds, scrolled how many events the room has.
	pageSize, scrolled = 50, 2000
	// uploadSize is how many bytes a medium has.
	uploadSize = 256 << 10
	// askers is how many ask at the same time for members, pages and uploads.
	askers = 8
	// memberRepeats is how often each asker asks for the members of a room, uploads how many media are sent.
	memberRepeats, uploads = 20, 200
)

// cost notes what the server and the load generator spent on n pieces of work between two moments.
type cost struct {
	s      *process
	before map[string]float64
	own    float64
	began  time.Time
}

func (s *process) cost(ctx context.Context) (*cost, error) {
	before, err := s.metrics(ctx)
	return &cost{s, before, generatorSeconds(), time.Now()}, err
}

// generatorSeconds is the processor time of this process, the load generator, so far.
func generatorSeconds() float64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}

// report writes the figures of n pieces of work of a kind, with the times that they took.
func (c *cost) report(ctx context.Context, r *Report, kind string, n int, times []time.Duration) error {
	took, own := time.Since(c.began), generatorSeconds()-c.own
	after, err := c.s.metrics(ctx)
	if err != nil || n == 0 {
		return errors.Join(err, ctx.Err())
	}
	each := float64(n)
	slices.Sort(times)
	r.Figures[kind+"_per_second"] = round(each / took.Seconds())
	r.Figures[kind+"_p50_ms"], r.Figures[kind+"_p99_ms"] = milliseconds(quantile(times, 0.5)), milliseconds(quantile(times, 0.99))
	r.Figures[kind+"_cpu_us"] = round((after["process_cpu_seconds_total"] - c.before["process_cpu_seconds_total"]) * 1e6 / each)
	r.Figures[kind+"_generator_cpu_us"] = round(own * 1e6 / each)
	r.Figures[kind+"_queries"] = round((after["konsil_database_queries_total"] - c.before["konsil_database_queries_total"]) / each)
	return nil
}

// The application service through which crowds register: without passwords, whose hashing would take longer than what is measured.
const (
	crowdToken   = "bench-application-service-token"
	crowdService = `id: bench
url: ""
as_token: ` + crowdToken + `
hs_token: bench-homeserver-token
sender_localpart: benchservice
rate_limited: false
namespaces: {users: [{exclusive: true, regex: "@crowd-.*"}]}
`
)

// withCrowd is serving with the application service.
func withCrowd(ctx context.Context, o Options, f func(s *process) error) error {
	folder, err := os.MkdirTemp(o.Folder, "konsil-bench-services-")
	if err != nil {
		return err
	}
	if err = os.WriteFile(filepath.Join(folder, "bench.yaml"), []byte(crowdService), 0o600); err == nil {
		o.extra = fmt.Sprintf("app_services: %q\n", folder)
		err = serving(ctx, o, f)
	}
	return errors.Join(err, os.RemoveAll(folder))
}

// crowd registers users on a few connections. They have none of their own.
func crowd(ctx context.Context, s *process, name string, n int) ([]*sender, error) {
	all := make([]*sender, n)
	for i := range all {
		all[i] = &sender{}
	}
	_, err := s.pooled(ctx, joiners, all, func(x *sender, i int) error {
		var session struct {
			Token string `json:"access_token"`
		}
		err := x.call("POST", "/_matrix/client/v3/register", crowdToken, map[string]any{"type": "m.login.application_service",
			"username": fmt.Sprintf("crowd-%s%d", name, i)}, &session)
		x.token = session.Token
		return err
	})
	return all, err
}

// pooled lets each of some users work once, on as many connections as work at the same time, and returns how long each took.
func (s *process) pooled(ctx context.Context, width int, all []*sender, work func(x *sender, i int) error) ([]time.Duration, error) {
	free := make(chan *client, width)
	for range width {
		c, err := dial(s.client)
		if err != nil {
			return nil, err
		}
		defer c.close()
		free <- c
	}
	return together(ctx, width, len(all), func(i int) error {
		c := <-free
		defer func() { free <- c }()
		x := *all[i]
		x.client = c
		err := work(&x, i)
		x.client = nil
		*all[i] = x
		return err
	})
}

func closeAll(all []*sender) {
	for _, x := range all {
		x.close()
	}
}

// together does n pieces of work, width of them at a time, and returns how long each took.
func together(ctx context.Context, width, n int, work func(i int) error) ([]time.Duration, error) {
	times := make([]time.Duration, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, width)
	for w := range width {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				began := time.Now()
				if errs[w] = work(i); errs[w] != nil {
					return
				}
				times[i] = time.Since(began)
			}
		})
	}
	wg.Wait()
	return times, errors.Join(append(errs, ctx.Err())...)
}

// open makes a room that everybody may join.
func (x *sender) open() error {
	var room struct {
		ID string `json:"room_id"`
	}
	if err := x.call("POST", "/_matrix/client/v3/createRoom", x.token, map[string]any{"preset": "public_chat"}, &room); err != nil {
		return err
	}
	x.room = url.PathEscape(room.ID)
	return nil
}

func (x *sender) join(room string) error {
	return x.call("POST", "/_matrix/client/v3/rooms/"+room+"/join", x.token, map[string]any{}, &struct{}{})
}

// joinLocal measures joins of the server's own users into one room as it grows to 1,000 and to the given number of members.
func joinLocal(ctx context.Context, o Options, r *Report) error {
	return withCrowd(ctx, o, func(s *process) error {
		writer, err := account(s, "writer")
		if err != nil {
			return err
		}
		defer writer.close()
		if err := writer.open(); err != nil {
			return err
		}
		r.Limits["joins_to_1000_per_second"] = 300
		done := 1
		for _, size := range []int{min(1000, o.Members), o.Members} {
			if size <= done {
				continue
			}
			if err := joinTo(ctx, o, s, writer.room, done, size, r); err != nil {
				return err
			}
			done = size
		}
		return nil
	})
}

// joinTo fills the room up to a number of members; the last joins, at most 500, are what is measured.
func joinTo(ctx context.Context, o Options, s *process, room string, done, size int, r *Report) error {
	const measured = 500
	o.Progress(fmt.Sprintf("making %d users", size-done))
	all, err := crowd(ctx, s, fmt.Sprintf("to%d-", size), size-done)
	if err != nil {
		return err
	}
	o.Progress(fmt.Sprintf("joining them up to %d members", size))
	first := max(0, len(all)-measured)
	enter := func(x *sender, _ int) error { return x.join(room) }
	if _, err := s.pooled(ctx, joiners, all[:first], enter); err != nil {
		return err
	}
	c, err := s.cost(ctx)
	if err != nil {
		return err
	}
	profiled := make(chan error, 1)
	go func() { profiled <- s.maybeProfile(ctx, o) }()
	times, err := s.pooled(ctx, joiners, all[first:], enter)
	if err != nil {
		return err
	}
	defer func() { <-profiled }()
	return c.report(ctx, r, "joins_to_"+strconv.Itoa(size), len(all)-first, times)
}

// filled makes a room of some members in which the first of the askers wrote messages. The askers have connections of their own.
func filled(ctx context.Context, o Options, s *process, members, messages int) (all []*sender, err error) {
	o.Progress(fmt.Sprintf("making a room of %d members and %d messages", members, messages))
	for i := range askers {
		x, err := account(s, "asker"+strconv.Itoa(i))
		if err != nil {
			return all, err
		}
		all = append(all, x)
	}
	if err := all[0].open(); err != nil {
		return all, err
	}
	room := all[0].room
	for _, x := range all[1:] {
		if err := x.join(room); err != nil {
			return all, err
		}
	}
	others, err := crowd(ctx, s, "member", max(0, members-askers))
	if err != nil {
		return all, err
	}
	if _, err := s.pooled(ctx, joiners, others, func(x *sender, _ int) error { return x.join(room) }); err != nil {
		return all, err
	}
	for range messages {
		if err := errors.Join(all[0].one(), ctx.Err()); err != nil {
			return all, err
		}
	}
	return all, nil
}

// members measures the lists of a room's members, with and without their events.
func members(ctx context.Context, o Options, r *Report) error {
	return withCrowd(ctx, o, func(s *process) error {
		all, err := filled(ctx, o, s, min(o.Members, 1000), 0)
		defer closeAll(all)
		if err != nil {
			return err
		}
		for kind, path := range map[string]string{"members": "/members", "joined_members": "/joined_members"} {
			if err := asking(ctx, s, all, r, kind, memberRepeats*askers, func(x *sender, _ int) error {
				return x.fetch("/_matrix/client/v3/rooms/" + all[0].room + path)
			}); err != nil {
				return err
			}
			r.Figures[kind+"_bytes"] = float64(len(all[0].body))
		}
		return nil
	})
}

// fetch asks for something that must be there.
func (x *sender) fetch(path string) error {
	status, body, err := x.do("GET", path, x.token, nil)
	if err == nil && status != 200 {
		err = fmt.Errorf("GET %s: %d %s", path, status, body)
	}
	return err
}

// asking lets askers do n pieces of work and reports what they cost.
func asking(ctx context.Context, s *process, all []*sender, r *Report, kind string, n int, work func(x *sender, i int) error) error {
	c, err := s.cost(ctx)
	if err != nil {
		return err
	}
	width := min(askers, len(all))
	free := make(chan *sender, width)
	for _, x := range all[:width] {
		free <- x
	}
	times, err := together(ctx, width, n, func(i int) error {
		x := <-free
		defer func() { free <- x }()
		return work(x, i)
	})
	if err != nil {
		return err
	}
	return c.report(ctx, r, kind, n, times)
}

// scroll measures pages of a room's history, from the newest to the oldest.
func scroll(ctx context.Context, o Options, r *Report) error {
	return withCrowd(ctx, o, func(s *process) error {
		all, err := filled(ctx, o, s, askers, scrolled)
		defer closeAll(all)
		if err != nil {
			return err
		}
		all[0].last = "" // of all it is where their next page begins
		return asking(ctx, s, all, r, "pages", askers*scrolled/pageSize*2, func(x *sender, _ int) error {
			path := "/_matrix/client/v3/rooms/" + all[0].room + "/messages?dir=b&limit=" + strconv.Itoa(pageSize)
			if x.last != "" {
				path += "&from=" + url.QueryEscape(x.last)
			}
			if err := x.fetch(path); err != nil {
				return err
			}
			var page struct {
				End   string     `json:"end"`
				Chunk []struct{} `json:"chunk"`
			}
			if err := json.Unmarshal(x.body, &page); err != nil {
				return err
			}
			if len(page.Chunk) == 0 && x.last == "" {
				return errors.New("a page without events")
			}
			x.last = page.End // after the oldest page the newest follows again
			return nil
		})
	})
}

// upload measures media of one size.
func upload(ctx context.Context, o Options, r *Report) error {
	return withCrowd(ctx, o, func(s *process) error {
		all, err := filled(ctx, o, s, askers, 0)
		defer closeAll(all)
		if err != nil {
			return err
		}
		for _, x := range all {
			x.contentType = "application/octet-stream"
		}
		if err := asking(ctx, s, all, r, "uploads", uploads, func(x *sender, i int) error {
			medium := make([]byte, uploadSize)
			for j := range 8 { // each is another one, so that none is stored already
				medium[j] = byte(i >> (8 * j))
			}
			status, body, err := x.do("POST", "/_matrix/media/v3/upload", x.token, medium)
			if err == nil && status != 200 {
				err = fmt.Errorf("upload: %d %s", status, body)
			}
			return err
		}); err != nil {
			return err
		}
		r.Figures["uploaded_mib_per_second"] = round(r.Figures["uploads_per_second"] * uploadSize / (1 << 20))
		return nil
	})
}
